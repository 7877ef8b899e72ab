"""Model servers of this window: started as ``cyxwiz serve`` does, each followed until it is stopped.

The window has a key of its own to each, made when it starts and written nowhere.
"""

from __future__ import annotations

import secrets
import socket
from collections import deque
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import trio

from backend.errors import BackendError
from backend.serving.asked import Asked
from backend.serving.keys import make_key
from backend.serving.messages import ApiKey, RuntimeOptions, ServerLimits
from backend.workers.model_server import ModelFile, ServerListener, SupervisedServer, bind
from engine_app.config import Config
from engine_app.entry import CommandError, cause_of
from engine_app.gateway.errors import EndpointLostError
from engine_app.gateway.http_endpoint import HttpEndpoint, Server
from engine_app.key_file import Keys
from engine_app.serving import GRACE_S, ServeOrder, find_model, is_loopback, model_name, plan_of, url_of
from engine_app.ui.observed import Observed
from engine_app.ui.readings import Reading, read_metrics

if TYPE_CHECKING:
    from engine_app.gateway.endpoint import Endpoint
    from engine_app.ui.loop import Tasks

LOOK_EVERY_S = 1.0
LOOK_TIMEOUT_S = 10.0
KEPT_LINES = 50
MAX_ANSWER_BYTES = 64 << 20
FIRST_PORT, LAST_PORT = 8080, 8180
EXPECTED = (BackendError, CommandError, OSError)


@dataclass(frozen=True, slots=True)
class ServeWish:
    """What the dialog asks for. ``path``: a model's file, or a folder with one and its tokenizer."""

    path: Path
    host: str = "127.0.0.1"
    port: int = FIRST_PORT
    gpu_layers: int = 0
    context: int = 0
    threads: int = 1
    device: str = "cpu"


@dataclass(slots=True, eq=False)
class LocalServer:
    """One server; changed only by ``Servers``."""

    id: str
    name: str
    wish: ServeWish
    state: str = "starting"
    """starting, ready, restarting, stopping, stopped, failed."""
    text: str = ""
    url: str = ""
    needs_key: bool = False
    restarts: int = 0
    reading: Reading = field(default_factory=Reading)
    about: tuple[str, ...] = ()
    """A line of the worker about each model."""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    model: Endpoint | None = None
    """The way to ask it, while it is there."""
    server: SupervisedServer | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("stopped", "failed")

    @property
    def place(self) -> str:
        """Where it answers; empty before it does."""
        return self.url if self.model is not None else ""

    @property
    def shown(self) -> tuple[object, ...]:
        """What is drawn of it, but for its figures."""
        return self.id, self.state, self.text, self.about, self.place


