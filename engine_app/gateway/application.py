"""What a gateway does with a request: who may ask, which path it is, and who answers. Logs nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import msgspec
import trio

from backend.serving.admission import Admission
from backend.serving.failures import failure
from backend.serving.http import HttpError, Reply, check_encoding, json_reply, wording_of
from backend.serving.page_files import page_replies
from backend.serving.route_table import openapi
from engine_app.gateway import union
from engine_app.gateway.connection import Exchange
from engine_app.gateway.endpoint import Counting, Endpoint
from engine_app.gateway.errors import ClientGoneError, EndpointBusyError, EndpointLostError
from engine_app.gateway.forward import Forwarder
from engine_app.gateway.loading import Loading
from engine_app.gateway.measures import GatewayReading, prometheus, with_workers
from engine_app.gateway.pool import LOOK_TIMEOUT_S, Pool
from engine_app.gateway.wanted import ROUTES, TABLE, Action, Route, read_wanted

SMALL_BODY_BYTES = 64 << 10
"""Of requests that need no body, some of which need no key either."""
_METRICS = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class AppConfig:
    version: str
    needs_key: bool = False
    body_bytes: int = 64 << 20
    """Of one request."""
    timeout_s: float = 60.0
    """For each part of an answer to come."""
    wait_s: float = 10.0
    """For an endpoint, where none answers."""


class Application:
    def __init__(
        self, pool: Pool, admission: Admission, config: AppConfig, loading: Loading | None = None
    ) -> None:
        self._pool = pool
        self._loading = loading or Loading(pool)
        self._admission = admission
        self._config = config
        self._forwarder = Forwarder(pool, config.timeout_s, config.wait_s)
        self._created = int(time.time())
        self._pages = page_replies()
        self._document = Reply(msgspec.json.encode(openapi(ROUTES, "CyxWiz gateway", config.version)))
        self.refused: Counter[str] = Counter()
        self.load: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Connections, and bytes of bodies that are held; the server says."""

    async def answer(self, exchange: Exchange) -> None:
        """Raises ClientGoneError."""
        refuse = wording_of(exchange.head.path)
        try:
            self._admission.check_host(exchange.head.headers)
            route, parameters = TABLE.find(exchange.head.method, exchange.head.path)
            refuse = route.refuse
            check_encoding(exchange.head.headers)
            await self._admitted(exchange, route, parameters)
        except HttpError as error:
            await self._refuse(exchange, error, refuse)
        except ClientGoneError:
            raise
        except Exception as error:
            await self._refuse(exchange, failure(error), refuse)

    async def _admitted(self, exchange: Exchange, route: Route, parameters: dict[str, str]) -> None:
        head = exchange.head
        if route.scope is not None:
            key = self._admission.check_key(head.headers, route.scope, time.monotonic())
            exchange.admits = partial(self._admission.still_admits, key)
        body = await exchange.read_body(
            SMALL_BODY_BYTES if route.method == "GET" else self._config.body_bytes
        )
        if route.action in (Action.LOAD, Action.UNLOAD):
            change = self._loading.load if route.action is Action.LOAD else self._loading.unload
            await change(_known(parameters["model"], self._pool.ready()))
            await exchange.reply(json_reply({}))
            return
        if route.action is Action.METRICS:
            await exchange.reply(Reply((await self._metrics()).encode(), _METRICS))
            return
        if route.action is not Action.FORWARD:
            await exchange.reply(self._own_answer(route, head.path, parameters))
            return
        wanted = read_wanted(route, route.method, head.path, parameters, head.headers, body)
        await exchange.while_client_stays(lambda: self._forwarder.forward(wanted, exchange))

    async def _refuse(
        self, exchange: Exchange, error: HttpError, refuse: Callable[[HttpError], Reply]
    ) -> None:
        self.refused[error.code] += 1
        if exchange.has_begun:
            await exchange.end(whole=False)
        else:
            exchange.admits = lambda: True  # a refusal is for whoever asked
            await exchange.reply(refuse(error))

    def _own_answer(self, route: Route, path: str, parameters: dict[str, str]) -> Reply:
        """Raises HttpError 404."""
        ready = self._pool.ready()
        match route.action:
            case Action.HEALTH:
                return json_reply(union.health(ready, self._config.needs_key))
            case Action.DOCUMENT:
                return self._document
            case Action.PAGE:
                return self._pages[path]
            case Action.ABOUT:
                return json_reply(union.about(self._config.version))
            case Action.LIVE:
                return json_reply({"live": True})
            case Action.READY:
                return _readiness({}, all(ready.values()))
            case Action.MODEL_READY:
                model = _known(parameters["model"], ready)
                return _readiness({"name": model}, ready[model])
            case Action.INDEX:
                return json_reply(union.repository_index(ready))
            case Action.MODELS:
                return json_reply(union.openai_models(ready, self._created))
        raise AssertionError(f"{route.action} is answered elsewhere")

    async def _metrics(self) -> str:
        """The gateway's counts, and those of the workers here that answer in time."""
        counted: dict[str, str] = {}

        async def count(endpoint: Endpoint) -> None:
            with suppress(EndpointLostError, EndpointBusyError, HttpError):
                if isinstance(endpoint, Counting):
                    counted[endpoint.name] = await endpoint.counts()

        with trio.move_on_after(LOOK_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for member in self._pool.members:
                    nursery.start_soon(count, member.endpoint)
        own = prometheus(GatewayReading(self._pool.readings(), self.refused, *self.load()))
        return with_workers(own, dict(sorted(counted.items())))


def _known(model: str, ready: union.Ready) -> str:
    """Raises HttpError 404."""
    if model not in ready:
        raise HttpError(404, "not_found", f"no model {model[:80]!r} here")
    return model


def _readiness(about: dict[str, str], is_ready: bool) -> Reply:
    """Clients look at the status alone."""
    return json_reply(about | {"ready": is_ready}, 200 if is_ready else 503)
