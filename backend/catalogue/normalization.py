"""Normalization and regularization."""

from __future__ import annotations

import math

from backend.catalogue.parameter import Parameters, boolean, integer, number
from backend.catalogue.record import Category, Counts, Shape, described, elements, free, layer, per_element
from backend.errors import SetParameter, ShapeMismatchError

EPSILON = number("epsilon", 1e-5, "Added to the variance so that nothing is divided by zero", 1e-12, 1.0)
AFFINE = boolean("affine", True, "Learns a scale and an offset")
MOMENTUM = number("momentum", 0.1, "Share of the newest batch in the running averages", 0.0, 1.0)
TRAILING = integer("axes", 1, "How many of the last axes are normalized together", maximum=8)
SAME = "the shape of its input"
RATE = number("rate", 0.5, "Share that is dropped while training", 0.0, 0.99)


def _same(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    return inputs[0]


def _batch_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    if not 1 <= len(inputs[0]) <= 4:
        raise ShapeMismatchError(
            f"takes (channels, ...) with at most 3 more axes, got {described(inputs[0])}"
        )
    return inputs[0]


def _batch_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    channels = output[0]
    scale = 2 * channels * int(given["affine"])
    return Counts(scale, 4 * elements(output), 2 * channels + 1)


def _trailing(given: Parameters, shape: Shape) -> Shape:
    if given["axes"] > len(shape):
        raise ShapeMismatchError(
            f"normalizes {given['axes']} axes, {described(shape)} has {len(shape)}",
            *([SetParameter("axes", len(shape))] if shape else []),
        )
    return shape[len(shape) - given["axes"] :]


def _trailing_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    _trailing(given, inputs[0])
    return inputs[0]


def _layer_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    weights = elements(_trailing(given, output)) * int(given["affine"])
    return Counts(2 * weights, 8 * elements(output))


def _rms_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    weights = elements(_trailing(given, output)) * int(given["affine"])
    return Counts(weights, 4 * elements(output))


def _group_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    (shape,) = inputs
    if not shape or shape[0] % given["groups"]:
        raise ShapeMismatchError(
            f"takes (channels, ...) with channels divisible by {given['groups']}, got {described(shape)}",
            *([SetParameter("groups", math.gcd(shape[0], given["groups"]))] if shape else []),
        )
    return shape


def _channel_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    return Counts(2 * output[0] * int(given["affine"]), 8 * elements(output))


def _instance_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    (shape,) = inputs
    if not 2 <= len(shape) <= 4 or elements(shape[1:]) < 2:
        raise ShapeMismatchError(
            f"takes (channels, ...) with more than one point to each channel, got {described(shape)}"
        )
    return shape


def _spatial_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    if not 2 <= len(inputs[0]) <= 4:
        raise ShapeMismatchError(f"takes (channels, ...) with 1 to 3 more axes, got {described(inputs[0])}")
    return inputs[0]


TYPES = (
    layer(
        "BatchNorm",
        Category.NORMALIZATION,
        "Gives each channel mean 0 and variance 1 over the batch.",
        _batch_shape,
        _batch_count,
        (EPSILON, MOMENTUM, AFFINE),
        ("batch normalization", "bn"),
        shape_rule=SAME,
        weights=True,
    ),
    layer(
        "LayerNorm",
        Category.NORMALIZATION,
        "Gives the last axes of each sample mean 0 and variance 1.",
        _trailing_shape,
        _layer_count,
        (TRAILING, EPSILON, AFFINE),
        ("layer normalization", "ln"),
        shape_rule=SAME,
        weights=True,
    ),
    layer(
        "RMSNorm",
        Category.NORMALIZATION,
        "Divides the last axes of each sample by their root mean square.",
        _trailing_shape,
        _rms_count,
        (TRAILING, EPSILON, AFFINE),
        ("root mean square", "llama"),
        shape_rule=SAME,
        weights=True,
    ),
    layer(
        "GroupNorm",
        Category.NORMALIZATION,
        "Normalizes groups of channels of each sample.",
        _group_shape,
        _channel_count,
        (integer("groups", 4, "Number of groups", maximum=1 << 16), EPSILON, AFFINE),
        ("group normalization",),
        shape_rule=SAME,
        weights=True,
    ),
    layer(
        "InstanceNorm",
        Category.NORMALIZATION,
        "Normalizes each channel of each sample.",
        _instance_shape,
        _channel_count,
        (EPSILON, AFFINE),
        ("instance normalization", "style"),
        shape_rule=SAME,
        weights=True,
    ),
    layer(
        "Dropout",
        Category.REGULARIZATION,
        "Sets random elements to zero while training.",
        _same,
        per_element(2),
        (RATE,),
        ("regularization", "overfitting"),
        shape_rule=SAME,
    ),
    layer(
        "SpatialDropout",
        Category.REGULARIZATION,
        "Sets random whole channels to zero while training.",
        _spatial_shape,
        per_element(2),
        (RATE,),
        ("regularization", "dropout2d", "channel"),
        shape_rule=SAME,
    ),
    layer(
        "StochasticDepth",
        Category.REGULARIZATION,
        "Sets random whole samples to zero while training: put it before the Add of a residual block.",
        _same,
        free,
        (RATE,),
        ("drop path", "residual", "regularization"),
        shape_rule=SAME,
    ),
)
