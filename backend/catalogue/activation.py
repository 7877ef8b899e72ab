"""Activations: the same function for each element, or along one axis."""

from __future__ import annotations

from backend.catalogue.parameter import Parameter, Parameters, boolean, choice, integer, number
from backend.catalogue.record import (
    Category,
    Counts,
    NodeType,
    Shape,
    axis_of,
    described,
    elements,
    layer,
    per_element,
)
from backend.errors import ShapeMismatchError

SAME = "the shape of its input"
AXIS = integer("axis", -1, "Which axis of a sample; negative counts from the end", -8, 7)


def _same(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    return inputs[0]


def _along_axis(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    axis_of(given["axis"], inputs[0])
    return inputs[0]


def _elementwise(
    name: str, help: str, flops: int, *parameters: Parameter, keywords: tuple[str, ...] = ()
) -> NodeType:
    return layer(
        name,
        Category.ACTIVATION,
        help,
        _same,
        per_element(flops),
        parameters,
        ("activation", *keywords),
        shape_rule=SAME,
    )


def _along(name: str, help: str, *keywords: str) -> NodeType:
    return layer(
        name,
        Category.ACTIVATION,
        help,
        _along_axis,
        per_element(5),
        (AXIS,),
        ("activation", *keywords),
        shape_rule=SAME,
    )


def _prelu_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    if given["per_channel"] and not inputs[0]:
        raise ShapeMismatchError("takes (channels, ...), got a single number")
    return inputs[0]


def _prelu_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    return Counts(output[0] if given["per_channel"] else 1, 2 * elements(output))


def _glu_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    (shape,) = inputs
    axis = axis_of(given["axis"], shape)
    if shape[axis] % 2:
        raise ShapeMismatchError(f"axis {given['axis']} of {described(shape)} must be even to be halved")
    return (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])


TYPES = (
    _elementwise("ReLU", "max(0, x)", 1, keywords=("rectifier",)),
    _elementwise(
        "LeakyReLU",
        "x where positive, a small slope elsewhere.",
        2,
        number("negative_slope", 0.01, "Slope below zero", 0.0, 10.0),
    ),
    layer(
        "PReLU",
        Category.ACTIVATION,
        "x where positive, a learned slope elsewhere.",
        _prelu_shape,
        _prelu_count,
        (boolean("per_channel", False, "One slope for each channel"),),
        ("activation", "parametric"),
        shape_rule=SAME,
        weights=True,
    ),
    _elementwise(
        "ELU",
        "x where positive, alpha (exp(x) - 1) elsewhere.",
        4,
        number("alpha", 1.0, "Scale below zero", 0.0, 100.0),
    ),
    _elementwise("SELU", "A scaled ELU that keeps mean and variance.", 4, keywords=("self-normalizing",)),
    _elementwise(
        "GELU",
        "x times the normal distribution's cumulative function of x.",
        8,
        choice("approximate", "none", "tanh: the faster formula of GPT-2", ("none", "tanh")),
        keywords=("transformer",),
    ),
    _elementwise("Swish", "x times sigmoid of x.", 5, keywords=("silu",)),
    _elementwise("Mish", "x times tanh of softplus of x.", 8),
    _elementwise("Sigmoid", "1 / (1 + exp(-x))", 4, keywords=("logistic",)),
    _elementwise("Tanh", "Hyperbolic tangent.", 5),
    _elementwise(
        "Softplus",
        "log(1 + exp(x)), a smooth ReLU.",
        4,
        number("beta", 1.0, "Sharpness", 1e-3, 1e3),
    ),
    _along("Softmax", "Positive numbers that add up to 1 along an axis.", "probability"),
    _along("LogSoftmax", "Logarithm of Softmax, for NLLLoss.", "log probability"),
    layer(
        "GLU",
        Category.ACTIVATION,
        "One half of an axis times the sigmoid of the other.",
        _glu_shape,
        per_element(5),
        (AXIS,),
        ("activation", "gated"),
        shape_rule="the shape of its input, the axis halved",
    ),
)
