"""What the end-to-end tests share: networks of real processes, and data that the tests make."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from local_network import LocalNetwork, loopback_environment
from safetensors.numpy import save_file

FAST = ("--heartbeat", "1", "--lease", "5", "--offer", "3", "--claim-window", "3")
"""A peer that is killed is missed soon, and none that a busy machine or disk holds up for a second or two."""
PATIENT = ("--retry-patience", "25")
DIGITS = Path(__file__).parents[2] / "scripts" / "examples" / "digits_cnn.json"

MakeNetwork = Callable[..., AbstractContextManager[LocalNetwork]]


@contextmanager
def open_network(directory: Path, *options: str) -> Iterator[LocalNetwork]:
    loopback_environment()
    directory.mkdir(exist_ok=True)
    made = LocalNetwork(directory)
    try:
        made.start_coordinator(*FAST, *(options or PATIENT))
        made.engine("wallet", "new")
        made.engine("wallet", "airdrop", "100", "--coordinator", made.address)
        yield made
    finally:
        made.stop()
        print(made.logs())


@pytest.fixture(scope="session")
def make_network() -> MakeNetwork:
    """A coordinator with its chain, and an Engine with 100 tokens. Prints the logs of what failed."""
    return open_network


@pytest.fixture
def network(tmp_path: Path) -> Iterator[LocalNetwork]:
    with open_network(tmp_path) as made:
        yield made


@pytest.fixture
def stripes(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """600 images of 1 x 8 x 8 in three classes: bars across, bars down, and diagonals.

    Others for every test, so that no peer has them already.
    """
    random = np.random.default_rng(zlib.crc32(request.node.name.encode()))
    labels = random.integers(0, 3, 600)
    images = random.normal(0, 0.25, (600, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        position = random.integers(0, 8)
        if label == 0:
            image[0, position, :] += 2
        elif label == 1:
            image[0, :, position] += 2
        else:
            image[0] += 2 * np.eye(8, dtype=np.float32)
    path = tmp_path / "stripes.safetensors"
    save_file({"x": images, "y": labels.astype(np.int64)}, path)
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """The digits example with three classes, and long enough to be interrupted."""
    document = json.loads(DIGITS.read_text())
    document["training"]["epochs"] = 40
    for node in document["nodes"]:
        if node["type"] == "DatasetInput":
            node["parameters"]["classes"] = 3
        if node["type"] == "Dense" and node["parameters"].get("units") == 10:
            node["parameters"]["units"] = 3
    path = tmp_path / "stripes.json"
    path.write_text(json.dumps(document))
    return path
