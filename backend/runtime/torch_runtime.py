"""Answers with a .cyxmodel through torch, normalizing inputs as its training did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from backend.checkpoint import restore_weights
from backend.compiler import compile_graph
from backend.datasets import Scaling
from backend.errors import ArchiveError, BackendError, InputError
from backend.formats.cyxmodel import CyxModel, read_cyxmodel
from backend.formats.tensors import Array
from backend.reports import TensorSpec
from backend.serialize import load_graph
from backend.training_data import scaling_of

MAX_BATCH = 65_536
_ACCEPTED = ("float32", "float64", "float16", "uint8", "int32", "int64")


class TorchRuntime:
    """One model on one device, in evaluation mode."""

    def __init__(
        self, module: torch.nn.Module, device: torch.device, shape: tuple[int, ...], scaling: Scaling | None
    ) -> None:
        self._module = module
        self._device = device
        self._shape = shape
        self._scaling = scaling
        self.inputs = (TensorSpec(name="input", dtype="float32", shape=(-1, *shape)),)
        probe = self.predict(np.zeros((1, *shape), np.float32))
        self.outputs = (TensorSpec(name="output", dtype=str(probe.dtype), shape=(-1, *probe.shape[1:])),)

    def predict(self, inputs: Array) -> Array:
        """Raises InputError."""
        if inputs.dtype.name not in _ACCEPTED:
            raise InputError(f"input is {inputs.dtype.name}, allowed are {', '.join(_ACCEPTED)}")
        if inputs.shape[1:] != self._shape or not 1 <= inputs.shape[0] <= MAX_BATCH:
            allowed = f"(1 to {MAX_BATCH}, {', '.join(map(str, self._shape))})"
            raise InputError(f"input is shaped {inputs.shape}, allowed is {allowed}")
        values = inputs.astype(np.float32)
        if self._scaling is not None:
            values = self._scaling.apply(values)
        with torch.inference_mode():
            answer: torch.Tensor = self._module(torch.from_numpy(values).to(self._device))
        result: Array = answer.to("cpu").contiguous().numpy()
        return result


def load_cyxmodel(path: Path, device: str) -> TorchRuntime:
    """Raises ArchiveError, also for a graph or weights that do not fit each other."""
    model = read_cyxmodel(path)
    try:
        return _build(model, torch.device(device))
    except ArchiveError:
        raise
    except BackendError as error:
        raise ArchiveError(f"model cannot be opened: {error}") from error


def _build(model: CyxModel, device: torch.device) -> TorchRuntime:
    compiled = compile_graph(load_graph(model.graph))
    module: torch.nn.Module = compiled.module.to(device)
    restore_weights(module, model.weights)
    module.eval()
    normalization = model.training.normalization
    scaling = scaling_of(normalization) if normalization is not None else None
    shape = tuple(compiled.input_shape)
    if scaling is not None and {len(scaling.offset), len(scaling.factor)} != {shape[0]}:
        raise ArchiveError(f"normalization of {len(scaling.offset)} channels, the input has {shape[0]}")
    return TorchRuntime(module, device, shape, scaling)
