"""Every parameter of every node type changes something that can be seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from backend.catalogue import CATALOGUE, Parameter
from backend.catalogue.parameter import ParameterType
from backend.catalogue.record import MODEL_CATEGORIES, Category
from backend.compiler import compile_graph
from backend.datasets import DataFacts, Dataset
from backend.graph import Graph, Link, Node, TrainingSettings
from backend.pipeline import read_pipeline
from backend.samples import LocalSamples
from backend.serialize import dump_graph
from backend.training import Trainer, TrainingConfig
from tests.unit.backend.catalogue_cases import BLOCK, Case, graph_of, onnx_given, small_case, wrapped

WHOLE = '{"type":"float32","shape":[3,4]}'
NUMBER = '{"type":"float32","shape":[],"kind":"values","values":[%d]}'
HALF = '{"type":"float32","shape":[3,2]}'
OTHER: dict[str, dict[str, Any]] = {
    "*": {
        "units": 3,
        "filters": 6,
        "kernel_size": 2,
        "stride": 2,
        "padding": 1,
        "dilation": 2,
        "output_padding": 1,
        "epsilon": 0.5,
        "momentum": 0.7,
        "rate": 0.7,
        "layers": 2,
        "dropout": 0.5,
        "heads": 1,
        "kv_heads": 2,
        "rope_base": 10.0,
        "feed_forward": 9,
        "length": 7,
        "vocabulary": 20,
        "weight": 3.0,
        "learning_rate": 0.05,
        "weight_decay": 0.3,
        "beta1": 0.5,
        "beta2": 0.6,
        "class_weights": [1.0, 2.0, 5.0],
        "ignored_class": 1,
        "label_smoothing": 0.3,
        "minimum": 0.5,
        "l1": 0.1,
        "l2": 0.1,
    },
    "Conv2D": {"groups": 2},
    "Conv1D": {"groups": 2},
    "Conv3D": {"groups": 2, "kernel_size": 1},
    "DepthwiseConv2D": {"multiplier": 2},
    "ConvTranspose2D": {"kernel_size": 3},
    **{name: {"kernel_size": 3, "stride": 1} for name in ("MaxPool1D", "MaxPool2D", "AvgPool2D")},
    "AdaptiveAvgPool": {"output_size": [3]},
    "Upsample": {"factor": 3},
    "LayerNorm": {"axes": 2},
    "RMSNorm": {"axes": 2},
    "GroupNorm": {"groups": 1},
    "Embedding": {"dimension": 5, "padding_id": 2},
    "RotaryEmbedding": {"head_size": 2},
    "LeakyReLU": {"negative_slope": 0.5},
    "ELU": {"alpha": 2.0},
    "Softplus": {"beta": 3.0},
    "Softmax": {"axis": 0},
    "LogSoftmax": {"axis": 0},
    "GLU": {"axis": 0},
    "Reshape": {"shape": [4, 3]},
    "View": {"shape": [4, 3]},
    "Permute": {"order": [0, 1]},
    "Squeeze": {"axis": -1},
    "Unsqueeze": {"axis": 0},
    "Split": {"axis": 0, "sizes": [2, 2]},
    "Slice": {"axis": 0, "start": 1, "stop": 3, "step": 2},
    "Pad": {"before": [2], "after": [2], "value": 3.0},
    "Concatenate": {"axis": 1},
    "Constant": {"shape": [1, 2], "values": [0.5, 7.0]},
    "Parameter": {"shape": [4], "initial": "ones", "deviation": 0.5},
    "Lambda": {"expression": "x1 + x2"},
    "OnnxOperator": {
        "operator": "LogSoftmax",
        "opset": 12,
        "attributes": '{"axis": 1}',
        "inputs": f"[{WHOLE},{NUMBER % 3}]",
        "outputs": f"[null,{HALF}]",
        "steps": '[["Abs", {}, ["in0"], ["v0"]], ["Neg", {}, ["v0"], ["out0"]]]',
    },
    "Repeat": {"times": 3},
    "SGD": {"momentum": 0.5},
    "RMSprop": {"alpha": 0.5, "epsilon": 0.1},
    "BCEWithLogits": {"positive_weight": 3.0},
    "SmoothL1Loss": {"beta": 0.1},
    "HuberLoss": {"delta": 0.1},
    "CosineEmbeddingLoss": {"margin": 0.5},
    "StepLR": {"epochs": 2, "gamma": 0.5},
    "ExponentialLR": {"gamma": 0.3},
    "CosineAnnealing": {"cycles": 2},
    "ReduceOnPlateau": {"factor": 0.5, "patience": 1, "threshold": 0.9, "cooldown": 2},
    "WarmupScheduler": {"steps": 3, "start": 0.7},
    "OneCycle": {"rise": 0.6, "start_divisor": 3.0, "final_divisor": 2.0},
    "GradientClip": {"limit": 0.01},
    "DataSplit": {"train": 0.5, "validation": 0.4, "test": 0.3, "seed": 3},
    "DataLoader": {"batch_size": 5},
    "Augmentation": {
        "flip_horizontal": 0.5,
        "flip_vertical": 0.5,
        "shift": 0.3,
        "rotate": 40.0,
        "zoom": 0.3,
        "erase": 0.5,
        "brightness": 0.5,
        "contrast": 0.5,
        "noise": 0.5,
    },
}
WITH: dict[tuple[str, str], dict[str, Any]] = {
    **{(name, "dropout"): {"layers": 2} for name in ("RNN", "LSTM", "GRU")},
    **{(name, "output_padding"): {"stride": 2} for name in ("ConvTranspose1D", "ConvTranspose2D")},
    **{(name, "padding"): {"kernel_size": 2} for name in ("MaxPool1D", "MaxPool2D", "AvgPool2D")},
    ("GroupedQueryAttention", "heads"): {"kv_heads": 1},
    ("GroupedQueryAttention", "rope_base"): {"heads": 1, "kv_heads": 1},
    ("LlamaBlock", "rope_base"): {"heads": 1, "kv_heads": 1},
    **{
        ("OnnxOperator", name): onnx_given("Softmax", (3, 4))
        for name in ("operator", "opset", "attributes", "steps")
    },
    ("OnnxOperator", "inputs"): {
        **onnx_given("Mod", (3, 4), fmod=1),
        "inputs": f"[{WHOLE},{NUMBER % 1}]",
    },
    ("OnnxOperator", "outputs"): {
        "operator": "Split",
        "attributes": '{"axis": 2, "num_outputs": 2}',
        "inputs": f"[{WHOLE}]",
        "outputs": f"[{HALF},{HALF}]",
    },
    ("OnnxOperator", "alone"): onnx_given("Softmax", (3, 4), axis=0),
    ("Squeeze", "axis"): {"axis": 0},
    ("DataLoader", "drop_last"): {"batch_size": 7},
    ("Split", "axis"): {"sizes": [2, 2]},
    ("Split", "sizes"): {"axis": 0, "sizes": [1, 3]},
    ("Slice", "step"): {"start": 0},
    ("SGD", "nesterov"): {"momentum": 0.5},
    ("ReduceOnPlateau", "cooldown"): {"patience": 0, "threshold": 1.0},
    ("ReduceOnPlateau", "factor"): {"patience": 0, "threshold": 1.0},
    ("ReduceOnPlateau", "patience"): {"patience": 0, "threshold": 1.0},
    ("ReduceOnPlateau", "threshold"): {"patience": 0, "threshold": 0.0},
    ("ReduceOnPlateau", "minimum"): {"patience": 0, "threshold": 1.0},
    ("ExponentialLR", "gamma"): {},
    ("StepLR", "gamma"): {"epochs": 1},
    ("StepLR", "epochs"): {"epochs": 1},
    ("DataSplit", "train"): {"train": 0.8, "validation": 0.1, "test": 0.1},
}
"""What else must be set, before and after, for the parameter to have an effect."""
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "OnnxOperator": ((3, 4),),
    "Squeeze": ((1, 3, 1),),
    "Permute": ((3, 3),),
    "Softmax": ((3, 4),),
    "LogSoftmax": ((3, 4),),
    "GLU": ((4, 4),),
    "Unsqueeze": ((3, 4),),
    "Split": ((4, 4),),
    "Slice": ((4, 4),),
    "Concatenate": ((3, 3), (3, 3)),
    "PReLU": ((3, 4),),
    "SpatialDropout": ((3, 4),),
    "BatchNorm": ((3, 4),),
    "MaxPool1D": ((2, 6),),
    "MaxPool2D": ((2, 6, 6),),
    "AvgPool2D": ((2, 6, 6),),
    "DepthwiseConv2D": ((2, 6, 6),),
    "SeparableConv2D": ((2, 6, 6),),
    "Conv2D": ((2, 6, 6),),
    "Conv3D": ((2, 4, 4, 4),),
}
BATCH = 6
OF_A_PROGRAM = {("OnnxOperator", "program"), ("OnnxOperator", "domains")}
"""Without the weights that are the program nothing runs: see test_onnx_programs."""


def other_value(type_name: str, parameter: Parameter, given: dict[str, Any]) -> Any:
    found = OTHER.get(type_name, {}).get(parameter.name, OTHER["*"].get(parameter.name))
    now = given.get(parameter.name, parameter.default)
    match parameter.type:
        case ParameterType.BOOLEAN:
            return not now
        case ParameterType.CHOICE if found is None:
            return next(choice for choice in parameter.choices if choice != now)
        case _:
            assert found is not None, f"say what {type_name}.{parameter.name} should become"
            return found


def parameters_of(categories: frozenset[Category]) -> list[tuple[str, str]]:
    return [
        (name, parameter.name)
        for name, record in CATALOGUE.items()
        if record.category in categories and name != "Input"
        for parameter in record.parameters
        if (name, parameter.name) not in OF_A_PROGRAM
    ]


def model_case(type_name: str, name: str) -> Case:
    case = small_case(type_name)
    case = replace(case, shapes=SHAPES.get(type_name, case.shapes))
    if type_name == "PositionalEncoding" and name == "method":
        case = replace(case, given={})
    if type_name == "Parameter" and name == "shape":
        case = replace(case, given={"shape": [3]})
    if type_name == "Repeat":
        case = replace(case, body=BLOCK)
    if type_name == "Bidirectional":
        case = replace(case, body=wrapped("GRU", units=3))
    return replace(case, given={**case.given, **WITH.get((type_name, name), {})})


def traces(case: Case) -> Iterator[torch.Tensor]:
    """All that can be seen of a model: first weights, an answer, and both again while it trains."""
    compiled = compile_graph(graph_of(case))
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randint(end.ids, (BATCH, *end.shape), generator=generator)
        if end.ids
        else torch.randn(BATCH, *end.shape, generator=generator)
        for end in compiled.inputs
    ]
    for training in (False, True):
        yield from (tensor.clone() for tensor in compiled.module.state_dict().values())
        torch.manual_seed(1)
        answer = compiled.module.train(training)(*inputs)
        yield from answer if isinstance(answer, tuple) else (answer,)
    yield from compiled.module.state_dict().values()


def differ(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) != len(other) or any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )


def assert_differ(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    if not differ(one, other):
        pytest.fail("nothing has changed")


@pytest.mark.parametrize(("type_name", "name"), parameters_of(MODEL_CATEGORIES))
def test_a_parameter_of_a_layer_changes_the_model(type_name: str, name: str) -> None:
    case = model_case(type_name, name)
    parameter = next(each for each in CATALOGUE[type_name].parameters if each.name == name)
    value = other_value(type_name, parameter, dict(case.given))
    changed = replace(case, given={**case.given, name: value})
    before = list(traces(case))
    assert not differ(before, list(traces(case)))
    assert_differ(before, list(traces(changed)))


# -- training ------------------------------------------------------------------------------------

TRAINING = frozenset({Category.LOSS, Category.OPTIMIZER, Category.SCHEDULE, Category.PENALTY, Category.DATA})
CLASSES, IMAGE, SAMPLES = 3, (1, 4, 4), 40


class Unhindered:
    def before_step(self, step: int) -> None:
        pass


def training_graph(type_name: str, given: dict[str, Any]) -> Graph:
    """A small image classifier (or what the loss needs) in which the node takes part."""
    record = CATALOGUE[type_name]
    loss = type_name if record.category is Category.LOSS else "CrossEntropyLoss"
    classifies = loss in ("CrossEntropyLoss", "NLLLoss")
    labels: dict[str, Any] = {"classes": CLASSES} if classifies else {"target_shape": [CLASSES]}
    if loss == "CosineEmbeddingLoss":
        labels = {"classes": 2}
    settings = {
        "DatasetInput": {"sample_shape": list(IMAGE), **labels},
        "DataSplit": {"train": 0.6, "validation": 0.2, "test": 0.2},
        "Normalize": {},
        "Augmentation": {},
        "DataLoader": {"batch_size": 8},
        loss: {},
    }
    optimizer = type_name if record.category is Category.OPTIMIZER else "SGD"
    settings.setdefault(optimizer, {"learning_rate": 0.1} if optimizer == "SGD" else {})
    settings.setdefault(type_name, {})
    settings[type_name] = {**settings[type_name], **given}
    before = {"NLLLoss": "LogSoftmax", "KLDivLoss": "LogSoftmax", "BCELoss": "Sigmoid"}.get(loss, "Identity")
    data = ["DatasetInput", "DataSplit", "Normalize", "Augmentation", "DataLoader"]
    nodes = [Node(name, name, 1, settings[name]) for name in (*data, loss, optimizer)]
    nodes += [Node("x", "Input"), Node("flat", "Flatten"), Node("dense", "Dense", 1, {"units": CLASSES})]
    nodes += [Node("before", before), Node("y", "Output")]
    links = [Link(a, "dataset", b, "dataset") for a, b in pairwise(data)]
    ends = ["x", "flat", "dense", "before", "y"]
    links += [Link(a, "output", b, "input") for a, b in pairwise(ends)]
    links.append(Link("DataLoader", "samples", "x", "input"))
    links.append(Link("y", "output", loss, "prediction"))
    links.append(Link("DataLoader", "labels", loss, "target"))
    if loss == "CosineEmbeddingLoss":
        nodes += [Node("dense2", "Dense", 1, {"units": CLASSES}), Node("y2", "Output")]
        links += [Link("flat", "output", "dense2", "input"), Link("dense2", "output", "y2", "input")]
        links.append(Link("y2", "output", loss, "other"))
    penalized = record.category is Category.PENALTY and type_name != "GradientClip"
    if penalized:
        nodes.append(Node(type_name, type_name, 1, settings[type_name]))
        links.append(Link(loss, "loss", type_name, "loss"))
    # A second loss, so that the weight of the first one counts also where steps have one size.
    nodes.append(Node("also", "L1Regularization", 1, {"l1": 0.01}))
    links.append(Link(type_name if penalized else loss, "loss", "also", "loss"))
    links.append(Link("also", "loss", optimizer, "loss"))
    if record.category is Category.SCHEDULE or type_name == "GradientClip":
        nodes.append(Node(type_name, type_name, 1, settings[type_name]))
        links.append(Link(optimizer, "optimizer", type_name, "optimizer"))
    return Graph("training", tuple(nodes), tuple(links), TrainingSettings(6, 3))


def trained(graph: Graph) -> list[torch.Tensor]:
    """The weights and the curve of a short training."""
    pipeline = read_pipeline(graph)
    random = np.random.RandomState(0)
    x = random.rand(SAMPLES, *IMAGE).astype(np.float32)
    if pipeline.classes:
        y = random.randint(0, pipeline.classes, SAMPLES)
    else:
        y = random.rand(SAMPLES, CLASSES).astype(np.float32)
    facts = DataFacts(SAMPLES, IMAGE, "float32", pipeline.classes, pipeline.target_shape)
    samples = LocalSamples(Dataset(x, y.astype(np.int64) if pipeline.classes else y, facts), pipeline)
    config = TrainingConfig("cpu", 1, 1e9, time.monotonic)
    trainer = Trainer(dump_graph(graph), samples, config)
    trainer.run_segment(0, Unhindered(), lambda metrics: None)
    trainer.finish()
    result = trainer.result()
    curve = [torch.tensor([each.loss, each.validation_loss or 0.0]) for each in result.history]
    return [torch.from_numpy(weight) for weight in result.weights.values()] + curve


OWN_TESTS = {"DatasetInput", "OneHotEncode", "Tokenize"}
"""What they change are shapes: see test_training_tasks.py."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("type_name", "name"),
    [
        each
        for each in parameters_of(TRAINING)
        if each[0] not in OWN_TESTS
        and each[1] not in ("class_axis", "classes", "log_target", "validation", "test")
    ],
)
def test_a_parameter_of_training_changes_the_training(type_name: str, name: str) -> None:
    given = WITH.get((type_name, name), {})
    parameter = next(each for each in CATALOGUE[type_name].parameters if each.name == name)
    value = other_value(type_name, parameter, given)
    changed = {**given, name: value}
    if (type_name, name) == ("DataSplit", "train"):
        changed = {"train": 0.5, "validation": 0.3, "test": 0.2}
    before = trained(training_graph(type_name, given))
    assert_differ(before, trained(training_graph(type_name, changed)))
