"""Arrays to the specs and the body of a message, and back. Trusts neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from backend.errors import InputError
from backend.formats.tensors import Array
from backend.serving.messages import TensorSpec

DTYPES = ("float32", "float64", "float16", "uint8", "int8", "int16", "int32", "int64", "bool")
MAX_DIMENSIONS = 16


def unpack_body(specs: Sequence[TensorSpec], body: bytes | memoryview) -> dict[str, Array]:
    """Views of ``body`` by name. Raises InputError unless the specs cover it exactly."""
    needed = sum(map(_size_bytes, specs))
    if needed != len(body):
        shapes = ", ".join(str(spec.shape) for spec in specs)[:200]
        raise InputError(f"input of {len(body)} bytes for shape {shapes}, {needed} needed")
    arrays: dict[str, Array] = {}
    offset = 0
    for spec in specs:
        if spec.name in arrays:
            raise InputError(f"input {spec.name[:80]!r} is given twice")
        size = _size_bytes(spec)
        part = body if size == len(body) else body[offset : offset + size]
        arrays[spec.name] = np.frombuffer(part, KNOWN[spec.dtype]).reshape(spec.shape)
        offset += size
    return arrays


def pack_body(arrays: Mapping[str, Array]) -> tuple[tuple[TensorSpec, ...], bytes]:
    """Specs with whole shapes, and the body that they describe."""
    specs = tuple(TensorSpec(name, dtype_name(array.dtype), array.shape) for name, array in arrays.items())
    return specs, b"".join(array.tobytes() for array in arrays.values())


@cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Such as float32; numpy makes it anew each time."""
    return dtype.name


KNOWN = {name: np.dtype(name).newbyteorder("<") for name in DTYPES}


def _size_bytes(spec: TensorSpec) -> int:
    """Raises InputError."""
    dtype = KNOWN.get(spec.dtype)
    if dtype is None:
        raise InputError(f"input is {spec.dtype[:40]}, allowed are {', '.join(DTYPES)}")
    if len(spec.shape) > MAX_DIMENSIONS or min(spec.shape, default=1) < 1:
        raise InputError(f"input shaped {spec.shape}, allowed are {MAX_DIMENSIONS} dimensions above 0")
    size = dtype.itemsize
    for length in spec.shape:
        size *= length
    return size
