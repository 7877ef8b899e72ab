"""What a session asks about graphs, data and models; the program injects the answers.

Nothing here knows how they are found: p2p knows no graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that can be submitted: the graph as it travels, and the facts about the data."""

    graph: bytes
    """Canonical JSON."""
    graph_hash: str
    name: str
    data: Path
    """The one data file that is sent to the peer."""
    samples: int
    sample_shape: tuple[int, ...]
    dtype: str
    classes: int
    training_flops: int
    memory_bytes: int
    parameters: int
    steps: int
    """Of the whole training."""


@dataclass(frozen=True, slots=True)
class ExpectedModel:
    """What a checkpoint, or the result when ``segments_done`` is all of them, has to be."""

    graph_hash: str
    samples: int
    sample_shape: tuple[int, ...]
    segments_done: int
    segments: int
    steps: int

    @property
    def step(self) -> int:
        """Segments are equal; the last is longer by what is left."""
        return self.steps if self.is_result else self.segments_done * (self.steps // self.segments)

    @property
    def is_result(self) -> bool:
        return self.segments_done == self.segments


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model file that peers can be asked to serve."""

    format: str
    memory_bytes: int
    """What its worker should have, the runtime included."""


class Checks(Protocol):
    """All are called off the event loop and may take as long as reading the files takes."""

    def prepare(self, graph: bytes, data: Path, workspace: Path) -> Prepared:
        """``workspace`` is an empty directory for the converted data.

        Raises JobRefusedError for a graph with errors or data that does not fit it.
        """

    def check_start(self, graph: bytes, start: Path | None) -> None:
        """``start``: the model with whose weights the graph begins.

        Raises JobRefusedError for a file that is no model, or for None where the graph needs one.
        """

    def check_served(self, model: Path) -> ServedModel:
        """By its header alone. Raises JobRefusedError for what no peer could serve."""

    def check_model(self, path: Path, expected: ExpectedModel) -> None:
        """Raises ModelRefusedError, naming what was found and what is allowed."""
