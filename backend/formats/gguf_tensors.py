"""Tensors of a GGUF file as numpy arrays, for the simpler kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.errors import ArchiveError
from backend.formats.gguf_header import GgufHeader, read_gguf_header
from backend.formats.tensors import Array

_PLAIN = {"f32": "<f4", "f16": "<f2", "f64": "<f8", "i8": "|i1", "i16": "<i2", "i32": "<i4", "i64": "<i8"}


def read_gguf(path: Path) -> tuple[GgufHeader, dict[str, Array]]:
    """All of a file. Raises ArchiveError, also for kinds of tensors that are not read."""
    header = read_gguf_header(path)
    return header, {name: read_gguf_tensor(path, header, name) for name in header.tensors}


def read_gguf_tensor(path: Path, header: GgufHeader, name: str) -> Array:
    """What is stored in blocks, and bf16, as float32. Raises ArchiveError."""
    tensor = header.tensors[name]
    kind = tensor.kind.name
    if kind not in READABLE:
        raise ArchiveError(f"tensor {name!r} is {kind}, readable are {', '.join(sorted(READABLE))}")
    data = np.fromfile(path, np.uint8, tensor.size_bytes, offset=header.data_at + tensor.begin)
    if data.size != tensor.size_bytes:
        raise ArchiveError(f"tensor {name!r}: {data.size} bytes in the file, {tensor.size_bytes} announced")
    if kind in _PLAIN:
        return data.view(_PLAIN[kind]).reshape(tensor.shape)
    values: Array = _UNPACKED[kind](data.reshape(-1, tensor.kind.block_bytes))
    return values.reshape(tensor.shape)


def _half(blocks: Array, at: int) -> Array:
    """(blocks, 1): the number in half precision at a place of each block."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(blocks: Array) -> Array:
    """(blocks, 32): the lower halves of the bytes, then the upper ones."""
    return np.concatenate([blocks & 0x0F, blocks >> 4], axis=1).astype(np.float32)


def _q8_0(blocks: Array) -> Array:
    return np.asarray(blocks[:, 2:].view(np.int8) * _half(blocks, 0), np.float32)


def _q4_0(blocks: Array) -> Array:
    return np.asarray((_nibbles(blocks[:, 2:]) - 8) * _half(blocks, 0))


def _q4_1(blocks: Array) -> Array:
    return np.asarray(_nibbles(blocks[:, 4:]) * _half(blocks, 0) + _half(blocks, 2))


def _bf16(blocks: Array) -> Array:
    return np.asarray((blocks.view("<u2").astype(np.uint32) << 16).view(np.float32))


_UNPACKED = {"q8_0": _q8_0, "q4_0": _q4_0, "q4_1": _q4_1, "bf16": _bf16}
"""As ggml's reference does it."""
READABLE = frozenset({*_PLAIN, *_UNPACKED})
