"""Nodes with others inside: a graph, a graph several times, a layer at each step or in both directions.

Their rules find what is known of the inside in ``given["body"]``, a BodyTypes.
"""

from __future__ import annotations

from backend.catalogue.parameter import Parameters, choice, integer
from backend.catalogue.record import (
    OUTPUT,
    WEIGHTS,
    BodyTypes,
    Category,
    Counts,
    NodeType,
    ParametersType,
    Port,
    PortKind,
    PortType,
    TensorType,
    Wrapping,
    described,
)
from backend.catalogue.recurrent import RECURRENT
from backend.errors import SetParameter, ShapeMismatchError

MAX_TIMES = 1024
ONE = (Port("input", PortKind.TENSOR),)
MANY = (Port("input", PortKind.TENSOR, variadic=True, required=False),)
MANY_OUT = (Port("output", PortKind.TENSOR, variadic=True), *WEIGHTS)

Tensors = tuple[TensorType, ...]


def _as_they_are(given: Parameters, inputs: Tensors) -> Tensors:
    return inputs


def _once(given: Parameters) -> int:
    return 1


# -- graphs --------------------------------------------------------------------------------------


def _subgraph(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    body: BodyTypes = given["body"]
    return (*body.outputs, ParametersType())


def _subgraph_count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    body: BodyTypes = given["body"]
    return body.counts


def _times(given: Parameters) -> int:
    times: int = given["times"]
    return times


def _repeat(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    body: BodyTypes = given["body"]
    if given["times"] > 1 and body.outputs != types:
        took, gave = (
            ", ".join(described(found.shape) for found in side if isinstance(found, TensorType)) or "nothing"
            for side in (types, body.outputs)
        )
        raise ShapeMismatchError(
            f"its graph takes {took} and gives {gave}: must give what it takes to be repeated",
            SetParameter("times", 1),
        )
    return (*body.outputs, ParametersType())


def _repeat_count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    body: BodyTypes = given["body"]
    return body.counts.times(given["times"], given["times"])


# -- one node ------------------------------------------------------------------------------------


def _one_step(given: Parameters, inputs: Tensors) -> Tensors:
    (value,) = inputs
    if len(value.shape) < 2:
        raise ShapeMismatchError(f"takes (steps, ...), got {described(value.shape)}")
    return (TensorType(value.shape[1:], value.ids),)


def _steps(types: tuple[PortType, ...]) -> int:
    return next(found.shape[0] for found in types if isinstance(found, TensorType))


def _each_step(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    body: BodyTypes = given["body"]
    (output,) = body.outputs
    return (TensorType((_steps(types), *output.shape), output.ids), ParametersType())


def _each_step_count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    body: BodyTypes = given["body"]
    return body.counts.times(1, _steps(types))


def _both_ways(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    body: BodyTypes = given["body"]
    (output,) = body.outputs
    *front, last = output.shape
    width = 2 * last if given["merge"] == "concatenate" else last
    return (TensorType((*front, width)), ParametersType())


def _both_ways_count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    body: BodyTypes = given["body"]
    return body.counts.times(2, 2)


TYPES = (
    NodeType(
        "Bidirectional",
        Category.RECURRENT,
        "Runs a recurrent layer forwards and another like it backwards.",
        ONE,
        OUTPUT + WEIGHTS,
        (
            choice(
                "merge",
                "concatenate",
                "How the two directions become one",
                ("concatenate", "sum", "average", "multiply"),
            ),
        ),
        _both_ways,
        _both_ways_count,
        keywords=("recurrent", "sequence", "wrapper"),
        shape_rule="the shape that the layer inside gives, its last axis doubled by concatenate",
        wrapping=Wrapping(_as_they_are, lambda given: 2, one_node=True, allowed=RECURRENT),
    ),
    NodeType(
        "TimeDistributed",
        Category.RECURRENT,
        "Applies one layer, with the same weights, to each step of a sequence.",
        ONE,
        OUTPUT + WEIGHTS,
        (),
        _each_step,
        _each_step_count,
        keywords=("sequence", "wrapper", "video", "each step"),
        shape_rule="(steps, ...) gives (steps, what the layer inside makes of the rest)",
        wrapping=Wrapping(_one_step, _once, one_node=True),
    ),
    NodeType(
        "Subgraph",
        Category.COMPOSITE,
        "A graph as one node, that can be opened and closed.",
        MANY,
        MANY_OUT,
        (),
        _subgraph,
        _subgraph_count,
        keywords=("group", "block", "module", "nested", "function"),
        shape_rule="what the Output nodes inside give, one port for each",
        wrapping=Wrapping(_as_they_are, _once),
    ),
    NodeType(
        "Repeat",
        Category.COMPOSITE,
        "A graph several times in a row, each with weights of its own.",
        MANY,
        MANY_OUT,
        (integer("times", 2, "How many times", maximum=MAX_TIMES),),
        _repeat,
        _repeat_count,
        keywords=("loop", "stack", "block", "nested", "times"),
        shape_rule="the shapes of its inputs, which the graph inside must give again",
        wrapping=Wrapping(_as_they_are, _times),
    ),
)
