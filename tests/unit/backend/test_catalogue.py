"""Walks the catalogue: every record is complete, and its rules agree with torch's meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backend.catalogue import CATALOGUE
from backend.catalogue.parameter import Parameter, ParameterType, completed, problem_of
from backend.catalogue.record import MODEL_CATEGORIES, Shape, TensorType, elements, tensor_shapes
from backend.compiler import End, compile_graph
from backend.errors import ShapeMismatchError
from backend.layers import BUILDERS
from backend.shapes import infer_shapes
from tests.unit.backend.catalogue_cases import CASES, IMAGE, SIGNAL, VECTOR, Case, graph_of

BATCH = 3
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


def batch_of(end: End, device: str = "meta") -> torch.Tensor:
    if end.ids:
        return torch.zeros(BATCH, *end.shape, dtype=torch.int64, device=device)
    return torch.empty(BATCH, *end.shape, device=device)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shape_rule_agrees_with_the_meta_device(case: Case) -> None:
    compiled = compile_graph(graph_of(case))
    with torch.no_grad():
        answers = compiled.module.to("meta")(*(batch_of(end) for end in compiled.inputs))
    answers = answers if isinstance(answers, tuple) else (answers,)
    assert [tuple(answer.shape) for answer in answers] == [(BATCH, *end.shape) for end in compiled.outputs]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_counts_agree_with_what_torch_allocates(case: Case) -> None:
    graph = graph_of(case)
    counts = infer_shapes(graph).nodes["node"].counts
    module = compile_graph(graph).module
    assert counts.parameters == sum(weight.numel() for weight in module.parameters())
    saved = sum(tensor.numel() for tensor in module.state_dict().values())
    assert counts.parameters + counts.buffers == saved
    assert isinstance(counts.flops, int)
    assert min(counts.flops, counts.activations) >= 0


@pytest.mark.parametrize(("name", "given", "shapes", "text"), WRONG)
def test_what_a_layer_cannot_take_is_refused_in_words(
    name: str, given: dict[str, Any], shapes: tuple[Shape, ...], text: str
) -> None:
    with pytest.raises(ShapeMismatchError) as refusal:
        shape_of(name, given, shapes)
    assert text in str(refusal.value)


def test_every_model_type_has_a_builder_and_a_case() -> None:
    expected = {name for name, record in CATALOGUE.items() if record.category in MODEL_CATEGORIES} - {"Input"}
    assert set(BUILDERS) == expected
    assert {case.type for case in CASES} == expected
    assert len(CATALOGUE) == 111


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_records_are_complete(name: str) -> None:
    record = CATALOGUE[name]
    assert record.name == name
    assert record.help
    assert record.keywords
    assert record.shape_rule
    assert record.formats >= {"cyxmodel", "onnx" if name == "OnnxOperator" else "pytorch"}
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
