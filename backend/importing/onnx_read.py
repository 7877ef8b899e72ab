"""Walks the nodes of an ONNX model and has each become nodes of a graph. Worker processes only.

The first axis of every value is the batch. What has no counterpart is collected, not guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import helper, inliner, numpy_helper

from backend.catalogue import CATALOGUE
from backend.catalogue.parameter import completed, problem_of
from backend.catalogue.record import MAX_ELEMENTS, MAX_IDS, TensorType
from backend.code_import.building import Building, Ref, Shape, UnsupportedError
from backend.code_import.modules import need
from backend.errors import ModelImportError, ShapeMismatchError
from backend.formats.onnx_check import OnnxValue, check_onnx
from backend.formats.onnx_names import all_nodes, captured, read_by
from backend.formats.onnx_schema import ELEMENT_TYPES
from backend.formats.tensors import Array
from backend.graph import Graph
from backend.importing.foreign import NoNumbersError, NotApartError, folded, keep, sizes
from backend.importing.messages import UNKNOWN_IDS
from backend.importing.onnx_kept import Entering, Foreign, is_text, plain_value
from backend.importing.onnx_widths import bring_to_single
from backend.onnx_node import read_node

_SHOWN_PROBLEMS = 8
_MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError, OverflowError)
"""What reading a file that does not keep to ONNX may raise."""
_MAX_TOGETHER = 64
"""Nodes that are kept as one."""
_OLDEST_OPSET = 7
"""Before it, arithmetic said by attributes how shapes are brought together."""
_MAX_PROBLEM = 600
_OF_A_BATCH = ("of a batch", "moves the batch", "on the batch")
"""In problems that one sample at a time does not have."""
_MAX_BATCH = 1024
_REAL = ("float32", "float16", "float64", "int8", "int16")
"""Types of inputs that a graph takes as real numbers, which is also where those below 0 can come in."""
_WHOLE = {"int64": MAX_IDS, "int32": MAX_IDS, "uint8": 1 << 8, "bool": 2}
"""Those that it takes as whole numbers, and how many of them there are."""
_AS_THEY_ARE = ("float32", "float16", "float64", "int64", "int32")
"""Types whose numbers flow on as the Input gives them; others are cast first, as the model expects them."""
Value = Ref | Array | None
"""What flows, a constant of the model, or an input that is left out."""


@dataclass(slots=True)
class Operation:
    """One ONNX node. ``weights_name``: what its weights are called, without their last part."""

    made: Building
    node: onnx.NodeProto
    inputs: tuple[Value, ...]
    settings: Mapping[str, Any]
    opset: int
    weights_name: str
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
        wanted = self.weights_name or self.node.name or self.node.op_type.lower()
        state = {name: torch.from_numpy(np.array(w, order="C")) for name, w in (weights or {}).items()}
        record = CATALOGUE[type_name]
        for parameter in record.parameters:
            if parameter.name in given and (wrong := problem_of(parameter, given[parameter.name])):
                raise UnsupportedError(wrong)
        types = tuple(TensorType(ref.shape, UNKNOWN_IDS if ref.ids else 0) for ref in entering)
        try:
            leaving = record.rule(completed(record.parameters, given), types if record.inputs else ())
        except ShapeMismatchError as error:
            raise UnsupportedError(str(error)) from error
        node_id = self.made.add(wanted, type_name, given, entering if record.inputs else (), state)
        out = leaving[0]
        assert isinstance(out, TensorType)
        return Ref(node_id, "output", out.shape, bool(out.ids))


Placer = Callable[[Operation], "Ref | tuple[Ref, ...]"]


def real_numbers(values: Array) -> Array:
    """As weights. Raises UnsupportedError for whole numbers."""
    need(values.dtype.kind == "f", f"weights are {values.dtype}, supported are real numbers")
    return np.array(values, np.float32)


@dataclass(frozen=True, slots=True)
class Door:
    """An input of the ONNX, and the node that stands for it."""

    node_id: str
    name: str
    dtype: str
    shape: Shape
    batch: int | None
    """The only size of a batch that it takes; None for any."""

    @property
    def ids(self) -> int:
        """How many whole numbers the graph's Input knows; 0 for real ones."""
        return _WHOLE.get(self.dtype, 0)


@dataclass(frozen=True, slots=True)
class Imported:
    graph: Graph
    weights: Mapping[str, Array]
    doors: tuple[Door, ...]
    is_rounded: bool
    """The ONNX computes with numbers of half precision, which the graph does not."""
    given: tuple[str, ...]
    """Values of the ONNX, in the order of the graph's Outputs."""
    left_out: tuple[str, ...] = ()
    """Outputs of the ONNX that are no numbers."""
    class_names: tuple[str, ...] = ()


