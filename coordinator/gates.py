"""How many of one caller may be inside of what takes long, or waits long. Decides nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from p2p.errors import RemoteFailureError
from p2p.identifiers import PeerId

AT_ONCE = 2
"""Side by side in threads. The database's writer needs one at any time."""
MAX_WAITING = 64
MAX_OF_CALLER = 8
"""Each takes up to seconds: of the places to wait in, one caller must leave some."""


class Gate:
    """In front of what is done off the event loop for callers; ``what`` they wait with, in words."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._inside = trio.CapacityLimiter(AT_ONCE)
        self._of_caller: Counter[PeerId] = Counter()

    @asynccontextmanager
    async def turn(self, caller: PeerId) -> AsyncIterator[None]:
        """Waits for a turn. Raises RemoteFailureError where too many wait already."""
        waiting = self._inside.statistics().tasks_waiting
        if waiting >= MAX_WAITING:
            raise RemoteFailureError("busy", f"{waiting} {self._what} wait to be looked at; try again")
        with counted(self._of_caller, caller, MAX_OF_CALLER, f"{self._what} of yours wait"):
            async with self._inside:
                yield


@contextmanager
def counted(counts: Counter[PeerId], caller: PeerId, limit: int, what: str) -> Iterator[None]:
    """One more of the caller's, inside of the block. Raises RemoteFailureError."""
    if counts[caller] >= limit:
        raise RemoteFailureError("busy", f"{counts[caller]} {what}, limit {limit}")
    counts[caller] += 1
    try:
        yield
    finally:
        counts[caller] -= 1
        if not counts[caller]:
            del counts[caller]
