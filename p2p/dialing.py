"""Several addresses of one peer tried at once, as RFC 8305 ("happy eyeballs") has it. Opens no socket itself.

Families alternate, so that one broken family costs one moment and not one for each address; the
next attempt starts a moment after the last or at its failure; names are resolved beside the first
attempts; the first connection wins and whatever else comes about is discarded. Ways that are
only better than none, such as relays, are tried last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

from p2p.errors import ConnectionFailedError

A = TypeVar("A")
T = TypeVar("T")

STAGGER_S = 0.25
"""The delay that section 8 of the RFC recommends."""
LAST_RESORT_S = 0.6
"""How long the other attempts are given before a last resort is tried beside them."""
MAX_ATTEMPTS = 32
"""However many addresses the names of one peer resolve to."""
DISCARD_TIMEOUT_S = 1.0


class Interleaved(Generic[A]):
    """A queue of addresses in which families alternate; the first one added comes first."""

    def __init__(self, family_of: Callable[[A], str]) -> None:
        self._family_of = family_of
        self._families: dict[str, deque[A]] = {}
        self._seen: set[A] = set()
        self._last: str | None = None

    def add(self, addresses: Sequence[A]) -> None:
        """Each address counts once; beyond MAX_ATTEMPTS none does."""
        for address in addresses:
            if address not in self._seen and len(self._seen) < MAX_ATTEMPTS:
                self._seen.add(address)
                self._families.setdefault(self._family_of(address), deque()).append(address)

    def next(self) -> A | None:
        """The next one to try, of another family than the last where there is one."""
        waiting = [family for family, addresses in self._families.items() if addresses]
        if not waiting:
            return None
        self._last = next((family for family in waiting if family != self._last), waiting[0])
        return self._families[self._last].popleft()


class Race(Generic[A, T]):
    """One dial. ``connect`` tries an address; ``resolve`` gives the addresses behind a name."""

    def __init__(
        self,
        connect: Callable[[A], Awaitable[T]],
        resolve: Callable[[A], Awaitable[Sequence[A]]],
        discard: Callable[[T], Awaitable[None]],
        family_of: Callable[[A], str],
        stagger_s: float = STAGGER_S,
    ) -> None:
        self._connect = connect
        self._resolve = resolve
        self._discard = discard
        self._queue: Interleaved[A] = Interleaved(family_of)
        self._stagger_s = stagger_s
        self._under_way = 0
        self._changed = trio.Event()
        self._reasons: list[str] = []
        self._won: list[T] = []
        self._last_resort: Sequence[A] = ()

    async def run(self, addresses: Sequence[A], names: Sequence[A], last_resort: Sequence[A] = ()) -> T:
        """The first connection. Raises ConnectionFailedError, saying why at each address."""
        self._queue.add(addresses)
        self._last_resort = last_resort
        async with trio.open_nursery() as nursery:
            for name in names:
                self._under_way += 1
                nursery.start_soon(self._look_up, name)
            await self._start_attempts(nursery)
        if not self._won:
            raise ConnectionFailedError("; ".join(self._reasons) or "no address")
        return self._won[0]

    async def _start_attempts(self, nursery: trio.Nursery) -> None:
        while True:
            changed = self._changed
            address = self._queue.next()
            if address is not None:
                failed = trio.Event()
                self._under_way += 1
                nursery.start_soon(self._attempt, address, failed, nursery.cancel_scope)
                with trio.move_on_after(self._stagger_s):
                    await failed.wait()
            elif self._last_resort:
                with trio.move_on_after(LAST_RESORT_S if self._under_way else 0.0) as patience:
                    await changed.wait()
                if patience.cancelled_caught:
                    self._queue.add(self._last_resort)
                    self._last_resort = ()
            elif self._under_way:
                await changed.wait()
            else:
                return

    async def _look_up(self, name: A) -> None:
        try:
            self._queue.add(await self._resolve(name))
        except Exception as error:  # the boundary of the task
            self._reasons.append(f"{name}: {error}")
        self._end()

    async def _attempt(self, address: A, failed: trio.Event, race: trio.CancelScope) -> None:
        try:
            connection = await self._connect(address)
        except Exception as error:  # the boundary of the attempt's task
            self._reasons.append(f"{address}: {error}")
            failed.set()
            self._end()
            return
        self._won.append(connection)
        race.cancel()
        if len(self._won) > 1:  # two came about in the same moment
            with trio.CancelScope(deadline=trio.current_time() + DISCARD_TIMEOUT_S, shield=True):
                await self._discard(connection)

    def _end(self) -> None:
        self._under_way -= 1
        self._changed.set()
        self._changed = trio.Event()
