"""Pooling and resampling."""

from __future__ import annotations

from backend.catalogue.dense import AXES, window_extents
from backend.catalogue.parameter import Parameter, Parameters, choice, integer, integers, size
from backend.catalogue.record import Category, Counts, NodeType, Shape, described, elements, layer, need_axes
from backend.errors import SetParameter, ShapeMismatchError

ANY_EXTENT = "(channels, ...) with 1 to 3 more axes"


def _window_parameters(axes: int) -> tuple[Parameter, ...]:
    return (
        size("kernel_size", 2, "Extent of the window", axes, maximum=1024),
        size("stride", None, "How far the window moves; null: its own extent", axes, maximum=1024),
        size("padding", 0, "Border, at most half the window", axes, minimum=0, maximum=512),
    )


def _window(axes: int, kind: str, keywords: tuple[str, ...]) -> NodeType:
    def shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
        need_axes(inputs[0], axes + 1, AXES[axes])
        kernel, padding = given["kernel_size"], given["padding"]
        if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            raise ShapeMismatchError(
                f"padding {described(padding)}, must be at most half the window, {described(kernel)}",
                SetParameter("padding", 0),
            )
        full = {**given, "stride": given["stride"] or kernel}
        return (inputs[0][0], *window_extents(full, inputs[0][1:]))

    def count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
        return Counts(flops=elements(output) * elements(given["kernel_size"]))

    verb = "Keeps the largest value" if kind == "Max" else "Takes the mean"
    return layer(
        f"{kind}Pool{axes}D",
        Category.POOLING,
        f"{verb} of each window over {AXES[axes]}.",
        shape,
        count,
        _window_parameters(axes),
        ("pooling", "downsample", *keywords),
        shape_rule="(channels, extents) gives (channels, (extent + 2 padding - kernel) / stride + 1)",
    )


def _need_extent(shape: Shape) -> None:
    if not 2 <= len(shape) <= 4:
        raise ShapeMismatchError(f"takes {ANY_EXTENT}, got {described(shape)}")


def _global_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    _need_extent(inputs[0])
    return inputs[0][:1]


def _read_once(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    return Counts(flops=elements(inputs[0]))


def _adaptive_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    _need_extent(inputs[0])
    extents: Shape = given["output_size"]
    if len(extents) != len(inputs[0]) - 1:
        raise ShapeMismatchError(
            f"output_size has {len(extents)} axes, must have {len(inputs[0]) - 1} for {described(inputs[0])}",
            SetParameter("output_size", [1] * (len(inputs[0]) - 1)),
        )
    return (inputs[0][0], *extents)


def _adaptive_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    return Counts(flops=max(elements(inputs[0]), elements(output)))


def _upsample_shape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    _need_extent(inputs[0])
    return (inputs[0][0], *(extent * given["factor"] for extent in inputs[0][1:]))


def _upsample_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    corners = 2 ** (len(output) - 1) if given["mode"] == "linear" else 0
    return Counts(flops=2 * corners * elements(output))


TYPES = (
    _window(1, "Max", ("maxpool1d",)),
    _window(2, "Max", ("maxpool2d",)),
    _window(2, "Avg", ("average", "mean", "avgpool2d")),
    layer(
        "GlobalMaxPool",
        Category.POOLING,
        "The largest value of each channel.",
        _global_shape,
        _read_once,
        keywords=("pooling", "global"),
        shape_rule="(channels, extents) gives (channels)",
    ),
    layer(
        "GlobalAvgPool",
        Category.POOLING,
        "The mean of each channel.",
        _global_shape,
        _read_once,
        keywords=("pooling", "global", "gap"),
        shape_rule="(channels, extents) gives (channels)",
    ),
    layer(
        "AdaptiveAvgPool",
        Category.POOLING,
        "Means over windows chosen so that the output has a given extent.",
        _adaptive_shape,
        _adaptive_count,
        (integers("output_size", (1, 1), "Extent of the output, one for each axis", maximum=1 << 16),),
        ("pooling", "adaptive"),
        shape_rule="(channels, extents) gives (channels, output_size)",
    ),
    layer(
        "Upsample",
        Category.POOLING,
        "Makes the extent a whole number of times larger.",
        _upsample_shape,
        _upsample_count,
        (
            integer("factor", 2, "How many times larger", maximum=64),
            choice("mode", "nearest", "How new points get their values", ("nearest", "linear")),
        ),
        ("resize", "interpolate", "bilinear"),
        shape_rule="(channels, extents) gives (channels, extents x factor)",
    ),
)
