"""Walks the nodes of an ONNX model and has each become nodes of a graph. Worker processes only.

The first axis of every value is the batch. What has no counterpart is collected, not guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from backend.catalogue import CATALOGUE
from backend.catalogue.parameter import completed, problem_of
from backend.catalogue.record import MAX_ELEMENTS, TensorType
from backend.code_import.building import Building, Ref, Shape, UnsupportedError
from backend.errors import ModelImportError, ShapeMismatchError
from backend.formats.onnx_check import OnnxValue, check_onnx
from backend.formats.tensors import Array
from backend.graph import Graph

_SHOWN_PROBLEMS = 8
_MAX_BATCH = 1024
Value = Ref | Array | None
"""What flows, a constant of the model, or an input that is left out."""


@dataclass(slots=True)
class Operation:
    """One ONNX node. ``weights_name``: what its weights are called, without their last part."""

    made: Building
    kind: str
    name: str
    inputs: tuple[Value, ...]
    settings: Mapping[str, Any]
    weights_name: str
    outputs: int
    only_reader: bool
    """Nothing but this node takes what its first flowing input gives."""

    def flowing(self, place: int = 0) -> Ref:
        found = self.inputs[place] if place < len(self.inputs) else None
        if not isinstance(found, Ref):
            raise UnsupportedError(f"input {place + 1} is a constant, supported is a tensor of the batch")
        return found

    def constant(self, place: int) -> Array:
        found = self.optional(place)
        if found is None:
            raise UnsupportedError(f"input {place + 1} is missing")
        return found

    def optional(self, place: int) -> Array | None:
        found = self.inputs[place] if place < len(self.inputs) else None
        if isinstance(found, Ref):
            raise UnsupportedError(f"input {place + 1} is computed, supported is a constant")
        return found

    def put(
        self,
        type_name: str,
        given: Mapping[str, Any],
        *inputs: Ref,
        weights: Mapping[str, Array] | None = None,
    ) -> Ref:
        """A node of this type, with its shapes worked out by the catalogue."""
        entering = inputs or (self.flowing(),)
        wanted = self.weights_name or self.name or self.kind.lower()
        state = {name: torch.from_numpy(np.array(w, order="C")) for name, w in (weights or {}).items()}
        record = CATALOGUE[type_name]
        for parameter in record.parameters:
            if parameter.name in given and (wrong := problem_of(parameter, given[parameter.name])):
                raise UnsupportedError(wrong)
        types = tuple(TensorType(ref.shape, 2 if ref.ids else 0) for ref in entering)
        try:
            leaving = record.rule(completed(record.parameters, given), types if record.inputs else ())
        except ShapeMismatchError as error:
            raise UnsupportedError(str(error)) from error
        node_id = self.made.add(wanted, type_name, given, entering if record.inputs else (), state)
        out = leaving[0]
        assert isinstance(out, TensorType)
        return Ref(node_id, "output", out.shape, bool(out.ids))


Placer = Callable[[Operation], "Ref | tuple[Ref, ...]"]


@dataclass(slots=True)
class _Reading:
    """Values by name; ``lost`` are those that come from what has no counterpart."""

    values: dict[str, Value] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Door:
    """An input of the ONNX, and the node that stands for it."""

    node_id: str
    name: str
    dtype: str
    shape: Shape
    batch: int | None
    """The only size of a batch that it takes; None for any."""


@dataclass(frozen=True, slots=True)
class Imported:
    graph: Graph
    weights: Mapping[str, Array]
    doors: tuple[Door, ...]


def read_onnx(data: bytes, placers: Mapping[str, Placer]) -> Imported:
    """Raises ArchiveError for a hostile file, ModelImportError for nodes that have no counterpart."""
    facts = check_onnx(data)
    model = onnx.load_from_string(data)
    made, reading = Building(), _Reading()
    graph = model.graph
    for tensor in graph.initializer:
        reading.values[tensor.name] = numpy_helper.to_array(tensor)
    doors = tuple([_door(made, entry) for entry in facts.inputs])
    for door in doors:
        reading.values[door.name] = Ref(door.node_id, "output", door.shape, door.dtype != "float32")
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    for node in graph.node:
        _place(node, made, reading, readers, placers)
    if reading.problems:
        raise ModelImportError(_refusal(reading.problems, len(graph.node)))
    for value in graph.output:
        found = reading.values.get(value.name)
        if not isinstance(found, Ref):
            raise ModelImportError(f"onnx: output {value.name!r} depends on no input")
        made.add(value.name, "Output", {}, (found,))
    weights = {name: tensor.contiguous().numpy() for name, tensor in made.weights.items()}
    return Imported(made.graph(facts.name or "imported"), weights, doors)


def _refusal(problems: list[str], nodes: int) -> str:
    shown = "; ".join(problems[:_SHOWN_PROBLEMS])
    more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
    counted = f"{len(problems)} of {nodes} nodes have no counterpart in a graph"
    return f"onnx: {counted}: {shown}{more}. onnxruntime runs the file as it is"


def _door(made: Building, entry: OnnxValue) -> Door:
    name, shape, dtype = entry.name, entry.shape, entry.dtype
    if not shape or dtype not in ("float32", "int64", "int32"):
        raise ModelImportError(f"onnx: input {name!r} is {dtype} {shape}, supported are float32 and ids")
    sample = [size for size in shape[1:] if isinstance(size, int) and 1 <= size <= MAX_ELEMENTS]
    if len(sample) < len(shape) - 1:
        raise ModelImportError(f"onnx: input {name!r} is {shape}, supported are fixed axes behind the batch")
    batch = shape[0] if isinstance(shape[0], int) else None
    if batch is not None and not 1 <= batch <= _MAX_BATCH:
        raise ModelImportError(f"onnx: input {name!r} takes batches of {batch}, limit {_MAX_BATCH}")
    given = {"shape": sample, "vocabulary": 0 if dtype == "float32" else 2}
    return Door(made.add(name, "Input", given, ()), name, dtype, tuple(sample), batch)


def _place(
    node: onnx.NodeProto,
    made: Building,
    reading: _Reading,
    readers: Counter[str],
    placers: Mapping[str, Placer],
) -> None:
    """Adds the counterpart of a node; what cannot be is noted, and all that follows from it passed over."""
    label = f"node {node.name or node.output[0]!r} ({node.op_type})"
    if any(name in reading.lost for name in node.input):
        reading.lost.update(node.output)
        return
    inputs = tuple(reading.values.get(name) if name else None for name in node.input)
    if not any(isinstance(value, Ref) for value in inputs):
        folded = _folded(node, inputs)
        if folded is not None:
            reading.values[node.output[0]] = folded
            return
    first = next((name for name in node.input if isinstance(reading.values.get(name), Ref)), "")
    named = [name for name in node.input if isinstance(reading.values.get(name), np.ndarray) and "." in name]
    operation = Operation(
        made,
        node.op_type,
        node.name,
        inputs,
        {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute},
        named[0].rpartition(".")[0] if named else "",
        len(node.output),
        readers[first] == 1,
    )
    try:
        placer = placers.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if placer is None:
            raise UnsupportedError("no node does that")
        placed = placer(operation)
        found = placed if isinstance(placed, tuple) else (placed,)
        if any(node.output[len(found) :]):
            raise UnsupportedError(f"its output {node.output[len(found)]!r} is used")
        reading.values |= dict(zip(node.output, found, strict=False))
    except UnsupportedError as error:
        reading.problems.append(f"{label}: {error}")
        reading.lost.update(node.output)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError) as error:
        # Of a file that does not keep to ONNX.
        reading.problems.append(f"{label}: settings or inputs that do not belong together: {error!r}"[:300])
        reading.lost.update(node.output)


def _folded(node: onnx.NodeProto, inputs: tuple[Value, ...]) -> Array | None:
    """The value of a node that depends on no input, for the few that exporters leave."""
    settings = {each.name: each for each in node.attribute}
    if node.op_type == "Constant" and "value" in settings:
        return numpy_helper.to_array(settings["value"].t)
    constants = [value for value in inputs if isinstance(value, np.ndarray)]
    if node.op_type == "Identity" and constants:
        return constants[0]
    return None
