"""Frames between a supervisor and its worker: bytes in, frames out; no I/O.

A frame is ``u32 message length | u32 body length | message | body``, big-endian. Both sides
enforce the limits, and what a worker sends is checked as if it came from another machine.
"""

from __future__ import annotations

import struct

import msgspec

from backend.errors import WorkerError
from backend.reports import COMMAND_DECODER, EVENT_DECODER, Command, Event

HEADER = struct.Struct(">II")
MAX_MESSAGE_BYTES = 1 << 20
MAX_BODY_BYTES = 1 << 28

_ENCODER = msgspec.msgpack.Encoder()


def encode(message: Command | Event, body: bytes | memoryview = b"") -> tuple[bytes, bytes | memoryview]:
    """Header with message, and the body, to be written one after the other. Raises WorkerError."""
    packed = _ENCODER.encode(message)
    check_lengths(len(packed), len(body))
    return HEADER.pack(len(packed), len(body)) + packed, body


def decode_header(header: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Lengths of message and body. Raises WorkerError if they are over the limits."""
    message_bytes, body_bytes = HEADER.unpack(header)
    check_lengths(message_bytes, body_bytes)
    return message_bytes, body_bytes


def check_lengths(message_bytes: int, body_bytes: int) -> None:
    if message_bytes > MAX_MESSAGE_BYTES:
        raise WorkerError(f"message of {message_bytes} bytes, limit {MAX_MESSAGE_BYTES}")
    if body_bytes > MAX_BODY_BYTES:
        raise WorkerError(f"body of {body_bytes} bytes, limit {MAX_BODY_BYTES}")


def decode_event(data: bytes | bytearray | memoryview) -> Event:
    """Raises WorkerError."""
    try:
        event: Event = EVENT_DECODER.decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkerError(f"event of {len(data)} bytes: {error}") from error
    return event


def decode_command(data: bytes | bytearray | memoryview) -> Command:
    """Raises WorkerError."""
    try:
        command: Command = COMMAND_DECODER.decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkerError(f"command of {len(data)} bytes: {error}") from error
    return command
