"""A worker's training, in this process: what it saves when it does not come to its end, and what it obeys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec.structs import replace as replace_order

from backend.formats.cyxmodel import read_cyxmodel
from backend.formats.tensors import Array, pack_tensors
from backend.graph import Graph
from backend.reports import (
    Cancelled,
    Event,
    Failed,
    Finished,
    LearningRateChanged,
    Progress,
    StateSaved,
    Train,
    TrainingPrepared,
    Watched,
)
from backend.serialize import dump_graph
from backend.workers.job import TrainingJob
from tests.unit.backend.test_training_settings import (
    NOISE,
    breaking,
    equal,
    formula,
    overfitting,
    trained,
    with_settings,
)


class Told:
    """Runs one job and keeps what it says; ``at`` acts on progress at a step."""

    def __init__(self, folder: Path, task: Graph, data: tuple[Array, Array], order: Train) -> None:
        self.events: list[Event] = []
        x, y = data
        y = y.astype(np.int64) if y.dtype.kind == "i" else y.astype(np.float32)
        (folder / "data.safetensors").write_bytes(pack_tensors({"x": x.astype(np.float32), "y": y}))
        self._acts: dict[int, Callable[[], None]] = {}
        self.job = TrainingJob(order, dump_graph(task), folder, self._hear)

    def at(self, step: int, act: Callable[[], None]) -> None:
        self._acts[step] = act

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Progress) and event.metrics.step in self._acts:
            self._acts.pop(event.metrics.step)()

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kinds)]


def order(*, may_stop: bool = False, learning_rate: float | None = None, saved: str | None = None) -> Train:
    return Train(
        "data.safetensors", saved, 1, 0, 1, "cpu", 0.0, may_stop=may_stop, learning_rate=learning_rate
    )


def test_a_cancelled_training_is_saved_where_it_stood_and_goes_on_from_there(tmp_path: Path) -> None:
    task = with_settings(overfitting(), epochs=4)
    first = Told(tmp_path, task, NOISE, order())
    first.at(3, first.job.gate.cancel)
    first.job.run()
    assert first.events[-2:] == [StateSaved(3, 0, "saved.cyxmodel"), Cancelled(3)]
    (tmp_path / "saved.cyxmodel").rename(tmp_path / "from.cyxmodel")
    second = Told(tmp_path, task, NOISE, order(saved="from.cyxmodel"))
    second.job.run()
    assert isinstance(second.events[-1], Finished)
    whole = trained(task)
    whole.finish()
    assert equal(read_cyxmodel(tmp_path / "result.cyxmodel"), whole.result())


def test_a_training_that_is_watched_tells_of_its_nodes_and_changes_no_bit(tmp_path: Path) -> None:
    task = with_settings(overfitting(), epochs=3)
    told = Told(tmp_path, task, NOISE, replace_order(order(), watch_every_s=0.1))
    told.job.run()
    seen = told.of(Watched)
    assert seen and isinstance(seen[0], Watched)
    nodes = {each.node: each for each in seen[0].nodes}
    layers = {node.id for node in task.nodes if node.type == "Dense"}
    assert layers <= nodes.keys()
    assert all((nodes[name].gradient or 0) > 0 and nodes[name].std > 0 for name in layers)
    whole = trained(task)
    whole.finish()
    assert equal(read_cyxmodel(tmp_path / "result.cyxmodel"), whole.result())
    unwatched = Told(tmp_path, task, NOISE, order())
    unwatched.job.run()
    assert not unwatched.of(Watched)


def test_a_training_that_diverges_says_where_and_saves_what_was_before(tmp_path: Path) -> None:
    x = np.random.RandomState(1).randn(64, 3)
    told = Told(tmp_path, breaking(formula("x * 2")), (x, x), order())
    told.at(2, lambda: told.job.change_rate(100.0))
    told.job.run()
    *_, saved, failed = told.events
    assert isinstance(saved, StateSaved)
    assert isinstance(failed, Failed)
    assert failed.code == "diverged"
    assert "first no number: " in failed.text
    state = read_cyxmodel(tmp_path / saved.file)
    assert state.training.step == saved.step >= 2
    assert state.training.learning_rate == 100.0


def test_the_learning_rate_changes_at_the_next_step_and_may_be_given_at_the_start(tmp_path: Path) -> None:
    told = Told(tmp_path, with_settings(overfitting(), epochs=3), NOISE, order(learning_rate=0.01))
    told.at(2, lambda: told.job.change_rate(0.002))
    told.job.run()
    assert told.of(LearningRateChanged) == [LearningRateChanged(2, 0.002)]
    rates = {
        each.metrics.step: each.metrics.learning_rate for each in told.events if isinstance(each, Progress)
    }
    assert rates == {1: 0.01, 2: 0.01, 3: 0.002, 4: 0.002, 5: 0.002, 6: 0.002}


def test_a_training_that_may_stop_finishes_with_fewer_steps_and_one_that_may_not_with_all(
    tmp_path: Path,
) -> None:
    task = overfitting(patience=2)
    ends = {}
    for may_stop in (True, False):
        told = Told(tmp_path, task, NOISE, order(may_stop=may_stop))
        told.job.run()
        prepared, finished = told.events[0], told.events[-1]
        assert isinstance(prepared, TrainingPrepared)
        assert isinstance(finished, Finished)
        assert prepared.numerics is not None
        assert any("all its steps are paid for" in note for note in prepared.notes) == (not may_stop)
        ends[may_stop] = finished.metrics.step
    assert ends[True] < ends[False] == 40


def test_labels_out_of_range_are_a_failure_in_words(tmp_path: Path) -> None:
    told = Told(tmp_path, replace(overfitting(), name="labels"), (NOISE[0], NOISE[1] * 3), order())
    told.job.run()
    assert told.events[-1] == Failed(code="dataset", text="the data has 7 classes, the graph 3")
