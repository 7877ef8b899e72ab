"""Samples fed through a connection: equal to local ones, bounded, and believed in nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.datasets import Scaling, load_dataset
from backend.errors import DatasetError
from backend.formats.cyxmodel import CyxModel
from backend.pipeline import Pipeline, read_pipeline
from backend.reports import Metrics, SampleStream, WantSamples
from backend.sample_plan import TEST, TRAIN, VALIDATION, Window, make_schedule
from backend.samples import LocalSamples, open_samples
from backend.serialize import dump_graph
from backend.training import Trainer, TrainingConfig
from backend.workers.feed import Connection, FedSamples, read_scaling
from tests.unit.backend.make_samples import SHAPE, small_graph, write_samples

Choose = Callable[[Sequence[WantSamples]], WantSamples]


class Owner:
    """Answers what was asked for when the training has to wait, in the order that ``choose`` says."""

    def __init__(self, path: Path, pipeline: Pipeline, choose: Choose = lambda asked: asked[0]) -> None:
        self.samples = open_samples(path, pipeline)
        self.pipeline = pipeline
        self.asked: list[WantSamples] = []
        self.given: list[WantSamples] = []
        self.most_ahead = 0
        self._choose = choose
        self._clock = itertools.count()

    def open(self, withheld: tuple[str, ...] = (), **limits: int) -> FedSamples:
        facts = self.samples.facts
        stream = SampleStream(
            facts.samples, facts.sample_shape, facts.dtype, facts.classes, (), withheld, None, **limits
        )
        scaling = self.samples.scaling(self.pipeline.normalization)
        connection = Connection(self._ask, self._rest, lambda: None, lambda: float(next(self._clock)))
        self.fed = FedSamples(stream, scaling, connection)
        return self.fed

    def _ask(self, want: WantSamples) -> None:
        self.asked.append(want)
        self.most_ahead = max(self.most_ahead, sum(asked.count for asked in self.asked))

    def _rest(self, condition: Callable[[], bool]) -> None:
        while not condition():
            want = self._choose(self.asked)
            self.asked.remove(want)
            self.given.append(want)
            self.fed.deliver(want.id, self.body(want))

    def body(self, want: WantSamples) -> bytes:
        x, y = self.samples.gather(Window(want.part, want.epoch, want.first, want.count))
        return x.tobytes() + y.tobytes()


class Unhindered:
    def before_step(self, step: int) -> None:
        pass


def train(samples: FedSamples | LocalSamples, checkpoint: CyxModel | None = None) -> tuple[CyxModel, Metrics]:
    config = TrainingConfig("cpu", 4, 1e9, lambda: 0.0)
    trainer = Trainer(dump_graph(small_graph()), samples, config, checkpoint)
    for segment in range(checkpoint.training.segments_done if checkpoint else 0, 4):
        trainer.run_segment(segment, Unhindered(), lambda metrics: None)
    return trainer.result(), trainer.finish()


def contents(model: CyxModel) -> tuple[object, ...]:
    weights = {name: array.tobytes() for name, array in model.weights.items()}
    return model.graph, weights, model.training, model.history


PIPELINE = read_pipeline(small_graph())


@pytest.fixture(params=["float32", "uint8"])
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return write_samples(tmp_path / "data.safetensors", dtype=request.param)


@pytest.mark.parametrize("answer_bytes", [1, 300, 1 << 20])
def test_training_on_fed_samples_gives_the_same_model(data: Path, answer_bytes: int) -> None:
    local = LocalSamples(load_dataset(data), PIPELINE)
    owner = Owner(data, PIPELINE)
    fed = owner.open(answer_bytes=answer_bytes)
    fed_model, fed_metrics = train(fed)
    model, metrics = train(local)
    assert contents(fed_model) == contents(model)
    assert fed_metrics == metrics
    assert fed.waited_s > 0
    assert not owner.asked


def test_withheld_parts_are_never_asked_for(data: Path) -> None:
    owner = Owner(data, PIPELINE)
    model, metrics = train(owner.open(withheld=(VALIDATION, TEST)))
    assert {want.part for want in owner.given} == {TRAIN}
    assert metrics.test_accuracy is None
    assert metrics.validation_loss is None
    local, _ = train(LocalSamples(load_dataset(data), PIPELINE))
    assert contents(model)[1] == contents(local)[1]


def test_no_more_than_the_limit_is_asked_for_ahead(data: Path) -> None:
    owner = Owner(data, PIPELINE)
    row_bytes = len(owner.body(WantSamples(0, TRAIN, 0, 0, 1)))
    fed = owner.open(ahead_bytes=20 * row_bytes)
    fed.window_bytes = 8 * 4 * 12  # one batch
    train(fed)
    assert 16 <= owner.most_ahead <= 20


def test_a_window_larger_than_the_limit_is_still_asked_for(data: Path) -> None:
    owner = Owner(data, PIPELINE)
    train(owner.open(ahead_bytes=1))
    assert owner.given


def test_rows_of_another_size_are_refused(data: Path) -> None:
    owner = Owner(data, PIPELINE)
    owner.body = lambda want: bytes(7)  # type: ignore[method-assign]
    with pytest.raises(DatasetError, match="samples of 7 bytes, allowed are"):
        train(owner.open())


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_no_class_has_are_refused(data: Path, label: int) -> None:
    owner = Owner(data, PIPELINE)
    owner.samples.dataset.y[:] = label
    with pytest.raises(DatasetError, match=f"class numbers from {label} to {label}, allowed are 0 to 2"):
        train(owner.open())


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    owner = Owner(write_samples(tmp_path / "data"), PIPELINE)
    fed = owner.open()
    owner.samples.dataset = replace(owner.samples.dataset, x=np.full((101, *SHAPE), np.nan, np.float32))
    with pytest.raises(DatasetError, match="x holds NaN"):
        train(fed)


def test_an_answer_that_nobody_asked_for_is_ignored(data: Path) -> None:
    owner = Owner(data, PIPELINE)
    fed = owner.open()
    fed.deliver(10**6, b"?")
    train(fed)


def test_samples_of_an_unknown_type_are_refused() -> None:
    stream = SampleStream(10, SHAPE, "float64", 3, (), (), None)
    with pytest.raises(DatasetError, match="samples are float64, allowed are float32, uint8, int32"):
        FedSamples(stream, None, Connection(print, print, print, float))


def test_a_scaling_must_be_there_when_the_graph_normalizes(data: Path) -> None:
    owner = Owner(data, read_pipeline(small_graph(normalization="none")))
    with pytest.raises(DatasetError, match="scaling: found none"):
        train(owner.open())


def test_a_scaling_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "scaling"
    path.write_bytes(np.array([1, 2, 3, 4], "<f4").tobytes())
    scaling = read_scaling(path, 2)
    assert (scaling.offset.tolist(), scaling.factor.tolist()) == ([1, 2], [3, 4])
    with pytest.raises(DatasetError, match="scaling of 4 values, allowed are 6"):
        read_scaling(path, 3)
    path.write_bytes(np.array([1, np.inf], "<f4").tobytes())
    with pytest.raises(DatasetError, match="finite"):
        read_scaling(path, 1)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_scaling(tmp_path / "missing", 1)


def test_windows_out_of_turn_are_refused(data: Path) -> None:
    fed = Owner(data, PIPELINE).open()
    fed.expect(make_schedule(PIPELINE, 101, 1, (), 1000).windows(0))
    with pytest.raises(DatasetError, match="out of turn"):
        fed.gather(Window(TRAIN, 1, 0, 8))
    assert isinstance(fed.scaling("mean_std"), Scaling)
