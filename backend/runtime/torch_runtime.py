"""Answers with a .cyxmodel through torch, preparing inputs as its training did."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from backend.checkpoint import restore_weights
from backend.compiler import CompiledModel, End, compile_graph
from backend.datasets import Scaling
from backend.errors import ArchiveError, BackendError, GraphInvalidError, InputError
from backend.formats.cyxmodel import CyxModel, read_cyxmodel
from backend.formats.tensors import Array
from backend.graph import Graph
from backend.model_form import ModelForm, read_form
from backend.pipeline import read_pipeline
from backend.preparation import compile_serving
from backend.runtime.base import RuntimeFacts, in_order
from backend.runtime.deadlines import running_until
from backend.serialize import load_graph
from backend.serving.messages import TensorSpec
from backend.training_data import scaling_of
from backend.validate import diagnose, has_errors

MAX_BATCH = 65_536
_ACCEPTED = ("float32", "float64", "float16", "uint8", "int32", "int64")


@dataclass(frozen=True, slots=True)
class Preparation:
    """What inputs go through before the model: normalization, then what the graph has before its Inputs."""

    scaling: Scaling | None = None
    module: torch.nn.Module | None = None


class TorchRuntime:
    """One model on one device, in evaluation mode."""

    def __init__(
        self,
        module: torch.nn.Module,
        device: torch.device,
        ends: tuple[tuple[End, ...], tuple[End, ...]],
        preparation: Preparation,
    ) -> None:
        """``ends``: what is given, and what is answered."""
        self._module = module
        self._device = device
        self.form: ModelForm | None = None
        """What may be sent instead of arrays, and what the answers mean, where the model knows."""
        self._taken, given = ends
        self._preparation = preparation
        self.inputs = tuple(_spec(end, "input", len(self._taken)) for end in self._taken)
        probe = self.predict_all(tuple(np.zeros((1, *end.shape), np.float32) for end in self._taken))
        self.outputs = tuple(
            TensorSpec(name=_name(end, "output", len(given)), dtype=str(a.dtype), shape=(-1, *a.shape[1:]))
            for end, a in zip(given, probe, strict=True)
        )
        weights = (*module.parameters(), *module.buffers())
        self.facts = RuntimeFacts(
            format="cyxmodel",
            runtime=f"torch {torch.__version__}",
            devices=(str(device),),
            size_bytes=sum(each.numel() * each.element_size() for each in weights),
        )

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        """All outputs by name. Stops only before an ONNX operator. Raises InputError, DeadlineError."""
        with running_until(deadline):
            answers = self.predict_all(in_order(inputs, self.inputs))
        return {spec.name: answer for spec, answer in zip(self.outputs, answers, strict=True)}

    def predict(self, inputs: Array) -> Array:
        """The first output of a model with one input. Raises InputError."""
        return self.predict_all((inputs,))[0]

    def predict_all(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        """An array for each input, in the order of ``inputs``, to one for each output. Raises InputError."""
        if len(inputs) != len(self._taken):
            raise InputError(f"{len(inputs)} inputs, the model takes {len(self._taken)}")
        if len({len(each) if each.ndim else 0 for each in inputs}) != 1:
            raise InputError("inputs of different batches")
        tensors = tuple(self._tensor(*each) for each in zip(inputs, self._taken, strict=True))
        with torch.inference_mode():
            if self._preparation.module is not None:
                tensors = self._preparation.module(*tensors)
            answer = self._module(*tensors)
        answers = answer if isinstance(answer, tuple) else (answer,)
        return tuple(each.to("cpu").contiguous().numpy() for each in answers)

    def _tensor(self, values: Array, end: End) -> torch.Tensor:
        if values.dtype.name not in _ACCEPTED:
            raise InputError(f"input is {values.dtype.name}, allowed are {', '.join(_ACCEPTED)}")
        if values.shape[1:] != end.shape or not values.ndim or not 1 <= values.shape[0] <= MAX_BATCH:
            allowed = f"(1 to {MAX_BATCH}, {', '.join(map(str, end.shape))})"
            raise InputError(f"input is shaped {values.shape}, allowed is {allowed}")
        if end.ids:
            return torch.from_numpy(_as_ids(values, end.ids)).to(self._device)
        numbers = values.astype(np.float32)
        if self._preparation.scaling is not None:
            numbers = self._preparation.scaling.apply(numbers)
        return torch.from_numpy(numbers).to(self._device)


def _as_ids(values: Array, below: int) -> Array:
    """Raises InputError."""
    low, high = values.min(initial=0), values.max(initial=0)
    if not 0 <= low <= high < below or not (values == np.floor(values)).all():
        raise InputError(f"input from {low:g} to {high:g}, allowed are whole numbers from 0 to {below - 1}")
    return values.astype(np.int64)


def _spec(end: End, only: str, count: int) -> TensorSpec:
    dtype = "int64" if end.ids else "float32"
    return TensorSpec(name=_name(end, only, count), dtype=dtype, shape=(-1, *end.shape))


def _name(end: End, only: str, count: int) -> str:
    return only if count == 1 else end.name


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
    graph = load_graph(model.graph)
    compiled = compile_graph(graph)
    module: torch.nn.Module = compiled.module.to(device)
    restore_weights(module, model.weights)
    module.eval()
    taken, preparation = what_enters(graph, compiled, model, device)
    scaling = preparation.scaling
    if scaling is not None:
        channels = taken[0].shape[0] if taken[0].shape else 0
        if {len(scaling.offset), len(scaling.factor)} != {channels}:
            raise ArchiveError(f"normalization of {len(scaling.offset)} channels, the input has {channels}")
    runtime = TorchRuntime(module, device, (taken, compiled.outputs), preparation)
    with suppress(GraphInvalidError):
        runtime.form = read_form(graph, model.notes)
    return runtime


def what_enters(
    graph: Graph, compiled: CompiledModel, model: CyxModel, device: torch.device
) -> tuple[tuple[End, ...], Preparation]:
    """Samples as the dataset has them where training normalized or encoded them, else the model's inputs."""
    normalization = model.training.normalization
    scaling = scaling_of(normalization) if normalization is not None else None
    if has_errors(diagnose(graph)):
        return compiled.inputs, Preparation(scaling)
    pipeline = read_pipeline(graph)
    encoded = any(change.type != "Augmentation" for change in pipeline.changes)
    if scaling is None and not encoded:
        return compiled.inputs, Preparation()
    sample = End("input", pipeline.sample_shape, pipeline.vocabulary)
    return (sample,), Preparation(scaling, compile_serving(graph).to(device))
