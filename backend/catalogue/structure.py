"""Where a model begins and ends."""

from __future__ import annotations

from backend.catalogue.record import (
    OUTPUT,
    Category,
    Counts,
    NodeType,
    Parameters,
    Port,
    PortKind,
    PortType,
    Shape,
    TensorType,
    described,
    free,
    integers,
    layer,
)
from backend.errors import ShapeMismatchError


def _same(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    return inputs[0]


def _input(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    shape: Shape = given["shape"]
    for found in types:
        if isinstance(found, TensorType) and found.shape != shape:
            raise ShapeMismatchError(
                f"shape is {described(shape)}, the samples have shape {described(found.shape)}"
            )
    return (TensorType(shape),)


def _nothing(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    return Counts()


TYPES = (
    NodeType(
        "Input",
        Category.STRUCTURE,
        "Where samples enter the model.",
        (Port("input", PortKind.TENSOR, required=False),),
        OUTPUT,
        (integers("shape", (1,), "Shape of one sample, without the batch"),),
        _input,
        _nothing,
        keywords=("source", "begin"),
    ),
    layer(
        "Output",
        Category.STRUCTURE,
        "What the model answers.",
        _same,
        free,
        keywords=("result", "end", "prediction"),
    ),
    layer(
        "Identity",
        Category.STRUCTURE,
        "Passes its input on unchanged.",
        _same,
        free,
        keywords=("pass", "noop"),
    ),
)
