"""What strangers may cost this side: how much at once, and how often. Pure: time is an argument.

Whoever asks too often waits or is refused; nobody else notices. A crowd of strangers costs bounded
memory: whoever was quiet longest is forgotten.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from p2p.errors import LocalProtocolError

MAX_LIMIT = 1 << 40


@dataclass(frozen=True, slots=True)
class Rate:
    """``per_s`` in the long run, ``burst`` at once."""

    per_s: float
    burst: float


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class RateLimiter:
    """A token bucket for each caller; at most ``callers`` of them are remembered."""

    def __init__(self, rate: Rate, callers: int = 10_000) -> None:
        self.rate = rate
        self._callers = callers
        self._buckets: dict[Hashable, _Bucket] = {}

    def allow(self, caller: Hashable, now: float, cost: float = 1.0) -> bool:
        """Takes ``cost`` if it is there."""
        bucket = self._bucket(caller, now)
        if bucket.level < cost:
            return False
        bucket.level -= cost
        return True

    def delay_s(self, caller: Hashable, now: float, cost: float = 1.0) -> float:
        """Takes ``cost`` now or in advance; how long the caller has to wait for what it took."""
        bucket = self._bucket(caller, now)
        bucket.level -= cost
        return max(0.0, -bucket.level / self.rate.per_s)

    def _bucket(self, caller: Hashable, now: float) -> _Bucket:
        bucket = self._buckets.pop(caller, None)
        if bucket is None:
            if len(self._buckets) >= self._callers:
                del self._buckets[next(iter(self._buckets))]  # asked longest ago: the fullest
            bucket = _Bucket(self.rate.burst, now)
        self._buckets[caller] = bucket
        if now > bucket.at:
            bucket.level = min(self.rate.burst, bucket.level + (now - bucket.at) * self.rate.per_s)
            bucket.at = now
        return bucket


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What strangers may cost a program, in all, by peer, and by address. Sizes are in bytes.

    An address is an IPv4 address, or the first 64 bits of an IPv6 one.
    """

    connections: int = 4096
    connections_per_peer: int = 8
    connections_per_address: int = 256
    attempts_per_s: float = 50.0
    """To connect, from one address, whether or not anything comes of them; ``connections_per_address``
    at once."""
    handshakes: int = 256
    """Strangers that may be shaking hands at once; more are turned away."""
    handshakes_per_address: int = 64
    handshake_s: float = 10.0
    naming_s: float = 10.0
    """For naming the protocol of a stream."""
    streams_per_peer: int = 1024
    unread_per_peer: int = 64 << 20
    """Bytes that have arrived and were not read yet; the stream that goes beyond is reset."""
    unread: int = 1 << 30
    """The same of all peers; who has no more than 256 KiB of it is never cut off for it."""
    unfinished_per_peer: int = 512 << 20
    """Bytes of messages that have not arrived whole; the stream that goes beyond is reset."""
    unfinished: int = 2 << 30
    """The same of all peers, with the same exception."""
    message: int = 16 << 20
    """Bytes of one message; most protocols allow less."""
    body: int = 64 << 20
    """Bytes that travel beside one message."""
    messages_per_s: float = 5000.0
    """Of one peer; what comes faster waits, unread. Twice as many at once. A new stream counts as one."""
    messages_per_s_per_address: float = 20_000.0


def parse_limits(settings: Iterable[str]) -> HostLimits:
    """From texts such as ``connections=1000``. Raises LocalProtocolError naming what is allowed."""
    known = {field.name: field.default for field in fields(HostLimits)}
    found: dict[str, Any] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if name not in known:
            raise LocalProtocolError(f"limit {name!r}, allowed are {', '.join(known)}")
        found[name] = _positive(name, text.strip(), type(known[name]))
    return replace(HostLimits(), **found)


def _positive(name: str, text: str, kind: type[Any]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if not 0 < value <= MAX_LIMIT:
        what = "a whole number" if kind is int else "a number"
        raise LocalProtocolError(f"limit {name} is {text!r}, expected {what} above 0, at most {MAX_LIMIT}")
    return value


class Room:
    """For so many of something in all, and for so many of one place."""

    def __init__(self, what: str, total: int, each: int) -> None:
        self._what = what
        self._total, self._each = total, each
        self._inside: dict[str, int] = {}
        self._count = 0

    def enter(self, address: str) -> str | None:
        """None when it may come in, and must ``leave`` later; else why it may not."""
        place = place_of(address)
        here = self._inside.get(place, 0)
        if self._count >= self._total:
            return f"{self._count} {self._what}, limit {self._total}"
        if here >= self._each:
            return f"{here} {self._what} from {place}, limit {self._each}"
        self._count += 1
        self._inside[place] = here + 1
        return None

    def leave(self, address: str) -> None:
        place = place_of(address)
        self._count -= 1
        self._inside[place] -= 1
        if not self._inside[place]:
            del self._inside[place]


class Door:
    """Lets connections in while there is room for them."""

    def __init__(self, limits: HostLimits) -> None:
        self._limits = limits
        self._room = Room("connections", limits.connections, limits.connections_per_address)
        self._arrivals = RateLimiter(Rate(limits.attempts_per_s, limits.connections_per_address))
        self.leave = self._room.leave

    def enter(self, address: str, now: float) -> str | None:
        """As ``Room.enter``."""
        place = place_of(address)
        if not self._arrivals.allow(place, now):
            return f"over {self._limits.attempts_per_s:g} attempts a second from {place}"
        return self._room.enter(address)


class Turns:
    """Whose message is read when: each peer and each address has a rate of its own."""

    def __init__(self, limits: HostLimits) -> None:
        self._peers = RateLimiter(Rate(limits.messages_per_s, 2 * limits.messages_per_s))
        each = limits.messages_per_s_per_address
        self._places = RateLimiter(Rate(each, 2 * each))

    def delay_s(self, peer_id: str, place: str, now: float) -> float:
        """Takes a turn; how long until it comes."""
        return max(self._peers.delay_s(peer_id, now), self._places.delay_s(place, now))


def place_in(multiaddress: str) -> str:
    """``192.0.2.1`` of ``/ip4/192.0.2.1/tcp/4400``, as ``place_of`` has it."""
    return place_of("".join(multiaddress.split("/")[2:3]))


def place_of(address: str) -> str:
    """Whoever has one IPv6 address has 2^64 of them."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
