"""Dense and convolution layers."""

from __future__ import annotations

import math

from backend.catalogue.parameter import Parameter, Parameters, boolean, integer, size
from backend.catalogue.record import Category, Counts, NodeType, Shape, described, elements, layer, need_axes
from backend.errors import SetParameter, ShapeMismatchError

AXES = {1: "(channels, length)", 2: "(channels, height, width)", 3: "(channels, depth, height, width)"}
BIAS = boolean("bias", True, "Adds a learned number to each output")
WINDOWED = (
    "(channels, extents) gives ({channels}, (extent + 2 padding - dilation (kernel - 1) - 1) / stride + 1)"
)


# -- Dense ---------------------------------------------------------------------------------------


def _dense_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    (shape,) = inputs
    if not shape:
        raise ShapeMismatchError("takes (..., features), got a single number")
    return (*shape[:-1], given["units"])


def _dense_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    features, units = inputs[0][-1], output[-1]
    bias = int(given["bias"])
    rows = elements(output[:-1])
    return Counts(units * (features + bias), rows * units * (2 * features + bias))


DENSE = layer(
    "Dense",
    Category.DENSE,
    "Every output is a weighted sum of all inputs along the last axis.",
    _dense_shape,
    _dense_count,
    (integer("units", 64, "Number of outputs"), BIAS),
    ("linear", "fully connected", "fc", "perceptron"),
    shape_rule="(..., features) gives (..., units)",
    weights=True,
)


# -- convolutions --------------------------------------------------------------------------------


def _geometry(axes: int, padding_choices: tuple[str, ...] = ("same",)) -> tuple[Parameter, ...]:
    return (
        size("kernel_size", 3, "Extent of the window", axes, maximum=1024),
        size("stride", 1, "How far the window moves", axes, maximum=1024),
        size(
            "padding",
            0,
            "Zeros around the input; same keeps its extent",
            axes,
            minimum=0,
            maximum=1024,
            choices=padding_choices,
        ),
        size("dilation", 1, "Distance between the window's points", axes, maximum=1024),
    )


