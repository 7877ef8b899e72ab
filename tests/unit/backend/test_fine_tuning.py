"""Trainings that begin with another model's weights, on real digits."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.datasets import load_digits

from backend.datasets import DataFacts, Dataset
from backend.errors import CheckpointError
from backend.fine_tuning import Start
from backend.formats.cyxmodel import CyxModel
from backend.formats.tensors import Array
from backend.graph import Frozen, Graph, Link, Lora, Node, TrainingSettings, Tuning
from backend.pipeline import read_pipeline
from backend.samples import LocalSamples
from backend.serialize import dump_graph
from backend.training import Trainer, TrainingConfig

MIDDLE = ("flatten", "wide", "norm", "relu")


def graph(head: str, classes: int, epochs: int, test: float, **tunings: Tuning) -> Graph:
    chain = ("input", *MIDDLE, head, "output")
    kinds = {"flatten": "Flatten", "norm": "BatchNorm", "relu": "ReLU", "input": "Input", "output": "Output"}
    given: dict[str, Any] = {"wide": {"units": 48}, head: {"units": classes}}
    nodes = (
        Node("data", "DatasetInput", 1, {"sample_shape": [1, 8, 8], "classes": classes}),
        Node("split", "DataSplit", 1, {"train": 1 - test, "validation": 0, "test": test, "stratified": True}),
        Node("normalize", "Normalize"),
        Node("loader", "DataLoader", 1, {"batch_size": 25}),
        *(Node(each, kinds.get(each, "Dense"), 1, given.get(each, {})) for each in chain),
        Node("loss", "CrossEntropyLoss"),
        Node("adam", "Adam", 1, {"learning_rate": 0.01}),
    )
    links = (
        *(
            Link(a, "dataset", b, "dataset")
            for a, b in (("data", "split"), ("split", "normalize"), ("normalize", "loader"))
        ),
        Link("loader", "samples", "input", "input"),
        *(Link(a, "output", b, "input") for a, b in pairwise(chain)),
        Link("output", "output", "loss", "prediction"),
        Link("loader", "labels", "loss", "target"),
        Link("loss", "loss", "adam", "loss"),
    )
    nodes = tuple(replace(node, tuning=tunings.get(node.id)) for node in nodes)
    return Graph("digits", nodes, links, TrainingSettings(epochs, 1))


def digits(first: int, last: int) -> tuple[Array, Array]:
    x, y = load_digits(return_X_y=True)
    chosen = (first <= y) & (y <= last)
    return x[chosen].reshape(-1, 1, 8, 8).astype(np.float32), y[chosen].astype(np.int64) - first


class Unhindered:
    def before_step(self, step: int) -> None:
        pass


def trainer_of(
    task: Graph,
    data: tuple[Array, Array],
    start: CyxModel | None = None,
    checkpoint: CyxModel | None = None,
    partial: bool = True,
) -> Trainer:
    x, y = data
    facts = DataFacts(len(x), x.shape[1:], "float32", int(y.max()) + 1, ())
    samples = LocalSamples(Dataset(x, y, facts), read_pipeline(task))
    begin = Start(start, partial) if start is not None else None
    config = TrainingConfig("cpu", 2, 1e9, time.monotonic)
    return Trainer(dump_graph(task), samples, config, checkpoint, begin)


def finish(trainer: Trainer, first: int = 0) -> tuple[CyxModel, float]:
    for segment in range(first, 2):
        trainer.run_segment(segment, Unhindered(), lambda metrics: None)
    accuracy = trainer.finish().test_accuracy
    assert accuracy is not None
    return trainer.result(), accuracy


@pytest.fixture(scope="module")
def pretrained() -> CyxModel:
    """Knows 0 to 4."""
    model, accuracy = finish(trainer_of(graph("old_head", 5, 10, 0.2), digits(0, 4)))
    assert accuracy > 0.95
    return model


FROZEN: dict[str, Tuning] = {"wide": Frozen(), "norm": Frozen()}


def test_with_few_samples_a_model_of_similar_data_beats_none() -> None:
    x, y = digits(0, 9)
    known, _ = finish(trainer_of(graph("head", 10, 6, 0.1), (x[:1400], y[:1400])))
    noise = np.random.default_rng(0).normal(0, 3, (397, 1, 8, 8)).astype(np.float32)
    noisy = x[1400:] + noise
    task = graph("head", 10, 8, 0.9)  # a tenth, of 397, to learn from
    _, from_scratch = finish(trainer_of(task, (noisy, y[1400:])))
    adapted, fine_tuned = finish(trainer_of(task, (noisy, y[1400:]), known, partial=False))
    assert fine_tuned > from_scratch + 0.03
    assert adapted.training.normalization == known.training.normalization


def test_what_is_frozen_stays_and_the_rest_learns(pretrained: CyxModel) -> None:
    trainer = trainer_of(graph("head", 5, 10, 0.5, **FROZEN), digits(5, 9), pretrained)
    assert any(note.endswith(f"{48 * 5 + 5} of {64 * 48 + 48 * 3 + 48 * 5 + 5} parameters are trained")
               for note in trainer.notes)  # fmt: skip
    model, accuracy = finish(trainer)
    assert accuracy > 0.8
    kept = [name for name in model.weights if name.startswith(("wide.", "norm."))]
    assert "norm.running_mean" in kept
    for name in kept:
        assert np.array_equal(model.weights[name], pretrained.weights[name]), name


def test_adapters_train_resume_bit_exactly_and_leave_a_plain_model(pretrained: CyxModel) -> None:
    tunings: dict[str, Tuning] = {"wide": Lora(4, 8), "norm": Frozen()}
    task = graph("head", 5, 6, 0.5, **tunings)
    data = digits(5, 9)
    whole = trainer_of(task, data, pretrained)
    whole.run_segment(0, Unhindered(), lambda metrics: None)
    checkpoint = whole.checkpoint(1)
    assert "wide.lora_a" in checkpoint.weights
    assert np.array_equal(checkpoint.weights["wide.weight"], pretrained.weights["wide.weight"])
    expected, accuracy = finish(whole, 1)
    resumed, _ = finish(trainer_of(task, data, pretrained, checkpoint), 1)
    assert accuracy > 0.8
    assert set(expected.weights) == set(pretrained.weights) - {"old_head.weight", "old_head.bias"} | {
        "head.weight",
        "head.bias",
    }
    for name, array in expected.weights.items():
        assert np.array_equal(array, resumed.weights[name]), name
    assert not np.array_equal(expected.weights["wide.weight"], pretrained.weights["wide.weight"])


def test_a_model_that_does_not_fit_is_refused_unless_a_part_will_do(pretrained: CyxModel) -> None:
    with pytest.raises(CheckpointError, match=r"head.weight is .* missing there"):
        trainer_of(graph("head", 5, 1, 0.5), digits(5, 9), pretrained, partial=False)
    other = msgspec.structs.replace(pretrained.training, normalization=None)
    trainer = trainer_of(
        graph("old_head", 5, 1, 0.5), digits(5, 9), replace(pretrained, training=other), partial=False
    )
    assert any("8 tensors" in note or "taken from the model" in note for note in trainer.notes)
