"""ONNX operators that no node stands for: kept as they are, tried in onnxruntime. Worker processes only."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class Foreign:
    """A node of an ONNX model, its operator set, and its inputs by place: what flows, or a constant."""

    proto: onnx.NodeProto
    opset: int
    inputs: tuple[Ref | Array | None, ...]
    kinds: tuple[str, ...]
    """The element types of the inputs that flow, by place; empty for others."""


def keep(foreign: Foreign, made: Building, wanted: str) -> dict[str, Ref]:
    """Adds the node that stands for it; its values by their names in the ONNX model.

    Raises UnsupportedError for an operator that is refused, that onnxruntime does not run on this, whose
    values have no fixed shape behind the batch, or in which samples depend on each other.
    """
    proto = foreign.proto
    _check_operator(proto)
    attributes = {each.name: _attribute(each) for each in proto.attribute}
    tensors, weights = _inputs(foreign)
    types = _output_types(foreign)
    node = OnnxNode(proto.op_type, foreign.opset, attributes, tensors, types)
    shapes = _tried(node, weights)
    outputs = [next(shapes) if each is not None else None for each in node.outputs]
    node = replace(node, outputs=tuple(outputs))
    try:
        read_node(node.parameters)
    except ShapeMismatchError as error:
        raise UnsupportedError(str(error)) from error
    refs = tuple([each for each in foreign.inputs if isinstance(each, Ref)])
    node_id = made.add(wanted, TYPE, node.parameters, refs, weights)
    names = [name for name in proto.output if name]
    return {
        name: Ref(
            node_id, "output" if place == 0 else f"output{place + 1}", each.shape, each.type != "float32"
        )
        for place, (name, each) in enumerate(zip(names, node.given, strict=True))
    }


def folded(foreign: Foreign) -> dict[str, Array]:
    """The values of a node all of whose inputs are constants, worked out once. Raises UnsupportedError."""
    proto = foreign.proto
    _check_operator(proto)
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


def _attribute(proto: onnx.AttributeProto) -> Attribute:
    value = helper.get_attribute_value(proto)
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


def _inputs(foreign: Foreign) -> tuple[tuple[OnnxTensor | None, ...], dict[str, torch.Tensor]]:
    """Each input as the node says it, and the numbers of those that are too many for the document."""
    found: list[OnnxTensor | None] = []
    weights: dict[str, torch.Tensor] = {}
    for number, (value, kind) in enumerate(zip(foreign.inputs, foreign.kinds, strict=True)):
        match value:
            case None:
                found.append(None)
            case Ref():
                found.append(OnnxTensor(_kind(kind), value.shape))
            case _:
                kept = _kind(str(value.dtype))
                if value.size <= MAX_VALUES:
                    found.append(OnnxTensor(kept, value.shape, "values", _numbers(value)))
                else:
                    found.append(OnnxTensor(kept, value.shape, "weights"))
                    weights[weight_place(number)] = torch.from_numpy(np.array(value, order="C"))
    return tuple(found), weights


def _numbers(values: Array) -> tuple[int | float, ...]:
    plain = values.astype(np.uint8) if values.dtype == np.bool_ else values
    return tuple(plain.reshape(-1).tolist())


def _kind(name: str) -> Any:
    need(name in _KINDS, f"an input is {name}, supported are {', '.join(sorted(_KINDS))}")
    return name


# -- what comes out of it --------------------------------------------------------------------------


def _alone(foreign: Foreign) -> onnx.ModelProto:
    """A model of this node alone, for a batch of a few samples, with the types of its outputs."""
    proto = foreign.proto
    entering, constants = [], []
    for name, value, kind in zip(proto.input, foreign.inputs, foreign.kinds, strict=True):
        if isinstance(value, Ref):
            number = next((n for n, (each, _) in ELEMENT_TYPES.items() if each == kind), 0)
            entering.append(helper.make_tensor_value_info(name, number, (_BATCH, *value.shape)))
        elif value is not None:
            constants.append(numpy_helper.from_array(value, name))
    ends = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = helper.make_graph([proto], "alone", list(_once(entering)), ends, list(_once(constants)))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", foreign.opset)], ir_version=10)
    try:
        found = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx raises errors of its own and of protobuf's
        raise UnsupportedError(f"its shapes cannot be worked out: {str(error)[:200]}") from error
    return found


def _once(values: list[Any]) -> list[Any]:
    """An operator may take the same value twice."""
    return list({value.name: value for value in values}.values())


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
    for name in foreign.proto.output:
        if not name:
            found.append(None)
            continue
        kind, _ = ELEMENT_TYPES.get(values[name].elem_type, ("nothing known", 0))
        need(kind in _KINDS, f"gives {kind}, supported are {', '.join(sorted(_KINDS))}")
        size = _bytes_of(values[name])
        need(size <= MAX_ELEMENTS, f"gives {size:.3g} bytes, limit {MAX_ELEMENTS}")
        found.append(OnnxTensor(kind, ()))  # type: ignore[arg-type]
    return tuple(found)


def _tried(node: OnnxNode, weights: Mapping[str, torch.Tensor]) -> Any:
    """Runs it on a few samples together, and on each alone; gives what comes out of one."""
    module = OnnxOperation(node)
    for name, tensor in weights.items():
        module.get_buffer(name).copy_(tensor)
    samples = [_drawn(tensor, number) for number, tensor in enumerate(node.flowing)]
    together = _run(module, samples)
    for place in range(_BATCH):
        alone = _run(module, [each[place : place + 1] for each in samples])
        for whole, one in zip(together, alone, strict=True):
            need(whole.ndim > 0 and len(whole) == _BATCH and len(one) == 1, "moves the batch from the front")
            need(whole.shape[1:] == one.shape[1:], "gives shapes that depend on values or on the batch")
            same = np.allclose(whole[place], one[0], _RTOL, _ATOL, equal_nan=True)
            need(same, "mixes the samples of a batch")
    return iter(
        [
            OnnxTensor(tensor.type, tuple(array.shape[1:]))
            for tensor, array in zip(node.given, together, strict=True)
        ]
    )


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