class Servers(Observed):
    """Listeners are told of every change, and ask for what they need."""

    def __init__(self, config: Config, tasks: Tasks) -> None:
        super().__init__()
        self._config = config
        self._tasks = tasks
        self._scopes: dict[str, trio.CancelScope] = {}
        self._count = 0
        self.all: list[LocalServer] = []
        """The newest first."""

    @property
    def running(self) -> int:
        return sum(not each.is_over for each in self.all)

    def start(self, wish: ServeWish) -> LocalServer:
        self._count += 1
        server = LocalServer(f"here-{self._count}", model_name(wish.path.stem), wish)
        server.needs_key = not is_loopback(wish.host)
        self.all.insert(0, server)
        self._tell()
        self._scopes[server.id] = self._tasks.start(partial(self._run, server))
        return server

    def stop(self, server: LocalServer) -> None:
        """Requests in flight are finished; asked again, they are not waited for."""

        async def work() -> None:
            if server.server is not None:
                await server.server.stop(GRACE_S)

        if server.is_over:
            return
        if server.state in ("starting", "stopping") or server.server is None:
            self._scopes[server.id].cancel()
            return
        self._set(server, "stopping", "Finishing what is in flight")
        self._tasks.start(work)

    def forget(self, server: LocalServer) -> None:
        """Takes one that is over out of the list."""
        if server.is_over:
            self.all.remove(server)
            self._scopes.pop(server.id, None)
            self._tell()

    # -- a server's life -----------------------------------------------------------------------

    async def _run(self, server: LocalServer) -> None:
        try:
            await self._serve(server)
        except (*EXPECTED, ExceptionGroup) as error:
            cause = cause_of(error)
            if not isinstance(cause, EXPECTED):
                raise
            self._set(server, "failed", str(cause))
        finally:
            text, server.server, server.model = _farewell(server), None, None
            if server.state != "failed":
                self._set(server, "stopped", text)

    async def _serve(self, server: LocalServer) -> None:
        """Raises BackendError, CommandError, OSError."""
        wish = server.wish
        file, tokenizer = await trio.to_thread.run_sync(find_model, wish.path, None)
        options = RuntimeOptions(wish.threads, wish.gpu_layers, wish.context)
        model = ModelFile(server.name, file, wish.device, options, tokenizer)
        text, own_key = _own_key()
        order = ServeOrder(
            (model,), wish.host, wish.port, ServerLimits(), (), server.needs_key, "auto", wish.device, False
        )
        workspace = self._config.data_dir / "serving"
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryDirectory(dir=workspace) as directory, _bound(wish) as listener:
            plan = plan_of(order, Path(directory), server.needs_key)
            told = ServerListener(partial(self._ready, server), partial(self._died, server))
            keys = _with_own(own_key, Keys(self._config.data_dir, server.lines.append))
            server.url = _shown_url(wish.host, listener)
            at = Server(_reachable(wish.host), listener.getsockname()[1], text)
            endpoint = server.model = HttpEndpoint(server.name, at)
            server.server = SupervisedServer(plan, listener, keys, told)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._follow, server, endpoint)
                    await server.server.run()
                    nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):  # closes only what is idle: it waits for nobody
                    await endpoint.aclose()

    def _ready(self, server: LocalServer, lines: tuple[str, ...]) -> None:
        server.about = lines
        self._set(server, "ready", "")

    def _died(self, server: LocalServer, reason: str, pause_s: float) -> None:
        server.restarts += 1
        server.lines.append(reason)
        self._set(server, "restarting", f"{reason}. Starting again in {pause_s:g} s")

    async def _follow(self, server: LocalServer, model: Endpoint) -> None:
        """Its figures, every second; silence is no error while it starts again."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            if server.state != "ready":
                continue
            try:
                with trio.fail_after(LOOK_TIMEOUT_S):
                    async with model.ask(Asked("GET", "/metrics")) as answer:
                        body = await read_whole(answer)
            except (EndpointLostError, CommandError, trio.TooSlowError):
                continue
            reading = read_metrics(body.decode(errors="replace"))
            if answer.status == 200 and reading != server.reading:
                server.reading = reading
                self._tell()

    def _set(self, server: LocalServer, state: str, text: str) -> None:
        server.state, server.text = state, text
        self._tell()


async def read_whole(answer: AsyncIterable[bytes], limit: int = MAX_ANSWER_BYTES) -> bytes:
    """Raises CommandError for more than that."""
    found = bytearray()
    async for chunk in answer:
        found += chunk
        if len(found) > limit:
            raise CommandError(f"an answer of more than {limit} bytes")
        await trio.lowlevel.checkpoint()  # single bytes may come by the ten thousands at once
    return bytes(found)


def _bound(wish: ServeWish) -> socket.socket:
    """Raises CommandError."""
    try:
        return bind(wish.host, wish.port)
    except (OSError, OverflowError) as error:
        problem = getattr(error, "strerror", None) or error
        raise CommandError(f"{wish.host}:{wish.port}: {problem}. Choose another port or address") from error


def _shown_url(host: str, listener: socket.socket) -> str:
    """As others reach it: where it answers everywhere, by this machine's name."""
    if host in ("0.0.0.0", "::"):
        return f"http://{socket.gethostname()}:{listener.getsockname()[1]}"
    return url_of(listener)


def _own_key() -> tuple[str, ApiKey]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    random = secrets.token_hex(4), secrets.token_urlsafe(32)
    return make_key("this window", ("predict", "metrics"), 0, random, now)


def _with_own(own: ApiKey, keys: Keys) -> Callable[[], tuple[ApiKey, ...]]:
    return lambda: (own, *keys())


def _reachable(host: str) -> str:
    """Where this machine reaches a server that listens there."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _farewell(server: LocalServer) -> str:
    lost = server.server.unanswered if server.server is not None else 0
    return f"Stopped with {lost} requests unanswered" if lost else "Stopped"


def free_port(host: str) -> int | None:
    """The first that nobody listens on; None if all are taken or the address is none of this machine."""
    for port in range(FIRST_PORT, LAST_PORT):
        if port_problem(host, port) is None:
            return port
    return None


def port_problem(host: str, port: int) -> str | None:
    """Why nothing can listen there. Blocking, for an instant."""
    try:
        bind(host, port).close()
    except (OSError, OverflowError) as error:
        return f"{host}:{port}: {getattr(error, 'strerror', None) or error}"
    return None
