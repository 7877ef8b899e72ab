"""What every runtime offers, and which one opens a file. Imports a numeric runtime only to use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from backend.errors import ArchiveError, InputError
from backend.formats.cyxmodel import is_cyxmodel
from backend.formats.tensors import Array
from backend.serving.messages import TensorSpec


class Runtime(Protocol):
    """A loaded model. ``run`` may be called from one thread at a time."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name, for a batch (N, ...) of each input. Raises InputError."""


def load_model(path: Path, device: str) -> Runtime:
    """Opens a model file by what it holds, not by its name. Raises ArchiveError."""
    if is_cyxmodel(path):
        from backend.runtime.torch_runtime import load_cyxmodel

        return load_cyxmodel(path, device)
    raise ArchiveError(f"{path.name} is no model file, readable is .cyxmodel")


def in_order(inputs: Mapping[str, Array], taken: tuple[TensorSpec, ...]) -> tuple[Array, ...]:
    """The arrays in the order of ``taken``. Raises InputError unless they are exactly those."""
    names = [spec.name for spec in taken]
    if inputs.keys() != set(names):
        found = ", ".join(sorted(inputs))[:200]
        raise InputError(f"inputs {found or 'missing'}, the model takes {', '.join(names)}")
    return tuple(inputs[name] for name in names)
