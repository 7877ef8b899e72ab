"""Activations, shape and merge nodes: function calls without weights, save PReLU."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import getitem
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from backend.layers.emitter import Builder, Emitter, Site


def _function(function: Callable[..., Any], **renamed: str) -> Builder:
    """Calls it with the inputs, and with parameters under the names that torch has for them."""

    def build(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
        keywords = {name: site[parameter] for name, parameter in renamed.items()}
        return emit.call(function, *inputs, **keywords)

    return build


def _axis(site: Site) -> int:
    """A sample's axis as an axis of the batch."""
    axis: int = site["axis"]
    return axis + 1 if axis >= 0 else axis


def _along(function: Callable[..., Any]) -> Builder:
    def build(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
        return emit.call(function, *inputs, dim=_axis(site))

    return build


def _relu(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return emit.call(torch.relu_ if site.may_overwrite else torch.relu, *inputs)


def _prelu(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return emit.module(site.name, nn.PReLU(site.shape[0] if site["per_channel"] else 1), *inputs)


# -- shape ---------------------------------------------------------------------------------------


def _flatten(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    if not site.shape:
        return emit.call(torch.unsqueeze, *inputs, 1)
    return emit.call(torch.flatten, *inputs, 1)


def _reshape(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    target = site["shape"]
    if -1 not in target:
        return emit.call(torch.reshape, *inputs, (-1, *target))
    known = reduce(lambda a, b: a * b, (extent for extent in target if extent != -1), 1)
    total = reduce(lambda a, b: a * b, site.shape, 1)
    return emit.call(
        torch.reshape, *inputs, (-1, *(total // known if extent == -1 else extent for extent in target))
    )


def _permute(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return emit.call(torch.permute, *inputs, (0, *(axis + 1 for axis in site["order"])))


def _slice(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    axis = site["axis"] % len(site.shape)
    start, stop, step = slice(site["start"], site["stop"], site["step"]).indices(site.shape[axis])
    if step == 1:
        return emit.call(torch.narrow, *inputs, axis + 1, start, stop - start)
    return emit.call(take_every, *inputs, axis + 1, start, stop, step)


def take_every(x: torch.Tensor, axis: int, start: int, stop: int, step: int) -> torch.Tensor:
    """``x[start:stop:step]`` along an axis."""
    return x.narrow(axis, start, stop - start)[(slice(None),) * axis + (slice(None, None, step),)]


def _split(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> tuple[fx.Node, ...]:
    parts = emit.call(torch.split, *inputs, site["sizes"], dim=_axis(site))
    return tuple(emit.call(getitem, parts, index) for index in range(len(site["sizes"])))


def _pad(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    pairs = list(zip(site["before"], site["after"], strict=True))
    amounts = [amount for pair in reversed(pairs) for amount in pair]
    if site["mode"] == "constant":
        return emit.call(functional.pad, *inputs, amounts, "constant", site["value"])
    return emit.call(functional.pad, *inputs, amounts, site["mode"])


# -- merge ---------------------------------------------------------------------------------------


def _concatenate(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return emit.call(torch.cat, list(inputs), dim=_axis(site))


def _fold(function: Callable[..., Any]) -> Builder:
    """Of one input: the input itself."""

    def build(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
        return reduce(lambda a, b: emit.call(function, a, b), inputs)

    return build


def _average(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    total = reduce(lambda a, b: emit.call(torch.add, a, b), inputs)
    return emit.call(torch.mul, total, 1.0 / len(inputs)) if len(inputs) > 1 else total


def _same(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return inputs[0]


BUILDERS: dict[str, Builder] = {
    "ReLU": _relu,
    "LeakyReLU": _function(functional.leaky_relu, negative_slope="negative_slope"),
    "PReLU": _prelu,
    "ELU": _function(functional.elu, alpha="alpha"),
    "SELU": _function(torch.selu),
    "GELU": _function(functional.gelu, approximate="approximate"),
    "Swish": _function(functional.silu),
    "Mish": _function(functional.mish),
    "Sigmoid": _function(torch.sigmoid),
    "Tanh": _function(torch.tanh),
    "Softplus": _function(functional.softplus, beta="beta"),
    "Softmax": _along(torch.softmax),
    "LogSoftmax": _along(torch.log_softmax),
    "GLU": _along(functional.glu),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "View": _reshape,
    "Split": _split,
    "Permute": _permute,
    "Squeeze": _along(torch.squeeze),
    "Unsqueeze": _along(torch.unsqueeze),
    "Slice": _slice,
    "Pad": _pad,
    "Concatenate": _concatenate,
    "Add": _fold(torch.add),
    "Multiply": _fold(torch.mul),
    "Average": _average,
    "MatMul": _function(torch.matmul),
    "Output": _same,
}
