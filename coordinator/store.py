"""Runs the database off the event loop: one writer, many requests to a commit, answers only after it.

Decides nothing. A write that fails ends the coordinator: what is in memory may be ahead of the disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from coordinator.database import Database, Write
from coordinator.errors import StoreError
from p2p.tasks import background_tasks

T = TypeVar("T")

RunBlocking = Callable[..., Awaitable[Any]]
"""As trio.to_thread.run_sync; a simulation on a virtual clock runs the call in place."""
MAX_PENDING = 20_000
MAX_BATCH = 1_000


class Ticket:
    """A write on its way."""

    def __init__(self, write: Write, published: Callable[[], None]) -> None:
        self.write = write
        self.published = published
        self._durable = trio.Event()

    def set(self) -> None:
        self._durable.set()

    async def wait(self) -> None:
        """Returns once it is on disk, and whatever was enqueued before it."""
        await self._durable.wait()


class Store:
    """Use ``open_store``."""

    def __init__(self, database: Database, run_blocking: RunBlocking) -> None:
        self._database = database
        self._run_blocking = run_blocking
        self._pending: list[Ticket] = []
        self._wake = trio.Event()
        self._reading = trio.Lock()

    @property
    def is_full(self) -> bool:
        return len(self._pending) >= MAX_PENDING

    def enqueue(self, write: Write, published: Callable[[], None] = lambda: None) -> Ticket:
        """Writes are committed in this order; ``published`` is called after the commit, before waiters."""
        ticket = Ticket(write, published)
        self._pending.append(ticket)
        self._wake.set()
        return ticket

    async def settle(self) -> None:
        """Returns once everything that was enqueued is on disk."""
        await trio.lowlevel.checkpoint()
        if self._pending:
            await self._pending[-1].wait()

    async def read(self, query: Callable[..., T], *arguments: object) -> T:
        """``query`` is a method of Database that reads. One at a time."""
        async with self._reading:
            result: T = await self._run_blocking(query, *arguments)
        return result

    @property
    def database(self) -> Database:
        return self._database

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            batch = self._pending[:MAX_BATCH]
            await self._run_blocking(self._database.write, [ticket.write for ticket in batch])
            del self._pending[: len(batch)]
            if not self._pending:
                self._wake = trio.Event()
            for ticket in batch:
                ticket.published()
                ticket.set()


@asynccontextmanager
async def open_store(path: Path, run_blocking: RunBlocking = trio.to_thread.run_sync) -> AsyncIterator[Store]:
    """Raises StoreError, also out of the block when a write fails."""
    database = await run_blocking(Database, path)
    try:
        async with _raising(StoreError), background_tasks() as nursery:
            store = Store(database, run_blocking)
            nursery.start_soon(store.run)
            yield store
            with trio.move_on_after(5):
                await store.settle()
    finally:
        database.close()


@asynccontextmanager
async def _raising(kind: type[Exception]) -> AsyncIterator[None]:
    """Lets an error of a background task leave as itself, not in a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        found, rest = group.split(kind)
        if found is None or rest is not None:
            raise
        error: BaseException = found
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
