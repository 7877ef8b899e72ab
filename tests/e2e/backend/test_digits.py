"""The example graph on real images of digits, through a worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trio
from sklearn.datasets import load_digits

from backend.readers import convert
from backend.reports import Event, Failed, Finished, Train
from backend.serialize import dump_graph, load_graph

pytestmark = pytest.mark.e2e

EXAMPLE_GRAPH = (
    Path(__file__).resolve().parents[3] / "scripts" / "examples" / "digits_cnn.json"
).read_bytes()


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    images, labels = load_digits(return_X_y=True)
    np.savez(tmp_path / "digits.npz", x=images.reshape(-1, 1, 8, 8), y=labels)
    convert(tmp_path / "digits.npz", tmp_path / "digits")
    return tmp_path / "digits"


async def test_the_convolutional_example_recognizes_digits(
    open_worker, digits: Path, train: Callable[..., Train]
) -> None:
    contents = await trio.Path(digits).read_bytes()
    graph = dump_graph(load_graph(EXAMPLE_GRAPH))
    async with open_worker() as worker:
        (worker.directory / "digits").write_bytes(contents)
        await worker.send(train(dataset="digits", segments=4, allowed_segments=4), graph)
        event: Event | None = None
        while not isinstance(event, Finished):
            event, _ = await worker.receive(60)
            assert not isinstance(event, Failed), event
        assert event.metrics.test_accuracy is not None
        assert event.metrics.test_accuracy >= 0.98