def window_extents(given: Parameters, spatial: Shape) -> Shape:
    """Output extents of a sliding window; raises ShapeMismatchError where none fits.

    floor((extent + 2 padding - dilation (kernel - 1) - 1) / stride) + 1
    """
    kernel, stride, padding = given["kernel_size"], given["stride"], given["padding"]
    dilation = given.get("dilation", (1,) * len(spatial))
    if padding == "same":
        if any(step != 1 for step in stride):
            raise ShapeMismatchError(
                f"padding same needs stride 1, got stride {described(stride)}", SetParameter("stride", 1)
            )
        return spatial
    found = []
    for extent, k, s, p, d in zip(spatial, kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        if extent + 2 * p < reach:
            raise ShapeMismatchError(
                f"a window of {reach} does not fit in {extent} with padding {p}, in {described(spatial)}",
                *_smaller_window(given, spatial),
            )
        found.append((extent + 2 * p - reach) // s + 1)
    return tuple(found)


def _smaller_window(given: Parameters, spatial: Shape) -> list[SetParameter]:
    kernel = [min(k, extent) for k, extent in zip(given["kernel_size"], spatial, strict=True)]
    dilated = "dilation" in given and any(step != 1 for step in given["dilation"])
    remedies = [SetParameter("kernel_size", kernel), *([SetParameter("dilation", 1)] if dilated else [])]
    padding = given["padding"]
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        remedies.append(SetParameter("padding", 0))
    return remedies


def _divides(groups: int, channels: int, filters: int, what: str) -> None:
    if (channels if what == "input channels" else filters) % groups:
        found = channels if what == "input channels" else filters
        raise ShapeMismatchError(
            f"{found} {what}, must be divisible by groups, which is {groups}",
            SetParameter("groups", math.gcd(groups, channels, filters)),
        )


def _convolution(axes: int) -> NodeType:
    def shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
        need_axes(inputs[0], axes + 1, AXES[axes])
        for what in ("input channels", "filters"):
            _divides(given["groups"], inputs[0][0], given["filters"], what)
        return (given["filters"], *window_extents(given, inputs[0][1:]))

    def count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
        taps = inputs[0][0] // given["groups"] * elements(given["kernel_size"])
        bias = int(given["bias"])
        return Counts(output[0] * (taps + bias), elements(output) * (2 * taps + bias))

    return layer(
        f"Conv{axes}D",
        Category.DENSE,
        f"Slides learned filters over {AXES[axes]}.",
        shape,
        count,
        (
            integer("filters", 16, "Number of output channels", maximum=1 << 16),
            *_geometry(axes),
            integer("groups", 1, "Channels are cut into groups that do not mix", maximum=1 << 16),
            BIAS,
        ),
        ("convolution", "filter", "cnn", f"conv{axes}d"),
        shape_rule=WINDOWED.format(channels="filters"),
        weights=True,
    )


def _depthwise_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    need_axes(inputs[0], 3, AXES[2])
    return (inputs[0][0] * given["multiplier"], *window_extents(given, inputs[0][1:]))


def _depthwise_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    taps = elements(given["kernel_size"])
    bias = int(given["bias"])
    return Counts(output[0] * (taps + bias), elements(output) * (2 * taps + bias))


DEPTHWISE = layer(
    "DepthwiseConv2D",
    Category.DENSE,
    "Filters each channel on its own.",
    _depthwise_shape,
    _depthwise_count,
    (integer("multiplier", 1, "Output channels for each input channel", maximum=64), *_geometry(2), BIAS),
    ("depthwise", "mobile", "convolution"),
    shape_rule=WINDOWED.format(channels="channels x multiplier"),
    weights=True,
)


def _separable_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    need_axes(inputs[0], 3, AXES[2])
    return (given["filters"], *window_extents(given, inputs[0][1:]))


def _separable_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    channels, taps = inputs[0][0], elements(given["kernel_size"])
    bias, points = int(given["bias"]), elements(output[1:])
    return Counts(
        channels * taps + output[0] * (channels + bias),
        points * (2 * channels * taps + output[0] * (2 * channels + bias)),
    )


SEPARABLE = layer(
    "SeparableConv2D",
    Category.DENSE,
    "Filters each channel on its own, then mixes the channels at each point.",
    _separable_shape,
    _separable_count,
    (integer("filters", 16, "Number of output channels", maximum=1 << 16), *_geometry(2), BIAS),
    ("separable", "xception", "mobile", "convolution"),
    shape_rule=WINDOWED.format(channels="filters"),
    weights=True,
)


# -- transposed convolutions ---------------------------------------------------------------------


def _transposed_extents(given: Parameters, spatial: Shape) -> Shape:
    found = []
    names = ("kernel_size", "stride", "padding", "dilation", "output_padding")
    for extent, k, s, p, d, o in zip(spatial, *(given[name] for name in names), strict=True):
        if o >= max(s, d):
            raise ShapeMismatchError(
                f"output_padding {o}, must be below stride {s} or dilation {d}",
                SetParameter("output_padding", 0),
            )
        result = (extent - 1) * s - 2 * p + d * (k - 1) + o + 1
        if result < 1:
            raise ShapeMismatchError(
                f"padding {p} leaves nothing of extent {extent}", SetParameter("padding", 0)
            )
        found.append(result)
    return tuple(found)


def _transposed(axes: int) -> NodeType:
    def shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
        need_axes(inputs[0], axes + 1, AXES[axes])
        return (given["filters"], *_transposed_extents(given, inputs[0][1:]))

    def count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
        taps, bias = output[0] * elements(given["kernel_size"]), int(given["bias"])
        weights = inputs[0][0] * taps + output[0] * bias
        return Counts(weights, 2 * elements(inputs[0]) * taps + bias * elements(output))

    return layer(
        f"ConvTranspose{axes}D",
        Category.DENSE,
        f"The reverse of a convolution over {AXES[axes]}: makes the extent larger.",
        shape,
        count,
        (
            integer("filters", 16, "Number of output channels", maximum=1 << 16),
            *_geometry(axes, ()),
            size("output_padding", 0, "Added to one side of the output", axes, minimum=0, maximum=1024),
            BIAS,
        ),
        ("deconvolution", "upsampling", "transposed"),
        shape_rule="(channels, extents) gives (filters, (extent - 1) stride - 2 padding "
        "+ dilation (kernel - 1) + output_padding + 1)",
        weights=True,
    )


TYPES = (
    DENSE,
    *(_convolution(axes) for axes in (1, 2, 3)),
    DEPTHWISE,
    SEPARABLE,
    *(_transposed(axes) for axes in (1, 2)),
)
