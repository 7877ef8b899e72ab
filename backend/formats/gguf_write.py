"""Writes GGUF files: numpy arrays in, one tensor after the other. Not atomic."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from backend.errors import ArchiveError
from backend.formats.gguf_header import GgufScalar, GgufValue
from backend.formats.gguf_types import DEFAULT_ALIGNMENT, FORMATS, KIND_NUMBERS, MAGIC, ValueType
from backend.formats.tensors import Array

_VERSION = 3
_BLOCK = 32
_LARGEST_HALF = 65_504.0
_PLAIN = {"f32": "<f4", "f16": "<f2", "f64": "<f8", "i8": "|i1", "i16": "<i2", "i32": "<i4", "i64": "<i8"}


@dataclass(frozen=True, slots=True)
class GgufPiece:
    """A tensor to write: ``kind`` is f32, f16, q8_0, f64 or a whole number's."""

    name: str
    kind: str
    values: Array


def write_gguf(path: Path, metadata: Mapping[str, GgufValue], pieces: list[GgufPiece]) -> None:
    """Raises ArchiveError for values that a kind cannot hold, OSError."""
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", _VERSION, len(pieces), len(metadata)))
        for key, value in metadata.items():
            file.write(_text(key) + _value(value))
        position = 0
        for piece in pieces:
            sizes = piece.values.shape[::-1]
            head = struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, KIND_NUMBERS[piece.kind], position)
            file.write(_text(piece.name) + head)
            position += _padded(_size(piece))
        _pad(file)
        for piece in pieces:
            file.write(packed(piece))
            _pad(file)


def packed(piece: GgufPiece) -> bytes:
    """The data of a tensor. Raises ArchiveError for numbers beyond what its kind holds."""
    if piece.kind == "q8_0":
        return _in_blocks(piece)
    if piece.kind == "f16" and np.abs(piece.values).max(initial=0) > _LARGEST_HALF:
        largest = np.abs(piece.values).max()
        raise ArchiveError(f"tensor {piece.name!r} holds {largest:g}, f16 holds up to {_LARGEST_HALF:g}")
    return np.ascontiguousarray(piece.values).astype(_PLAIN[piece.kind]).tobytes()


def _in_blocks(piece: GgufPiece) -> bytes:
    """Blocks of 32 with a common scale: half-precision scale, then 32 signed bytes."""
    blocks = np.ascontiguousarray(piece.values, np.float32).reshape(-1, _BLOCK)
    scale = np.abs(blocks).max(1, keepdims=True) / 127.0
    if scale.max(initial=0) > _LARGEST_HALF:
        raise ArchiveError(f"tensor {piece.name!r} holds numbers that are too large for q8_0")
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse
    # Halves away from zero, as ggml rounds; adding a half would round up what is just below one.
    below = np.floor(np.abs(scaled))
    whole = np.copysign(below + np.floor(2 * (np.abs(scaled) - below)), scaled).astype(np.int8)
    out = np.empty((len(blocks), 2 + _BLOCK), np.uint8)
    out[:, :2] = scale.astype("<f2").view(np.uint8)
    out[:, 2:] = whole.view(np.uint8)
    return out.tobytes()


def _size(piece: GgufPiece) -> int:
    if piece.kind == "q8_0":
        return piece.values.size // _BLOCK * (2 + _BLOCK)
    return piece.values.size * np.dtype(_PLAIN[piece.kind]).itemsize


def _padded(size: int) -> int:
    return size + -size % DEFAULT_ALIGNMENT


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: GgufValue) -> bytes:
    if not isinstance(value, tuple):
        kind = _kind_of(value)
        return struct.pack("<I", kind) + _scalar(value, kind)
    kind = _kind_of(value[0]) if value else ValueType.STRING
    kind = ValueType.INT32 if kind is ValueType.UINT32 else kind
    items = b"".join([_scalar(each, kind) for each in value])
    return struct.pack("<IIQ", ValueType.ARRAY, kind, len(value)) + items


def _kind_of(value: GgufScalar) -> ValueType:
    match value:
        case bool():
            return ValueType.BOOL
        case int():
            return ValueType.UINT32 if 0 <= value < 1 << 32 else ValueType.INT64
        case float():
            return ValueType.FLOAT32
        case _:
            return ValueType.STRING


def _scalar(value: GgufScalar, kind: ValueType) -> bytes:
    return _text(value) if isinstance(value, str) else struct.pack(f"<{FORMATS[kind]}", value)
