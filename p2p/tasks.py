"""Background tasks that belong to a ``with`` block, and deadlines that raise our own error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

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


class deadline:
    """Raises DeadlineError, naming ``what``, when the block takes longer than ``timeout_s``."""

    __slots__ = ("_scope", "_timeout_s", "_what")

    def __init__(self, timeout_s: float | None, what: str) -> None:
        self._timeout_s = timeout_s
        self._what = what

    def __enter__(self) -> None:
        if self._timeout_s is not None:
            self._scope = trio.CancelScope(deadline=trio.current_time() + self._timeout_s)
            self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timeout_s is not None:
            self._scope.__exit__(kind, error, trace)
            if self._scope.cancelled_caught:
                raise DeadlineError(f"{self._what}: no answer within {self._timeout_s:g} s") from None


async def take_slot(slots: trio.Semaphore) -> None:
    """``acquire``, but without a turn for others where there is a free one: on the path of every call."""
    try:
        slots.acquire_nowait()
    except trio.WouldBlock:
        await slots.acquire()
