"""Frames: a message and the raw bytes that travel beside it. Bytes in, frames out; no I/O.

A frame is ``u32 message length | u32 body length | message | body``, big-endian.
Tensors and file chunks are bodies, never inside the message.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from p2p.errors import FrameTooLargeError, LocalProtocolError

HEADER = struct.Struct(">II")


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
    """Feed it bytes cut anywhere; ask it for whole frames."""

    def __init__(self, limits: FrameLimits) -> None:
        self._limits = limits
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None if more bytes are needed.

        Raises FrameTooLargeError as soon as the header announces too much.
        """
        if not self.has_frame:
            return None
        message_bytes, body_bytes = HEADER.unpack_from(self._buffer)
        body_at = HEADER.size + message_bytes
        end = body_at + body_bytes
        with memoryview(self._buffer) as view:
            frame = Frame(bytes(view[HEADER.size : body_at]), bytes(view[body_at:end]))
        del self._buffer[:end]
        return frame

    @property
    def has_frame(self) -> bool:
        """``next_frame`` would give one. Raises FrameTooLargeError as it does."""
        if len(self._buffer) < HEADER.size:
            return False
        message_bytes, body_bytes = HEADER.unpack_from(self._buffer)
        self._limits.check(message_bytes, body_bytes)
        return bool(len(self._buffer) >= HEADER.size + message_bytes + body_bytes)

    @property
    def is_empty(self) -> bool:
        """True between frames: an end of the stream here cuts nothing off."""
        return not self._buffer
