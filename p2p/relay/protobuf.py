"""The few parts of protobuf's encoding that libp2p's messages use. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from p2p.errors import MessageInvalidError

Field = tuple[int, int | bytes]
"""Number and value: an int travels as a varint, bytes with their length."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


def encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_fields(fields: Iterable[Field]) -> bytes:
    parts: list[bytes] = []
    for number, value in fields:
        if isinstance(value, int):
            parts += (encode_varint(number << 3 | _VARINT), encode_varint(value))
        else:
            parts += (encode_varint(number << 3 | _BYTES), encode_varint(len(value)), value)
    return b"".join(parts)


class Fields:
    """A decoded message; fields of other kinds than asked for are refused when they are asked for."""

    def __init__(self, data: bytes) -> None:
        """Raises MessageInvalidError."""
        self._values: dict[int, list[int | bytes]] = {}
        at = 0
        while at < len(data):
            key, at = _varint(data, at)
            value, at = _value(data, at, key & 7)
            self._values.setdefault(key >> 3, []).append(value)

    def number_at(self, number: int) -> int | None:
        """The last of its kind, as protobuf asks. Raises MessageInvalidError."""
        value = self._last(number)
        if isinstance(value, bytes):
            raise MessageInvalidError(f"field {number} holds {len(value)} bytes, expected a number")
        return value

    def bytes_at(self, number: int) -> bytes | None:
        """Raises MessageInvalidError."""
        value = self._last(number)
        if isinstance(value, int):
            raise MessageInvalidError(f"field {number} holds the number {value}, expected bytes")
        return value

    def all_bytes_at(self, number: int, most: int) -> tuple[bytes, ...]:
        """Raises MessageInvalidError, also for more than ``most`` of them."""
        values: Sequence[int | bytes] = self._values.get(number, ())
        if len(values) > most:
            raise MessageInvalidError(f"field {number} comes {len(values)} times, limit {most}")
        found = tuple(value for value in values if not isinstance(value, int))
        if len(found) != len(values):
            raise MessageInvalidError(f"field {number} holds a number, expected bytes")
        return found

    def _last(self, number: int) -> int | bytes | None:
        values = self._values.get(number)
        return values[-1] if values else None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift, byte in enumerate(data[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value, at + shift + 1
    raise MessageInvalidError(f"varint at byte {at} of {len(data)} does not end")


def _value(data: bytes, at: int, kind: int) -> tuple[int | bytes, int]:
    if kind == _VARINT:
        return _varint(data, at)
    if kind == _BYTES:
        size, at = _varint(data, at)
    elif kind in (_FIXED64, _FIXED32):
        size = 8 if kind == _FIXED64 else 4
    else:
        raise MessageInvalidError(f"field of wire type {kind}, allowed 0, 1, 2, 5")
    if at + size > len(data):
        raise MessageInvalidError(f"field of {size} bytes, {len(data) - at} are left of the message")
    return data[at : at + size], at + size
