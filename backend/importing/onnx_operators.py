"""Which node each ONNX operator becomes. Worker processes only.

A placer that meets settings without counterpart raises UnsupportedError, which names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from backend.code_import.building import Ref, UnsupportedError
from backend.code_import.modules import need
from backend.formats.tensors import Array
from backend.importing.onnx_read import Operation, Placer

_SOFTMAX_OF_ONE_AXIS = 13
"""The operator set from which on Softmax goes along one axis."""

# -- dense and convolution -----------------------------------------------------------------------


def _gemm(op: Operation) -> Ref:
    settings = op.settings
    need(not settings.get("transA"), "transA, supported is without")
    need(len(op.flowing().shape) == 1, "an input of more than two axes")
    weight = op.constant(1) if settings.get("transB") else op.constant(1).T
    bias = op.optional(2)
    if bias is not None:
        need(bias.ndim < 2 or len(bias) == 1, "a bias for each sample")
        bias = bias * np.float32(settings.get("beta", 1.0))
    return _dense(op, weight * np.float32(settings.get("alpha", 1.0)), bias)


def _dense(op: Operation, weight: Array, bias: Array | None) -> Ref:
    weights = {"weight": _float(weight)}
    if bias is not None:
        weights["bias"] = _float(np.broadcast_to(bias.reshape(-1), (len(weight),)))
    given = {"units": len(weight), "bias": bias is not None}
    return op.put("Dense", given, weights=weights)


def _matmul(op: Operation) -> Ref:
    if isinstance(op.inputs[1], Ref):
        return op.put("MatMul", {}, op.flowing(0), op.flowing(1))
    weight = op.constant(1)
    need(weight.ndim == 2, f"a constant of {weight.ndim} axes, supported are 2")
    return _dense(op, weight.T, None)


def _convolution(op: Operation) -> Ref:
    weight, bias = op.constant(1), op.optional(2)
    axes = weight.ndim - 2
    groups = op.settings.get("group", 1)
    kernel = list(weight.shape[2:])
    before, after = _both_sides(op, kernel, op.settings.get("dilations"))
    given = _geometry(op, kernel) | {"bias": bias is not None, "padding": before}
    entering = op.flowing()
    if before != after:
        entering = op.put("Pad", {"before": before, "after": after})
        given["padding"] = [0] * axes
    weights = {"weight": _float(weight)} | ({"bias": _float(bias)} if bias is not None else {})
    channels = entering.shape[0]
    multiplier, rest = divmod(len(weight), channels)
    if axes == 2 and groups == channels > 1 and not rest:
        return op.put("DepthwiseConv2D", {"multiplier": multiplier, **given}, entering, weights=weights)
    return op.put(
        f"Conv{axes}D", {"filters": len(weight), "groups": groups, **given}, entering, weights=weights
    )


def _transposed(op: Operation) -> Ref:
    weight, bias = op.constant(1), op.optional(2)
    need(op.settings.get("group", 1) == 1, "groups of a transposed convolution, supported is 1")
    need("output_shape" not in op.settings, "output_shape, supported is output_padding")
    need(
        op.settings.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"),
        "auto_pad of a transposed convolution",
    )
    given = _geometry(op, list(weight.shape[2:])) | {"filters": weight.shape[1], "bias": bias is not None}
    given["padding"] = _padding(op)
    given["output_padding"] = list(op.settings.get("output_padding", [0] * (weight.ndim - 2)))
    weights = {"weight": _float(weight)} | ({"bias": _float(bias)} if bias is not None else {})
    return op.put(f"ConvTranspose{weight.ndim - 2}D", given, weights=weights)


def _geometry(op: Operation, kernel: list[int]) -> dict[str, Any]:
    axes = len(kernel)
    return {
        "kernel_size": kernel,
        "stride": list(op.settings.get("strides", [1] * axes)),
        "dilation": list(op.settings.get("dilations", [1] * axes)),
    }


def _padding(op: Operation) -> list[int]:
    """Raises UnsupportedError for padding that differs on both sides."""
    before, after = _both_sides(op, list(op.settings.get("kernel_shape", ())), op.settings.get("dilations"))
    need(before == after, f"pads {before} and {after} that differ on both sides")
    return before


def _both_sides(op: Operation, kernel: list[int], dilations: Any) -> tuple[list[int], list[int]]:
    """The padding in front and behind along each axis, worked out where it is automatic."""
    shape = op.flowing().shape[1:]
    automatic = op.settings.get("auto_pad", b"NOTSET")
    if automatic in (b"NOTSET", b"VALID"):
        pads = list(op.settings.get("pads", ())) if automatic == b"NOTSET" else []
        pads = pads or [0] * 2 * len(shape)
        need(min(pads) >= 0, f"pads {pads} below 0")
        return pads[: len(shape)], pads[len(shape) :]
    need(automatic in (b"SAME_UPPER", b"SAME_LOWER"), f"auto_pad {automatic!r}")
    strides = op.settings.get("strides", [1] * len(shape))
    totals = []
    for size, wide, stride, dilation in zip(
        shape, kernel, strides, dilations or [1] * len(shape), strict=True
    ):
        totals.append(max(0, (-(-size // stride) - 1) * stride + dilation * (wide - 1) + 1 - size))
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (small, large) if automatic == b"SAME_UPPER" else (large, small)


# -- pooling -------------------------------------------------------------------------------------


def _window(name: str) -> Placer:
    def place(op: Operation) -> Ref:
        kernel = list(op.settings["kernel_shape"])
        need(not op.settings.get("ceil_mode"), "ceil_mode, supported is without")
        need(set(op.settings.get("dilations", [1])) == {1}, "dilations of a pool, supported is 1")
        padding = _padding(op)
        alike = name == "Max" or op.settings.get("count_include_pad") or not any(padding)
        need(bool(alike), "padding that is not counted, supported is count_include_pad")
        given = {"kernel_size": kernel, "stride": list(op.settings.get("strides", [1] * len(kernel)))}
        type_name = f"{name}Pool{len(kernel)}D"
        need(type_name in ("MaxPool1D", "MaxPool2D", "AvgPool2D"), f"no node is a {type_name}")
        return op.put(type_name, given | {"padding": padding})

    return place


def _over_all_places(type_name: str) -> Placer:
    def place(op: Operation) -> Ref:
        """ONNX keeps the axes, each of extent 1."""
        before = op.flowing().shape
        found = op.put(type_name, {})
        return op.put("Reshape", {"shape": [*found.shape, *(1,) * (len(before) - 1)]}, found)

    return place


def _reduce_mean(op: Operation) -> Ref:
    shape = op.flowing().shape
    axes = op.settings.get("axes")
    found = op.optional(1) if axes is None else np.array(axes)
    need(found is not None, "over all axes, the batch included")
    chosen = {int(axis) % (len(shape) + 1) for axis in found.reshape(-1)} if found is not None else set()
    need(
        bool(chosen) and chosen == set(range(2, len(shape) + 1)),
        "over some axes, supported are all behind the channels",
    )
    if op.settings.get("keepdims", 1):
        return _one(_over_all_places("GlobalAvgPool")(op))
    return op.put("GlobalAvgPool", {})


# -- normalization and embedding -----------------------------------------------------------------


def _batch_norm(op: Operation) -> Ref:
    need(not op.settings.get("training_mode"), "training_mode, supported is without")
    need(
        bool(op.settings.get("spatial", 1)), "statistics for each place, supported are those for each channel"
    )
    names = ("weight", "bias", "running_mean", "running_var")
    weights = {name: _float(op.constant(place + 1)) for place, name in enumerate(names)}
    weights["num_batches_tracked"] = np.array(0)
    given = {
        "epsilon": float(op.settings.get("epsilon", 1e-5)),
        # ONNX says how much of the old statistics stays, torch how much of the new ones comes in.
        "momentum": 1.0 - float(op.settings.get("momentum", 0.9)),
    }
    return op.put("BatchNorm", given, weights=weights)


def _layer_norm(op: Operation) -> Ref:
    rank = len(op.flowing().shape) + 1
    axis = int(op.settings.get("axis", -1)) % rank
    need(axis > 0, "over the batch")
    scale, bias = op.constant(1), op.optional(2)
    wanted = op.flowing().shape[axis - 1 :]
    need(scale.shape == wanted and (bias is None or bias.shape == wanted), "weights of another shape")
    weights = {"weight": _float(scale), "bias": _float(np.zeros_like(scale) if bias is None else bias)}
    given = {"axes": rank - axis, "epsilon": float(op.settings.get("epsilon", 1e-5))}
    return op.put("LayerNorm", given, weights=weights)


def _gather(op: Operation) -> Ref:
    table = op.inputs[0]
    need(
        isinstance(table, np.ndarray) and table.ndim == 2,
        "no table of vectors, which is what an Embedding is",
    )
    need(op.settings.get("axis", 0) == 0, "along another axis than the first")
    ids = op.flowing(1)
    need(ids.ids and op.made.nodes[ids.node_id].type == "Input", "from numbers that are no input")
    assert isinstance(table, np.ndarray)
    op.made.set(ids.node_id, "vocabulary", len(table))
    given = {"vocabulary": len(table), "dimension": table.shape[1]}
    return op.put("Embedding", given, ids, weights={"weight": _float(table)})


# -- activations and arithmetic ------------------------------------------------------------------


def _plain(type_name: str, **settings: tuple[str, float]) -> Placer:
    """``settings``: parameter=(attribute, default)."""
    return lambda op: op.put(
        type_name, {name: float(op.settings.get(key, default)) for name, (key, default) in settings.items()}
    )


def _selu(op: Operation) -> Ref:
    usual = (("alpha", 1.6732632423543772), ("gamma", 1.0507009873554805))
    need(all(abs(op.settings.get(key, value) - value) < 1e-6 for key, value in usual), "other alpha or gamma")
    return op.put("SELU", {})


def _gelu(op: Operation) -> Ref:
    return op.put("GELU", {"approximate": op.settings.get("approximate", b"none").decode()})


def _prelu(op: Operation) -> Ref:
    slope = op.constant(1)
    several = slope.size > 1
    shape = op.flowing().shape
    # Shapes are compared from their ends, so that channels are followed by the axes of places.
    per_channel = slope.ndim <= len(shape) + 1 and slope.shape[-len(shape) :] == (
        shape[0],
        *(1,) * (len(shape) - 1),
    )
    need(not several or (per_channel and slope.size == shape[0]), "slopes for something else than channels")
    return op.put("PReLU", {"per_channel": several}, weights={"weight": _float(slope.reshape(-1))})


def _along(type_name: str) -> Placer:
    def place(op: Operation) -> Ref:
        last = len(op.flowing().shape)
        axis = int(op.settings.get("axis", -1 if op.opset >= _SOFTMAX_OF_ONE_AXIS else 1))
        flat = op.opset < _SOFTMAX_OF_ONE_AXIS and axis not in (-1, last)
        need(not flat, "over all axes from one on, as old operator sets have it")
        return op.put(type_name, {"axis": _axis(axis, op.flowing())})

    return place


def _formula(expression: str) -> Placer:
    return lambda op: op.put("Lambda", {"expression": expression})


def _clip(op: Operation) -> Ref:
    expression = "x1"
    for place, function in ((1, "max"), (2, "min")):
        # Operator sets before 11 have limits as attributes.
        found = op.settings.get("min" if place == 1 else "max")
        limit = op.optional(place) if found is None else np.array(found)
        if limit is not None and np.isfinite(limit).all():
            expression = f"{function}({expression}, {float(limit)!r})"
    return op.put("Lambda", {"expression": expression})


def _binary(sign: str, type_name: str = "") -> Placer:
    def place(op: Operation) -> Ref:
        left, right = op.inputs
        if isinstance(left, Ref) and isinstance(right, Ref):
            need(
                left.shape == right.shape, f"shapes {left.shape} and {right.shape}, supported are equal ones"
            )
            if type_name:
                return op.put(type_name, {}, left, right)
            return op.put("Lambda", {"expression": f"x1 {sign} x2"}, left, right)
        flowing, other = (left, right) if isinstance(left, Ref) else (right, left)
        assert isinstance(flowing, Ref) and isinstance(other, np.ndarray)
        need(other.ndim <= len(flowing.shape) + 1, "a constant of more axes")
        if other.size == 1:
            return _with_number(op, sign, flowing, float(other.reshape(())), first=flowing is left)
        if sign == "+" and _is_bias(op, flowing, other):
            return _add_bias(op, flowing, other)
        constant = _tensor(op, flowing, other)
        pair = (flowing, constant) if flowing is left else (constant, flowing)
        if type_name:
            return op.put(type_name, {}, *pair)
        return op.put("Lambda", {"expression": f"x1 {sign} x2"}, *pair)

    return place


def _with_number(op: Operation, sign: str, flowing: Ref, number: float, *, first: bool) -> Ref:
    need(math.isfinite(number), f"a constant {number}")
    text = f"({number!r})"
    expression = f"x1 {sign} {text}" if first else f"{text} {sign} x1"
    return op.put("Lambda", {"expression": expression}, flowing)


def _is_bias(op: Operation, flowing: Ref, other: Array) -> bool:
    node = op.made.nodes[flowing.node_id]
    fits = other.shape[-1] == other.size == flowing.shape[-1]
    return op.only_reader and node.type == "Dense" and node.parameters.get("bias") is False and fits


def _add_bias(op: Operation, flowing: Ref, bias: Array) -> Ref:
    import torch

    from backend.compiler import module_name

    op.made.set(flowing.node_id, "bias", True)
    weight = torch.from_numpy(_float(bias.reshape(-1)))
    op.made.weights[f"{module_name(flowing.node_id)}.bias"] = weight
    return flowing


def _tensor(op: Operation, flowing: Ref, values: Array) -> Ref:
    """A constant as a Parameter of the sample's shape."""
    try:
        whole = np.broadcast_to(values, (1, *flowing.shape))[0]
    except ValueError as error:
        raise UnsupportedError(f"a constant shaped {values.shape} for {flowing.shape}") from error
    given = {"shape": list(flowing.shape), "initial": "zeros"}
    return op.put("Parameter", given, flowing, weights={"value": _float(whole)})


