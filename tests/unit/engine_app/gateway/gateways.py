"""A gateway on loopback in this process, in front of endpoints of the test's, and a client of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import trio

from backend.serving.admission import Admission
from backend.serving.asked import Asked
from backend.serving.http import Headers
from backend.serving.keys import Gatekeeper
from backend.serving.messages import ApiKey
from backend.workers.model_server import bind
from engine_app.gateway.application import AppConfig, Application
from engine_app.gateway.endpoint import EndpointStatus, Place
from engine_app.gateway.errors import EndpointLostError
from engine_app.gateway.pool import Pool
from engine_app.gateway.server import GatewayServer, ServerBounds

CHAT = "/v1/chat/completions"


@dataclass
class Told:
    """What an endpoint of a test answers. ``breaks``: it goes away after these parts."""

    parts: tuple[bytes, ...] = (b"{}",)
    status: int = 200
    content_type: str = "application/json"
    headers: Headers = ()
    breaks: bool = False
    hold: trio.Event | None = None
    """Waited for before the last part."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number, part in enumerate(self.parts, start=1):
            if self.hold is not None and number == len(self.parts):
                await self.hold.wait()
            yield part
        if self.breaks:
            raise EndpointLostError("gone")


@dataclass
class Fake:
    """Answers as ``told`` says, in turn, the last one again and again; None: it is not there. An error is
    raised in place of an answer."""

    name: str
    told: list[Told | Exception | None] = field(default_factory=lambda: [Told()])
    asked: list[Asked] = field(default_factory=list)
    queue_depth: int = 0
    cancelled: trio.Event = field(default_factory=trio.Event)
    looked_at: int = 0
    is_there: bool = True

    @asynccontextmanager
    async def ask(self, asked: Asked) -> AsyncIterator[Told]:
        self.asked.append(asked)
        told = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        try:
            await trio.lowlevel.checkpoint()
            if told is None:
                raise EndpointLostError("not there")
            if isinstance(told, Exception):
                raise told
            yield told
        except BaseException:  # whether the client's leaving was seen by reading or by writing
            self.cancelled.set()
            raise

    async def status(self) -> EndpointStatus:
        self.looked_at += 1
        await trio.lowlevel.checkpoint()
        if not self.is_there:
            raise EndpointLostError("not there")
        return EndpointStatus(True, self.queue_depth)


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Tested:
    """``forbidden``: peers that may see nothing, as of now."""

    __test__ = False  # no class of tests

    server: GatewayServer
    app: Application
    pool: Pool
    port: int
    forbidden: set[str]
    keys: Gatekeeper

    async def open(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> Got:
        """One request on a connection of its own."""
        async with await self.open() as stream:
            return await talk(stream, path, body, method, **headers)


async def talk(
    stream: trio.SocketStream, path: str, body: Any = None, method: str = "", **headers: str
) -> Got:
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"host": "127.0.0.1", "content-length": str(len(raw))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    http = h11.Connection(h11.CLIENT)
    method = method or ("GET" if body is None else "POST")
    sent = http.send(h11.Request(method=method, target=path, headers=list(fields.items())))
    sent += http.send(h11.Data(data=raw)) if raw else b""
    await stream.send_all(sent + http.send(h11.EndOfMessage()))
    return await receive(http, stream)


async def receive(http: h11.Connection, stream: trio.SocketStream) -> Got:
    got = Got(0, {}, b"")
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError:
            return Got(got.status, got.headers, got.body, whole=False)
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some(1 << 16))
        elif isinstance(event, h11.Response):
            headers = {name.decode(): value.decode() for name, value in event.headers}
            got = Got(event.status_code, headers, b"")
        elif isinstance(event, h11.Data):
            got.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return got


@asynccontextmanager
async def gateway(
    *endpoints: tuple[Fake, Place],
    config: AppConfig | None = None,
    bounds: ServerBounds | None = None,
    keys: tuple[ApiKey, ...] = (),
    watch: bool = False,
    needs_key: bool = False,
) -> AsyncIterator[Tested]:
    forbidden: set[str] = set()
    gatekeeper = Gatekeeper(keys)
    pool = Pool(lambda place: place.peer_id not in forbidden, lambda: 0.5, lambda member: None)
    app = Application(
        pool,
        Admission((), gatekeeper, needs_key),
        config or AppConfig("1", needs_key=needs_key, wait_s=0),
    )
    members = [pool.add(endpoint, place) for endpoint, place in endpoints]
    listener = bind("127.0.0.1", 0)
    server = GatewayServer(listener, app, bounds or ServerBounds())
    async with trio.open_nursery() as nursery:
        for member in members if watch else ():
            nursery.start_soon(pool.watch, member)
        nursery.start_soon(server.run)
        yield Tested(server, app, pool, listener.getsockname()[1], forbidden, gatekeeper)
        nursery.cancel_scope.cancel()


def replicas(count: int, model: str = "m", peer: str | None = None) -> list[tuple[Fake, Place]]:
    return [(Fake(f"{model}-{n}"), Place(model, model, peer)) for n in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    """Lets the others run until it holds."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await trio.sleep(0.001)
