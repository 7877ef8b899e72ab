"""Shape and merge nodes. Axes are those of one sample: axis 0 comes after the batch."""

from __future__ import annotations

from backend.catalogue.activation import AXIS
from backend.catalogue.parameter import Parameters, choice, integer, integers, number
from backend.catalogue.record import (
    Category,
    Counts,
    NodeType,
    Numbers,
    Port,
    PortKind,
    PortType,
    Shape,
    TensorType,
    axis_of,
    described,
    elements,
    free,
    layer,
    per_element,
)
from backend.errors import SetParameter, ShapeMismatchError

MANY = (Port("inputs", PortKind.TENSOR, variadic=True),)
PADDING_MODES = ("constant", "reflect", "replicate", "circular")
TWO = (Port("a", PortKind.TENSOR), Port("b", PortKind.TENSOR))


def _flatten(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    return (elements(inputs[0]),)


def _reshape(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    target: Shape = given["shape"]
    total = elements(inputs[0])
    open_axes = target.count(-1)
    known = elements(tuple(extent for extent in target if extent != -1))
    if open_axes > 1 or 0 in target:
        raise ShapeMismatchError(
            f"shape {described(target)}, must be positive with at most one -1", SetParameter("shape", [-1])
        )
    if total % known or (open_axes == 0 and total != known):
        raise ShapeMismatchError(
            f"{described(inputs[0])} has {total} elements, which do not fit {described(target)}",
            SetParameter("shape", [-1]),
        )
    return tuple(total // known if extent == -1 else extent for extent in target)


def _permute(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    order: Shape = given["order"]
    if sorted(order) != list(range(len(inputs[0]))):
        raise ShapeMismatchError(
            f"order {described(order)}, must name each of the {len(inputs[0])} axes of "
            f"{described(inputs[0])} once",
            SetParameter("order", list(range(len(inputs[0])))),
        )
    return tuple(inputs[0][axis] for axis in order)


def _squeeze(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    axis = axis_of(given["axis"], inputs[0])
    if inputs[0][axis] != 1:
        raise ShapeMismatchError(f"axis {given['axis']} of {described(inputs[0])} must have extent 1")
    return inputs[0][:axis] + inputs[0][axis + 1 :]


def _unsqueeze(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    axis = axis_of(given["axis"], (*inputs[0], 1))
    return (*inputs[0][:axis], 1, *inputs[0][axis:])


def _slice(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    (shape,) = inputs
    axis = axis_of(given["axis"], shape)
    kept = len(range(*slice(given["start"], given["stop"], given["step"]).indices(shape[axis])))
    if kept == 0:
        raise ShapeMismatchError(
            f"start {given['start']}, stop {given['stop']} leave nothing of axis {given['axis']} of "
            f"{described(shape)}",
            SetParameter("start", 0),
            SetParameter("stop", None),
        )
    return (*shape[:axis], kept, *shape[axis + 1 :])


def _pad(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    (shape,), before, after = inputs, given["before"], given["after"]
    if not len(before) == len(after) <= len(shape):
        raise ShapeMismatchError(
            f"before and after have {len(before)} and {len(after)} axes, must be equal and at most "
            f"{len(shape)}, the axes of {described(shape)}"
        )
    extents = shape[len(shape) - len(before) :]
    if given["mode"] != "constant":
        _check_border(given["mode"], before, after, shape)
    grown = tuple(b + extent + a for b, extent, a in zip(before, extents, after, strict=True))
    return (*shape[: len(shape) - len(before)], *grown)


def _check_border(mode: str, before: Shape, after: Shape, shape: Shape) -> None:
    if not 1 <= len(before) <= 3 or len(before) != len(shape) - 1:
        raise ShapeMismatchError(
            f"mode {mode} pads all axes but the first of (channels, ...), at most 3, got {len(before)} "
            f"for {described(shape)}"
        )
    for b, a, extent in zip(before, after, shape[1:], strict=True):
        limit = extent - 1 if mode == "reflect" else extent
        if mode != "replicate" and max(b, a) > limit:
            raise ShapeMismatchError(f"mode {mode} pads {max(b, a)}, limit {limit} for extent {extent}")


# -- merge ---------------------------------------------------------------------------------------


def _concatenate(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    first = inputs[0]
    axis = axis_of(given["axis"], first)
    for other in inputs[1:]:
        if len(other) != len(first) or other[:axis] + other[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ShapeMismatchError(
                f"inputs {described(first)} and {described(other)} must agree on all axes but {axis}"
            )
    return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :])


def _alike(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    for other in inputs[1:]:
        if other != inputs[0]:
            raise ShapeMismatchError(
                f"inputs {described(inputs[0])} and {described(other)} must be of one shape"
            )
    return inputs[0]


def _matrix_product(given: Parameters, inputs: tuple[Shape, ...]) -> Shape:
    a, b = inputs
    if len(a) < 2 or len(a) != len(b) or a[:-2] != b[:-2] or a[-1] != b[-2]:
        raise ShapeMismatchError(f"takes (..., n, m) and (..., m, k), got {described(a)} and {described(b)}")
    return (*a[:-1], b[-1])


def _matrix_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    return Counts(flops=2 * elements(output) * inputs[0][-1])


def _merge_count(given: Parameters, inputs: tuple[Shape, ...], output: Shape) -> Counts:
    return Counts(flops=len(inputs) * elements(output))


def _merge(name: str, help: str, *keywords: str) -> NodeType:
    return layer(
        name,
        Category.MERGE,
        help,
        _alike,
        _merge_count,
        (),
        ("merge", *keywords),
        MANY,
        shape_rule="the shape that all inputs share",
    )


def _reshaping(name: str, help: str, *keywords: str) -> NodeType:
    return layer(
        name,
        Category.SHAPE,
        help,
        _reshape,
        free,
        (integers("shape", (-1,), "Extents of the output; one of them may be -1", -1, 1 << 30),),
        keywords,
        shape_rule="its parameter shape, -1 worked out from the rest",
        numbers=Numbers.ANY,
    )


def _split(given: Parameters, types: tuple[PortType, ...]) -> tuple[PortType, ...]:
    (value,) = (found for found in types if isinstance(found, TensorType))
    axis, sizes = axis_of(given["axis"], value.shape), given["sizes"]
    extent = value.shape[axis]
    if len(sizes) < 1 or sum(sizes) != extent:
        raise ShapeMismatchError(
            f"sizes {described(sizes)} add up to {sum(sizes)}, axis {given['axis']} of "
            f"{described(value.shape)} has {extent}",
            SetParameter("sizes", _fitting_sizes(sizes, extent)),
        )
    return tuple(TensorType((*value.shape[:axis], s, *value.shape[axis + 1 :]), value.ids) for s in sizes)


def _fitting_sizes(sizes: Shape, extent: int) -> list[int]:
    """As many parts of the extent, or fewer; the last takes what is over."""
    parts = max(1, min(len(sizes), extent))
    return [extent // parts] * (parts - 1) + [extent - extent // parts * (parts - 1)]


def _split_count(given: Parameters, types: tuple[PortType, ...], out: tuple[PortType, ...]) -> Counts:
    return Counts()


SPLIT = NodeType(
    "Split",
    Category.SHAPE,
    "Cuts an axis into parts.",
    (Port("input", PortKind.TENSOR),),
    (Port("output", PortKind.TENSOR, variadic=True),),
    (AXIS, integers("sizes", (1, 1), "Extent of each part; together that of the axis")),
    _split,
    _split_count,
    keywords=("cut", "chunk", "parts"),
    shape_rule="one output for each of sizes, the axis as long as it says",
)

TYPES = (
    layer(
        "Flatten",
        Category.SHAPE,
        "All axes of a sample in one.",
        _flatten,
        free,
        keywords=("vector",),
        shape_rule="(...) gives (product of all)",
        numbers=Numbers.ANY,
    ),
    _reshaping("Reshape", "The same elements in another shape.", "view", "resize"),
    _reshaping("View", "The same elements seen in another shape; what torch calls a view.", "reshape"),
    layer(
        "Permute",
        Category.SHAPE,
        "Puts the axes in another order.",
        _permute,
        free,
        (integers("order", (0,), "Which axis of the input comes where", 0, 7),),
        ("transpose", "swap axes"),
        shape_rule="the axes of its input in the order given",
        numbers=Numbers.ANY,
    ),
    layer(
        "Squeeze",
        Category.SHAPE,
        "Removes an axis of extent 1.",
        _squeeze,
        free,
        (AXIS,),
        ("remove axis",),
        shape_rule="its input without the axis",
        numbers=Numbers.ANY,
    ),
    layer(
        "Unsqueeze",
        Category.SHAPE,
        "Adds an axis of extent 1.",
        _unsqueeze,
        free,
        (AXIS,),
        ("add axis", "expand"),
        shape_rule="its input with 1 more axis",
        numbers=Numbers.ANY,
    ),
    SPLIT,
    layer(
        "Slice",
        Category.SHAPE,
        "Keeps a part of an axis.",
        _slice,
        free,
        (
            AXIS,
            integer("start", 0, "First kept", -(1 << 30), 1 << 30),
            integer("stop", None, "First no longer kept; null: to the end", -(1 << 30), 1 << 30),
            integer("step", 1, "Keeps every n-th"),
        ),
        ("crop", "index"),
        shape_rule="the axis becomes as long as start, stop and step leave it, as in Python",
        numbers=Numbers.ANY,
    ),
    layer(
        "Pad",
        Category.SHAPE,
        "Puts a border around the last axes.",
        _pad,
        per_element(0),
        (
            integers("before", (1, 1), "Added in front, one for each of the last axes", 0, 1 << 16),
            integers("after", (1, 1), "Added behind, one for each of the last axes", 0, 1 << 16),
            choice("mode", "constant", "What the border holds", PADDING_MODES),
            number("value", 0.0, "What a constant border holds", -1e9, 1e9),
        ),
        ("border", "zero padding"),
        shape_rule="the last axes become longer by before and after",
    ),
    layer(
        "Concatenate",
        Category.MERGE,
        "Puts the inputs one after the other along an axis.",
        _concatenate,
        free,
        (integer("axis", 0, "Which axis of a sample; negative counts from the end", -8, 7),),
        ("merge", "join", "stack"),
        MANY,
        shape_rule="the axis is as long as those of all inputs together; the other axes are alike",
        numbers=Numbers.ANY,
    ),
    _merge("Add", "Sum of the inputs.", "plus", "residual", "skip"),
    _merge("Multiply", "Product of the inputs.", "times", "gate"),
    _merge("Average", "Mean of the inputs.", "mean"),
    layer(
        "MatMul",
        Category.MERGE,
        "Matrix product of the last two axes.",
        _matrix_product,
        _matrix_count,
        (),
        ("merge", "dot product"),
        TWO,
        shape_rule="(..., n, m) and (..., m, k) give (..., n, k)",
    ),
)
