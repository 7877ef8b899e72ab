"""What node each function and method is: activations, shapes, merges, and arithmetic as a Lambda."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from backend.code_import.building import Building, Ref, Shape, UnsupportedError
from backend.code_import.modules import adaptive, axis_of, need, upsample, window

Arguments: TypeAlias = tuple[Any, ...]
Placer: TypeAlias = Callable[["Call"], "Ref | tuple[Ref, ...]"]


class Call:
    """One call: refs where tensors flow, else plain values; ``outputs`` are shapes of a sample of each."""

    def __init__(
        self,
        made: Building,
        name: str,
        arguments: Arguments,
        keywords: Mapping[str, Any],
        outputs: tuple[Shape, ...],
    ) -> None:
        self.made, self.name = made, name
        self.arguments, self.keywords = arguments, dict(keywords)
        self.outputs = outputs

    @property
    def first(self) -> Ref:
        found = self.argument(0, "input", None)
        if not isinstance(found, Ref):
            raise UnsupportedError(
                f"its input is a {type(found).__name__}, supported is a tensor of the batch"
            )
        return found

    def argument(self, place: int, name: str, default: Any) -> Any:
        if place < len(self.arguments):
            return self.arguments[place]
        return self.keywords.get(name, default)

    def put(self, type_name: str, given: Mapping[str, Any], *inputs: Ref) -> Ref:
        ids = bool(inputs) and inputs[0].ids and type_name != "Embedding"
        node_id = self.made.add(self.name, type_name, given, inputs or (self.first,))
        return Ref(node_id, "output", self.outputs[0], ids)


# -- activations ---------------------------------------------------------------------------------


def _plain(type_name: str, **places: tuple[int, str, Any]) -> Placer:
    """``places``: parameter=(position, keyword, default) of the function."""
    return lambda call: call.put(type_name, {name: call.argument(*place) for name, place in places.items()})


def _along(type_name: str) -> Placer:
    def place(call: Call) -> Ref:
        dim = call.argument(1, "dim", -1 if type_name == "GLU" else None)
        return call.put(type_name, {"axis": axis_of(dim, call.first.shape)})

    return place


def _dropout(type_name: str) -> Placer:
    def place(call: Call) -> Ref:
        if call.argument(2, "training", True) is False:
            return call.first
        return call.put(type_name, {"rate": float(call.argument(1, "p", 0.5))})

    return place


# -- pooling -------------------------------------------------------------------------------------

_WINDOW = ("kernel_size", "stride", "padding")


def _window(type_name: str) -> Placer:
    def place(call: Call) -> Ref:
        names = (*_WINDOW, "dilation", "ceil_mode") if type_name[0] == "M" else (*_WINDOW, "ceil_mode")
        given = {name: call.argument(number + 1, name, None) for number, name in enumerate(names)}
        extra = {name: call.keywords.get(name) for name in ("return_indices", "count_include_pad")}
        return call.put(*window(type_name, given | extra))

    return place


def _adaptive(call: Call) -> Ref:
    return call.put(*adaptive(call.argument(1, "output_size", 1), call.first.shape))


def _interpolate(call: Call) -> Ref:
    mode, corners = call.argument(3, "mode", "nearest"), call.argument(4, "align_corners", None)
    return call.put(
        *upsample(call.argument(2, "scale_factor", None), mode, corners, call.argument(1, "size", None))
    )


def _over_places(type_name: str) -> Placer:
    """Over all axes behind the channels, or a sequence's steps; with keepdim, an Unsqueeze for each."""

    def place(call: Call) -> Ref:
        shape = call.first.shape
        dims = call.argument(1, "dim", None)
        axes = {axis_of(dim, shape) for dim in (dims if isinstance(dims, tuple | list) else (dims,))}
        kept, value = call.outputs[0], call.first
        over_steps = axes == {0} and len(shape) == 2
        if over_steps:
            shape = shape[::-1]
            call.outputs = (shape,)
            value = call.put("Permute", {"order": [1, 0]})
        else:
            need(axes == set(range(1, len(shape))), "over some axes, supported are all behind the channels")
        call.outputs = (shape[:1],)
        found = call.put(type_name, {}, value)
        for _ in kept[1:]:
            call.outputs = ((1, *found.shape) if over_steps else (*found.shape, 1),)
            found = call.put("Unsqueeze", {"axis": 0 if over_steps else -1}, found)
        return found

    return place


# -- shape ---------------------------------------------------------------------------------------


def _reshape(call: Call) -> Ref:
    before, after = call.first.shape, call.outputs[0]
    if before == after:
        return call.first
    if len(after) == 1 and after[0] == math.prod(before):
        return call.put("Flatten", {})
    return call.put("Reshape", {"shape": after})


