"""Which node each ONNX operator becomes. Worker processes only.

A placer that meets settings without counterpart raises UnsupportedError, which names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from backend.code_import.building import Ref
from backend.code_import.modules import need
from backend.formats.tensors import Array
from backend.importing.onnx_arithmetic import ARITHMETIC
from backend.importing.onnx_read import Operation, Placer, real_numbers
from backend.importing.onnx_shapes import SHAPES

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
    weights = {"weight": real_numbers(weight)}
    if bias is not None:
        weights["bias"] = real_numbers(np.broadcast_to(bias.reshape(-1), (len(weight),)))
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
    weights = {"weight": real_numbers(weight)} | ({"bias": real_numbers(bias)} if bias is not None else {})
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
    weights = {"weight": real_numbers(weight)} | ({"bias": real_numbers(bias)} if bias is not None else {})
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
    weights = {name: real_numbers(op.constant(place + 1)) for place, name in enumerate(names)}
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
    weights = {
        "weight": real_numbers(scale),
        "bias": real_numbers(np.zeros_like(scale) if bias is None else bias),
    }
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
    op.made.limit_ids(ids, len(table))
    given = {"vocabulary": len(table), "dimension": table.shape[1]}
    return op.put("Embedding", given, ids, weights={"weight": real_numbers(table)})


def _one(placed: Ref | tuple[Ref, ...]) -> Ref:
    return placed[0] if isinstance(placed, tuple) else placed


PLACERS: Mapping[str, Placer] = {
    **ARITHMETIC,
    **SHAPES,
    "AveragePool": _window("Avg"),
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _over_all_places("GlobalAvgPool"),
    "GlobalMaxPool": _over_all_places("GlobalMaxPool"),
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _window("Max"),
    "ReduceMean": _reduce_mean,
}
