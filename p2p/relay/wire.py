"""Reads and writes libp2p's length-prefixed messages on a stream; not one byte beyond them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from p2p.errors import MessageInvalidError, StreamClosedError
from p2p.network import Stream
from p2p.relay.messages import MAX_MESSAGE_BYTES
from p2p.tasks import deadline

T = TypeVar("T")


async def read_message(
    stream: Stream, decode: Callable[[bytes], T], timeout_s: float, most_bytes: int = MAX_MESSAGE_BYTES
) -> T:
    """Raises MessageInvalidError, StreamClosedError, StreamResetError, DeadlineError."""
    with deadline(timeout_s, f"waiting for a message of {stream.remote_peer_id}"):
        size = await _read_length(stream, most_bytes)
        return decode(await _read_exactly(stream, size))


async def write_message(stream: Stream, encoded: bytes, timeout_s: float) -> None:
    """Raises StreamResetError, DeadlineError. Cancelled, it cuts the stream."""
    with deadline(timeout_s, f"sending {len(encoded)} bytes to {stream.remote_peer_id}"):
        try:
            await stream.send_all(encoded)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise


async def _read_length(stream: Stream, most_bytes: int) -> int:
    size = shift = 0
    while True:
        byte = (await _read_exactly(stream, 1))[0]
        size |= (byte & 127) << shift
        shift += 7
        if size > most_bytes or (byte > 127 and shift > 28):
            raise MessageInvalidError(f"message of {size} bytes or more, limit {most_bytes}")
        if byte < 128:
            return size


async def _read_exactly(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise StreamClosedError(f"{stream.remote_peer_id} ended the stream inside a message")
        data += more
    return data
