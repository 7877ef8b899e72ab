"""What other programs have and no type here stands for, kept as it is."""

from __future__ import annotations

import math

from backend.catalogue.parameter import Parameters, boolean, integer, text
from backend.catalogue.record import (
    MAX_IDS,
    Category,
    Counts,
    NodeType,
    Port,
    PortKind,
    PortType,
    TensorType,
    described,
)
from backend.errors import ShapeMismatchError
from backend.onnx_node import MAX_PROGRAM_BYTES, MAX_TEXT, TYPE, OnnxTensor, read_node

_ONE = '[{"type":"float32","shape":[1]}]'


def _as_port(tensor: OnnxTensor) -> TensorType:
    """What is no float32 counts as ids: what takes real numbers must not take it."""
    return TensorType(tensor.shape, 0 if tensor.type == "float32" else MAX_IDS)


def _rule(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    node = read_node(given)
    found = [each for each in types if isinstance(each, TensorType)]
    if len(found) != len(node.flowing):
        raise ShapeMismatchError(f"{len(found)} linked to it, {node.operator} here takes {len(node.flowing)}")
    for number, (value, wanted) in enumerate(zip(found, node.flowing, strict=True)):
        if value.shape != wanted.shape or bool(value.ids) == (wanted.type == "float32"):
            numbers = "whole or other numbers" if value.ids else "real numbers"
            raise ShapeMismatchError(
                f"input {number + 1} is {described(value.shape)} of {numbers}, {node.operator} here "
                f"takes {wanted.type} {described(wanted.shape)}"
            )
    return tuple([_as_port(each) for each in node.given])


def _count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    """At least one operation for each number that comes out; what an operator really costs is not known."""
    node = read_node(given)
    held = sum(each.elements for each in node.inputs if each is not None and each.kind == "weights")
    return Counts(flops=sum(math.prod(each.shape) for each in node.given), buffers=held + node.program)


TYPES: tuple[NodeType, ...] = (
    NodeType(
        TYPE,
        Category.UTILITY,
        "An operator of an imported ONNX model that no other type stands for; onnxruntime computes it.",
        (Port("inputs", PortKind.TENSOR, variadic=True),),
        (Port("output", PortKind.TENSOR, variadic=True),),
        (
            text("operator", "Identity", "Its name in ONNX", 64),
            integer("opset", 20, "The version of ONNX's operators that it is of", 1, 64),
            text("attributes", "{}", "Its attributes, as JSON by name", MAX_TEXT),
            text(
                "inputs",
                _ONE,
                "What it takes, as a JSON list: type, shape of a sample, and for what does not flow "
                "kind weights, or kind values and the values",
                MAX_TEXT,
            ),
            text("outputs", _ONE, "What it gives, as a JSON list: type and shape of a sample", MAX_TEXT),
            text(
                "steps",
                "",
                "Several operators in its place, as a JSON list of operator, attributes, inputs and outputs",
                MAX_TEXT,
            ),
            integer(
                "program",
                0,
                "Bytes of nodes of an ONNX graph in place of attributes and steps, kept with the weights",
                0,
                MAX_PROGRAM_BYTES,
            ),
            text("domains", "", "Of a program: versions of other operator sets, as JSON by domain", 256),
            boolean("alone", False, "Takes one sample at a time"),
        ),
        _rule,
        _count,
        keywords=("onnx", "foreign", "placeholder", "unknown", "import"),
        limitation="No gradient passes through it, so nothing before it can be trained; peers do not train "
        "it, and of the file formats only .cyxmodel and ONNX hold it.",
        shape_rule="its parameter outputs, for inputs shaped as its parameter inputs says",
    ),
)
