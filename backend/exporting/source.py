"""The model that is exported: compiled, with its weights, and what goes into it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3
from torch import fx

from backend.checkpoint import restore_weights
from backend.compiler import CompiledModel, End, compile_graph
from backend.datasets import load_dataset
from backend.errors import DatasetError
from backend.formats.cyxmodel import CyxModel, read_cyxmodel
from backend.formats.tensors import Array
from backend.parity import InputFacts, hash_inputs
from backend.runtime.torch_runtime import Preparation, what_enters
from backend.serialize import load_graph

_BYTES = 256
MAX_SAMPLES = 64
"""That parity is looked at on."""


@dataclass(frozen=True, slots=True)
class Source:
    """``raw`` is what the model is asked with, before normalization and encoding."""

    model: CyxModel
    compiled: CompiledModel
    raw: tuple[End, ...]
    preparation: Preparation
    blake3: str

    @property
    def inputs(self) -> tuple[End, ...]:
        return self.compiled.inputs

    @property
    def is_prepared(self) -> bool:
        return self.preparation.scaling is not None or self.preparation.module is not None


def load_source(path: Path) -> Source:
    """Raises ArchiveError, GraphFormatError, GraphInvalidError, CheckpointError."""
    model = read_cyxmodel(path)
    graph = load_graph(model.graph)
    compiled = compile_graph(graph)
    restore_weights(compiled.module, model.weights)
    compiled.module.eval()
    raw, preparation = what_enters(graph, compiled, model, torch.device("cpu"))
    return Source(model, compiled, raw, preparation, blake3(path.read_bytes()).hexdigest())


def preparation_module(source: Source) -> fx.GraphModule:
    """Normalization and encoding: samples as they are to a tuple of what the model takes."""
    root, calls = torch.nn.Module(), fx.Graph()
    values = [calls.placeholder(f"samples{number}") for number in range(len(source.raw))]
    scaling = source.preparation.scaling
    if scaling is not None:
        shape = (1, -1, *(1,) * (len(source.raw[0].shape) - 1))
        root.register_buffer("offset", torch.from_numpy(scaling.offset).reshape(shape))
        root.register_buffer("factor", torch.from_numpy(scaling.factor).reshape(shape))
        offset, factor = calls.get_attr("offset"), calls.get_attr("factor")
        shifted = [calls.call_function(torch.sub, (value, offset)) for value in values]
        values = [calls.call_function(torch.mul, (value, factor)) for value in shifted]
    if source.preparation.module is None:
        calls.output(tuple(values))
    else:
        root.add_module("encoding", source.preparation.module)
        calls.output(calls.call_module("encoding", tuple(values)))
    return fx.GraphModule(root, calls, class_name="Preparation")


def served_module(source: Source) -> fx.GraphModule:
    """Preparation and the model as one."""
    root, calls = torch.nn.Module(), fx.Graph()
    values = [calls.placeholder(f"samples{number}") for number in range(len(source.raw))]
    root.add_module("preparation", preparation_module(source))
    root.add_module("model", source.compiled.module)
    prepared = calls.call_module("preparation", tuple(values))
    entering = [calls.call_function(operator.getitem, (prepared, n)) for n in range(len(source.inputs))]
    calls.output(calls.call_module("model", tuple(entering)))
    return fx.GraphModule(root, calls, class_name="Served")


def answers_of(module: torch.nn.Module, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
    """As the compiled model answers."""
    with torch.inference_mode():
        answer = module(*(torch.from_numpy(array) for array in inputs.values()))
    found = answer if isinstance(answer, tuple) else (answer,)
    return tuple(each.detach().contiguous().numpy() for each in found)


def choose_inputs(
    source: Source, data: Path | None, *, raw: bool, limit: int | None = None
) -> tuple[dict[str, Array], InputFacts]:
    """From the data if there is some, else drawn around what training saw; ``raw``: before preparation.

    Raises DatasetError for data of another shape.
    """
    found = _from_data(source, data) if data is not None else _drawn(source)
    samples = tuple(each[:limit] for each in found)
    if not raw and source.is_prepared:
        with torch.inference_mode():
            prepared = preparation_module(source)(*map(torch.from_numpy, samples))
        samples = tuple(each.detach().contiguous().numpy() for each in prepared)
    ends = source.raw if raw else source.inputs
    inputs = {end.name: array for end, array in zip(ends, samples, strict=True)}
    origin = "drawn from seed 0" if data is None else "the data file's first samples"
    return inputs, InputFacts(origin, len(samples[0]), hash_inputs(inputs))


def _from_data(source: Source, path: Path) -> tuple[Array, ...]:
    x = load_dataset(path).x[:MAX_SAMPLES]
    if len(source.raw) != 1 or x.shape[1:] != source.raw[0].shape:
        wanted = ", ".join(str(end.shape) for end in source.raw)
        raise DatasetError(f"data has samples shaped {x.shape[1:]}, the model takes {wanted}")
    (end,) = source.raw
    if end.ids and not (x.min() >= 0 and x.max() < end.ids):
        raise DatasetError(f"data has ids from {x.min()} to {x.max()}, the model knows 0 to {end.ids - 1}")
    return (x.astype(np.int64 if end.ids else np.float32),)


def _drawn(source: Source) -> tuple[Array, ...]:
    """Numbers as training saw them: normally distributed once they are normalized; bytes of texts."""
    found = []
    takes_texts = any(node.type == "Tokenize" for node in source.compiled.graph.nodes)
    for number, end in enumerate(source.raw):
        if takes_texts and source.is_prepared:
            found.append(drawn(replace(end, ids=_BYTES), MAX_SAMPLES, number).astype(np.float32))
            continue
        x = drawn(end, MAX_SAMPLES, number)
        scaling = source.preparation.scaling
        if scaling is not None and not end.ids:
            per_channel = (1, -1, *(1,) * (x.ndim - 2))
            factor = np.where(scaling.factor == 0, 1, scaling.factor).reshape(per_channel)
            x = (x / factor + scaling.offset.reshape(per_channel)).astype(np.float32)
        found.append(x)
    return tuple(found)


def drawn(end: End, samples: int, seed: int = 0) -> Array:
    """Ids evenly, numbers normally distributed; the same for the same seed."""
    generator, shape = np.random.default_rng(seed), (samples, *end.shape)
    if end.ids:
        return generator.integers(0, end.ids, shape, np.int64)
    return generator.standard_normal(shape, np.float32)
