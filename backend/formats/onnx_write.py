"""Writes one operator as an ONNX model of its own, in the protobuf wire format. Pure: needs no onnx."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from backend.formats.onnx_schema import ELEMENT_TYPES
from backend.onnx_node import Attribute, AttributeTensor, EmptyList, OnnxNode, OnnxStep, OnnxTensor

ELEMENT_NUMBERS = {name: number for number, (name, _) in ELEMENT_TYPES.items()}
_PACKED = {"float32": "f", "float64": "d", "float16": "e", "int8": "b", "int16": "h", "int32": "i",
           "int64": "q", "uint8": "B", "bool": "B"}  # fmt: skip
_IR_VERSION = 10
_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS, _STRINGS = 1, 2, 3, 4, 6, 7, 8
_EMPTY = {"ints": _INTS, "floats": _FLOATS, "strings": _STRINGS}
_BATCH = "batch"


def input_name(number: int) -> str:
    return f"in{number}"


def output_name(number: int) -> str:
    return f"out{number}"


def one_node_model(node: OnnxNode, weights: Mapping[int, bytes], program: bytes = b"") -> bytes:
    """A model that does what the node does. ``weights``: the bytes of inputs that are kept with the weights;
    ``program``: of the node's, which comes from wherever these come from, so that the model wants a check.

    Inputs and outputs are named by their place; the first axis of what flows is the batch.
    """
    held = b""
    entering = b""
    for number, tensor in enumerate(node.inputs):
        if tensor is None:
            continue
        if tensor.kind == "flows":
            entering += _field(11, _value(input_name(number), tensor, alone=node.alone))
        else:
            raw = weights[number] if tensor.kind == "weights" else pack(tensor.type, tensor.values)
            held += _field(5, _tensor(input_name(number), tensor.type, tensor.shape, raw))
    leaving = b"".join(
        [
            _field(12, _value(output_name(number), tensor, is_output=True))
            for number, tensor in enumerate(node.outputs)
            if tensor is not None
        ]
    )
    steps = b"".join([_field(1, _step(each)) for each in node.steps])
    nodes = program if node.program else steps or _field(1, _node(node))
    graph = nodes + _field(2, b"operator") + held + entering + leaving
    opsets = {"": node.opset} | dict(node.domains)
    asked = b"".join([_field(8, _field(1, name) + _number(2, number)) for name, number in opsets.items()])
    return _number(1, _IR_VERSION) + _field(2, b"cyxwiz") + _field(7, graph) + asked


def program_of(nodes: Iterable[bytes]) -> bytes:
    """Of the serialized nodes of a graph, whose values are named as ``one_node_model`` names them."""
    return b"".join([_field(1, node) for node in nodes])


def _node(node: OnnxNode) -> bytes:
    out = b""
    for number, each in enumerate(node.inputs):
        out += _field(1, input_name(number) if each is not None else "")
    for number in range(len(node.outputs)):
        # Also of one that is left out: some of onnxruntime's operators crash without a name for it.
        out += _field(2, output_name(number))
    out += _field(4, node.operator)
    return out + b"".join([_field(5, attribute(name, value)) for name, value in node.attributes.items()])


def _step(step: OnnxStep) -> bytes:
    """Values are named as ``input_name`` and ``output_name`` name them."""
    out = b"".join([_field(1, name) for name in step.inputs] + [_field(2, name) for name in step.outputs])
    out += _field(4, step.operator)
    return out + b"".join([_field(5, attribute(name, value)) for name, value in step.attributes.items()])


def attribute(name: str, value: Attribute) -> bytes:
    """An AttributeProto."""
    kind, content = _content(value)
    return _field(1, name) + content + _number(20, kind)


def _content(value: Attribute) -> tuple[int, bytes]:
    match value:
        case EmptyList(of):
            return _EMPTY[of], b""
        case AttributeTensor(kind, shape, values):
            return _TENSOR, _field(5, _tensor("", kind, shape, pack(kind, values)))
        case str():
            return _STRING, _field(4, value)
        case float():
            return _FLOAT, _float(2, value)
        case int():
            return _INT, _number(3, value)
    match value[0]:
        case str():
            return _STRINGS, b"".join([_field(9, str(each)) for each in value])
        case float():
            return _FLOATS, b"".join([_float(7, float(each)) for each in value])
        case _:
            return _INTS, b"".join([_number(8, int(each)) for each in value])


def pack(kind: str, values: tuple[int | float, ...]) -> bytes:
    """Little-endian, as raw data of a tensor. Raises OverflowError for what half precision cannot hold."""
    return struct.pack(f"<{len(values)}{_PACKED[kind]}", *values)


def _tensor(name: str, kind: str, shape: tuple[int, ...], raw: bytes) -> bytes:
    sizes = b"".join([_number(1, size) for size in shape])
    return sizes + _number(2, ELEMENT_NUMBERS[kind]) + (_field(8, name) if name else b"") + _field(9, raw)


def _value(name: str, tensor: OnnxTensor, *, is_output: bool = False, alone: bool = False) -> bytes:
    """Of an output only the type: its shape is what comes out."""
    axes = _field(1, _number(1, 1) if alone else _field(2, _BATCH))
    axes += b"".join([_field(1, _number(1, size)) for size in tensor.shape])
    shape = b"" if is_output else _field(2, axes)
    return _field(1, name) + _field(2, _field(1, _number(1, ELEMENT_NUMBERS[tensor.type]) + shape))


def _field(number: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
