"""The protobuf wire format, read within a budget: bytes in, fields out. Knows no message.

Groups, numbers over 64 bits, and lengths beyond the end are refused; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from backend.errors import ArchiveError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class Kind(Enum):
    """What a field holds: the wire types it may have, and whether it may come more than once."""

    INT = ({_VARINT}, False)
    FLOAT = ({_FIXED32}, False)
    ONE = ({_BYTES}, False)
    """A text, bytes or a message."""
    MANY = ({_BYTES}, True)
    INTS = ({_VARINT, _BYTES}, True)
    FLOATS = ({_FIXED32, _BYTES}, True)
    DOUBLES = ({_FIXED64, _BYTES}, True)

    def __init__(self, wire_types: set[int], repeated: bool) -> None:
        self.wire_types = frozenset(wire_types)
        self.repeated = repeated


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the data that is being read."""

    begin: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


Fields = dict[int, list[int | Span]]
"""By number: whole numbers as they are, everything else as a span of its bytes."""


class Budget:
    """How many fields may still be read: what bounds time and memory for any input."""

    def __init__(self, fields: int) -> None:
        self._allowed = self._left = fields

    def spend(self) -> None:
        """Raises ArchiveError."""
        self._left -= 1
        if self._left < 0:
            raise ArchiveError(f"more than {self._allowed} fields, which is the limit")


def read_fields(data: bytes, span: Span, schema: Mapping[int, Kind], what: str, budget: Budget) -> Fields:
    """One message, not those inside it. Raises ArchiveError for what the schema does not have.

    A field that may come once and comes twice is refused too: readers differ in which one counts.
    """
    found: Fields = {}
    at = span.begin
    while at < span.end:
        budget.spend()
        tag, at = read_varint(data, at, span.end)
        number, wire_type = tag >> 3, tag & 7
        kind = schema.get(number)
        if kind is None or wire_type not in kind.wire_types:
            raise ArchiveError(f"{what}: field {number} of wire type {wire_type}, which it does not have")
        if number in found and not kind.repeated:
            raise ArchiveError(f"{what}: field {number} twice")
        value: int | Span
        if wire_type == _VARINT:
            value, at = read_varint(data, at, span.end)
        else:
            size = {_FIXED32: 4, _FIXED64: 8}.get(wire_type)
            if size is None:
                size, at = read_varint(data, at, span.end)
            if size > span.end - at:
                raise ArchiveError(f"{what}: field {number} of {size} bytes, {span.end - at} are left")
            value, at = Span(at, at + size), at + size
        found.setdefault(number, []).append(value)
    return found


def read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number below 2^64 and the position after it. Raises ArchiveError."""
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        if at + count >= end:
            raise ArchiveError("cut off within a number")
        byte = data[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at + count + 1
    raise ArchiveError("a number of more than 64 bits")


def signed(value: int) -> int:
    """As int64 and int32 fields mean it."""
    return value - (1 << 64) if value >= 1 << 63 else value


def read_ints(data: bytes, values: list[int | Span], limit: int) -> list[int]:
    """Of a repeated field, packed or not. Raises ArchiveError for more than ``limit``."""
    found: list[int] = []
    for value in values:
        if isinstance(value, int):
            found.append(signed(value))
        else:
            at = value.begin
            while at < value.end and len(found) <= limit:
                number, at = read_varint(data, at, value.end)
                found.append(signed(number))
        if len(found) > limit:
            raise ArchiveError(f"more than {limit} numbers in a list, which is the limit")
    return found
