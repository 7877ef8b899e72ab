"""Generated training scripts: their losses are those of our own training, for everything around a model."""

from __future__ import annotations

import ast
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from backend.catalogue import CATALOGUE, Category
from backend.errors import GraphInvalidError
from backend.formats.tensors import Array
from backend.graph import Graph, Link
from backend.pytorch_code import training_source
from backend.pytorch_code.names import Names
from backend.serialize import dump_graph, load_graph
from backend.training import Trainer, TrainingConfig
from tests.unit.backend.test_pytorch_code import HOSTILE, run, shape_of
from tests.unit.backend.test_training_tasks import (
    Nodes,
    Unhindered,
    counting_text,
    graph,
    language_model,
    samples_of,
)

EXAMPLES = sorted((Path(__file__).parents[3] / "scripts" / "examples").glob("*.json"))
SAMPLES = 70
SAME = 1e-6
"""Relative, of losses; on one thread they are equal to the last bit but for how means are summed up."""

_random = np.random.RandomState(1)
VECTORS = _random.randn(SAMPLES, 4).astype(np.float32)
IMAGES = _random.randn(SAMPLES, 1, 8, 8).astype(np.float32)
NUMBERS = VECTORS @ _random.randn(4, 3).astype(np.float32)
CLASSES = (VECTORS[:, 0] > VECTORS[:, 1]).astype(np.int64)


def task(loss: str = "MSELoss", /, *, optimizer: str = "SGD", **changes: Any) -> Graph:
    """A Dense with a dropout, and around it what is to be compared."""
    given = {
        "outputs": 3,
        "data": {"target_shape": [3]},
        "before": [],
        "extra": {},
        "links": "",
        "middle": [],
    }
    given |= changes
    chain = [name for name, _ in given["before"]]
    nodes: Nodes = {
        "data": ("DatasetInput", {"sample_shape": [4], **given["data"]}),
        "split": ("DataSplit", {"train": 0.7, "validation": 0.2, "test": 0.1, "seed": 3}),
        **{f"{name}": (name, values) for name, values in given["before"]},
        "loader": ("DataLoader", {"batch_size": 16, **given.get("loader", {})}),
        "x": ("Input", {}),
        "flat": ("Flatten", {}),
        "d": ("Dense", {"units": given["outputs"]}),
        "drop": ("Dropout", {"rate": 0.2}),
        **{name: (name, values) for name, values in given["middle"]},
        "y": ("Output", {}),
        "loss": (loss, given.get("loss", {})),
        "best": (optimizer, {"learning_rate": 0.01, **given.get("optimizer_given", {})}),
        **given["extra"],
    }
    data = _chain([name + ".dataset" for name in ["data", "split", *chain, "loader"]])
    middle = ["drop", *(name for name, _ in given["middle"]), "y"]
    model = _chain(middle)
    to_best = given.get("loss_to_best", "loss.loss > best.loss")
    ends = f"loader.samples > x; {to_best}; y > loss.prediction; loader.labels > loss.target"
    links = f"{data}; x > flat; flat > d; d > drop; {model}; {ends}; {given['links']}"
    return graph(nodes, links, epochs=3)


def _chain(names: list[str]) -> str:
    return "; ".join(f"{a} > {b}" for a, b in pairwise(names))


def classes(loss: str, middle: list[Any], **given: Any) -> Graph:
    binary = loss.startswith("BCE")
    return task(loss, outputs=1 if binary else 2, data={"classes": 2}, middle=middle, loss=given)


def cosine() -> Graph:
    extra: Nodes = {"other": ("Dense", {"units": 3}), "z": ("Output", {})}
    links = "flat > other; other > z; z > loss.other"
    return task("CosineEmbeddingLoss", data={"classes": 2}, loss={"margin": 0.1}, extra=extra, links=links)


def scheduled(name: str, **given: Any) -> Graph:
    return task(extra={"plan": (name, given)}, links="best.optimizer > plan.optimizer")


def penalized(name: str, link: str = "", **given: Any) -> Graph:
    ends = "loss.loss > cost.loss; cost.loss > best.loss"
    if name == "GradientClip":
        ends = "loss.loss > best.loss; best.optimizer > cost.optimizer"
    return task(extra={"cost": (name, given)}, links=link, loss_to_best=ends)


def optimized(name: str, **given: Any) -> Graph:
    return task(optimizer=name, optimizer_given=given)


def set_to(task: Graph, **settings: Any) -> Graph:
    return replace(task, training=replace(task.training, **settings))


def changed(name: str, data: dict[str, Any] | None = None, loss: str = "MSELoss", **given: Any) -> Graph:
    return task(loss, before=[(name, given)], data=data or {"target_shape": [3]})


