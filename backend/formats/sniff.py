"""Which format a model file is in, by what it holds and never by its name. Reads a few bytes of it.

A yes says only that the format's own reader is the one to ask.
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from backend.errors import ArchiveError
from backend.formats.cyxmodel import is_cyxmodel
from backend.formats.gguf_types import MAGIC
from backend.formats.onnx_schema import MODEL
from backend.formats.protobuf import read_varint
from backend.formats.tensor_header import LENGTH, MAX_HEADER_BYTES

_MAX_ONNX_FIELDS = 4096
"""Of a model, before its graph."""
_ONNX_GRAPH = 7
_MAX_TAG_BYTES = 20


class ModelFormat(Enum):
    CYXMODEL = "cyxmodel"
    ONNX = "onnx"
    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    UNKNOWN = "unknown"


def sniff(path: Path) -> ModelFormat:
    """UNKNOWN also for what cannot be read."""
    if not path.is_file():
        return ModelFormat.UNKNOWN
    if is_cyxmodel(path):
        return ModelFormat.CYXMODEL
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(LENGTH.size + 1)
            if start.startswith(MAGIC):
                return ModelFormat.GGUF
            if _begins_safetensors(start, size):
                return ModelFormat.SAFETENSORS
            if _holds_onnx_graph(file, size):
                return ModelFormat.ONNX
    except (OSError, ArchiveError):
        pass
    return ModelFormat.UNKNOWN


def _begins_safetensors(start: bytes, size: int) -> bool:
    if len(start) <= LENGTH.size or start[LENGTH.size :] != b"{":
        return False
    (length,) = LENGTH.unpack(start[: LENGTH.size])
    return bool(2 <= length <= min(MAX_HEADER_BYTES, size - LENGTH.size))


def _holds_onnx_graph(file: BinaryIO, size: int) -> bool:
    """Whether it is a row of a model's fields up to its graph. Raises ArchiveError where one is cut off."""
    at = 0
    for _ in range(_MAX_ONNX_FIELDS):
        if at >= size:
            break
        file.seek(at)
        head = file.read(_MAX_TAG_BYTES)
        tag, used = read_varint(head, 0, len(head))
        number, wire_type = tag >> 3, tag & 7
        kind = MODEL.get(number)
        if kind is None or wire_type not in kind.wire_types:
            return False
        value, used = read_varint(head, used, len(head))
        if number == _ONNX_GRAPH:
            return at + used + value <= size
        at += used + (value if wire_type else 0)
    return False
