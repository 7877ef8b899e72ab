"""Background tasks that belong to a ``with`` block, and deadlines that raise our own error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from p2p.errors import DeadlineError


@asynccontextmanager
async def background_tasks() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks end with the block.

    An error of the block leaves as itself, not inside a group as with a bare nursery, so that
    callers may catch it by its class. The tasks handle their own errors.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except trio.Cancelled:
            raise
        except BaseException as error:
            failure = error
        finally:
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@contextmanager
def deadline(timeout_s: float | None, what: str) -> Iterator[None]:
    """Raises DeadlineError, naming ``what``, when the block takes longer than ``timeout_s``."""
    if timeout_s is None:
        yield
        return
    with trio.move_on_after(timeout_s) as scope:
        yield
    if scope.cancelled_caught:
        raise DeadlineError(f"{what}: no answer within {timeout_s:g} s")


async def take_slot(slots: trio.Semaphore) -> None:
    """``acquire``, but without a turn for others where there is a free one: on the path of every call."""
    try:
        slots.acquire_nowait()
    except trio.WouldBlock:
        await slots.acquire()


@asynccontextmanager
async def held(lock: trio.Lock) -> AsyncIterator[None]:
    """``async with lock``, but without a turn for others where it is free."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()
    try:
        yield
    finally:
        lock.release()