AUGMENTED = {"flip_horizontal": 0.5, "shift": 0.1, "rotate": 20.0, "erase": 0.3, "brightness": 0.1}
CASES: dict[str, tuple[Graph, Array, Array]] = {
    "MSELoss": (task(), VECTORS, NUMBERS),
    "L1Loss": (task("L1Loss", loss={"weight": 0.5}), VECTORS, NUMBERS),
    "SmoothL1Loss": (task("SmoothL1Loss", loss={"beta": 0.5}), VECTORS, NUMBERS),
    "HuberLoss": (task("HuberLoss", loss={"delta": 0.5}), VECTORS, NUMBERS),
    "KLDivLoss": (task("KLDivLoss", middle=[("LogSoftmax", {})]), VECTORS, abs(NUMBERS)),
    "CrossEntropyLoss": (classes("CrossEntropyLoss", []), VECTORS, CLASSES),
    "CrossEntropyLoss weighted": (
        classes("CrossEntropyLoss", [], class_weights=[1.0, 3.0], label_smoothing=0.1, ignored_class=5),
        VECTORS,
        CLASSES,
    ),
    "CrossEntropyLoss balanced": (
        classes("CrossEntropyLoss", [], balance=True), VECTORS, np.where(np.arange(SAMPLES) % 5, 0, CLASSES)
    ),
    "NLLLoss": (classes("NLLLoss", [("LogSoftmax", {})]), VECTORS, CLASSES),
    "BCELoss": (classes("BCELoss", [("Sigmoid", {})]), VECTORS, CLASSES),
    "BCEWithLogits": (classes("BCEWithLogits", [], positive_weight=2.0), VECTORS, CLASSES),
    "CosineEmbeddingLoss": (cosine(), VECTORS, CLASSES),
    "SGD": (optimized("SGD", momentum=0.9, nesterov=True, weight_decay=0.1), VECTORS, NUMBERS),
    **{
        name: (optimized(name, weight_decay=0.1), VECTORS, NUMBERS)
        for name in ("Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "Lion")
    },
    "StepLR": (scheduled("StepLR", epochs=1, gamma=0.5), VECTORS, NUMBERS),
    "CosineAnnealing": (scheduled("CosineAnnealing", minimum=0.1), VECTORS, NUMBERS),
    "ReduceOnPlateau": (scheduled("ReduceOnPlateau", patience=0, threshold=0.9), VECTORS, NUMBERS),
    "ExponentialLR": (scheduled("ExponentialLR", gamma=0.7), VECTORS, NUMBERS),
    "WarmupScheduler": (scheduled("WarmupScheduler", steps=5), VECTORS, NUMBERS),
    "OneCycle": (scheduled("OneCycle"), VECTORS, NUMBERS),
    "L1Regularization": (penalized("L1Regularization"), VECTORS, NUMBERS),
    "L2Regularization": (
        penalized("L2Regularization", "d.parameters > cost.parameters"), VECTORS, NUMBERS
    ),
    "ElasticNet": (penalized("ElasticNet"), VECTORS, NUMBERS),
    "GradientClip": (penalized("GradientClip", limit=0.1), VECTORS, NUMBERS),
    "GradientClip of values": (penalized("GradientClip", method="value", limit=0.01), VECTORS, NUMBERS),
    "Normalize": (changed("Normalize"), VECTORS, NUMBERS),
    "Normalize to a range": (changed("Normalize", method="scale"), VECTORS, NUMBERS),
    "Augmentation": (
        changed("Augmentation", {"sample_shape": [1, 8, 8], "target_shape": [3]}, **AUGMENTED),
        IMAGES,
        NUMBERS,
    ),
    "Augmentation and OneCycle": (
        task(
            before=[("Augmentation", AUGMENTED)], data={"sample_shape": [1, 8, 8], "target_shape": [3]},
            extra={"plan": ("OneCycle", {})}, links="best.optimizer > plan.optimizer",
        ),
        IMAGES,
        NUMBERS,
    ),
    "Augmentation of vectors": (changed("Augmentation", noise=0.1, contrast=0.2), VECTORS, NUMBERS),
    "OneHotEncode": (task(outputs=2, before=[("OneHotEncode", {})], data={"classes": 2}), VECTORS, CLASSES),
    "OneHotEncode of samples": (
        changed("OneHotEncode", {"vocabulary": 6, "target_shape": [3]}, of="samples"),
        _random.randint(0, 6, (SAMPLES, 4)).astype(np.float32),
        NUMBERS,
    ),
    "DataLoader": (task(loader={"drop_last": True, "shuffle": False}), VECTORS, NUMBERS),
    "accumulate": (set_to(task(), accumulate=2), VECTORS, NUMBERS),
    "patience and best": (
        set_to(task(optimizer_given={"learning_rate": 2.0}), patience=1, keep="best", epochs=9),
        VECTORS,
        NUMBERS,
    ),
    "bfloat16": (set_to(task(), precision="bfloat16"), VECTORS, NUMBERS),
    "language model": (language_model(), counting_text(SAMPLES).astype(np.float32), np.zeros(SAMPLES)),
}  # fmt: skip


def ours(task: Graph, x: Array, y: Array) -> tuple[list[tuple[float, float | None]], dict[str, Array]]:
    config = TrainingConfig("cpu", 1, 1e9, time.monotonic, may_stop=True)
    trainer = Trainer(dump_graph(task), samples_of(task, x, y), config)
    trainer.run_segment(0, Unhindered(), lambda metrics: None)
    trainer.finish()
    result = trainer.result()
    return [(each.loss, each.validation_loss) for each in result.history], dict(result.weights)


def theirs(
    source: str, x: Array, y: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> tuple[list[tuple[float, float | None]], dict[str, Array]]:
    """What the script prints and writes."""
    y = y if y.dtype == np.int64 else y.astype(np.float32)
    save_file({"x": x.astype(np.float32), "y": y}, tmp_path / "data.safetensors")
    paths = [str(tmp_path / "data.safetensors"), "-o", str(tmp_path / "weights.safetensors")]
    monkeypatch.setattr(sys, "argv", ["generated.py", *paths])
    run(source)["main"]()  # type: ignore[operator]
    told = []
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("epoch "):
            loss, _, watched = line.partition(": loss ")[2].partition(", validation loss ")
            told.append((float(loss), float(watched) if watched else None))
    return told, load_file(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_no_name_in_the_script_of_an_example_is_defined_twice(path: Path) -> None:
    """Copies come from several modules, each with names of its own: the later one would stand for both."""
    tree = ast.parse(training_source(load_graph(path.read_bytes())))
    names = [each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.ClassDef)]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_everything_around_a_model_is_compared() -> None:
    kinds = (Category.LOSS, Category.OPTIMIZER, Category.SCHEDULE, Category.PENALTY, Category.DATA)
    expected = {name for name, record in CATALOGUE.items() if record.category in kinds}
    used = {node.type for task, _, _ in CASES.values() for node in task.nodes}
    assert expected - used == {"Tokenize"}  # Its ids are compared with ours below.


@pytest.mark.parametrize("name", CASES)
def test_a_script_trains_as_we_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task, x, y = CASES[name]
    expected, weights = ours(task, x, y)
    found, own = theirs(training_source(task), x, y, tmp_path, monkeypatch, capsys)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one[0], one[1] or 0.0) == pytest.approx((other[0], other[1] or 0.0), rel=SAME)
    assert own.keys() == weights.keys()
    for key, value in own.items():
        assert np.allclose(value, weights[key], rtol=SAME, atol=1e-7), key


def test_texts_become_the_same_tokens() -> None:
    words = task(
        "CrossEntropyLoss", outputs=2, before=[("Tokenize", {"length": 6, "lowercase": True})],
        data={"classes": 2}, extra={"embed": ("Embedding", {"vocabulary": 256, "dimension": 2})},
    )  # fmt: skip
    links = [link for link in words.links if (link.source_node, link.target_node) != ("x", "flat")]
    links += [Link("x", "output", "embed", "input"), Link("embed", "output", "flat", "input")]
    words = Graph(words.name, words.nodes, tuple(links), words.training)
    prepare = run(training_source(words))["Preparation"]()  # type: ignore[operator]
    (ids,), _ = prepare(torch.tensor([[72.0, 105.0, 0.0, 90.0]]), torch.zeros(1))
    assert ids.tolist() == [[104, 105, 0, 122, 0, 0]]


@settings(max_examples=25, deadline=None)
@given(st.lists(HOSTILE, min_size=13, max_size=13, unique=True), HOSTILE)
def test_no_text_of_a_graph_becomes_code_of_a_script(ids: list[str], name: str) -> None:
    plain = penalized("L2Regularization", "d.parameters > cost.parameters")
    new = dict(zip((node.id for node in plain.nodes), ids, strict=False))
    links = [
        replace(link, source_node=new[link.source_node], target_node=new[link.target_node])
        for link in plain.links
    ]
    nodes = tuple(replace(node, id=new[node.id]) for node in plain.nodes)
    source = training_source(replace(plain, name=name, nodes=nodes, links=tuple(links)))
    assert shape_of(source) == shape_of(training_source(plain))


def test_a_graph_that_cannot_be_trained_is_refused() -> None:
    with pytest.raises(GraphInvalidError):
        training_source(Graph("empty"))


def test_names_of_a_script_are_not_those_of_nodes() -> None:
    names = Names(["samples", "labels", "d"])
    assert [names["samples"], names["labels"], names["d"]] == ["samples_layer", "labels_layer", "d"]
