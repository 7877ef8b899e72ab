"""What a session needs to keep a dataset at home; the program injects it, as it does ``Checks``.

Nothing here knows how samples are read or models are held against them: p2p knows no graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from p2p.jobs import DataPart
from p2p.session.trial import Trial


@dataclass(frozen=True, slots=True)
class Score:
    """What a model is worth on a part of the data. None for what the samples cannot tell."""

    samples: int
    loss: float | None
    accuracy: float | None


class OwnedSamples(Protocol):
    """One dataset as its graph divides and orders it. All methods are called off the event loop."""

    scaling: bytes
    """Offsets, then factors, float32 little-endian, of the training samples; empty without normalization."""
    target_shape: tuple[int, ...]
    epochs: int

    def size(self, part: DataPart) -> int:
        """How many samples the part has."""

    def read(self, part: DataPart, epoch: int, first: int, count: int) -> bytes:
        """x, then y, of rows in the order of an epoch, which are known to exist. Raises OSError."""

    def write_part(self, part: DataPart, target: Path) -> None:
        """A data file of the part alone. Raises OSError."""


class DataOwner(Protocol):
    def can_evaluate(self) -> bool:
        """Whether this machine can hold a model against samples."""

    def open_samples(self, graph: bytes, data: Path) -> OwnedSamples:
        """Off the event loop; takes as long as reading all of it. Raises JobRefusedError."""

    def settle(self, graph: bytes, data: Path) -> tuple[bytes, str]:
        """The graph with numbers in place of what only all of the data can tell, and its hash.

        Off the event loop. Raises JobRefusedError.
        """

    def add_notes(self, model: Path, data: Path) -> None:
        """Writes names and the like, which a peer did not get, into a model. Off the event loop.

        Raises OSError.
        """

    async def evaluate(self, model: Path, part: Path, workspace: Path) -> Score:
        """``part`` is what ``OwnedSamples.write_part`` wrote. Raises EvaluationFailedError."""

    def takes_all(self, model: Path) -> bool:
        """Whether its file says all of what it takes, but for the batch. Off the event loop."""

    async def try_model(self, model: Path, workspace: Path, seeds: Sequence[int]) -> Trial:
        """What a model answers to the questions of ``seeds``, or the first of them where that takes long.

        Raises EvaluationFailedError for one that does not run here, OSError.
        """
