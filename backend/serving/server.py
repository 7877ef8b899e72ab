"""A model's requests in a worker's thread: uvicorn on a socket that listens already, a channel, or both.

Nothing is logged: a body, a prompt or a key never reaches a file.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from backend.runtime.base import Runtime
from backend.serving.admission import Admission
from backend.serving.app import Application
from backend.serving.connection import KEEP_ALIVE_S, BoundedProtocol
from backend.serving.host import ModelHost
from backend.serving.keys import Gatekeeper
from backend.serving.messages import ApiKey, Serve, ServedModel
from backend.serving.predict_api import abilities
from backend.serving.routes import all_routes
from backend.serving.seats import Seats
from backend.serving.served_calls import ServedCalls

_SWEEP_EVERY_S = 0.25
_BACKLOG = 1024


class _Server(uvicorn.Server):
    """Tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


class ModelServer:
    """Made in the main thread, before the process is closed; ``run`` in a thread of its own."""

    def __init__(self, listener: socket.socket | None, calls: socket.socket | None, directory: Path) -> None:
        self._listener = listener
        self._calls = calls
        self._directory = directory
        # The loop's wake-up sockets must exist before the sandbox denies them.
        self._loop = _new_loop()
        self._host: ModelHost | None = None
        self._gatekeeper = Gatekeeper(())
        self._server: uvicorn.Server | None = None
        self._stopping: asyncio.Event | None = None
        self._grace_s = 0.0

    def start(
        self,
        order: Serve,
        load: Callable[[ServedModel], Runtime],
        on_ready: Callable[[tuple[str, ...]], None],
        on_failure: Callable[[Exception], None],
        on_stopped: Callable[[int], None],
    ) -> None:
        """Once. Exactly one of ``on_ready`` and ``on_failure`` is called, from the server's thread."""

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            try:
                unanswered = self._loop.run_until_complete(self._serve(order, load, on_ready))
            except Exception as error:
                on_failure(error)
            else:
                on_stopped(unanswered)

        threading.Thread(target=run, name="http", daemon=True).start()

    def set_keys(self, keys: tuple[ApiKey, ...]) -> None:
        self._loop.call_soon_threadsafe(self._gatekeeper.replace, keys)

    def stop(self, grace_s: float) -> None:
        def ask() -> None:
            self._grace_s = grace_s
            if self._stopping is not None:
                self._stopping.set()
            if self._server is not None:
                self._server.config.timeout_graceful_shutdown = max(1, round(grace_s))
                self._server.should_exit = True

        self._loop.call_soon_threadsafe(ask)

    def stalled_s(self) -> float:
        """How long the step that runs has been running; for another thread."""
        return 0.0 if self._host is None else self._host.stalled_s(time.monotonic())

    async def _serve(
        self,
        order: Serve,
        load: Callable[[ServedModel], Runtime],
        on_ready: Callable[[tuple[str, ...]], None],
    ) -> int:
        self._gatekeeper.replace(order.keys)
        host = self._host = ModelHost(order.models, order.limits, self._directory, load)
        lines = await _load_first(host)
        # What is here now stays: it need not be looked through again and again.
        gc.collect()
        gc.freeze()
        admission = Admission(order.hosts, self._gatekeeper, order.needs_key)
        app = Application(host, admission)
        app.route(all_routes(host, app.refused, order.needs_key))
        sweeping = asyncio.ensure_future(_sweep(host))
        stopping = self._stopping = asyncio.Event()
        try:
            alone = self._listener is None
            calls = None if self._calls is None else await _open_calls(self._calls, app, host, alone)
            if self._listener is None:
                on_ready(lines)
                await stopping.wait()
            else:
                config = server_config(app, order.limits.connections)
                server = self._server = _Server(config, lambda: on_ready(lines))
                await server.serve(sockets=[self._listener])
            if calls is not None:
                await calls.drain(self._grace_s)
        finally:
            sweeping.cancel()
        return app.in_flight if calls is None else max(app.in_flight, calls.in_flight)


async def _open_calls(end: socket.socket, app: Application, host: ModelHost, alone: bool) -> ServedCalls:
    loop = asyncio.get_running_loop()
    _, calls = await loop.create_unix_connection(lambda: ServedCalls(app, host, is_alone=alone), sock=end)
    return calls


async def _load_first(host: ModelHost) -> tuple[str, ...]:
    """The first model, so that a broken one is told at once; a line about it. Raises HttpError."""
    deadline = time.monotonic() + host.limits.timeout_s
    async with host.use(host.default, deadline, counts=False) as resident:
        facts = resident.runtime.facts
        what = ", ".join(abilities(resident))
        where = ", ".join(facts.devices)
        return (f"{host.default}: {facts.format} through {facts.runtime} on {where}; can {what}",)


async def _sweep(host: ModelHost) -> None:
    while True:
        await asyncio.sleep(_SWEEP_EVERY_S)
        host.sweep(time.monotonic())


def server_config(app: Application, connections: int) -> uvicorn.Config:
    """For as many connections; the sockets are given to the server apart."""
    seats: Seats[BoundedProtocol] = Seats(connections, lambda each: each.waits_since)
    protocol: Any = partial(BoundedProtocol, seats)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # uvicorn tells what was raised, which may quote a body
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        interface="asgi3",
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
    )


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
