"""Several devices train as one: ranks in sandboxes of their own, connected before those close."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from backend.errors import WorkerDiedError, WorkerFailedError
from backend.formats.cyxmodel import CyxModel, read_cyxmodel
from backend.formats.tensors import pack_tensors
from backend.graph import Graph
from backend.reports import (
    AllowSegments,
    Cancel,
    Cancelled,
    ChangeLearningRate,
    Event,
    Failed,
    Finished,
    LearningRateChanged,
    Pause,
    Paused,
    Progress,
    Resume,
    Resumed,
    SegmentSaved,
    Train,
    WaitingForPermission,
)
from backend.serialize import dump_graph
from backend.workers.group import TrainingWorkers, open_training
from backend.workers.supervisor import PoolConfig
from tests.unit.backend.test_training_tasks import Nodes, graph

pytestmark = pytest.mark.e2e
TWO = ("cpu", "cpu")
SAME = 1e-4
"""Relative, of losses: sums are taken in another order."""


def task(epochs: int = 3, *, batch: int = 32) -> Graph:
    """A network with momentum, a penalty, a schedule, augmentation and an uneven last batch."""
    nodes: Nodes = {
        "data": ("DatasetInput", {"sample_shape": [1, 8, 8], "classes": 3}),
        "split": ("DataSplit", {"train": 0.8, "validation": 0.2, "test": 0.0}),
        "normal": ("Normalize", {}),
        "change": ("Augmentation", {"shift": 0.1, "noise": 0.05}),
        "loader": ("DataLoader", {"batch_size": batch}),
        "x": ("Input", {}),
        "conv": ("Conv2D", {"filters": 4}),
        "act": ("ReLU", {}),
        "flat": ("Flatten", {}),
        "d": ("Dense", {"units": 3}),
        "y": ("Output", {}),
        "loss": ("CrossEntropyLoss", {}),
        "cost": ("L2Regularization", {}),
        "best": ("Adam", {"learning_rate": 0.01}),
        "plan": ("OneCycle", {}),
    }
    links = """data.dataset > split.dataset; split.dataset > normal.dataset; normal.dataset > change.dataset
        change.dataset > loader.dataset; loader.samples > x; x > conv; conv > act; act > flat; flat > d
        d > y; y > loss.prediction; loader.labels > loss.target; loss.loss > cost.loss; cost.loss > best.loss
        best.optimizer > plan.optimizer"""
    return graph(nodes, links, epochs=epochs)


def write_data(path: Path) -> None:
    random = np.random.RandomState(0)
    y = np.arange(131, dtype=np.int64) % 3
    x = (random.randn(131, 1, 8, 8) + y[:, None, None, None]).astype(np.float32)
    path.write_bytes(pack_tensors({"x": x, "y": y}))


@asynccontextmanager
async def workers(tmp_path: Path, devices: tuple[str, ...] = TWO) -> AsyncIterator[TrainingWorkers]:
    config = PoolConfig(directory=tmp_path / "workers", prewarmed=0, threads=1)
    async with open_training(config, devices) as found:
        for worker in found.workers:
            write_data(worker.directory / "data.safetensors")
        yield found


def order(
    segments: int = 1, first: int = 0, allowed: int | None = None, checkpoint: str | None = None
) -> Train:
    allowed = segments if allowed is None else allowed
    return Train("data.safetensors", checkpoint, segments, first, allowed, "cpu", 0.0)


async def until(found: TrainingWorkers, *kinds: type[Event]) -> tuple[list[Event], Event]:
    seen: list[Event] = []
    while True:
        async with found.explained():
            event, _ = await found.first.receive(timeout_s=60)
            if isinstance(event, kinds):
                return seen, event
            if isinstance(event, Failed):
                raise WorkerFailedError(event.code, event.text)
            seen.append(event)


async def finished_by(found: TrainingWorkers, train: Train, document: Graph) -> CyxModel:
    await found.start(train, dump_graph(document))
    _, finished = await until(found, Finished)
    assert isinstance(finished, Finished)
    return read_cyxmodel(found.first.path(finished.file))


def losses(model: CyxModel) -> Sequence[float | None]:
    return [value for each in model.history for value in (each.loss, each.validation_loss)]


async def test_two_ranks_train_what_one_device_trains_and_each_goes_on_for_the_other(tmp_path: Path) -> None:
    """The last batch of each epoch has 9 samples: 5 and 4. Accuracies are counted over all ranks."""
    saved = tmp_path / "saved.cyxmodel"
    rest = order(3, 2, checkpoint=saved.name)
    async with workers(tmp_path / "first") as two:
        await cut_short(two, saved)
    async with workers(tmp_path / "alone", ("cpu",)) as one, workers(tmp_path / "again") as two:
        for worker in (*one.workers, *two.workers):
            shutil.copyfile(saved, worker.directory / saved.name)
        whole = await finished_by(one, order(3), task(6))
        from_two = await finished_by(one, rest, task(6))
        together = await finished_by(two, rest, task(6))
    for found in (from_two, together):
        assert losses(found) == pytest.approx(losses(whole), rel=SAME)
        accuracies = [[each.accuracy for each in model.history] for model in (whole, found)]
        assert accuracies[1] == pytest.approx(accuracies[0], abs=0.02)
        for name, value in found.weights.items():
            assert np.allclose(value, whole.weights[name], rtol=1e-3, atol=1e-5), name


async def cut_short(found: TrainingWorkers, target: Path) -> None:
    """Pauses, goes on, and is cancelled, all by orders to the first rank; keeps its second checkpoint."""
    await found.start(order(segments=3, allowed=0), dump_graph(task(6)))
    await until(found, WaitingForPermission)
    await found.first.send(Pause())
    await found.first.send(AllowSegments(upto=2))
    await until(found, Paused)
    await found.first.send(Resume())
    await until(found, Resumed)
    await until(found, SegmentSaved)
    _, saved = await until(found, SegmentSaved)
    assert isinstance(saved, SegmentSaved)
    shutil.copyfile(found.first.path(saved.file), target)
    await found.first.send(Cancel())
    await until(found, Cancelled)


async def test_the_first_ranks_learning_rate_is_that_of_all(tmp_path: Path) -> None:
    found: list[CyxModel] = []
    for devices in (("cpu",), TWO):
        async with workers(tmp_path / str(len(devices)), devices) as these:
            await these.start(order(allowed=0), dump_graph(task(2)))
            await until(these, WaitingForPermission)
            await these.first.send(ChangeLearningRate(rate=0.3))
            await these.first.send(AllowSegments(upto=1))
            seen, finished = await until(these, Finished)
            assert isinstance(finished, Finished)
            assert [each.rate for each in seen if isinstance(each, LearningRateChanged)] == [0.3]
            found.append(read_cyxmodel(these.first.path(finished.file)))
    one, two = found
    assert losses(two) == pytest.approx(losses(one), rel=SAME)
    for name, value in two.weights.items():
        assert np.allclose(value, one.weights[name], rtol=1e-3, atol=1e-4), name


async def test_a_rank_that_dies_ends_the_training_and_is_named(tmp_path: Path) -> None:
    async with workers(tmp_path) as found:
        for worker in found.workers:  # Connected, they are as closed as any other.
            assert any(name.startswith("landlock") for name in worker.ready.sandbox)
            assert "seccomp" in worker.ready.sandbox
        await found.start(order(), dump_graph(task(2000)))
        await until(found, Progress)
        found.workers[1].kill()
        with pytest.raises(WorkerDiedError, match="rank 1 on cpu: killed by SIGKILL"):
            await until(found, Finished)
