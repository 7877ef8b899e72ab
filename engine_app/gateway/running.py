"""``cyxwiz gateway`` from its start to its end: who is behind it, what its user is told, how it stops."""

from __future__ import annotations

import random
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from backend.serving.admission import Admission
from backend.serving.keys import Gatekeeper
from engine_app.config import Config, ConfigError, read_config
from engine_app.entry import CommandError, report, run
from engine_app.gateway.allowed import SEES, Allowed, to_json
from engine_app.gateway.allowed_file import AllowedPeers, change_allowed, checked_peer, read_allowed
from engine_app.gateway.application import AppConfig, Application
from engine_app.gateway.deployments import Choice, Deployment
from engine_app.gateway.endpoint import Place
from engine_app.gateway.health import WELL
from engine_app.gateway.keeping import Keeper
from engine_app.gateway.loading import Loading
from engine_app.gateway.local import LocalModel
from engine_app.gateway.pool import Member, Pool
from engine_app.gateway.remote import RemoteModels, Told
from engine_app.gateway.server import GatewayServer, ServerBounds, follow_keys
from engine_app.gateway.session import deployments_of
from engine_app.key_file import Keys
from engine_app.plain import plain
from engine_app.serving import GRACE_S, ServeOrder, is_loopback, listen, read_order
from engine_app.sessions import own_engine
from engine_app.show import print_json
from p2p.errors import DataDirLockedError

if TYPE_CHECKING:
    from p2p.api import AsyncEngine


_NOTHING = Choice()


@dataclass(frozen=True, slots=True)
class GatewayOrder:
    """What ``cyxwiz gateway`` was told. ``serve``: what it shares with ``cyxwiz serve``."""

    serve: ServeOrder
    allowed: frozenset[str]
    """Peers that are allowed while this gateway runs."""
    connections: int
    replicas: int = 1
    """Workers of each model here."""
    choice: Choice = _NOTHING
    """Of deployments at peers."""
    lan: bool = False
    """No coordinator is waited for."""


def read_gateway_order(models: tuple[Path, ...], options: dict[str, Any]) -> GatewayOrder:
    """Raises CommandError."""
    serve = read_order(models, options)
    choice = Choice(frozenset(options["deployments"]), options["every"])
    if not models and choice == _NOTHING:
        raise CommandError("nothing to answer for: name a model, a --deployment, or --all")
    allowed = frozenset(map(checked_peer, options["allowed"]))
    own = options["connections"], options["replicas"], choice, options["lan"]
    return GatewayOrder(serve, allowed, *own)


def run_gateway(config: Config, order: GatewayOrder) -> None:
    """Until Ctrl-C; a second one does not wait for requests in flight."""
    gateway = _Gateway(config, order)
    run(gateway.run, config)
    if gateway.unanswered:
        raise CommandError(f"stopped with {gateway.unanswered} requests unanswered")


