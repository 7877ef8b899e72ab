"""Training with less memory than the data takes, and with less than the model takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.formats.cyxmodel import read_cyxmodel
from backend.graph import Node
from backend.reports import (
    Evaluate,
    Evaluated,
    Event,
    Failed,
    Finished,
    SegmentSaved,
    StateSaved,
    Train,
    TrainingPrepared,
)
from backend.serialize import dump_graph
from backend.workers.supervisor import Worker
from tests.e2e.backend.conftest import CLASSES, make_graph

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Command = Callable[..., Train]
MEGABYTE = 1 << 20
LIMIT = 600 * MEGABYTE
SIDE = 128


def write_large(path: Path, samples: int) -> None:
    """Random images behind class numbers; written piece by piece."""
    random = np.random.RandomState(0)
    labels = 8 * samples
    header = (
        b'{"y":{"dtype":"I64","shape":[%d],"data_offsets":[0,%d]},'
        b'"x":{"dtype":"U8","shape":[%d,1,%d,%d],"data_offsets":[%d,%d]}}'
    ) % (samples, labels, samples, SIDE, SIDE, labels, labels + samples * SIDE * SIDE)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write((np.arange(samples) % CLASSES).astype("<i8").tobytes())
        for _ in range(samples):
            file.write(random.bytes(SIDE * SIDE))


def large_graph() -> bytes:
    """Over those images."""
    graph = make_graph(epochs=1, batch_size=64)
    shaped = {"data": "sample_shape", "input": "shape"}
    nodes = [
        replace(node, parameters={**node.parameters, shaped[node.id]: [1, SIDE, SIDE]})
        if node.id in shaped
        else Node(node.id, "AdaptiveAvgPool", parameters={"output_size": [8, 8]})
        if node.id == "convolution"
        else node
        for node in graph.nodes
    ]
    return dump_graph(replace(graph, nodes=tuple(nodes)))


async def end_of(worker: Worker) -> tuple[Event, list[Event]]:
    """The last event of a training, and those before it."""
    events: list[Event] = []
    while True:
        event, _ = await worker.receive(120)
        if isinstance(event, Finished | Failed | Evaluated):
            return event, events
        events.append(event)


async def test_data_larger_than_the_memory_trains_and_is_evaluated(open_worker, train: Command) -> None:
    async with open_worker(memory_bytes=LIMIT) as worker:
        write_large(worker.directory / "large", LIMIT // SIDE**2 + 200)
        assert (worker.directory / "large").stat().st_size > LIMIT
        await worker.send(train(dataset="large"), large_graph())
        end, _ = await end_of(worker)
        assert isinstance(end, Finished), end
        await worker.send(Evaluate(end.file, "large", "cpu"))
        found, _ = await end_of(worker)
        assert isinstance(found, Evaluated) and found.samples == LIMIT // SIDE**2 + 200


async def test_from_disk_a_worker_makes_the_very_same_model(open_worker, train: Command) -> None:
    """164 MB of images: more than a quarter of the one limit, less than that of the other."""
    models = []
    for limit in (LIMIT, 4 << 30):
        async with open_worker(memory_bytes=limit) as worker:
            write_large(worker.directory / "large", 10_000)
            await worker.send(train(dataset="large"), large_graph())
            end, _ = await end_of(worker)
            assert isinstance(end, Finished), end
            models.append(hashlib.blake2b((worker.directory / end.file).read_bytes()).digest())
    assert models[0] == models[1]


async def test_too_little_memory_while_training_is_told_and_leaves_what_was_saved(
    open_worker, train: Command
) -> None:
    """One sample fits, but not the hundreds that are evaluated at once at the end of the first epoch."""
    graph = make_graph(epochs=2, batch_size=1, units=4)
    nodes = [
        replace(node, parameters={**node.parameters, "filters": 6000})
        if node.id == "convolution"
        else replace(node, parameters={"train": 0.05, "validation": 0.9, "test": 0.05})
        if node.id == "split"
        else node
        for node in graph.nodes
    ]
    async with open_worker(memory_bytes=700 * MEGABYTE) as worker:
        body = dump_graph(replace(graph, nodes=tuple(nodes)))
        await worker.send(train(segments=4, allowed_segments=4), body)
        end, events = await end_of(worker)
        assert isinstance(end, Failed) and end.code == "memory", end
        saved = [event for event in events if isinstance(event, SegmentSaved | StateSaved)]
        assert saved
        assert read_cyxmodel(worker.directory / saved[0].file).training.step > 0
        await worker.send(train(), dump_graph(make_graph()))
        end, events = await end_of(worker)
        assert isinstance(end, Finished)
        assert any(isinstance(event, TrainingPrepared) for event in events)
