"""ONNX operators that no node stands for: kept as they are, tried in onnxruntime. Worker processes only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from backend.catalogue.record import MAX_ELEMENTS
from backend.code_import.building import Building, Ref, UnsupportedError
from backend.code_import.modules import need
from backend.errors import InputError, ShapeMismatchError
from backend.formats.onnx_schema import ELEMENT_TYPES
from backend.formats.tensors import Array
from backend.onnx_node import (
    MAX_VALUES,
    REFUSED_OPERATORS,
    TYPE,
    Attribute,
    AttributeTensor,
    DataType,
    EmptyList,
    OnnxNode,
    OnnxStep,
    OnnxTensor,
    read_node,
    weight_place,
)
from backend.runtime.onnx_operator import OnnxOperation, torch_type
from backend.runtime.onnx_runtime import open_session

_BATCH = 3
_MAX_FOLDED_BYTES = 1 << 30
_KINDS = frozenset(get_args(DataType))
_RTOL, _ATOL = 1e-4, 1e-5
_EMPTY = {onnx.AttributeProto.INTS: "ints", onnx.AttributeProto.FLOATS: "floats",
          onnx.AttributeProto.STRINGS: "strings"}  # fmt: skip


class NotApartError(UnsupportedError):
    """Samples are not in front and apart, as what follows may put right."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Nodes of an ONNX model in their order, what enters them by name, and what is asked of them."""

    protos: tuple[onnx.NodeProto, ...]
    opset: int
    entering: Mapping[str, Entering]
    outputs: tuple[str, ...]

    @property
    def last(self) -> onnx.NodeProto:
        return self.protos[-1]


@dataclass(frozen=True, slots=True)
class Entering:
    """A constant, or what flows; ``kind`` is then the type of its elements."""

    value: Ref | Array
    kind: str = ""


def keep(foreign: Foreign, made: Building, wanted: str) -> dict[str, Ref]:
    """Adds the node that stands for it; its values by their names in the ONNX model.

    Raises UnsupportedError for operators that are refused, that onnxruntime does not run on this, whose
    values have no fixed shape behind the batch, or in which samples depend on each other.
    """
    node, entering, weights = _described(foreign)
    shapes = _tried(node, weights)
    outputs = [next(shapes) if each is not None else None for each in node.outputs]
    node = replace(node, outputs=tuple(outputs))
    try:
        read_node(node.parameters)
    except ShapeMismatchError as error:
        raise UnsupportedError(str(error)) from error
    node_id = made.add(wanted, TYPE, node.parameters, entering, weights)
    names = [name for name in foreign.outputs if name]
    return {
        name: Ref(
            node_id, "output" if place == 0 else f"output{place + 1}", each.shape, each.type != "float32"
        )
        for place, (name, each) in enumerate(zip(names, node.given, strict=True))
    }


def folded(foreign: Foreign) -> dict[str, Array]:
    """The values of nodes all of whose inputs are constants, worked out once. Raises UnsupportedError."""
    for proto in foreign.protos:
        _check_operator(proto)
    proto = foreign.last
    if proto.op_type == "Constant" and proto.attribute and proto.attribute[0].name == "value":
        return {proto.output[0]: numpy_helper.to_array(proto.attribute[0].t)}
    model = _alone(foreign)
    size = sum(_bytes_of(value.type.tensor_type) for value in model.graph.output)
    need(size <= _MAX_FOLDED_BYTES, f"a constant of {size:.3g} bytes, limit {_MAX_FOLDED_BYTES}")
    try:
        found = open_session(model.SerializeToString(), 1).run(None, {})
    except Exception as error:  # ONNX Runtime's own classes share no public base
        raise UnsupportedError(f"onnxruntime does not run it: {str(error)[:200]}") from error
    names = [value.name for value in model.graph.output]
    need(all(isinstance(each, np.ndarray) for each in found), "gives something else than tensors")
    return dict(zip(names, found, strict=True))


def _check_operator(proto: onnx.NodeProto) -> None:
    need(
        proto.domain in ("", "ai.onnx"), f"is of domain {proto.domain[:60]!r}, kept are those of ONNX itself"
    )
    need(proto.op_type not in REFUSED_OPERATORS, "holds graphs, draws at random or gives no tensor")


# -- what it is made of ----------------------------------------------------------------------------