# -- shape ---------------------------------------------------------------------------------------


def _flatten(op: Operation) -> Ref:
    need(op.settings.get("axis", 1) == 1, "from another axis than the second")
    return op.put("Flatten", {}) if len(op.flowing().shape) != 1 else _same(op)


def _reshape(op: Operation) -> Ref:
    before, target = op.flowing().shape, [int(size) for size in op.constant(1).reshape(-1)]
    need(bool(target), "to a single number")
    keeps_zeros = bool(op.settings.get("allowzero"))
    batch_stays = target[0] == 0 and not keeps_zeros
    sample = [
        before[place] if size == 0 and not keeps_zeros and place < len(before) else size
        for place, size in enumerate(target[1:])
    ]
    if -1 in sample:
        need(batch_stays, "to a batch of another size")
        rest = math.prod(size for size in sample if size != -1)
        need(rest > 0 and math.prod(before) % rest == 0, f"of {before} to {sample}")
        sample[sample.index(-1)] = math.prod(before) // rest
    need(math.prod(sample) == math.prod(before), f"of {before} to {sample} moves numbers across samples")
    if len(sample) == 1:
        return op.put("Flatten", {}) if len(before) != 1 else _same(op)
    return op.put("Reshape", {"shape": sample})


def _transpose(op: Operation) -> Ref:
    rank = len(op.flowing().shape) + 1
    order = list(op.settings.get("perm", range(rank - 1, -1, -1)))
    need(order[0] == 0, "moves the batch away from the front")
    return op.put("Permute", {"order": [axis - 1 for axis in order[1:]]})


