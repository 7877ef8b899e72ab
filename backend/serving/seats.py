"""Which connections a server holds, and who makes room when it is full. Pure: time is an argument.

No address beyond this machine may hold more than its part. At a full server a newcomer takes the place of a
connection that waits for its own client, of the address that holds the most: whoever only sits there, or
sends a request byte by byte, keeps nobody out.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

PARTS = 4
"""An address beyond this machine may hold one connection in so many."""
PATIENCE_S = 1.0
"""For which every client may let a full server wait."""
_IPV6_NETWORK = 64

C = TypeVar("C", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Seat:
    group: str
    leave: Callable[[], None]


class Seats(Generic[C]):
    """``waits_since``: since when a connection only waits for its client, None while it is answered."""

    def __init__(self, limit: int, waits_since: Callable[[C], float | None]) -> None:
        self.limit = limit
        self._limit_of_one = max(1, limit // PARTS)
        self._waits_since = waits_since
        self._seats: dict[C, _Seat] = {}
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._seats)

    def take(self, connection: C, address: str, now: float, leave: Callable[[], None]) -> bool:
        """Whether there is a seat for it. ``leave`` of the one that makes room is called, once."""
        group, is_here = _group(address)
        if not is_here and self._held[group] >= self._limit_of_one:
            if not self._make_room(group, now):
                return False
        elif len(self._seats) >= self.limit and not self._make_room(self._fullest(group), now):
            return False
        self._seats[connection] = _Seat(group, leave)
        self._held[group] += 1
        return True

    def give_back(self, connection: C) -> bool:
        """False of one that had to leave, or never had a seat."""
        seat = self._seats.pop(connection, None)
        if seat is None:
            return False
        self._held[seat.group] -= 1
        if not self._held[seat.group]:
            del self._held[seat.group]
        return True

    def _fullest(self, group: str) -> str:
        """Whose connections make room for one more of ``group``: its own, unless others hold more."""
        most, count = self._held.most_common(1)[0]
        return most if count > self._held[group] else group

    def _make_room(self, group: str, now: float) -> bool:
        """Of those of that address the one that has waited longest goes."""
        waiting = [
            (since, number, connection)
            for number, (connection, seat) in enumerate(self._seats.items())
            if seat.group == group
            and (since := self._waits_since(connection)) is not None
            and now - since >= PATIENCE_S
        ]
        if not waiting:
            return False
        _, _, connection = min(waiting, key=lambda each: each[:2])
        leave = self._seats[connection].leave
        self.give_back(connection)
        leave()
        return True


def _group(address: str) -> tuple[str, bool]:
    """What counts as one address, and whether it is this machine; an IPv6 network counts as one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address, False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            network = ipaddress.ip_network((found, _IPV6_NETWORK), strict=False)
            return str(network), found.is_loopback
        found = found.ipv4_mapped
    return str(found), found.is_loopback