def plain_value(proto: onnx.AttributeProto) -> Any:
    """Numbers of single precision as the shortest decimals that mean them: 1e-12, not 9.99999996e-13."""
    value = helper.get_attribute_value(proto)
    match proto.type:
        case onnx.AttributeProto.FLOAT:
            return float(str(np.float32(value)))
        case onnx.AttributeProto.FLOATS:
            return [float(str(np.float32(each))) for each in value]
    return value


def _attribute(proto: onnx.AttributeProto) -> Attribute:
    value = plain_value(proto)
    match proto.type:
        case onnx.AttributeProto.FLOAT | onnx.AttributeProto.INT:
            return value  # type: ignore[no-any-return]
        case onnx.AttributeProto.STRING:
            return _text(value)
        case onnx.AttributeProto.TENSOR:
            array = numpy_helper.to_array(value)
            return AttributeTensor(str(array.dtype), array.shape, _numbers(array))
        case onnx.AttributeProto.INTS | onnx.AttributeProto.FLOATS | onnx.AttributeProto.STRINGS:
            entries = [_text(each) if isinstance(each, bytes) else each for each in value]
            return entries or EmptyList(_EMPTY[proto.type])
    raise UnsupportedError(
        f"attribute {proto.name[:60]!r} holds something else than numbers, texts and tensors"
    )


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UnsupportedError("an attribute is no UTF-8 text") from error


def _described(foreign: Foreign) -> tuple[OnnxNode, tuple[Ref, ...], dict[str, torch.Tensor]]:
    """The node, yet without shapes of its outputs; what flows into it; and its weights."""
    for proto in foreign.protos:
        _check_operator(proto)
    is_whole = foreign.outputs == tuple(foreign.last.output)
    single = foreign.last if len(foreign.protos) == 1 and is_whole else None
    names = [*single.input] if single is not None else [*foreign.entering]
    tensors: list[OnnxTensor | None] = []
    weights: dict[str, torch.Tensor] = {}
    for number, name in enumerate(names):
        tensor, held = _entering(foreign.entering[name]) if name else (None, None)
        tensors.append(tensor)
        if held is not None:
            weights[weight_place(number)] = held
    refs = [foreign.entering[name].value for name in names if name]
    flowing = tuple([each for each in refs if isinstance(each, Ref)])
    attributes = {} if single is None else {each.name: _attribute(each) for each in single.attribute}
    steps = () if single is not None else _steps(foreign, names)
    kind = foreign.last.op_type
    types = _output_types(foreign)
    return OnnxNode(kind, foreign.opset, attributes, tuple(tensors), types, steps), flowing, weights


def _steps(foreign: Foreign, names: list[str]) -> tuple[OnnxStep, ...]:
    """The nodes, with values named as a node of several steps names them."""
    known = {name: f"in{number}" for number, name in enumerate(names)} | {"": ""}
    known |= {name: f"out{number}" for number, name in enumerate(foreign.outputs) if name}
    found = []
    for proto in foreign.protos:
        for name in proto.output:
            known.setdefault(name, f"v{len(known)}")
        attributes = {each.name: _attribute(each) for each in proto.attribute}
        entering, leaving = (tuple(known[name] for name in side) for side in (proto.input, proto.output))
        found.append(OnnxStep(proto.op_type, attributes, entering, leaving))
    return tuple(found)


def _entering(entering: Entering) -> tuple[OnnxTensor, torch.Tensor | None]:
    """An input as the node says it, and its numbers where they are too many for the document."""
    value = entering.value
    if isinstance(value, Ref):
        return OnnxTensor(_kind(entering.kind), value.shape), None
    kind = _kind(str(value.dtype))
    if value.size <= MAX_VALUES:
        return OnnxTensor(kind, value.shape, "values", _numbers(value)), None
    return OnnxTensor(kind, value.shape, "weights"), torch.from_numpy(np.array(value, order="C"))


def _numbers(values: Array) -> tuple[int | float, ...]:
    plain = values.astype(np.uint8) if values.dtype == np.bool_ else values
    return tuple(plain.reshape(-1).tolist())


def _kind(name: str) -> Any:
    need(name in _KINDS, f"an input is {name}, supported are {', '.join(sorted(_KINDS))}")
    return name


# -- what comes out of it --------------------------------------------------------------------------


