"""Small parts: what passes on, what is always the same, what is learned on its own, and arithmetic."""

from __future__ import annotations

from functools import lru_cache

from backend.catalogue.parameter import Parameters, choice, integers, number, numbers, text
from backend.catalogue.record import (
    Category,
    Counts,
    NodeType,
    Numbers,
    Port,
    PortKind,
    Shape,
    described,
    elements,
    free,
    layer,
)
from backend.errors import ExpressionError, SetParameter, ShapeMismatchError
from backend.expression import MAX_CHARACTERS, MAX_INPUTS, Call, Expression, inputs_used, parse, parts

SHAPE = integers("shape", (1,), "Shape of one sample")


def _same(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    return inputs[0]


def _own_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    shape: Shape = given["shape"]
    return shape


def _constant_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    count, needed = len(given["values"]), elements(given["shape"])
    if count not in (1, needed):
        raise ShapeMismatchError(
            f"{count} values, must be 1 or {needed} for shape {described(given['shape'])}",
            SetParameter("values", list(given["values"][:1]) or [0.0]),
        )
    return _own_shape(given, inputs)


def _parameter_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    return Counts(elements(output))


@lru_cache(maxsize=256)
def _parsed(expression: str) -> Expression | str:
    """The expression, or what is wrong with it: graphs are checked again at every edit."""
    try:
        return parse(expression)
    except ExpressionError as error:
        return str(error)


def _lambda_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    expression = _parsed(given["expression"])
    if isinstance(expression, str):
        raise ShapeMismatchError(f"expression: {expression}")
    used = inputs_used(expression)
    if len(inputs) > MAX_INPUTS:
        raise ShapeMismatchError(f"{len(inputs)} inputs, limit {MAX_INPUTS}")
    if not used or max(used) >= len(inputs):
        raise ShapeMismatchError(
            f"expression uses {max(used, default=-1) + 1} inputs, must use 1 to the {len(inputs)} linked"
        )
    for other in inputs[1:]:
        if other != inputs[0]:
            raise ShapeMismatchError(
                f"inputs {described(inputs[0])} and {described(other)} must be of one shape"
            )
    return inputs[0]


def _lambda_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    calls = sum(isinstance(part, Call) for part in parts(parse(given["expression"])))
    return Counts(flops=calls * elements(output), activations=max(1, calls) * elements(output))


TYPES: tuple[NodeType, ...] = (
    layer(
        "Identity",
        Category.UTILITY,
        "Passes its input on unchanged.",
        _same,
        free,
        keywords=("pass", "noop"),
        shape_rule="the shape of its input",
        numbers=Numbers.ANY,
    ),
    layer(
        "Constant",
        Category.UTILITY,
        "The same numbers for every sample; never trained.",
        _constant_shape,
        free,
        (SHAPE, numbers("values", "One number for all elements, or one for each", -1e9, 1e9, (0.0,))),
        ("fixed", "number"),
        (),
        shape_rule="its parameter shape",
    ),
    layer(
        "Parameter",
        Category.UTILITY,
        "Numbers that are learned, the same for every sample.",
        _own_shape,
        _parameter_count,
        (
            SHAPE,
            choice("initial", "normal", "What they begin as", ("normal", "zeros", "ones")),
            number("deviation", 0.02, "Of the normal distribution", 1e-6, 10.0),
        ),
        ("weight", "learned", "free parameter"),
        (),
        shape_rule="its parameter shape",
        weights=True,
    ),
    layer(
        "Lambda",
        Category.UTILITY,
        "Arithmetic on each element: + - * / ^ and functions of the inputs x1, x2 ...",
        _lambda_shape,
        _lambda_count,
        (
            text(
                "expression",
                "x",
                "Such as x1 * sigmoid(x2) + 0.5; x is x1; functions: abs, cos, exp, log, max, min, relu, "
                "sigmoid, sin, sqrt, tanh; constants: pi, e",
                MAX_CHARACTERS,
            ),
        ),
        ("expression", "formula", "arithmetic", "custom"),
        (Port("inputs", PortKind.TENSOR, variadic=True),),
        shape_rule="the shape that all inputs share",
    ),
)