def _concatenate(op: Operation) -> Ref:
    parts = [op.flowing(place) for place in range(len(op.inputs))]
    return op.put("Concatenate", {"axis": _axis(op.settings["axis"], parts[0])}, *parts)


def _squeezing(type_name: str, sign: int) -> Placer:
    def place(op: Operation) -> Ref:
        found = op.settings.get("axes")
        axes = op.constant(1).reshape(-1).tolist() if found is None else list(found)
        value = op.flowing()
        if not axes:
            return _same(op)
        rank = len(value.shape) + 1 + (len(axes) if sign > 0 else 0)
        for axis in sorted((int(axis) % rank for axis in axes), reverse=sign < 0):
            need(axis > 0, "of the batch")
            value = op.put(type_name, {"axis": axis - 1}, value)
        return value

    return place


def _split(op: Operation) -> tuple[Ref, ...]:
    value = op.flowing()
    axis = _axis(op.settings.get("axis", 0), value)
    found = op.settings.get("split")
    sizes = op.optional(1) if found is None else np.array(found)
    extent = value.shape[axis]
    if sizes is None:
        need(extent % len(op.node.output) == 0, "into unequal parts without sizes")
        sizes = np.full(len(op.node.output), extent // len(op.node.output))
    listed = [int(size) for size in sizes]
    first = op.put("Split", {"axis": axis, "sizes": listed})
    shapes = [(*value.shape[:axis], size, *value.shape[axis + 1 :]) for size in listed]
    ports = ["output", *(f"output{number}" for number in range(2, len(listed) + 1))]
    return tuple(Ref(first.node_id, port, shape) for port, shape in zip(ports, shapes, strict=True))


def _same(op: Operation) -> Ref:
    """The value itself, unless others read it too: what is done to it later would be done to theirs."""
    return op.flowing() if op.only_reader else op.put("Identity", {})


def _dropout(op: Operation) -> Ref:
    """At work a Dropout does nothing; it stays in the graph, for further training."""
    training = op.optional(2)
    need(training is None or not training.any(), "in training mode, supported is without")
    rate = op.settings.get("ratio", op.optional(1))
    share = 0.5 if rate is None else float(np.asarray(rate).reshape(()))
    return op.put("Dropout", {"rate": share})


def _axis(axis: int, value: Ref) -> int:
    """Of a sample. Raises UnsupportedError for the batch."""
    found = int(axis) % (len(value.shape) + 1)
    need(found > 0, "along the batch")
    return found - 1


def _float(values: Array) -> Array:
    need(values.dtype.kind == "f", f"weights are {values.dtype}, supported are real numbers")
    return np.array(values, np.float32)


def _one(placed: Ref | tuple[Ref, ...]) -> Ref:
    return placed[0] if isinstance(placed, tuple) else placed


PLACERS: Mapping[str, Callable[[Operation], Ref | tuple[Ref, ...]]] = {
    "Add": _binary("+", "Add"),
    "AveragePool": _window("Avg"),
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concatenate,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Div": _binary("/"),
    "Dropout": _dropout,
    "Elu": _plain("ELU", alpha=("alpha", 1.0)),
    "Exp": _formula("exp(x1)"),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _over_all_places("GlobalAvgPool"),
    "GlobalMaxPool": _over_all_places("GlobalMaxPool"),
    "Identity": _same,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _plain("LeakyReLU", negative_slope=("alpha", 0.01)),
    "Log": _formula("log(x1)"),
    "LogSoftmax": _along("LogSoftmax"),
    "MatMul": _matmul,
    "MaxPool": _window("Max"),
    "Mish": _plain("Mish"),
    "Mul": _binary("*", "Multiply"),
    "Neg": _formula("-x1"),
    "PRelu": _prelu,
    "Reciprocal": _formula("1 / x1"),
    "ReduceMean": _reduce_mean,
    "Relu": _plain("ReLU"),
    "Reshape": _reshape,
    "Selu": _selu,
    "Sigmoid": _plain("Sigmoid"),
    "Softmax": _along("Softmax"),
    "Softplus": _plain("Softplus"),
    "Split": _split,
    "Sqrt": _formula("sqrt(x1)"),
    "Squeeze": _squeezing("Squeeze", -1),
    "Sub": _binary("-"),
    "Tanh": _plain("Tanh"),
    "Transpose": _transpose,
    "Unsqueeze": _squeezing("Unsqueeze", 1),
}
