"""Reads the header of a GGUF file within bounds, before any runtime sees the file.

Every length is compared with what is left of the file before anything is read, so a header that
lies costs no memory and no loop. Accepted are only files whose tensors lie inside the file, one
after the other, as ggml itself requires it. Reads no tensor.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backend.errors import ArchiveError
from backend.formats.gguf_types import (
    DEFAULT_ALIGNMENT,
    FORMATS,
    MAGIC,
    TENSOR_KINDS,
    VERSIONS,
    TensorKind,
    ValueType,
)

MAX_HEADER_BYTES = 256 << 20
MAX_ENTRIES = 65_536
"""Of metadata; and as many tensors."""
MAX_ITEMS = 4_000_000
"""Of all arrays together: a vocabulary of 256,000 tokens has four arrays of that size."""
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 256
MAX_AXES = 4
MAX_ALIGNMENT = 1 << 16
MAX_ELEMENTS = 1 << 48

GgufScalar = bool | int | float | str
GgufValue = GgufScalar | tuple[GgufScalar, ...]


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """``shape`` as numpy has it, the fastest axis last; the file writes it the other way round."""

    kind: TensorKind
    shape: tuple[int, ...]
    begin: int
    """In bytes from the start of the data."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    version: int
    metadata: Mapping[str, GgufValue]
    tensors: Mapping[str, GgufTensor]
    data_at: int
    """Where the data starts, in bytes from the start of the file."""
    size_bytes: int

    @property
    def architecture(self) -> str:
        """Empty where the file does not say."""
        found = self.metadata.get("general.architecture", "")
        return found if isinstance(found, str) else ""


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises ArchiveError."""
    try:
        with path.open("rb") as file:
            return _Reader(file, os.fstat(file.fileno()).st_size).header()
    except ArchiveError as error:
        raise ArchiveError(f"GGUF file: {error}") from error
    except OSError as error:
        raise ArchiveError(f"GGUF file cannot be read: {error.strerror}") from error


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0
        self._items_left = MAX_ITEMS

    def header(self) -> GgufHeader:
        version, tensors, entries = self._start()
        metadata: dict[str, GgufValue] = {}
        for _ in range(entries):
            key = self._text(MAX_KEY_BYTES, "key")
            if key in metadata:
                raise ArchiveError(f"key {key[:80]!r} twice")
            metadata[key] = self._value(self._type(), key)
        infos = self._tensors(tensors, _alignment(metadata))
        data_at = _padded(self._at, _alignment(metadata))
        for name, tensor in infos.items():
            end = data_at + tensor.begin + tensor.size_bytes
            if end > self._size:
                raise ArchiveError(f"tensor {name!r} ends at {end}, the file at {self._size}")
        return GgufHeader(version, metadata, infos, data_at, self._size)

    def _start(self) -> tuple[int, int, int]:
        """Version, count of tensors, count of metadata entries."""
        if self._take(4) != MAGIC:
            raise ArchiveError("does not begin with GGUF")
        (version,) = struct.unpack("<I", self._take(4))
        if version not in VERSIONS:
            raise ArchiveError(f"version {version}, readable are {', '.join(map(str, VERSIONS))}")
        tensors, entries = struct.unpack("<QQ", self._take(16))
        if max(tensors, entries) > MAX_ENTRIES:
            found = f"{tensors} tensors and {entries} metadata entries"
            raise ArchiveError(f"{found}, limit {MAX_ENTRIES} of each")
        return version, tensors, entries

    # -- metadata ------------------------------------------------------------------------------------

    def _type(self) -> ValueType:
        (number,) = struct.unpack("<I", self._take(4))
        try:
            return ValueType(number)
        except ValueError:
            raise ArchiveError(f"value of type {number}, allowed are 0 to {max(ValueType)}") from None

    def _value(self, kind: ValueType, key: str) -> GgufValue:
        if kind is ValueType.STRING:
            return self._text(MAX_HEADER_BYTES, f"value of {key[:80]!r}")
        if kind is not ValueType.ARRAY:
            return self._scalars(kind, 1)[0]
        inner = self._type()
        (count,) = struct.unpack("<Q", self._take(8))
        self._items_left -= count
        if self._items_left < 0:
            raise ArchiveError(f"{key[:80]!r} of {count} items, limit {MAX_ITEMS} in all")
        if inner is ValueType.ARRAY:
            raise ArchiveError(f"{key[:80]!r} is an array of arrays, which nothing reads")
        if inner is ValueType.STRING:
            self._need(8 * count, f"{count} texts of {key[:80]!r}")
            return tuple([self._text(MAX_HEADER_BYTES, key) for _ in range(count)])
        return self._scalars(inner, count)

    def _scalars(self, kind: ValueType, count: int) -> tuple[GgufScalar, ...]:
        code = FORMATS[kind]
        data = self._take(count * struct.calcsize(f"<{code}"))
        values = struct.unpack(f"<{count}{code}", data)
        if kind is not ValueType.BOOL:
            return values
        if data.strip(b"\x00\x01"):
            raise ArchiveError("a truth value that is neither 0 nor 1")
        return tuple(map(bool, values))

    def _text(self, limit: int, what: str) -> str:
        (length,) = struct.unpack("<Q", self._take(8))
        if length > limit:
            raise ArchiveError(f"{what[:100]} of {length} bytes, limit {limit}")
        # Tokens may be pieces of characters.
        return self._take(length).decode("utf-8", "backslashreplace")

    # -- tensors -------------------------------------------------------------------------------------

    def _tensors(self, count: int, alignment: int) -> dict[str, GgufTensor]:
        tensors: dict[str, GgufTensor] = {}
        expected = 0
        for _ in range(count):
            name = self._text(MAX_NAME_BYTES, "name of a tensor")
            if name in tensors:
                raise ArchiveError(f"tensor {name!r} twice")
            tensor = self._tensor(name)
            if tensor.begin != expected:
                raise ArchiveError(f"tensor {name!r} begins at {tensor.begin}, expected {expected}")
            expected = _padded(tensor.begin + tensor.size_bytes, alignment)
            tensors[name] = tensor
        return tensors

    def _tensor(self, name: str) -> GgufTensor:
        (axes,) = struct.unpack("<I", self._take(4))
        if axes > MAX_AXES:
            raise ArchiveError(f"tensor {name!r} of {axes} axes, limit {MAX_AXES}")
        sizes = struct.unpack(f"<{axes}Q", self._take(8 * axes))
        number, begin = struct.unpack("<IQ", self._take(12))
        kind = TENSOR_KINDS.get(number)
        if kind is None:
            raise ArchiveError(f"tensor {name!r} of type {number}, which is unknown")
        if min(sizes, default=1) < 1 or math.prod(sizes) > MAX_ELEMENTS:
            raise ArchiveError(f"tensor {name!r} shaped {sizes[::-1]}, limit {MAX_ELEMENTS} elements")
        first = sizes[0] if sizes else 1
        if first % kind.block:
            raise ArchiveError(f"tensor {name!r}: rows of {first}, {kind.name} has blocks of {kind.block}")
        return GgufTensor(kind, sizes[::-1], begin, math.prod(sizes) // kind.block * kind.block_bytes)

    # -- bytes ---------------------------------------------------------------------------------------

    def _take(self, count: int) -> bytes:
        self._need(count, "the next value")
        data = self._file.read(count)
        if len(data) != count:
            raise ArchiveError(f"cut off at {self._at + len(data)} bytes")
        self._at += count
        return data

    def _need(self, count: int, what: str) -> None:
        if count > self._size - self._at:
            raise ArchiveError(f"{what} takes {count} bytes, {self._size - self._at} are left")
        if self._at + count > MAX_HEADER_BYTES:
            raise ArchiveError(f"header of more than {MAX_HEADER_BYTES} bytes, which is the limit")


def _alignment(metadata: Mapping[str, GgufValue]) -> int:
    found = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(found) is not int or not 1 <= found <= MAX_ALIGNMENT or found & (found - 1):
        raise ArchiveError(f"alignment {str(found)[:40]}, allowed are powers of 2 up to {MAX_ALIGNMENT}")
    return found


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
