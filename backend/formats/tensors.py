"""numpy arrays to and from safetensors bytes. Deterministic: equal arrays give equal bytes."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import ArchiveError
from backend.formats.tensor_header import ITEM_BYTES, LENGTH, TensorHeader, read_tensor_header

Array = npt.NDArray[Any]

_NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES = {np.dtype(code): name for name, code in _NUMPY.items()}
_ALIGNMENT = 8


def pack_tensors(tensors: Mapping[str, Array]) -> bytes:
    """Raises ArchiveError for a dtype that the format does not know."""
    names, header = pack_header({name: (array.dtype, array.shape) for name, array in tensors.items()})
    # reshape keeps the shape of scalars, which ascontiguousarray would make a vector.
    chunks = [np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data for name in names]
    return b"".join((header, *chunks))


def pack_header(
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> tuple[list[str], bytes]:
    """The names in the order in which their data must follow, and the header. Raises ArchiveError."""
    names = sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name))
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name in names:
        dtype, shape = tensors[name]
        end = position + math.prod(shape) * dtype.itemsize
        offsets = [position, end]
        header[name] = {"dtype": dtype_name(dtype, name), "shape": list(shape), "data_offsets": offsets}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return names, LENGTH.pack(len(text)) + text


def dtype_name(dtype: np.dtype[Any], tensor: str) -> str:
    """As the format calls it. Raises ArchiveError for a dtype that it does not know."""
    name = _NAMES.get(dtype)
    if name is None:
        raise ArchiveError(f"tensor {tensor!r}: dtype {dtype}, allowed are {', '.join(ITEM_BYTES)}")
    return name


def unpack_tensors(data: bytes) -> dict[str, Array]:
    """Raises ArchiveError. The arrays are writable copies."""
    header = read_tensor_header(io.BytesIO(data), len(data))
    tensors = {}
    for name, info in header.tensors.items():
        flat = np.frombuffer(data, np.uint8, info.end - info.begin, header.data_at + info.begin)
        tensors[name] = flat.copy().view(_NUMPY[info.dtype]).reshape(info.shape)
    return tensors


def tensor_dtype(name: str) -> np.dtype[Any]:
    """Of a name that the format knows."""
    return np.dtype(_NUMPY[name])


def load_tensor(path: Path, header: TensorHeader, name: str) -> Array:
    """Reads one tensor of a file whose header has been checked. Raises OSError, ArchiveError."""
    info = header.tensors[name]
    dtype = np.dtype(_NUMPY[info.dtype])
    count = (info.end - info.begin) // dtype.itemsize
    array = np.fromfile(path, dtype, count, offset=header.data_at + info.begin)
    if array.size != count:
        raise ArchiveError(f"tensor {name!r}: {array.size} values in the file, {count} announced")
    return array.reshape(info.shape)


def map_tensor(path: Path, header: TensorHeader, name: str) -> Array:
    """As ``load_tensor``, but read only where it is used. The array cannot be written to."""
    info = header.tensors[name]
    mapped: Array = np.memmap(path, _NUMPY[info.dtype], "r", header.data_at + info.begin, info.shape)
    return mapped


def first_not_finite(tensors: Mapping[str, Array]) -> str | None:
    """The name of a tensor that holds NaN or an infinity, if there is one."""
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return name
    return None