def _permute(call: Call) -> Ref:
    dims = call.arguments[1:] if len(call.arguments) > 2 else call.argument(1, "dims", ())
    order = [axis_of(dim, call.first.shape) + 1 if dim else 0 for dim in dims]
    need(bool(order) and order[0] == 0, "it moves the batch away from the front")
    return call.put("Permute", {"order": [axis - 1 for axis in order[1:]]})


def _transpose(call: Call) -> Ref:
    shape = call.first.shape
    a, b = (axis_of(call.argument(n, f"dim{n - 1}", None), shape) for n in (1, 2))
    order = list(range(len(shape)))
    order[a], order[b] = order[b], order[a]
    return call.put("Permute", {"order": order})


def _squeeze(call: Call) -> Ref:
    return call.put("Squeeze", {"axis": axis_of(call.argument(1, "dim", None), call.first.shape)})


def _unsqueeze(call: Call) -> Ref:
    return call.put("Unsqueeze", {"axis": axis_of(call.argument(1, "dim", None), call.outputs[0])})


def _split(call: Call) -> tuple[Ref, ...]:
    dim = axis_of(call.argument(2, "dim", 0), call.first.shape)
    node_id = call.made.add(
        call.name, "Split", {"axis": dim, "sizes": [shape[dim] for shape in call.outputs]}, (call.first,)
    )
    ports = ["output", *(f"output{n}" for n in range(2, len(call.outputs) + 1))]
    return tuple(
        Ref(node_id, port, shape, call.first.ids) for port, shape in zip(ports, call.outputs, strict=True)
    )


def _narrow(call: Call) -> Ref:
    axis, start = axis_of(call.argument(1, "dim", None), call.first.shape), call.argument(2, "start", 0)
    return call.put("Slice", {"axis": axis, "start": start, "stop": start + call.argument(3, "length", 0)})


def _select(call: Call) -> Ref:
    return one_of(
        call,
        call.first,
        axis_of(call.argument(1, "dim", None), call.first.shape),
        call.argument(2, "index", 0),
    )


def one_of(call: Call, value: Ref, axis: int, index: int) -> Ref:
    """One place of an axis, which goes away."""
    node = call.made.nodes[value.node_id]
    is_last = index in (-1, value.shape[axis] - 1) and axis == 0
    shape = value.shape[:axis] + value.shape[axis + 1 :]
    if is_last and node.type in ("RNN", "LSTM", "GRU") and value.node_id not in call.made.shared:
        call.made.set(value.node_id, "sequences", False)
        return Ref(value.node_id, "output", shape)
    index = index % value.shape[axis]
    call.outputs = ((*value.shape[:axis], 1, *value.shape[axis + 1 :]),)
    part = call.put("Slice", {"axis": axis, "start": index, "stop": index + 1}, value)
    call.outputs = (shape,)
    return call.put("Squeeze", {"axis": axis}, part)


def _item(call: Call) -> Ref:
    """``x[:, 1:3, ..., -1]``, the batch whole."""
    keys = call.arguments[1] if isinstance(call.arguments[1], tuple) else (call.arguments[1],)
    value, axis = call.first, 0
    need(keys[0] == slice(None) or keys[0] is Ellipsis, "it takes some of the batch")
    if Ellipsis in keys:
        place = keys.index(Ellipsis)
        missing = len(value.shape) + 1 - (len(keys) - 1) - keys.count(None)
        keys = (*keys[:place], *(slice(None),) * missing, *keys[place + 1 :])
    for key in keys[1:]:
        match key:
            case slice() if key == slice(None):
                axis += 1
            case slice():
                start, stop, step = key.indices(value.shape[axis])
                need(step > 0, "a negative step")
                size = len(range(start, stop, step))
                call.outputs = ((*value.shape[:axis], size, *value.shape[axis + 1 :]),)
                given = {"axis": axis, "start": start, "stop": stop, "step": step}
                value = call.put("Slice", given, value)
                axis += 1
            case None:
                call.outputs = ((*value.shape[:axis], 1, *value.shape[axis:]),)
                value = call.put("Unsqueeze", {"axis": axis}, value)
                axis += 1
            case int():
                value = one_of(call, value, axis, key)
            case _:
                raise UnsupportedError(f"an index that is a {type(key).__name__}")
    return value


def _pad(call: Call) -> Ref:
    amounts = list(call.argument(1, "pad", ()))
    pairs = [(amounts[n], amounts[n + 1]) for n in range(0, len(amounts), 2)]
    need(len(pairs) <= len(call.first.shape), "it pads the batch")
    value = call.argument(3, "value", None)
    given = {"before": [a for a, _ in reversed(pairs)], "after": [b for _, b in reversed(pairs)]}
    given["mode"] = call.argument(2, "mode", "constant")
    return call.put("Pad", given | {"value": float(value or 0.0)})


# -- merge and arithmetic ------------------------------------------------------------------------


