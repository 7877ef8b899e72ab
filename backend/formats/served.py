"""What can be served: a model file's format, that its header is sound, the memory it takes. Runs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backend.errors import ArchiveError
from backend.formats.cyxmodel import inspect_cyxmodel
from backend.formats.gguf_header import read_gguf_header
from backend.formats.onnx_check import OnnxValue, check_onnx
from backend.formats.sniff import ModelFormat, sniff

RUNTIME_BYTES = 2 << 30
"""For a runtime and its work, beside the model."""
COPIES = 2
"""Of a model's file in memory, at most: while it is loaded, or with the room that its results take."""
MAX_ONNX_BYTES = 2 << 30
"""The most that one file of this format can hold."""
SERVED = (ModelFormat.CYXMODEL, ModelFormat.ONNX, ModelFormat.GGUF)


@dataclass(frozen=True, slots=True)
class Served:
    format: ModelFormat
    memory_bytes: int
    """Of a worker that serves it, the runtime included."""
    is_fixed: bool
    """The file says how large an item is that it takes: anything of that size will do."""


def served_model(path: Path) -> Served:
    """Raises ArchiveError for a file that cannot be served, naming what it is and what can; OSError."""
    found, is_fixed = sniff(path), False
    match found:
        case ModelFormat.CYXMODEL:
            inspect_cyxmodel(path)
            is_fixed = True
        case ModelFormat.ONNX:
            size = path.stat().st_size
            if size > MAX_ONNX_BYTES:
                raise ArchiveError(f"ONNX file of {size} bytes, limit {MAX_ONNX_BYTES}")
            facts = check_onnx(path.read_bytes())
            is_fixed = all(_is_fixed(value) for value in facts.inputs)
        case ModelFormat.GGUF:
            read_gguf_header(path)
        case _:
            allowed = ", ".join(each.value for each in SERVED)
            raise ArchiveError(f"the file is {found.value}, served are {allowed}")
    return Served(found, RUNTIME_BYTES + COPIES * path.stat().st_size, is_fixed)


def _is_fixed(value: OnnxValue) -> bool:
    """But for the first axis, which is the batch."""
    return value.shape is not None and all(isinstance(size, int) and size > 0 for size in value.shape[1:])
