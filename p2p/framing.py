"""Frames: a message and the raw bytes that travel beside it. Bytes in, frames out; no I/O.

A frame is ``u32 message length | u32 body length | message | body``, big-endian.
Tensors and file chunks are bodies, never inside the message.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from p2p.errors import FrameTooLargeError, LocalProtocolError

HEADER = struct.Struct(">II")
_SMALL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """The largest message and body, in bytes, that one side accepts."""

    message_bytes: int = 1 << 20
    body_bytes: int = 16 << 20

    def within(self, other: FrameLimits) -> FrameLimits:
        """The stricter of both."""
        return FrameLimits(
            min(self.message_bytes, other.message_bytes), min(self.body_bytes, other.body_bytes)
        )

    def check(self, message_bytes: int, body_bytes: int) -> None:
        """Raises FrameTooLargeError."""
        if message_bytes > self.message_bytes:
            raise FrameTooLargeError(f"message of {message_bytes} bytes, limit {self.message_bytes}")
        if body_bytes > self.body_bytes:
            raise FrameTooLargeError(f"body of {body_bytes} bytes, limit {self.body_bytes}")


@dataclass(frozen=True, slots=True)
class Frame:
    message: bytes
    body: bytes = b""


def encode_frame(frame: Frame, limits: FrameLimits) -> bytes:
    """Raises LocalProtocolError for a frame that the other side would refuse."""
    try:
        limits.check(len(frame.message), len(frame.body))
    except FrameTooLargeError as error:
        raise LocalProtocolError(f"refusing to send: {error}") from error
    return b"".join((HEADER.pack(len(frame.message), len(frame.body)), frame.message, frame.body))


class FrameDecoder:
    """Feed it bytes cut anywhere; ask it for whole frames. A large body is copied once."""

    def __init__(self, limits: FrameLimits, take_body: Callable[[int], None] | None = None) -> None:
        """``take_body`` is told how long a body will be, and may raise FrameTooLargeError."""
        self._limits = limits
        self._take_body = take_body
        self._pieces: deque[bytes | bytearray] = deque()
        self._at = 0
        """Where what is not taken yet begins, in the first piece."""
        self._size = 0
        self._announced: tuple[int, int] | None = None
        """Message and body bytes of the frame that is arriving."""

    def receive_data(self, data: bytes) -> None:
        last = self._pieces[-1] if self._pieces else None
        self._size += len(data)
        if isinstance(last, bytearray) and len(last) < _SMALL_BYTES:
            last += data
        elif data:
            # Small pieces share one buffer: a sender of single bytes must not cost an object for each.
            # The first of all is nearly always a whole frame, and taken at once.
            self._pieces.append(bytearray(data) if last is not None and len(data) < _SMALL_BYTES else data)

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None if more bytes are needed.

        Raises FrameTooLargeError as soon as the header announces too much.
        """
        if not self.has_frame or self._announced is None:
            return None
        message_bytes, body_bytes = self._announced
        self._announced = None
        return Frame(self._take(message_bytes), self._take(body_bytes) if body_bytes else b"")

    @property
    def has_frame(self) -> bool:
        """``next_frame`` would give one. Raises FrameTooLargeError as it does."""
        if self._announced is None:
            if self._size < HEADER.size:
                return False
            self._announced = HEADER.unpack(self._take(HEADER.size))
            self._limits.check(*self._announced)
            if self._take_body is not None:
                self._take_body(self._announced[1])
        message_bytes, body_bytes = self._announced
        self._limits.check(message_bytes, body_bytes)
        return self._size >= message_bytes + body_bytes

    def _take(self, size: int) -> bytes:
        """The first bytes, of which there are at least so many."""
        self._size -= size
        taken: list[bytes | bytearray] = []
        while size:
            piece, at = self._pieces[0], self._at
            part = piece[at : at + size]
            size -= len(part)
            self._at = at + len(part)
            if self._at == len(piece):
                self._pieces.popleft()
                self._at = 0
            taken.append(part)
        return taken[0] if len(taken) == 1 and isinstance(taken[0], bytes) else b"".join(taken)

    @property
    def size(self) -> int:
        """Bytes that are here and not taken yet."""
        return self._size

    @property
    def is_empty(self) -> bool:
        """True between frames: an end of the stream here cuts nothing off."""
        return self._size == 0 and self._announced is None
