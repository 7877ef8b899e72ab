"""What every runtime offers, and which one opens a file. Imports a numeric runtime only to use it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from backend.errors import ArchiveError
from backend.formats.cyxmodel import is_cyxmodel
from backend.formats.tensors import Array
from backend.reports import TensorSpec


class Runtime(Protocol):
    """A loaded model. ``predict`` may be called from one thread at a time."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def predict(self, inputs: Array) -> Array:
        """Answers for a batch (N, ...). Raises InputError."""


def load_model(path: Path, device: str) -> Runtime:
    """Opens a model file by what it holds, not by its name. Raises ArchiveError."""
    if is_cyxmodel(path):
        from backend.runtime.torch_runtime import load_cyxmodel

        return load_cyxmodel(path, device)
    raise ArchiveError(f"{path.name} is no model file, readable is .cyxmodel")
