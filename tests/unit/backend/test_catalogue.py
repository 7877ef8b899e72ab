"""Walks the catalogue: every record is complete, and its rules agree with torch's meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

from backend.catalogue import CATALOGUE, Category
from backend.catalogue.record import (
    Parameter,
    ParameterType,
    Shape,
    TensorType,
    completed,
    elements,
    problem_of,
    tensor_shapes,
)
from backend.errors import ShapeMismatchError
from backend.layers import BUILDERS, Emitter, Site

BATCH = 3

IMAGE, SIGNAL, VOLUME, VECTOR = (4, 9, 8), (4, 9), (2, 5, 6, 7), (12,)
SAME_WITH: dict[str, Any] = {"padding": "same", "dilation": 2}
MANY = (IMAGE, SIGNAL, VOLUME, VECTOR)

CASES: dict[str, list[tuple[dict[str, Any], tuple[Shape, ...]]]] = {
    "Dense": [({}, (VECTOR,)), ({"units": 7, "bias": False}, (IMAGE,))],
    "Conv1D": [
        ({}, (SIGNAL,)),
        ({"stride": 2, "padding": 2, "groups": 2}, (SIGNAL,)),
        (SAME_WITH, (SIGNAL,)),
    ],
    "Conv2D": [
        ({}, (IMAGE,)),
        ({"kernel_size": [3, 2], "stride": [2, 3], "padding": [1, 0], "bias": False}, (IMAGE,)),
        ({"kernel_size": 4, "padding": "same"}, (IMAGE,)),
        ({"groups": 4, "dilation": 3}, (IMAGE,)),
    ],
    "Conv3D": [({}, (VOLUME,)), ({"kernel_size": [1, 2, 3], "padding": 1}, (VOLUME,))],
    "DepthwiseConv2D": [({}, (IMAGE,)), ({"multiplier": 3, "stride": 2, "padding": 1}, (IMAGE,))],
    "SeparableConv2D": [({}, (IMAGE,)), ({"padding": "same", "bias": False}, (IMAGE,))],
    "ConvTranspose1D": [({}, (SIGNAL,)), ({"stride": 3, "output_padding": 2, "padding": 1}, (SIGNAL,))],
    "ConvTranspose2D": [({}, (IMAGE,)), ({"stride": [2, 1], "dilation": 2, "bias": False}, (IMAGE,))],
    "MaxPool1D": [({}, (SIGNAL,)), ({"kernel_size": 3, "stride": 1, "padding": 1}, (SIGNAL,))],
    "MaxPool2D": [({}, (IMAGE,)), ({"kernel_size": [3, 2], "stride": [1, 3]}, (IMAGE,))],
    "AvgPool2D": [({}, (IMAGE,)), ({"kernel_size": 3, "padding": 1}, (IMAGE,))],
    "GlobalMaxPool": [({}, (shape,)) for shape in (SIGNAL, IMAGE, VOLUME)],
    "GlobalAvgPool": [({}, (shape,)) for shape in (SIGNAL, IMAGE, VOLUME)],
    "AdaptiveAvgPool": [
        ({"output_size": [3]}, (SIGNAL,)),
        ({"output_size": [1, 20]}, (IMAGE,)),
        ({"output_size": [2, 2, 2]}, (VOLUME,)),
    ],
    "Upsample": [({"factor": 3}, (IMAGE,))]
    + [({"mode": "linear"}, (shape,)) for shape in (SIGNAL, IMAGE, VOLUME)],
    "BatchNorm": [({}, (shape,)) for shape in MANY] + [({"affine": False}, (IMAGE,))],
    "LayerNorm": [({}, (VECTOR,)), ({"axes": 3}, (IMAGE,)), ({"axes": 2, "affine": False}, (IMAGE,))],
    "RMSNorm": [({}, (VECTOR,)), ({"axes": 2}, (IMAGE,)), ({"affine": False}, (IMAGE,))],
    "GroupNorm": [({}, (IMAGE,)), ({"groups": 2}, (SIGNAL,)), ({"affine": False}, (VECTOR,))],
    "InstanceNorm": [({}, (shape,)) for shape in (SIGNAL, IMAGE, VOLUME)] + [({"affine": False}, (IMAGE,))],
    "Dropout": [({}, (shape,)) for shape in MANY],
    "SpatialDropout": [({}, (shape,)) for shape in (SIGNAL, IMAGE, VOLUME)],
    "StochasticDepth": [({}, (shape,)) for shape in MANY],
    "PReLU": [({}, (IMAGE,)), ({"per_channel": True}, (IMAGE,)), ({"per_channel": True}, (VECTOR,))],
    "GLU": [({}, (IMAGE,)), ({"axis": 0}, (IMAGE,))],
    "Softmax": [({}, (VECTOR,)), ({"axis": 0}, (IMAGE,)), ({"axis": -3}, (IMAGE,))],
    "LogSoftmax": [({}, (VECTOR,)), ({"axis": 1}, (IMAGE,))],
    "GELU": [({}, (IMAGE,)), ({"approximate": "tanh"}, (IMAGE,))],
    "Flatten": [({}, (shape,)) for shape in (*MANY, ())],
    "Reshape": [({}, (IMAGE,)), ({"shape": [8, -1]}, (IMAGE,)), ({"shape": [3, 2, 2]}, (VECTOR,))],
    "Permute": [({}, (VECTOR,)), ({"order": [2, 0, 1]}, (IMAGE,))],
    "Squeeze": [({}, ((4, 1),)), ({"axis": 0}, ((1, 5),))],
    "Unsqueeze": [({}, (VECTOR,)), ({"axis": 0}, (VECTOR,)), ({"axis": -2}, (IMAGE,)), ({}, ((),))],
    "Slice": [
        ({"start": 2}, (VECTOR,)),
        ({"axis": 1, "start": -5, "stop": -1}, (IMAGE,)),
        ({"axis": 0, "start": 1, "step": 2}, (IMAGE,)),
        ({"start": -100, "stop": 100, "step": 5}, (VECTOR,)),
    ],
    "Pad": [
        ({}, (IMAGE,)),
        ({"before": [3], "after": [0], "value": 1.5}, (IMAGE,)),
        ({"before": [2, 0], "after": [1, 3], "mode": "reflect"}, (IMAGE,)),
        ({"before": [2], "after": [1], "mode": "circular"}, (SIGNAL,)),
        ({"before": [1, 1, 1], "after": [0, 9, 0], "mode": "replicate"}, (VOLUME,)),
    ],
    "Concatenate": [({}, (IMAGE, (2, 9, 8))), ({"axis": -1}, (VECTOR, (3,), (1,))), ({}, (VECTOR,))],
    "Add": [({}, (IMAGE,) * 3), ({}, (VECTOR,))],
    "Multiply": [({}, (IMAGE,) * 2)],
    "Average": [({}, (IMAGE,) * 3), ({}, (VECTOR,))],
    "MatMul": [({}, ((5, 6), (6, 7))), ({}, ((2, 5, 6), (2, 6, 1)))],
    "Identity": [({}, (IMAGE,))],
    "Output": [({}, (VECTOR,))],
}
ELEMENTWISE = ("ReLU", "LeakyReLU", "ELU", "SELU", "Swish", "Mish", "Sigmoid", "Tanh", "Softplus")
CASES.update({name: [({}, (shape,)) for shape in MANY] for name in ELEMENTWISE})

ALL_CASES = [(name, *case) for name, cases in CASES.items() for case in cases]

WRONG: list[tuple[str, dict[str, Any], tuple[Shape, ...], str]] = [
    ("Dense", {}, ((),), "takes (..., features), got a single number"),
    ("Conv2D", {}, (VECTOR,), "takes (channels, height, width), got (12)"),
    ("Conv2D", {"kernel_size": 12}, (IMAGE,), "a window of 12 does not fit in 9 with padding 0, in (9, 8)"),
    ("Conv2D", {"padding": "same", "stride": 2}, (IMAGE,), "padding same needs stride 1"),
    ("Conv2D", {"groups": 3}, (IMAGE,), "4 input channels, must be divisible by groups, which is 3"),
    ("ConvTranspose1D", {"output_padding": 1}, (SIGNAL,), "output_padding 1, must be below stride 1"),
    ("ConvTranspose1D", {"padding": 9}, (SIGNAL,), "padding 9 leaves nothing of extent 9"),
    ("MaxPool2D", {"padding": 2}, (IMAGE,), "must be at most half the window"),
    ("AdaptiveAvgPool", {}, (SIGNAL,), "output_size has 2 axes, must have 1 for (4, 9)"),
    ("Upsample", {}, (VECTOR,), "with 1 to 3 more axes, got (12)"),
    ("BatchNorm", {}, ((),), "takes (channels, ...)"),
    ("LayerNorm", {"axes": 2}, (VECTOR,), "normalizes 2 axes, (12) has 1"),
    ("GroupNorm", {"groups": 3}, (IMAGE,), "channels divisible by 3, got (4, 9, 8)"),
    ("InstanceNorm", {}, ((4, 1, 1),), "more than one point to each channel"),
    ("SpatialDropout", {}, (VECTOR,), "with 1 to 3 more axes, got (12)"),
    ("PReLU", {"per_channel": True}, ((),), "takes (channels, ...), got a single number"),
    ("GLU", {}, ((3,),), "must be even to be halved"),
    ("Softmax", {"axis": 1}, (VECTOR,), "axis 1 of (12), which has 1 axes"),
    ("Reshape", {"shape": [5, -1]}, (VECTOR,), "(12) has 12 elements, which do not fit (5, -1)"),
    ("Reshape", {"shape": [-1, -1]}, (VECTOR,), "must be positive with at most one -1"),
    ("Permute", {"order": [0, 0, 1]}, (IMAGE,), "must name each of the 3 axes"),
    ("Squeeze", {}, (VECTOR,), "must have extent 1"),
    ("Slice", {"start": 12}, (VECTOR,), "leave nothing of axis -1"),
    ("Pad", {"before": [1], "after": [1, 1]}, (IMAGE,), "must be equal and at most 3"),
    ("Pad", {"before": [9, 0], "after": [0, 0], "mode": "reflect"}, (IMAGE,), "pads 9, limit 8"),
    ("Concatenate", {}, (IMAGE, (4, 9, 7)), "must agree on all axes but 0"),
    ("Add", {}, (VECTOR, (1,)), "inputs (12) and (1) must be of one shape"),
    ("MatMul", {}, ((5, 6), (5, 6)), "takes (..., n, m) and (..., m, k)"),
]


def shape_of(name: str, given: dict[str, Any], shapes: tuple[Shape, ...]) -> Shape:
    record = CATALOGUE[name]
    outputs = record.rule(completed(record.parameters, given), tuple(map(TensorType, shapes)))
    return tensor_shapes(outputs)[0]


def built(name: str, given: dict[str, Any], shapes: tuple[Shape, ...]) -> fx.GraphModule:
    root, calls = nn.Module(), fx.Graph()
    inputs = tuple(calls.placeholder(f"x{index}") for index in range(len(shapes)))
    site = Site("layer", completed(CATALOGUE[name].parameters, given), shapes)
    calls.output(BUILDERS[name](Emitter(root, calls), site, inputs))
    return fx.GraphModule(root, calls)


@pytest.mark.parametrize(("name", "given", "shapes"), ALL_CASES)
def test_shape_rule_agrees_with_the_meta_device(
    name: str, given: dict[str, Any], shapes: tuple[Shape, ...]
) -> None:
    with torch.device("meta"), torch.no_grad():
        result = built(name, given, shapes)(*(torch.empty(BATCH, *shape) for shape in shapes))
    assert tuple(result.shape) == (BATCH, *shape_of(name, given, shapes))


@pytest.mark.parametrize(("name", "given", "shapes"), ALL_CASES)
def test_counts_agree_with_what_torch_allocates(
    name: str, given: dict[str, Any], shapes: tuple[Shape, ...]
) -> None:
    record, types = CATALOGUE[name], tuple(map(TensorType, shapes))
    parameters = completed(record.parameters, given)
    counts = record.count(parameters, types, record.rule(parameters, types))
    with torch.device("meta"):
        module = built(name, given, shapes)
    assert counts.parameters == sum(weight.numel() for weight in module.parameters())
    assert counts.buffers == sum(buffer.numel() for buffer in module.buffers())
    assert isinstance(counts.flops, int)
    assert counts.flops >= 0


@pytest.mark.parametrize(("name", "given", "shapes", "text"), WRONG)
def test_what_a_layer_cannot_take_is_refused_in_words(
    name: str, given: dict[str, Any], shapes: tuple[Shape, ...], text: str
) -> None:
    with pytest.raises(ShapeMismatchError) as refusal:
        shape_of(name, given, shapes)
    assert text in str(refusal.value)


def test_every_model_type_has_a_builder_and_a_case() -> None:
    other = {Category.LOSS, Category.OPTIMIZER, Category.DATA}
    expected = {name for name, record in CATALOGUE.items() if record.category not in other} - {"Input"}
    assert set(BUILDERS) == expected
    assert set(CASES) == expected
    assert len(CATALOGUE) >= 70


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_records_are_complete(name: str) -> None:
    record = CATALOGUE[name]
    assert record.name == name
    assert record.help
    assert record.keywords or record.category is Category.SHAPE
    for ports in (record.inputs, record.outputs):
        assert len({port.name for port in ports}) == len(ports)
    assert len({parameter.name for parameter in record.parameters}) == len(record.parameters)
    for parameter in record.parameters:
        assert parameter.help
        assert problem_of(parameter, parameter.default) is None


@pytest.mark.parametrize(
    ("parameter", "value", "text"),
    [
        (Parameter("n", ParameterType.INTEGER, 1, "", 1, 8), 9, "n is 9, must be an integer from 1 to 8"),
        (Parameter("n", ParameterType.INTEGER, 1, "", 1, 8), True, "n is True, must be an integer"),
        (Parameter("n", ParameterType.INTEGER, 1, "", 1, 8), 2.0, "n is 2.0, must be an integer"),
        (Parameter("r", ParameterType.NUMBER, 1, "", 0, 1), float("nan"), "r is nan, must be a number"),
        (Parameter("b", ParameterType.BOOLEAN, True, ""), 1, "b is 1, must be true or false"),
        (Parameter("c", ParameterType.CHOICE, "x", "", choices=("x", "y")), "z", "must be one of x, y"),
        (Parameter("l", ParameterType.INTEGERS, (), "", 0, 9), [1] * 9, "a list of at most 8 integers"),
        (Parameter("w", ParameterType.NUMBERS, (), "", 0, 9), [1, "2"], "a list of at most 4096 numbers"),
        (Parameter("s", ParameterType.SIZE, 1, "", 1, 9, axes=2), [1], "or a list of 2 such integers"),
        (Parameter("s", ParameterType.SIZE, 1, "", 1, 9, axes=2), None, "s is None, must be"),
        (Parameter("n", ParameterType.INTEGER, 1, "", 1, 8), "x" * 99, "..., must be an integer"),
    ],
)
def test_parameter_problems_name_what_was_found_and_what_is_allowed(
    parameter: Parameter, value: object, text: str
) -> None:
    assert text in str(problem_of(parameter, value))


def test_flops_of_known_layers_match_their_formulas() -> None:
    conv, dense = CATALOGUE["Conv2D"], CATALOGUE["Dense"]
    given = completed(conv.parameters, {"filters": 8, "bias": False})
    image = (TensorType(IMAGE),)
    output = conv.rule(given, image)
    assert conv.count(given, image, output).flops == 2 * 8 * 7 * 6 * 4 * 9
    given = completed(dense.parameters, {"units": 5})
    vector = (TensorType(VECTOR),)
    assert dense.count(given, vector, dense.rule(given, vector)).flops == 5 * (2 * elements(VECTOR) + 1)
