"""Activations and arithmetic of ONNX as nodes. Worker processes only."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from backend.code_import.building import Ref, UnsupportedError
from backend.code_import.modules import need
from backend.formats.tensors import Array
from backend.importing.onnx_read import Operation, Placer, real_numbers
from backend.importing.onnx_shapes import axis_of_sample, same

_FLOAT32 = 1
_SOFTMAX_OF_ONE_AXIS = 13
"""The operator set from which on Softmax goes along one axis."""


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
    return op.put("PReLU", {"per_channel": several}, weights={"weight": real_numbers(slope.reshape(-1))})


def _along(type_name: str) -> Placer:
    def place(op: Operation) -> Ref:
        last = len(op.flowing().shape)
        axis = int(op.settings.get("axis", -1 if op.opset >= _SOFTMAX_OF_ONE_AXIS else 1))
        flat = op.opset < _SOFTMAX_OF_ONE_AXIS and axis not in (-1, last)
        need(not flat, "over all axes from one on, as old operator sets have it")
        return op.put(type_name, {"axis": axis_of_sample(axis, op.flowing())})

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
    weight = torch.from_numpy(real_numbers(bias.reshape(-1)))
    op.made.weights[f"{module_name(flowing.node_id)}.bias"] = weight
    return flowing


def _tensor(op: Operation, flowing: Ref, values: Array) -> Ref:
    """A constant as a Parameter of the sample's shape."""
    try:
        whole = np.broadcast_to(values, (1, *flowing.shape))[0]
    except ValueError as error:
        raise UnsupportedError(f"a constant shaped {values.shape} for {flowing.shape}") from error
    given = {"shape": list(flowing.shape), "initial": "zeros"}
    return op.put("Parameter", given, flowing, weights={"value": real_numbers(whole)})


def _dropout(op: Operation) -> Ref:
    """At work a Dropout does nothing; it stays in the graph, for further training."""
    training = op.optional(2)
    need(training is None or not training.any(), "in training mode, supported is without")
    rate = op.settings.get("ratio", op.optional(1))
    share = 0.5 if rate is None else float(np.asarray(rate).reshape(()))
    return op.put("Dropout", {"rate": share})


def _cast(op: Operation) -> Ref:
    need(op.settings["to"] == _FLOAT32 and not op.flowing().ids, "to or from other numbers than float32")
    return same(op)


def _power(op: Operation) -> Ref:
    exponent = op.constant(1)
    need(exponent.size == 1 and exponent.ndim <= len(op.flowing().shape) + 1, "to more than one number")
    return _with_number(op, "^", op.flowing(), float(exponent.reshape(())), first=True)


def _extreme(function: str) -> Placer:
    def place(op: Operation) -> Ref:
        flowing = [value for value in op.inputs if isinstance(value, Ref)]
        need(len({ref.shape for ref in flowing}) == 1, "of several shapes")
        names = [f"x{number + 1}" for number in range(len(flowing))]
        for value in op.inputs:
            if isinstance(value, np.ndarray):
                fits = value.size == 1 and value.ndim <= len(flowing[0].shape) + 1
                need(fits and bool(np.isfinite(value).all()), "with constants that are not one number each")
                names.append(repr(float(value.reshape(()))))
        expression = names[0]
        for name in names[1:]:
            expression = f"{function}({expression}, {name})"
        return op.put("Lambda", {"expression": expression}, *flowing)

    return place


def _hard_sigmoid(op: Operation) -> Ref:
    alpha, beta = (float(op.settings.get(key, value)) for key, value in (("alpha", 0.2), ("beta", 0.5)))
    return op.put("Lambda", {"expression": f"max(min(x1 * ({alpha!r}) + ({beta!r}), 1), 0)"})


ARITHMETIC: Mapping[str, Placer] = {
    "Abs": _formula("abs(x1)"),
    "Add": _binary("+", "Add"),
    "Cast": _cast,
    "Clip": _clip,
    "Cos": _formula("cos(x1)"),
    "Div": _binary("/"),
    "Dropout": _dropout,
    "Elu": _plain("ELU", alpha=("alpha", 1.0)),
    "Exp": _formula("exp(x1)"),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _formula("x1 * max(min(x1 / 6 + 0.5, 1), 0)"),
    "LeakyRelu": _plain("LeakyReLU", negative_slope=("alpha", 0.01)),
    "Log": _formula("log(x1)"),
    "LogSoftmax": _along("LogSoftmax"),
    "Max": _extreme("max"),
    "Min": _extreme("min"),
    "Mish": _plain("Mish"),
    "Mul": _binary("*", "Multiply"),
    "Neg": _formula("-x1"),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _formula("1 / x1"),
    "Relu": _plain("ReLU"),
    "Selu": _selu,
    "Sigmoid": _plain("Sigmoid"),
    "Sin": _formula("sin(x1)"),
    "Softmax": _along("Softmax"),
    "Softplus": _plain("Softplus"),
    "Softsign": _formula("x1 / (1 + abs(x1))"),
    "Sqrt": _formula("sqrt(x1)"),
    "Sub": _binary("-"),
    "Tanh": _plain("Tanh"),
}
