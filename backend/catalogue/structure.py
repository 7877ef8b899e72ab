"""Where a model begins and ends."""

from __future__ import annotations

from backend.catalogue.parameter import Parameters, integer, integers
from backend.catalogue.record import (
    MAX_IDS,
    OUTPUT,
    Category,
    Counts,
    NodeType,
    Numbers,
    Port,
    PortKind,
    PortType,
    Shape,
    TensorType,
    described,
    free,
    layer,
)
from backend.errors import SetParameter, ShapeMismatchError


def _same(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    return inputs[0]


def _input(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    shape, vocabulary = given["shape"], given["vocabulary"]
    if not types:
        return (TensorType((1,) if shape is None else shape, vocabulary),)
    (found,) = (value for value in types if isinstance(value, TensorType))
    if shape is not None and found.shape != shape:
        raise ShapeMismatchError(
            f"shape is {described(shape)}, the samples have shape {described(found.shape)}",
            SetParameter("shape", list(found.shape)),
        )
    if vocabulary and found.ids != vocabulary:
        raise ShapeMismatchError(
            f"vocabulary is {vocabulary}, the samples are "
            + (f"ids below {found.ids}" if found.ids else "real numbers"),
            SetParameter("vocabulary", found.ids),
        )
    return (found,)


def _nothing(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    return Counts()


TYPES = (
    NodeType(
        "Input",
        Category.STRUCTURE,
        "Where samples enter the model, or the graph inside a node.",
        (Port("input", PortKind.TENSOR, required=False),),
        OUTPUT,
        (
            integers(
                "shape", None, "Shape of one sample, without the batch; null: as what is linked, or (1)"
            ),
            integer("vocabulary", 0, "Above 0: samples are ids below it, such as tokens", 0, MAX_IDS),
        ),
        _input,
        _nothing,
        keywords=("source", "begin"),
        shape_rule="its parameter shape",
    ),
    layer(
        "Output",
        Category.STRUCTURE,
        "What the model answers, or the graph inside a node.",
        _same,
        free,
        keywords=("result", "end", "prediction"),
        shape_rule="the shape of its input",
        numbers=Numbers.ANY,
    ),
)
