"""A small trainable graph, data made on the spot, and workers with one thread each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from backend.formats.tensors import pack_tensors
from backend.graph import Graph, Link, Node, TrainingSettings
from backend.reports import Train
from backend.serialize import dump_graph
from backend.workers.supervisor import PoolConfig, Worker, open_pool

CLASSES = 4


def make_graph(epochs: int = 4, batch_size: int = 16, optimizer: str = "Adam", units: int = 16) -> Graph:
    data = (
        Node("data", "DatasetInput", parameters={"sample_shape": [1, 8, 8], "classes": CLASSES}),
        Node("split", "DataSplit"),
        Node("normalize", "Normalize"),
        Node("loader", "DataLoader", parameters={"batch_size": batch_size}),
    )
    layers = (
        Node("input", "Input", parameters={"shape": [1, 8, 8]}),
        Node("convolution", "Conv2D", parameters={"filters": 4, "padding": "same"}),
        Node("norm", "BatchNorm"),
        Node("relu", "ReLU"),
        Node("flatten", "Flatten"),
        Node("dense", "Dense", parameters={"units": units}),
        Node("dropout", "Dropout", parameters={"rate": 0.2}),
        Node("head", "Dense", parameters={"units": CLASSES}),
        Node("output", "Output"),
    )
    links = (
        *(Link(a.id, "dataset", b.id, "dataset") for a, b in pairwise(data)),
        Link("loader", "samples", "input", "input"),
        *(Link(a.id, "output", b.id, "input") for a, b in pairwise(layers)),
        Link("output", "output", "loss", "prediction"),
        Link("loader", "labels", "loss", "target"),
        Link("loss", "loss", "optimizer", "loss"),
    )
    ends = (Node("loss", "CrossEntropyLoss"), Node("optimizer", optimizer))
    return Graph("test", (*data, *layers, *ends), links, TrainingSettings(epochs=epochs, seed=5))


def make_data(path: Path, samples: int = 256) -> Path:
    """Images whose class is the quadrant with the bright spot."""
    random = np.random.RandomState(1)
    y = random.randint(0, CLASSES, samples)
    x = random.rand(samples, 1, 8, 8).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        image[0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 1
    path.write_bytes(pack_tensors({"x": x, "y": y.astype(np.int64)}))
    return path


@pytest.fixture
def graph() -> bytes:
    return dump_graph(make_graph())


@pytest.fixture
def long_graph() -> bytes:
    """One that trains for longer than any test lasts."""
    return dump_graph(make_graph(epochs=100_000))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data.safetensors")


@pytest.fixture
def train() -> Callable[..., Train]:
    def command(**changes: object) -> Train:
        settings: dict[str, object] = {
            "dataset": "data.safetensors",
            "checkpoint": None,
            "segments": 1,
            "first_segment": 0,
            "allowed_segments": 1,
            "device": "cpu",
            "report_every_s": 0.0,
        }
        return Train(**{**settings, **changes})  # type: ignore[arg-type]

    return command


OpenWorker = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture
def open_worker(tmp_path: Path, data: Path) -> OpenWorker:
    """A worker with the data in its directory."""

    contents = data.read_bytes()

    @asynccontextmanager
    async def opened(**changes: object) -> AsyncIterator[Worker]:
        config = PoolConfig(tmp_path / "workers", prewarmed=1, threads=1, refill_delay_s=1000, **changes)  # type: ignore[arg-type]
        async with open_pool(config) as pool:
            worker = await pool.acquire()
            (worker.directory / "data.safetensors").write_bytes(contents)
            yield worker

    return opened


@pytest.fixture
def make_graph_bytes() -> Callable[..., bytes]:
    return lambda **changes: dump_graph(make_graph(**changes))