class _Gateway:
    def __init__(self, config: Config, order: GatewayOrder) -> None:
        self._config = config
        self._order = order
        self._tell = _News(order.serve.as_json)
        self._allowed = AllowedPeers(config.data_dir, order.allowed)
        self._pool = Pool(self._lets, random.random, self._tell.health)
        self._locals: dict[LocalModel, Member] = {}
        self._server: GatewayServer | None = None
        self.unanswered = 0

    async def run(self) -> None:
        serve, data_dir = self._order.serve, self._config.data_dir
        needs_key = serve.require_key or not is_loopback(serve.host)
        keys = Keys(data_dir, self._tell.trouble)
        if needs_key and not keys():
            raise CommandError(
                f"answering on {serve.host} needs an API key: make one with `cyxwiz keys new NAME`"
            )
        workspace = data_dir / "serving"
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        listener = listen(serve.host, serve.port)
        with TemporaryDirectory(dir=workspace) as directory, listener:
            async with self._engine() as engine, trio.open_nursery() as nursery:
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    nursery.start_soon(self._stop_on_signal, signals, nursery.cancel_scope)
                    await self._add_local_models(nursery, Path(directory))
                    if engine is not None:
                        await self._follow_deployments(nursery, engine)
                    await self._serve(nursery, listener, keys if needs_key else None)
                    nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _engine(self) -> AsyncIterator[AsyncEngine | None]:
        """Where deployments are asked for: this process is the Engine then, and pays for them."""
        if self._order.choice == _NOTHING:
            yield None
            return
        try:
            async with own_engine(self._config, self._order.lan) as engine:
                yield engine
        except DataDirLockedError as error:
            raise CommandError(
                f"{error}: end that first, a gateway is the Engine of its deployments"
            ) from error

    async def _follow_deployments(self, nursery: trio.Nursery, engine: AsyncEngine) -> None:
        """Returns once each that runs has been asked how it calls its model."""
        if self._allowed.trouble is not None:
            raise CommandError(self._allowed.trouble)
        choice = self._order.choice
        keeper = Keeper(nursery, engine.follow, self._tell.stuck)

        def find() -> list[Deployment]:
            found = deployments_of(engine.deployments())
            keeper.keep(each.id for each in found if choice.takes(each))
            return found

        missing = choice.missing(find())
        if missing:
            raise CommandError(f"no deployment {', '.join(missing)}: `cyxwiz deployments` lists them")
        told = Told(self._tell.came, self._tell.went, self._tell.not_allowed)
        remote = RemoteModels(self._pool, choice, find, engine.model, told, self._lets)
        await nursery.start(remote.run)

    async def _add_local_models(self, nursery: trio.Nursery, directory: Path) -> None:
        """Started together; returns when all answer. A model that does not start ends the gateway."""
        models = [
            LocalModel(model, number, self._order.serve, directory / f"{model.name}-{number}", self._changed)
            for model in self._order.serve.models
            for number in range(1, self._order.replicas + 1)
        ]
        for model in models:
            self._locals[model] = self._pool.add(model, model.place)
            nursery.start_soon(model.run)
        for model in models:
            await model.ready.wait()
            nursery.start_soon(self._pool.watch, self._locals[model])

    def _changed(self, model: LocalModel, is_up: bool, text: str) -> None:
        """A worker began or ended: known at once, without asking it."""
        member = self._locals[model]
        if is_up and self._server is None:
            self._tell.joined(model.name, model.place, text)
        elif is_up:
            self._pool.set_health(member, WELL)
        else:
            self._tell.death(model.place.model, text)
            self._pool.note_loss(member)

    async def _serve(self, nursery: trio.Nursery, listener: socket.socket, keys: Keys | None) -> None:
        order = self._order
        gatekeeper = Gatekeeper(keys() if keys is not None else ())
        if keys is not None:
            nursery.start_soon(follow_keys, gatekeeper, keys)
        names = (*order.serve.hosts, order.serve.host)
        if not is_loopback(order.serve.host):
            names = (*names, socket.gethostname())
        limits = order.serve.limits
        config = AppConfig(version("cyxwiz"), keys is not None, limits.body_bytes, limits.timeout_s)
        loading = Loading(self._pool, self._here, self._tell.loaded)
        app = Application(self._pool, Admission(names, gatekeeper, keys is not None), config, loading)
        self._server = GatewayServer(listener, app, ServerBounds(order.connections, limits.bodies_bytes))
        self._tell.ready(*listener.getsockname()[:2])
        await self._server.run()
        self.unanswered = self._server.unanswered

    def _here(self, model: str) -> list[LocalModel]:
        return [each for each in self._locals if each.place.model == model]

    def _lets(self, place: Place) -> bool:
        return place.peer_id is None or self._allowed.lets(place.peer_id, place.is_given)

    async def _stop_on_signal(self, signals: AsyncIterator[int], everything: trio.CancelScope) -> None:
        stopping = False
        async for _ in signals:
            if stopping or self._server is None:
                everything.cancel()
                return
            stopping = True
            self._server.stop(GRACE_S)