def read_onnx(data: bytes, placers: Mapping[str, Placer], sizes: Mapping[str, int]) -> Imported:
    """``sizes``: of axes that the model leaves open, by their names.

    Raises ArchiveError for a hostile file, ModelImportError for nodes that have no counterpart."""
    facts = check_onnx(data)
    model = _without_functions(_parsed(data))
    _check_names(model.graph)
    is_rounded = _in_single_precision(model)
    placing = _Placing(model, facts.opsets, placers)
    made, graph = placing.made, model.graph
    for tensor in graph.initializer:
        placing.values[tensor.name] = _array(tensor)
    doors = tuple([_door(made, entry, sizes) for entry in facts.inputs])
    placing.takes_one = bool(doors) and all(door.batch == 1 for door in doors)
    for number, door in enumerate(doors):
        placing.open(door, number - len(doors))
    for number, node in enumerate(graph.node):
        placing.place(number, node)
    placing.finish()
    if placing.problems:
        named = next((each.shape[0] for each in facts.inputs if each.shape), None)
        hint = f"; --size {named}=1 takes one sample at a time" if isinstance(named, str) else ""
        is_mixed = any(word in each for each in placing.problems for word in _OF_A_BATCH)
        raise ModelImportError(_refusal(placing.problems, len(graph.node), hint if is_mixed else ""))
    given, left_out = _ends(placing, [value.name for value in graph.output])
    for name, end in given.items():
        found = placing.values.get(end)
        if not isinstance(found, Ref):
            raise ModelImportError(f"onnx: output {name!r} depends on no input")
        made.add(name, "Output", {}, (found,))
    made.drop_unused()
    weights = {name: tensor.contiguous().numpy() for name, tensor in made.weights.items()}
    return Imported(
        made.graph(facts.name or "imported"),
        weights,
        doors,
        is_rounded,
        tuple(given.values()),
        left_out,
        class_names(graph),
    )


def asking(data: bytes, names: tuple[str, ...]) -> bytes:
    """The model, asked for these of its values."""
    model = _without_functions(_parsed(data))  # whose values may be asked for
    if [value.name for value in model.graph.output] == [*names]:
        return data
    del model.graph.output[:]
    model.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names])
    asked: bytes = model.SerializeToString()
    return asked


