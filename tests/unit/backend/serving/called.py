"""Both ends of a model's channel without a process: the worker's on an event loop in a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from backend.runtime.base import Runtime
from backend.serving.messages import ServerLimits
from backend.serving.served_calls import ServedCalls
from backend.workers.model_calls import CallLimits, ModelCalls
from tests.unit.backend.serving.server import Doubler, Server

_LIMITS = ServerLimits()


class Served:
    """The worker's end; ``calls`` of ours. ``cut`` is its death."""

    def __init__(self, runtime: Runtime, limits: ServerLimits, ours: CallLimits) -> None:
        self.calls, self._end = socket.socketpair()
        self.model_calls = ModelCalls(ours)
        self.was_killed = False
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(runtime, limits), daemon=True)

    def kill(self) -> None:
        self.was_killed = True

    def cut(self) -> None:
        with suppress(RuntimeError):  # it has been cut before
            self._loop.call_soon_threadsafe(self._closing.set)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def join(self) -> None:
        self._thread.join()

    def _run(self, runtime: Runtime, limits: ServerLimits) -> None:
        self._loop.run_until_complete(self._serve(runtime, limits))
        self._loop.close()

    async def _serve(self, runtime: Runtime, limits: ServerLimits) -> None:
        server = Server({"m": runtime}, limits)
        transport, _ = await self._loop.create_unix_connection(
            lambda: ServedCalls(server.app, server.host), sock=self._end
        )
        self._ready.set()
        await self._closing.wait()
        transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=5)


@asynccontextmanager
async def open_served(
    runtime: Runtime | None = None,
    limits: ServerLimits = _LIMITS,
    ours: CallLimits | None = None,
) -> AsyncIterator[Served]:
    served = Served(runtime or Doubler(), limits, ours or CallLimits())
    await trio.to_thread.run_sync(served.start)
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(served.model_calls.run, served)
                yield served
                nursery.cancel_scope.cancel()
    finally:
        served.cut()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(served.join)
        served.calls.close()
