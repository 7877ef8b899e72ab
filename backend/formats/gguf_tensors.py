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


def _fives(blocks: Array) -> Array:
    """(blocks, 32), of four bytes with the fifth bits and sixteen with the others."""
    fifth = np.unpackbits(blocks[:, :4], axis=1, bitorder="little")
    return _nibbles(blocks[:, 4:]) + 16 * fifth.astype(np.float32)


def _q5_0(blocks: Array) -> Array:
    return np.asarray((_fives(blocks[:, 2:]) - 16) * _half(blocks, 0))


def _q5_1(blocks: Array) -> Array:
    return np.asarray(_fives(blocks[:, 4:]) * _half(blocks, 0) + _half(blocks, 2))


def _q2_k(blocks: Array) -> Array:
    """Sixteen parts of a block, each with a scale and an offset of four bits."""
    scales = _half(blocks, 80) * (blocks[:, :16] & 0x0F).astype(np.float32)
    least = _half(blocks, 82) * (blocks[:, :16] >> 4).astype(np.float32)
    numbers = _two_bits(blocks[:, 16:80]).astype(np.float32)
    return np.asarray(scales[:, :, None] * numbers - least[:, :, None])


def _q3_k(blocks: Array) -> Array:
    """Sixteen parts of a block, each with a scale of six bits; a third bit of 0 stands for minus four."""
    third = blocks[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    missing = 4 - 4 * third.astype(np.int8).reshape(-1, 16, 16)
    numbers = _two_bits(blocks[:, 32:96]).astype(np.int8) - missing
    low = np.concatenate([blocks[:, 96:104] & 0x0F, blocks[:, 96:104] >> 4], axis=1)
    high = (blocks[:, None, 104:108] >> _PAIRS & 3).reshape(-1, 16)
    scales = (low | high << 4).astype(np.float32) - 32
    return np.asarray((_half(blocks, 108) * scales)[:, :, None] * numbers.astype(np.float32))


_PAIRS = np.array([0, 2, 4, 6], np.uint8)[:, None]


def _two_bits(packed: Array) -> Array:
    """(blocks, 16, 16): of each 32 bytes the lowest two bits, then the next ones."""
    return (packed.reshape(-1, 2, 1, 32) >> _PAIRS & 3).reshape(-1, 16, 16)


_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)  # fmt: skip
"""What the sixteen numbers of iq4 stand for."""


def _iq4_nl(blocks: Array) -> Array:
    return np.asarray(_half(blocks, 0) * _levels(blocks[:, 2:]))


def _iq4_xs(blocks: Array) -> Array:
    """Eight parts of a block, each with a scale of six bits."""
    low = np.stack([blocks[:, 4:8] & 0x0F, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    high = (blocks[:, 2:4, None] >> _PAIRS[:, 0] & 3).reshape(-1, 8)
    scales = (low | high << 4).astype(np.float32) - 32
    numbers = _levels(blocks[:, 8:].reshape(-1, 16)).reshape(-1, 8, 32)
    return np.asarray((_half(blocks, 0) * scales)[:, :, None] * numbers)


def _levels(packed: Array) -> Array:
    """(blocks, 32), of sixteen bytes each."""
    return np.asarray(_LEVELS[_nibbles(packed).astype(np.uint8)])


def _q4_k(blocks: Array) -> Array:
    return _scaled(blocks, _pairs_of_nibbles(blocks[:, 16:]))


def _q5_k(blocks: Array) -> Array:
    fifth = np.unpackbits(blocks[:, 16:48, None], axis=2, bitorder="little").swapaxes(1, 2)
    return _scaled(blocks, _pairs_of_nibbles(blocks[:, 48:]) + 16 * fifth.astype(np.float32))


def _pairs_of_nibbles(packed: Array) -> Array:
    """(blocks, 8, 32): of each 32 bytes the lower halves, then the upper ones."""
    parts = packed.reshape(-1, 4, 32)
    return np.stack([parts & 0x0F, parts >> 4], axis=2).reshape(-1, 8, 32).astype(np.float32)


def _scaled(blocks: Array, numbers: Array) -> Array:
    """Eight parts of a block, each with a scale and an offset of six bits."""
    low, high, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([low & 63, (rest & 0x0F) | (low >> 6 << 4)], axis=1).astype(np.float32)
    offsets = np.concatenate([high & 63, (rest >> 4) | (high >> 6 << 4)], axis=1).astype(np.float32)
    steps, least = _half(blocks, 0) * scales, _half(blocks, 2) * offsets
    return np.asarray(steps[:, :, None] * numbers - least[:, :, None])


def _q6_k(blocks: Array) -> Array:
    """Two halves of 128, each four rows of 32: the row says which half of a byte, and which two bits."""
    low, high = blocks[:, :128].reshape(-1, 2, 64), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    four = np.concatenate([low & 0x0F, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    two = high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    scales = blocks[:, 192:208].view(np.int8).reshape(-1, 2, 4, 2).repeat(16, axis=3)
    numbers = (four | two << 4).astype(np.float32) - 32
    return np.asarray(_half(blocks, 208)[:, :, None, None] * scales.astype(np.float32) * numbers)


def _bf16(blocks: Array) -> Array:
    return np.asarray((blocks.view("<u2").astype(np.uint32) << 16).view(np.float32))


_UNPACKED = {
    "q8_0": _q8_0, "q4_0": _q4_0, "q4_1": _q4_1, "q5_0": _q5_0, "q5_1": _q5_1, "q2_k": _q2_k, "q3_k": _q3_k,
    "q4_k": _q4_k, "q5_k": _q5_k, "q6_k": _q6_k, "iq4_nl": _iq4_nl, "iq4_xs": _iq4_xs, "bf16": _bf16,
}  # fmt: skip
"""As ggml's reference does it."""
READABLE = frozenset({*_PLAIN, *_UNPACKED})
