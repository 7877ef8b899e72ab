"""What needs no input, and the arithmetic of Lambda."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from backend.catalogue.record import elements
from backend.expression import Call, Expression, Number, Variable, parse
from backend.layers.emitter import Builder, Emitter, Site, Values
from backend.onnx_node import read_node
from backend.runtime.onnx_operator import OnnxOperation

OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": torch.pow,
    "neg": operator.neg,
    "abs": torch.abs,
    "cos": torch.cos,
    "exp": torch.exp,
    "log": torch.log,
    "max": torch.maximum,
    "min": torch.minimum,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "sqrt": torch.sqrt,
    "tanh": torch.tanh,
}
INITIAL: dict[str, Callable[..., torch.Tensor]] = {"zeros": torch.zeros, "ones": torch.ones}


def _same(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return inputs[0]


class ForEachSample(nn.Module):
    """One value for every sample of a batch, without copying it."""

    value: torch.Tensor

    def __init__(self, value: torch.Tensor, *, trained: bool) -> None:
        super().__init__()
        if trained:
            self.value = nn.Parameter(value)
        else:
            self.register_buffer("value", value, persistent=False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.value.expand(batch.shape[0], *self.value.shape)


def _batch(site: Site) -> fx.Node:
    if site.batch is None:
        raise ValueError(f"{site.name} has no batch")
    return site.batch


def _constant(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    shape, values = site["shape"], torch.tensor(site["values"])
    value = values.expand(elements(shape)).reshape(shape).clone()
    return emit.module(site.name, ForEachSample(value, trained=False), _batch(site))


def _parameter(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    shape = site["shape"]
    if site["initial"] == "normal":
        value = torch.randn(shape) * site["deviation"]
    else:
        value = INITIAL[site["initial"]](shape)
    return emit.module(site.name, ForEachSample(value, trained=True), _batch(site))


def _lambda(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node:
    return _arithmetic(emit, parse(site["expression"]), inputs)


def _arithmetic(emit: Emitter, expression: Expression, inputs: tuple[fx.Node, ...]) -> fx.Node:
    match expression:
        case Number(value):
            return emit.call(torch.full_like, inputs[0], value)
        case Variable(index):
            return inputs[index]
        case Call(name, arguments):
            left, *right = arguments
            first = _arithmetic(emit, left, inputs)
            rest = [_right_side(emit, name, each, inputs) for each in right]
            return emit.call(OPERATIONS[name], first, *rest)


def _right_side(emit: Emitter, name: str, argument: Expression, inputs: tuple[fx.Node, ...]) -> Any:
    """Operators take a number as it is, functions only a tensor."""
    if isinstance(argument, Number) and name in ("+", "-", "*", "/", "^"):
        return argument.value
    return _arithmetic(emit, argument, inputs)


def _onnx_operator(emit: Emitter, site: Site, inputs: tuple[fx.Node, ...]) -> fx.Node | Values:
    node = read_node(site.parameters)
    answer = emit.module(site.name, OnnxOperation(node), *inputs)
    if len(node.given) == 1:
        return answer
    return tuple(emit.call(operator.getitem, answer, number) for number in range(len(node.given)))


BUILDERS: dict[str, Builder] = {
    "Identity": _same,
    "Constant": _constant,
    "Parameter": _parameter,
    "Lambda": _lambda,
    "OnnxOperator": _onnx_operator,
}