def _ends(placing: _Placing, names: list[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The outputs that are kept, each with the value that it is, and those that are left out.

    A table of numbers by class is the numbers. Texts are left out beside numbers; where there is nothing
    else, the last numbers before them stand for them. Raises ModelImportError.
    """
    tables = {name: placing.tables.get(name, name) for name in names}
    texts = [name for name, end in tables.items() if placing.is_no_number(end)]
    numbers = {name: end for name, end in tables.items() if name not in texts}
    if numbers or not texts:
        return numbers, tuple(texts)
    before = {placing.numbers_before(name): None for name in texts}
    return {name: name for name in before}, tuple(texts)


def _in_single_precision(model: onnx.ModelProto) -> bool:
    """Whatever is wrong with its tensors, numpy and onnx say it with errors of any kind."""
    try:
        return bring_to_single(model)
    except Exception as error:
        raise ModelImportError(f"onnx: a tensor cannot be read: {error!r}"[:300]) from error


def _parsed(data: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_from_string(data)
    except DecodeError as error:
        raise ModelImportError(f"onnx: cannot be read: {error}") from error


def _check_names(graph: onnx.GraphProto) -> None:
    """Raises ModelImportError for names of values that are no texts, which protobuf hands out as bytes."""
    for node in all_nodes(graph.node):
        for name in (*node.input, *node.output):
            if not isinstance(name, str):
                raise ModelImportError(f"onnx: a node's input or output is named {name[:40]!r}, no UTF-8")


def _without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """With their nodes where they are called; that they end, and at what size, was checked."""
    if not model.functions:
        return model
    try:
        unfolded: onnx.ModelProto = inliner.inline_local_functions(model)
        return unfolded
    except Exception as error:  # onnx raises errors of its own and of protobuf's
        raise ModelImportError(f"onnx: its functions cannot be unfolded: {str(error)[:300]}") from error


def _array(tensor: onnx.TensorProto) -> Array:
    """Whatever is wrong with it, numpy and onnx say it with errors of any kind."""
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:
        raise ModelImportError(
            f"onnx: tensor {tensor.name[:80]!r} cannot be read: {error!r}"[:300]
        ) from error


def _refusal(problems: list[str], nodes: int, hint: str) -> str:
    shown = "; ".join(problems[:_SHOWN_PROBLEMS])
    more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
    counted = f"{len(problems)} of {nodes} nodes have no counterpart in a graph"
    return f"onnx: {counted}: {shown}{more}{hint}. cyxwiz serve runs the file as it is, if onnxruntime does"


def _door(made: Building, entry: OnnxValue, sizes: Mapping[str, int]) -> Door:
    """Raises ModelImportError."""
    name, shape, dtype = entry.name, entry.shape, entry.dtype
    if dtype == "string":
        raise ModelImportError(
            f"onnx: input {name!r} is texts, a graph takes numbers: convert the model from where its texts "
            "have become numbers (of a pipeline, the steps behind the encoder)"
        )
    if not shape or dtype not in (*_REAL, *_WHOLE):
        allowed = f"a batch of {', '.join((*_REAL, *_WHOLE))}"
        raise ModelImportError(f"onnx: input {name!r} is {dtype} {shape}, supported is {allowed}")
    fixed = [sizes.get(size, size) if isinstance(size, str) else size for size in shape[1:]]
    sample = [size for size in fixed if isinstance(size, int) and 1 <= size <= MAX_ELEMENTS]
    if len(sample) < len(fixed):
        text = f"onnx: input {name!r} is {shape}, supported are fixed axes behind the batch"
        open_axes = [size for size in fixed if isinstance(size, str)]
        raise ModelImportError(f"{text}: --size {open_axes[0]}=N says which" if open_axes else text)
    first = sizes.get(shape[0]) if isinstance(shape[0], str) else shape[0]
    batch = first if isinstance(first, int) else None
    if batch is not None and not 1 <= batch <= _MAX_BATCH:
        raise ModelImportError(f"onnx: input {name!r} takes batches of {batch}, limit {_MAX_BATCH}")
    given = {"shape": sample, "vocabulary": _WHOLE.get(dtype, 0)}
    return Door(made.add(name, "Input", given, ()), name, dtype, tuple(sample), batch)


@dataclass(frozen=True, slots=True)
class _Open:
    """Nodes by their places, whose value does not yet keep samples apart and in front, and why."""

    nodes: Mapping[int, onnx.NodeProto]
    reason: str
    is_no_number: bool = False
    """Texts, lists or maps."""


class _Placing:
    """Has one node after the other become nodes of the graph; notes what cannot be."""

    def __init__(
        self, model: onnx.ModelProto, opsets: Mapping[str, int], placers: Mapping[str, Placer]
    ) -> None:
        self.made = Building()
        self.values: dict[str, Value] = {}
        self.kinds: dict[str, str] = {}
        """Element types of what flows, where they are known for certain."""
        self.problems: list[str] = []
        self._lost: set[str] = set()
        """What comes from nodes that have no counterpart."""
        self._open: dict[str, _Open] = {}
        """What may be kept together with what follows; by the names of values."""
        self.takes_one = False
        """The model takes one sample at a time."""
        self.tables: dict[str, str] = {}
        """Values that are numbers by class, with the numbers."""
        self._model = model
        self._opset = opsets.get("", 1)
        self._opsets = {name: version for name, version in opsets.items() if name}
        self._placers = placers
        self._inferred: dict[str, str] | None = None
        self._readers = Counter(n for node in model.graph.node for n in (*node.input, *captured(node)))
        self._readers.update(value.name for value in model.graph.output)

    def open(self, door: Door, number: int) -> None:
        """What comes through it; ``number`` is below those of all nodes."""
        flowing = Ref(door.node_id, "output", door.shape, door.ids > 0)
        if door.dtype in _AS_THEY_ARE:
            self.values[door.name] = flowing
            self.kinds[door.name] = door.dtype if door.ids else "float32"
            return
        inside = f"{door.name} as it enters"
        self.values[inside] = flowing
        self.kinds[inside] = "int64" if door.ids else "float32"
        kind = next(n for n, (name, _) in ELEMENT_TYPES.items() if name == door.dtype)
        self.place(number, helper.make_node("Cast", [inside], [door.name], to=kind))

    def place(self, number: int, node: onnx.NodeProto) -> None:
        read = read_by(node)
        if any(name in self._lost for name in read):
            self._lost.update(node.output)
            return
        if (node.domain, node.op_type) == ("ai.onnx.ml", "ZipMap"):
            self.tables[node.output[0]] = node.input[0]
        nodes = {number: node}
        for name in read:
            if name in self._open:
                nodes |= self._open[name].nodes
        inputs = tuple(self.values.get(name) if name else None for name in node.input)
        try:
            if len(nodes) > 1:
                self.values |= self._together(nodes, node, number)
            elif any(isinstance(self.values.get(name), Ref) for name in read):
                self.values |= self._counterpart(node, inputs, number)
            else:
                self.values |= folded(self._foreign(nodes, node))
        except NotApartError as error:
            self._leave_open(nodes, node, f"{_label(node)}: {error}"[:_MAX_PROBLEM], error)
        except (UnsupportedError, *_MALFORMED) as error:
            self._give_up(node, f"{_label(node)}: {error}"[:_MAX_PROBLEM])

    def finish(self) -> None:
        """Whatever is asked of the model and still open is a problem, unless it is no number."""
        asked = [self.tables.get(end.name, end.name) for end in self._model.graph.output]
        reasons = [
            self._open[name].reason for name in asked if name in self._open and not self.is_no_number(name)
        ]
        self.problems += list(dict.fromkeys(reasons))

    def is_no_number(self, name: str) -> bool:
        """Is known to be texts, a list or a map."""
        found = self.values.get(name)
        if isinstance(found, np.ndarray) and is_text(found):
            return True
        return name in self._open and self._open[name].is_no_number

    def numbers_before(self, name: str) -> str:
        """The last value that flows of which this one is made. Raises ModelImportError."""
        makers = {output: node for node in self._model.graph.node for output in node.output}
        while not isinstance(self.values.get(name), Ref):
            read = read_by(makers[name]) if name in makers else []
            found = [each for each in read if each in self._open or isinstance(self.values.get(each), Ref)]
            if not found:
                raise ModelImportError(f"onnx: output {name!r} depends on no input")
            name = found[0]
        return name

    def _leave_open(
        self, nodes: Mapping[int, onnx.NodeProto], node: onnx.NodeProto, reason: str, error: NotApartError
    ) -> None:
        if len(nodes) > _MAX_TOGETHER:
            self._give_up(node, f"{reason}; with {len(nodes) - 1} nodes before it, limit {_MAX_TOGETHER}")
            return
        before = next((self._open[name].reason for name in node.input if name in self._open), reason)
        found = _Open(nodes, before, isinstance(error, NoNumbersError))
        self._open |= {name: found for name in node.output if name}

    def _give_up(self, node: onnx.NodeProto, problem: str) -> None:
        self.problems.append(problem)
        self._lost.update(node.output)

    def _foreign(self, nodes: Mapping[int, onnx.NodeProto], last: onnx.NodeProto) -> Foreign:
        """Raises KeyError for a value that comes from nowhere."""
        protos = tuple([nodes[number] for number in sorted(nodes)])
        inside = {name for proto in protos for name in proto.output}
        names = dict.fromkeys(name for proto in protos for name in read_by(proto) if name not in inside)
        entering = {}
        for name in names:
            value = self.values[name]
            if value is None:
                raise KeyError(name)
            entering[name] = Entering(value, self._kind(name, value))
        return Foreign(protos, self._opset, entering, tuple(last.output), self._opsets)

    def _together(
        self, nodes: Mapping[int, onnx.NodeProto], node: onnx.NodeProto, number: int
    ) -> Mapping[str, Ref]:
        """Several nodes as one, unless all but the last only say how large a batch is.

        Raises UnsupportedError.
        """
        source = self.values.get(node.input[0]) if node.input else None
        if node.op_type == "Reshape" and isinstance(source, Ref) and node.input[1] in self._open:
            before = self._open[node.input[1]].nodes
            target = sizes(self._asked(before, node.input[1]))
            if target is not None:
                with suppress(UnsupportedError):
                    found = _with_open_batch(target, source.shape)
                    return self._counterpart(node, (source, found), number, may_keep=False)
        return self._kept(self._foreign(nodes, node), node, nodes)

    def _asked(self, nodes: Mapping[int, onnx.NodeProto], name: str) -> Foreign:
        """The nodes, of which one value is asked."""
        last = nodes[max(nodes)]
        return replace(self._foreign(nodes, last), outputs=(name,))

    def _counterpart(
        self, node: onnx.NodeProto, inputs: tuple[Value, ...], number: int, *, may_keep: bool = True
    ) -> Mapping[str, Ref]:
        """The nodes of the graph that do the same, or one that stands for it. Raises UnsupportedError."""
        before = self.made.mark()
        try:
            return self._translated(self._operation(node, inputs))
        except UnsupportedError as error:
            reason = str(error)
        except _MALFORMED as error:
            reason = f"settings or inputs that do not belong together: {error!r}"[:300]
        self.made.back_to(before)
        if not may_keep:
            raise UnsupportedError(reason)
        try:
            return self._kept(self._foreign({number: node}, node), node, {number: node})
        except (UnsupportedError, *_MALFORMED) as error:
            kind = type(error) if isinstance(error, NotApartError) else UnsupportedError
            raise kind(f"{reason}; and kept as it is: {error}") from error

    def _kept(
        self, foreign: Foreign, node: onnx.NodeProto, nodes: Mapping[int, onnx.NodeProto]
    ) -> Mapping[str, Ref]:
        inputs = tuple(self.values.get(name) if name else None for name in node.input)
        wanted = _weights_name(node, inputs) or node.name or node.op_type.lower()
        kept = keep(foreign, self.made, wanted, may_be_alone=self.takes_one)
        for each in nodes.values():
            self._count_ids(each)
        for name, error in kept.left.items():
            reason = f"{_label(node)}: {error}"[:_MAX_PROBLEM]
            self._open[name] = _Open(nodes, reason, isinstance(error, NoNumbersError))
        types = read_node(self.made.nodes[next(iter(kept.values.values())).node_id].parameters).given
        self.kinds |= {name: each.type for name, each in zip(kept.values, types, strict=True)}
        return kept.values

    def _count_ids(self, node: onnx.NodeProto) -> None:
        """Only a table says which ids it takes: as many as it has rows."""
        table, ids = (self.values.get(name) for name in [*node.input, "", ""][:2])
        if node.op_type == "Gather" and isinstance(table, np.ndarray) and table.ndim and isinstance(ids, Ref):
            self.made.limit_ids(ids, len(table))

    def _translated(self, operation: Operation) -> dict[str, Ref]:
        """Raises UnsupportedError, or what reading a malformed node raises."""
        node = operation.node
        placer = self._placers.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if placer is None:
            raise UnsupportedError("no node does that")
        if self._opset < _OLDEST_OPSET:
            raise UnsupportedError(
                f"is of operator set {self._opset}, translated are those from {_OLDEST_OPSET} on"
            )
        placed = placer(operation)
        found = placed if isinstance(placed, tuple) else (placed,)
        if any(node.output[len(found) :]):
            raise UnsupportedError(f"its output {node.output[len(found)]!r} is used")
        return dict(zip(node.output, found, strict=False))

    def _operation(self, node: onnx.NodeProto, inputs: tuple[Value, ...]) -> Operation:
        first = next((name for name in node.input if isinstance(self.values.get(name), Ref)), "")
        return Operation(
            self.made,
            node,
            inputs,
            {each.name: plain_value(each) for each in node.attribute},
            self._opset,
            _weights_name(node, inputs),
            self._readers[first] == 1,
        )

    def _kind(self, name: str, value: Value) -> str:
        if not isinstance(value, Ref):
            return ""
        if name in self.kinds:
            return self.kinds[name]
        if self._inferred is None:
            self._inferred = _element_types(self._model)
        return self._inferred.get(name, "int64" if value.ids else "float32")


def _with_open_batch(target: Array, shape: Shape) -> Array:
    """The target of a Reshape, of which only the size of the batch is left to be worked out."""
    sample = [int(size) for size in target[1:]]
    if -1 in sample:
        rest = math.prod(size for size in sample if size != -1)
        sample[sample.index(-1)] = math.prod(shape) // max(1, rest)
    return np.array([-1, *sample], np.int64)


def class_names(graph: onnx.GraphProto) -> tuple[str, ...]:
    """As far as a classifier says them."""
    for node in graph.node:
        for attribute in node.attribute if node.domain == "ai.onnx.ml" else ():
            if attribute.name in ("classlabels_strings", "classlabels_int64s", "classlabels_ints"):
                texts = [each.decode("utf-8", "replace") for each in attribute.strings]
                if found := tuple(texts or [str(each) for each in attribute.ints]):
                    return found
    return ()


def _label(node: onnx.NodeProto) -> str:
    named = node.name or "".join(node.output[:1])
    return f"node {named!r} ({node.op_type})"


def _weights_name(node: onnx.NodeProto, inputs: tuple[Value, ...]) -> str:
    """What the node's weights are called, without their last part."""
    named = zip(node.input, inputs, strict=True)
    return next((n.rpartition(".")[0] for n, each in named if isinstance(each, np.ndarray) and "." in n), "")


def _element_types(model: onnx.ModelProto) -> dict[str, str]:
    """Of all values, as far as onnx can tell."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # onnx raises errors of its own and of protobuf's
        return {}
    found = {value.name: ELEMENT_TYPES.get(value.type.tensor_type.elem_type) for value in graph.value_info}
    return {name: each[0] for name, each in found.items() if each is not None}
