"""Tensors of a GGUF file as numpy arrays, for the kinds that this program writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.errors import ArchiveError
from backend.formats.gguf_header import GgufHeader, read_gguf_header
from backend.formats.tensors import Array

_PLAIN = {"f32": "<f4", "f16": "<f2", "f64": "<f8", "i8": "|i1", "i16": "<i2", "i32": "<i4", "i64": "<i8"}
_BLOCK = 32


def read_gguf(path: Path) -> tuple[GgufHeader, dict[str, Array]]:
    """All of a file. Raises ArchiveError, also for kinds of tensors that only other programs write."""
    header = read_gguf_header(path)
    return header, {name: read_gguf_tensor(path, header, name) for name in header.tensors}


def read_gguf_tensor(path: Path, header: GgufHeader, name: str) -> Array:
    """q8_0 as float32. Raises ArchiveError."""
    tensor = header.tensors[name]
    kind = tensor.kind.name
    if kind != "q8_0" and kind not in _PLAIN:
        raise ArchiveError(f"tensor {name!r} is {kind}, readable are q8_0, {', '.join(_PLAIN)}")
    data = np.fromfile(path, np.uint8, tensor.size_bytes, offset=header.data_at + tensor.begin)
    if data.size != tensor.size_bytes:
        raise ArchiveError(f"tensor {name!r}: {data.size} bytes in the file, {tensor.size_bytes} announced")
    if kind in _PLAIN:
        return data.view(_PLAIN[kind]).reshape(tensor.shape)
    blocks = data.reshape(-1, 2 + _BLOCK)
    scale = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    values: Array = (blocks[:, 2:].view(np.int8) * scale).astype(np.float32).reshape(tensor.shape)
    return values
