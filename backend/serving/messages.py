"""What a supervisor and a worker tell each other about models that answer. Pure data.

The body of a Predict holds its inputs one after the other, that of a Predicted its outputs: C order,
little-endian, in the order of the specs.
"""

from __future__ import annotations

import msgspec

from backend.worker_message import FileName, WorkerMessage


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that a model takes or gives, or one that travels in a body."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Of a model's: -1 for the batch and whatever else the caller chooses."""


# -- supervisor to worker ------------------------------------------------------------------------


class LoadModel(WorkerMessage, frozen=True):
    """Opens a model file under a name of the caller's choice (its BLAKE3); answered by ModelLoaded."""

    model: str
    file: FileName
    device: str


class Predict(WorkerMessage, frozen=True):
    """Answered by Predicted or Failed with the id. ``inputs``: all of the model's, in any order."""

    id: int
    model: str
    inputs: tuple[TensorSpec, ...]


class UnloadModel(WorkerMessage, frozen=True):
    model: str


# -- worker to supervisor ------------------------------------------------------------------------


class ModelLoaded(WorkerMessage, frozen=True):
    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Predicted(WorkerMessage, frozen=True):
    """All outputs of the model."""

    id: int
    outputs: tuple[TensorSpec, ...]
    duration_s: float
