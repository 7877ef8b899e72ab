"""One Yamux stream's state: what has arrived and is not read yet, and how much may be sent; no IO.

Memory follows from the limits: bytes that arrive in small parts are gathered, and a part that
would keep a much larger piece alive is copied out of it, so that what is held is at most about
twice what is unread, whatever the other side sends.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

INITIAL_WINDOW_BYTES = 256 * 1024
"""What either side may send on a new stream before it hears anything."""

_GATHERED_BELOW_BYTES = 4096
_GATHERED_BYTES = 65536
_WHOLE_BYTES = 16384


@dataclass(slots=True)
class Total:
    """What all peers have together."""

    unread_bytes: int = 0
    unfinished_bytes: int = 0


@dataclass(slots=True, weakref_slot=True)
class Use:
    """What one peer has of its limits at the moment, shared by its connections."""

    incoming_streams: int = 0
    held_streams: int = 0
    unread_bytes: int = 0
    grown_bytes: int = 0
    """Of windows, beyond what every stream begins with."""
    unfinished_bytes: int = 0
    """Read, but waiting for the rest of their message."""
    total: Total = field(default_factory=Total)

    def keep(self, size: int) -> None:
        """So many more unread bytes, or fewer."""
        self.unread_bytes += size
        self.total.unread_bytes += size

    def hold(self, size: int) -> None:
        """So many more unfinished bytes, or fewer."""
        self.unfinished_bytes += size
        self.total.unfinished_bytes += size

    def refusal(self, size: int, limits: YamuxLimits) -> str | None:
        """Why so many more bytes may not be kept."""
        mine, of_all = self.unread_bytes + size, self.total.unread_bytes + size
        return _refusal("unread", mine, limits.unread_bytes, of_all, limits.unread_bytes_of_all)

    def refusal_to_hold(self, limits: YamuxLimits) -> str | None:
        """Why what is unfinished is too much."""
        mine, of_all = self.unfinished_bytes, self.total.unfinished_bytes
        return _refusal("unfinished", mine, limits.unfinished_bytes, of_all, limits.unfinished_bytes_of_all)


def _refusal(what: str, mine: int, limit: int, of_all: int, limit_of_all: int) -> str | None:
    """A crowd leaves every peer as much as one window."""
    if mine > limit:
        return f"over {limit} {what} bytes of one peer"
    if of_all > limit_of_all and mine > INITIAL_WINDOW_BYTES:
        return f"over {limit_of_all} {what} bytes of all peers"
    return None


@dataclass(frozen=True, slots=True)
class YamuxLimits:
    """What one peer may cost this side. Streams and unread bytes count over all its connections."""

    incoming_streams: int = 1024
    """Open at once, and as many again that are over but still held by who handles them."""
    max_window_bytes: int = 16 * 1024 * 1024
    unread_bytes: int = 64 * 1024 * 1024
    """Over all streams; the stream that goes beyond is reset. Windows grow into half of it."""
    unread_bytes_of_all: int = 1024 * 1024 * 1024
    """Beyond it, the same for peers of which more than one window is unread."""
    unfinished_bytes: int = 512 * 1024 * 1024
    """Of messages that have not arrived whole, though they were read as far as they have."""
    unfinished_bytes_of_all: int = 2 * 1024 * 1024 * 1024
    outgoing_bytes: int = 1024 * 1024
    """Queued before writers wait; double that is where a side that does not read is cut off."""
    control_frames: int = 4096
    """Answers queued to a side that goes on asking and does not read them."""
    idle_frames: int = 4096
    idle_frames_per_s: float = 1024.0
    """Frames that move nothing (pings, resets, empty frames): so many at once, and so many a second."""
    keep_alive_s: float = 1.0
    """Silence after which the other side is asked for a sign of life, while somebody waits for it."""
    keep_alive_timeout_s: float = 1.4
    idle_keep_alive_s: float = 20.0
    """The same while nobody waits."""
    idle_keep_alive_timeout_s: float = 10.0


class StreamState:
    """What ``p2p.yamux_core`` knows of one stream. Only that module changes it."""

    __slots__ = (
        "_chunks",
        "_consumed",
        "handle",
        "held_bytes",
        "id",
        "incoming",
        "receive_window",
        "received_end",
        "released",
        "reset_reason",
        "send_window",
        "sent_end",
        "unread_bytes",
        "window_bytes",
        "window_opened_s",
    )

    def __init__(self, stream_id: int, *, incoming: bool) -> None:
        self.id = stream_id
        self.handle: Any = None
        """Whatever the caller wants to find again by an event; not looked at."""
        self.incoming = incoming
        self.send_window = INITIAL_WINDOW_BYTES
        self.receive_window = INITIAL_WINDOW_BYTES
        self.window_bytes = INITIAL_WINDOW_BYTES
        self.window_opened_s = float("-inf")
        self.sent_end = self.received_end = self.released = False
        self.reset_reason: str | None = None
        self.unread_bytes = 0
        self.held_bytes = 0
        """Unfinished: see ``Use``."""
        self._chunks: deque[bytes | memoryview | bytearray] = deque()
        self._consumed = 0

    def append(self, piece: bytes, at: int, end: int) -> None:
        """Keeps ``piece[at:end]`` to be read."""
        size = end - at
        self.unread_bytes += size
        if 2 * size >= len(piece) and size >= _GATHERED_BELOW_BYTES:
            self._chunks.append(piece if size == len(piece) else memoryview(piece)[at:end])
        elif self._chunks:
            self._gather(memoryview(piece)[at:end])
        else:
            self._chunks.append(piece[at:end])  # nearly always read before more comes

    def _gather(self, part: memoryview) -> None:
        last = self._chunks[-1] if self._chunks else None
        if isinstance(last, bytearray) and len(last) + len(part) <= _GATHERED_BYTES:
            last += part
        else:
            self._chunks.append(bytearray(part))

    def pop(self, max_bytes: int) -> bytes:
        """At most so many unread bytes; without a copy where a chunk can go out as it came in."""
        if not self._chunks or max_bytes <= 0:
            return b""
        first = self._chunks.popleft()
        if len(first) > max_bytes:
            self._put_back(first, max_bytes)
            data = bytes(first[:max_bytes])
        elif not self._chunks or len(first) >= _WHOLE_BYTES:
            data = bytes(first)
        else:
            data = self._join(first, max_bytes - len(first))
        self.unread_bytes -= len(data)
        return data

    def _put_back(self, first: bytes | memoryview | bytearray, taken: int) -> None:
        rest = memoryview(first)[taken:]
        small = len(rest) < _GATHERED_BELOW_BYTES or isinstance(first, bytearray)
        self._chunks.appendleft(bytearray(rest) if small else rest)

    def _join(self, first: bytes | memoryview | bytearray, room: int) -> bytes:
        parts = [first]
        while self._chunks and len(self._chunks[0]) <= room:
            room -= len(self._chunks[0])
            parts.append(self._chunks.popleft())
        return b"".join(parts)

    def drop_unread(self) -> int:
        """How many bytes there were."""
        dropped, self.unread_bytes = self.unread_bytes, 0
        self._chunks.clear()
        return dropped

    def consume(self, size: int) -> int:
        """Counts what was read; how far the window is to be opened, which is 0 most of the time."""
        self._consumed += size
        if self._consumed < self.window_bytes // 2 or self.received_end or self.reset_reason is not None:
            return 0
        more, self._consumed = self._consumed, 0
        return more