def _alone(foreign: Foreign) -> onnx.ModelProto:
    """A model of these nodes alone, for a batch of a few samples, with the types of its outputs."""
    doors, constants = [], []
    for name, each in foreign.entering.items():
        if isinstance(each.value, Ref):
            number = next((n for n, (kind, _) in ELEMENT_TYPES.items() if kind == each.kind), 0)
            doors.append(helper.make_tensor_value_info(name, number, (_BATCH, *each.value.shape)))
        else:
            constants.append(numpy_helper.from_array(each.value, name))
    ends = [onnx.ValueInfoProto(name=name) for name in foreign.outputs if name]
    graph = helper.make_graph(list(foreign.protos), "alone", doors, ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", foreign.opset)], ir_version=10)
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx raises errors of its own and of protobuf's
        raise UnsupportedError(f"its shapes cannot be worked out: {str(error)[:200]}") from error


def _bytes_of(tensor: onnx.TypeProto.Tensor) -> int:
    """As far as shape inference knows; 0 for what it does not."""
    _, item = ELEMENT_TYPES.get(tensor.elem_type, ("", 0))
    sizes = [axis.dim_value for axis in tensor.shape.dim]
    size = int(item)
    for each in sizes:
        size *= each
    return size


def _output_types(foreign: Foreign) -> tuple[OnnxTensor | None, ...]:
    """Shapes are not yet known."""
    values = {value.name: value.type.tensor_type for value in _alone(foreign).graph.output}
    found: list[OnnxTensor | None] = []
    for name in foreign.outputs:
        if not name:
            found.append(None)
            continue
        kind, _ = ELEMENT_TYPES.get(values[name].elem_type, ("nothing known", 0))
        need(kind in _KINDS, f"gives {kind}, supported are {', '.join(sorted(_KINDS))}")
        size = _bytes_of(values[name])
        need(size <= MAX_ELEMENTS, f"gives {size:.3g} bytes, limit {MAX_ELEMENTS}")
        found.append(OnnxTensor(kind, ()))  # type: ignore[arg-type]
    return tuple(found)


def _tried(node: OnnxNode, weights: Mapping[str, torch.Tensor]) -> Iterator[OnnxTensor]:
    """Runs it on a few samples together, and on each alone; gives what comes out of one.

    Raises NotApartError.
    """
    module = _module(node, weights)
    samples = [_drawn(tensor, number) for number, tensor in enumerate(node.flowing)]
    together = _run(module, samples)
    for place in range(_BATCH):
        alone = _run(module, [each[place : place + 1] for each in samples])
        for whole, one in zip(together, alone, strict=True):
            if whole.ndim == 0 or len(whole) != _BATCH or len(one) != 1:
                raise NotApartError("moves the batch from the front")
            if whole.shape[1:] != one.shape[1:]:
                raise NotApartError("gives shapes that depend on values or on the batch")
            if not np.allclose(whole[place], one[0], _RTOL, _ATOL, equal_nan=True):
                raise NotApartError("mixes the samples of a batch")
    return iter(
        [
            OnnxTensor(tensor.type, tuple(array.shape[1:]))
            for tensor, array in zip(node.given, together, strict=True)
        ]
    )


def sizes(foreign: Foreign) -> Array | None:
    """A list of sizes that begins with the batch, for which there is 0; None for anything else."""
    node, _, weights = _described(foreign)
    module = _module(node, weights)
    samples = [_drawn(tensor, number) for number, tensor in enumerate(node.flowing)]
    (several,), (one,) = _run(module, samples), _run(module, [each[:1] for each in samples])
    if several.dtype != np.int64 or several.ndim != 1 or several.shape != one.shape or not several.size:
        return None
    if (several[0], one[0]) != (_BATCH, 1) or not np.array_equal(several[1:], one[1:]):
        return None
    return np.array([0, *several[1:]], np.int64)


def _module(node: OnnxNode, weights: Mapping[str, torch.Tensor]) -> OnnxOperation:
    module = OnnxOperation(node)
    for name, tensor in weights.items():
        module.get_buffer(name).copy_(tensor)
    return module


def _run(module: OnnxOperation, samples: list[torch.Tensor]) -> list[Array]:
    try:
        return module.run(samples)
    except InputError as error:
        raise UnsupportedError(f"onnxruntime does not run it: {error}") from error


def _drawn(tensor: OnnxTensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (_BATCH, *tensor.shape)
    if tensor.type.startswith("float"):
        return torch.randn(shape, generator=generator).to(torch_type(tensor))
    return torch.randint(0, 2, shape, generator=generator).to(torch_type(tensor))
