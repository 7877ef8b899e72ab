"""Messages to bytes and back: msgpack through msgspec, strict types, unknown fields refused.

A codec belongs to one protocol and knows only its union of message types.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from p2p.errors import MessageInvalidError

T = TypeVar("T")


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of everything that crosses a stream; tagged with its class name."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what only appears inside a message; not tagged."""


class Codec(Generic[T]):
    """Encodes and decodes the messages of one protocol."""

    def __init__(self, union: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(union)
        self._encoder = msgspec.msgpack.Encoder()

    def encode(self, message: T) -> bytes:
        return self._encoder.encode(message)

    def decode(self, data: bytes | memoryview) -> T:
        """Raises MessageInvalidError, naming the field and what was expected of it."""
        try:
            message: T = self._decoder.decode(data)
        except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MessageInvalidError(f"message of {len(data)} bytes: {error}") from error
        return message
