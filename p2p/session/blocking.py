"""An async resource for code without async: it lives in a trio loop in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeVar

import trio

from p2p.errors import LocalProtocolError

R = TypeVar("R")
T = TypeVar("T")

_QUEUED = 256


@asynccontextmanager
async def _closing(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """A generator that is left early ends at once, not when it is collected."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


class TrioThread(Generic[R]):
    """Opens the resource in ``start``, runs calls in its loop, closes it in ``close``."""

    def __init__(self, open_resource: Callable[[], AbstractAsyncContextManager[R]]) -> None:
        self._open = open_resource
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop: trio.Event | None = None
        self._opened: queue.SimpleQueue[R | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=trio.run, args=(self._run,), daemon=True)

    def start(self) -> R:
        """Raises what opening raises."""
        self._thread.start()
        opened = self._opened.get()
        if isinstance(opened, BaseException):
            self._thread.join()
            raise opened
        return opened

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """The result; raises what the function raises."""

        async def run() -> T:
            return await function()

        return trio.from_thread.run(run, trio_token=self._running())

    def iterate(self, function: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """Stop early with ``close`` or by dropping the iterator: the loop then ends its side."""
        send, receive = self._in_loop(lambda: trio.open_memory_channel[T](_QUEUED))
        failure: list[Exception] = []

        async def pump() -> None:
            async with send:
                try:
                    async with _closing(function()) as items:
                        async for item in items:
                            await send.send(item)
                except trio.BrokenResourceError:
                    pass
                except Exception as error:  # the boundary of the task: handed to the caller
                    failure.append(error)

        self._in_loop(lambda: trio.lowlevel.spawn_system_task(pump))
        try:
            while True:
                try:
                    yield self.call(receive.receive)
                except trio.EndOfChannel:
                    break
        finally:
            self._in_loop(receive.close)
        if failure:
            raise failure[0]

    def close(self) -> None:
        """Returns when the resource is closed."""
        if self._thread.is_alive() and self._stop is not None:
            self._in_loop(self._stop.set)
        self._thread.join()

    def _in_loop(self, function: Callable[[], T]) -> T:
        return trio.from_thread.run_sync(function, trio_token=self._running())

    def _running(self) -> trio.lowlevel.TrioToken:
        if self._token is None or not self._thread.is_alive():
            raise LocalProtocolError("the engine is closed")
        return self._token

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        try:
            async with self._open() as resource:
                self._opened.put(resource)
                await self._stop.wait()
        except Exception as error:
            self._opened.put(error)