class _News:
    """What the user is told while a gateway runs."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._joined: list[dict[str, Any]] = []
        self._is_ready = False

    def joined(self, endpoint: str, place: Place, line: str) -> None:
        about = {"endpoint": endpoint, "model": place.model, "peer": place.peer_id, "about": line}
        self._joined.append(about)

    def came(self, place: Place) -> None:
        text = f"{place.model} at peer {place.peer_id}, which sees everything that it is asked"
        if self._is_ready:
            self._say({"event": "came", "endpoint": place.model, "peer": place.peer_id}, text)
        else:
            self.joined(f"{place.model}@{place.peer_id}", place, text)

    def went(self, place: Place) -> None:
        text = f"is no more at peer {place.peer_id}"
        self._say({"event": "went", "endpoint": place.model, "peer": place.peer_id}, text)

    def not_allowed(self, place: Place) -> None:
        text = (
            f"left out, since peer {place.peer_id} would see everything that it is asked: "
            f"`cyxwiz gateway allow {place.peer_id}` lets it"
        )
        self._say({"event": "not allowed", "endpoint": place.model, "peer": place.peer_id}, text)

    def stuck(self, deployment: str, text: str) -> None:
        self._say({"event": "stuck", "endpoint": deployment, "reason": text}, text)

    def ready(self, host: str, port: int) -> None:
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._is_ready = True
        if self._as_json:
            print_json({"event": "ready", "url": url, "endpoints": self._joined})
            return
        print(f"{url}  (Ctrl-C stops)", flush=True)
        for each in self._joined:
            print(f"  {plain(each['about'])}", flush=True)

    def health(self, member: Member) -> None:
        what = "answers" if member.health.is_up else "does not answer: it gets nothing until it does"
        self._say({"event": "endpoint", "endpoint": member.endpoint.name, "is_up": member.health.is_up}, what)

    def loaded(self, model: str, is_loaded: bool) -> None:
        what = "loaded again" if is_loaded else "unloaded: its memory is free, and it gets nothing"
        self._say({"event": "loaded" if is_loaded else "unloaded", "endpoint": model}, what)

    def death(self, model: str, text: str) -> None:
        self._say({"event": "died", "endpoint": model, "reason": text}, text)

    def trouble(self, problem: str) -> None:
        self._say({"event": "keys", "endpoint": "keys", "reason": problem}, problem)

    def _say(self, news: dict[str, Any], text: str) -> None:
        if self._as_json:
            print_json(news)
        else:
            print(f"{plain(str(news['endpoint']))}: {plain(text)}", flush=True)


# -- who may see prompts -------------------------------------------------------------------------------


def allow_peers(data_dir: str | None, peers: tuple[str, ...]) -> None:
    _change(data_dir, peers, Allowed.allowing)
    for peer in peers:
        print(f"allowed {peer}: {SEES}")


def forbid_peers(data_dir: str | None, peers: tuple[str, ...]) -> None:
    _change(data_dir, peers, Allowed.forbidding)
    for peer in peers:
        print(f"forbidden {peer}: gateways send it nothing from now on")


def list_allowed(data_dir: str | None, as_json: bool) -> None:
    try:
        allowed = read_allowed(read_config(data_dir).data_dir)
    except (CommandError, ConfigError) as error:
        report(error)
    if as_json:
        print_json(msgspec.json.decode(to_json(allowed)))
        return
    for peer in sorted(allowed.peers):
        print(f"{plain(peer)}  allowed")
    for peer in sorted(allowed.forbidden):
        print(f"{plain(peer)}  forbidden")


def _change(data_dir: str | None, peers: tuple[str, ...], change: Callable[[Allowed, str], Allowed]) -> None:
    """All of them or none."""
    try:
        checked = [checked_peer(peer) for peer in peers]
        change_allowed(read_config(data_dir).data_dir, lambda allowed: reduce(change, checked, allowed))
    except (CommandError, ConfigError, OSError) as error:
        report(error)
