"""The header of a safetensors file, read strictly. Standard library only; reads no tensor.

A file is ``u64 header length | JSON header | data``, little-endian. Accepted are only files whose
tensors fill the data exactly, without gaps or overlaps.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from backend.errors import ArchiveError

LENGTH = struct.Struct("<Q")
MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 65_536
_MAX_EXTENT = 1 << 48
MAX_RANK = 8
MAX_NAME_LENGTH = 512
ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
FOREIGN_ITEM_BYTES = ITEM_BYTES | {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
"""With what other programs write and numpy does not know."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies, in bytes from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class TensorHeader:
    tensors: dict[str, TensorInfo]
    data_at: int
    """Where the data starts, in bytes from the start of the file."""
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_tensor_header(source: BinaryIO, size: int, types: Mapping[str, int] = ITEM_BYTES) -> TensorHeader:
    """Reads from the current position of ``source``; ``size`` is the file's. Raises ArchiveError.

    ``types``: those that are accepted, with the bytes of one element.
    """
    prefix = source.read(LENGTH.size)
    if len(prefix) < LENGTH.size:
        raise ArchiveError(f"tensor file of {size} bytes, at least {LENGTH.size} needed")
    (length,) = LENGTH.unpack(prefix)
    if length > min(MAX_HEADER_BYTES, size - LENGTH.size):
        raise ArchiveError(f"tensor header of {length} bytes in a file of {size}, limit {MAX_HEADER_BYTES}")
    tensors, metadata = _parse(source.read(length), types)
    _check_layout(tensors, size - LENGTH.size - length)
    return TensorHeader(tensors, LENGTH.size + length, metadata)


def _parse(text: bytes, types: Mapping[str, int]) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"tensor header is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise ArchiveError(f"tensor header is a {type(entries).__name__}, not an object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ArchiveError("tensor header: __metadata__ is no object of texts")
    if len(entries) > MAX_TENSORS:
        raise ArchiveError(f"{len(entries)} tensors, limit {MAX_TENSORS}")
    return {name: _tensor(name, entry, types) for name, entry in entries.items()}, metadata


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _tensor(name: str, entry: object, types: Mapping[str, int]) -> TensorInfo:
    if len(name) > MAX_NAME_LENGTH:
        raise ArchiveError(f"tensor name of {len(name)} characters, limit {MAX_NAME_LENGTH}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ArchiveError(f"tensor {name!r}: needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in types:
        raise ArchiveError(f"tensor {name!r}: dtype {dtype!r}, allowed are {', '.join(types)}")
    if not _are_counts(shape) or len(shape) > MAX_RANK:
        raise ArchiveError(f"tensor {name!r}: shape {shape!r}, allowed are {MAX_RANK} counts at most")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ArchiveError(f"tensor {name!r}: data_offsets {offsets!r}, not two counts")
    if math.prod(max(1, size) for size in shape) >= _MAX_EXTENT:
        # Of no values there may be a shape that numpy cannot have.
        raise ArchiveError(f"tensor {name!r}: shape {shape!r}, allowed are below {_MAX_EXTENT} places")
    begin, end = offsets
    needed = math.prod(shape) * types[dtype]
    if end - begin != needed:
        raise ArchiveError(f"tensor {name!r}: {end - begin} bytes of data, its shape needs {needed}")
    return TensorInfo(dtype, tuple(shape), begin, end)


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _check_layout(tensors: dict[str, TensorInfo], data_bytes: int) -> None:
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            raise ArchiveError(f"tensor {name!r} begins at {tensor.begin}, expected {position}")
        position = tensor.end
    if position != data_bytes:
        raise ArchiveError(f"tensors take {position} bytes, the file holds {data_bytes}")
