"""Writes a safetensors file piece by piece, so that its tensors need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.formats.tensors import Array, pack_header


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor that is going to be written; ``pieces`` are cut along its first dimension."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Iterable[Array]


def write_tensor_file(path: Path, tensors: Mapping[str, TensorPlan]) -> None:
    """The same bytes as ``pack_tensors``. Not atomic. Raises ArchiveError, OSError."""
    names, header = pack_header({name: (plan.dtype, plan.shape) for name, plan in tensors.items()})
    with path.open("wb") as file:
        file.write(header)
        for name in names:
            for piece in tensors[name].pieces:
                file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