def _cat(call: Call) -> Ref:
    parts = call.argument(0, "tensors", ())
    need(all(isinstance(part, Ref) for part in parts), "parts that are no tensors of the batch")
    axis = axis_of(call.argument(1, "dim", 0), parts[0].shape)
    return call.put("Concatenate", {"axis": axis}, *parts)


def _matmul(call: Call) -> Ref:
    left, right = call.first, call.argument(1, "other", None)
    need(isinstance(right, Ref), "with a tensor that is the same for every sample, supported is nn.Linear")
    return call.put("MatMul", {}, left, right)


_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "^"}
_MERGES = {"add": "Add", "mul": "Multiply"}


def _arithmetic(name: str) -> Placer:
    def place(call: Call) -> Ref:
        left, right = (
            call.argument(0, "input", None),
            call.argument(1, "other", call.keywords.get("exponent")),
        )
        need(call.keywords.get("alpha", 1) == 1, "alpha, supported is 1")
        refs = [side for side in (left, right) if isinstance(side, Ref)]
        if len(refs) == 2:
            need(
                left.shape == right.shape, f"shapes {left.shape} and {right.shape}, supported are equal ones"
            )
            if name in _MERGES:
                return call.put(_MERGES[name], {}, *refs)
            same = refs[0] == refs[1]
            return call.put(
                "Lambda",
                {"expression": f"x1 {_OPERATORS[name]} {'x1' if same else 'x2'}"},
                *dict.fromkeys(refs),
            )
        sides = ["x" if isinstance(side, Ref) else _number(side) for side in (left, right)]
        return call.put("Lambda", {"expression": f"{sides[0]} {_OPERATORS[name]} {sides[1]}"}, *refs)

    return place


def _number(value: Any) -> str:
    need(isinstance(value, int | float) and math.isfinite(value), f"with a {type(value).__name__}")
    return f"({value!r})" if value < 0 else repr(value)


def _function(name: str) -> Placer:
    return lambda call: call.put("Lambda", {"expression": f"{name}(x)"})


def _negative(call: Call) -> Ref:
    return call.put("Lambda", {"expression": "-x"})


def _extreme(name: str) -> Placer:
    def place(call: Call) -> Ref:
        left, right = call.first, call.argument(1, "other", None)
        if not isinstance(right, Ref):
            return call.put("Lambda", {"expression": f"{name}(x, {_number(right)})"}, left)
        need(left.shape == right.shape, f"shapes {left.shape} and {right.shape}, supported are equal ones")
        return call.put("Lambda", {"expression": f"{name}(x1, x2)"}, left, right)

    return place


def _filled(call: Call) -> Any:
    """The number: arithmetic takes it as it is."""
    return call.argument(1, "fill_value", None)


def _same(call: Call) -> Ref:
    return call.first


PLACERS: dict[str, Placer] = {
    "relu": _plain("ReLU"),
    "leaky_relu": _plain("LeakyReLU", negative_slope=(1, "negative_slope", 0.01)),
    "elu": _plain("ELU", alpha=(1, "alpha", 1.0)),
    "selu": _plain("SELU"),
    "gelu": _plain("GELU", approximate=(1, "approximate", "none")),
    "silu": _plain("Swish"),
    "mish": _plain("Mish"),
    "sigmoid": _plain("Sigmoid"),
    "tanh": _plain("Tanh"),
    "softplus": _plain("Softplus", beta=(1, "beta", 1.0)),
    "softmax": _along("Softmax"),
    "log_softmax": _along("LogSoftmax"),
    "glu": _along("GLU"),
    "dropout": _dropout("Dropout"),
    **{f"dropout{axes}d": _dropout("SpatialDropout") for axes in (1, 2, 3)},
    "max_pool1d": _window("MaxPool1D"),
    "max_pool2d": _window("MaxPool2D"),
    "avg_pool2d": _window("AvgPool2D"),
    **{f"adaptive_avg_pool{axes}d": _adaptive for axes in (1, 2, 3)},
    "interpolate": _interpolate,
    "mean": _over_places("GlobalAvgPool"),
    "amax": _over_places("GlobalMaxPool"),
    "flatten": _reshape,
    "reshape": _reshape,
    "view": _reshape,
    "unflatten": _reshape,
    "permute": _permute,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "split": _split,
    "chunk": _split,
    "narrow": _narrow,
    "select": _select,
    "getitem": _item,
    "pad": _pad,
    "cat": _cat,
    "concat": _cat,
    "concatenate": _cat,
    "matmul": _matmul,
    "bmm": _matmul,
    **{name: _arithmetic(name) for name in _OPERATORS},
    "div": _arithmetic("truediv"),
    **{name: _function(name) for name in ("abs", "cos", "exp", "log", "sin", "sqrt")},
    "neg": _negative,
    "maximum": _extreme("max"),
    "minimum": _extreme("min"),
    "full_like": _filled,
    "contiguous": _same,
    "clone": _same,
}
"""By the name of the function or method, without the underscores that mean: in place."""
