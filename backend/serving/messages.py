"""What a supervisor and a worker tell each other about models that answer. Pure data.

The body of a Predict holds its inputs one after the other, that of a Predicted its outputs: C order,
little-endian, in the order of the specs.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from backend.worker_message import FileName, WorkerMessage


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that a model takes or gives, or one that travels in a body."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """Of a model's: -1 for the batch and whatever else the caller chooses."""


class RuntimeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is loaded; what does not apply to its runtime is ignored."""

    threads: int = 0
    """0: one."""
    gpu_layers: int = 0
    """Of a GGUF model, -1 for all."""
    context: int = 0
    """Of a GGUF model, in tokens; 0: what it was trained for, 4096 at most."""


class ServedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    file: FileName
    device: str
    options: RuntimeOptions = RuntimeOptions()
    tokenizer: FileName | None = None
    """A Hugging Face tokenizer.json, for models that take token ids."""
    size_bytes: int = 0
    """Of the file; what the model needs in memory is guessed from it before it is loaded."""


class ServerLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    body_bytes: int = 64 << 20
    bodies_bytes: int = 256 << 20
    """Of all requests that are read or answered at a time; small ones are not counted."""
    waiting: int = 256
    """Requests that wait for one model."""
    batch_items: int = 32
    window_s: float = 0.0
    """How long a batch waits for more before it runs; 0: it takes what is there."""
    timeout_s: float = 60.0
    memory_bytes: int = 4 << 30
    """Of all loaded models together; beyond it the one used longest ago gives way."""
    connections: int = 512


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a key: not the key."""

    id: str
    name: str
    sha256: str
    scopes: tuple[str, ...]
    per_minute: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    """Requests; 0 for no limit."""
    created: str


# -- supervisor to worker ------------------------------------------------------------------------


class LoadModel(WorkerMessage, frozen=True):
    """Opens a model file under a name of the caller's choice (its BLAKE3); answered by ModelLoaded."""

    model: str
    file: FileName
    device: str
    options: RuntimeOptions = RuntimeOptions()


class Predict(WorkerMessage, frozen=True):
    """Answered by Predicted or Failed with the id. ``inputs``: all of the model's, in any order."""

    id: int
    model: str
    inputs: tuple[TensorSpec, ...]


class UnloadModel(WorkerMessage, frozen=True):
    model: str


class Serve(WorkerMessage, frozen=True):
    """Answers HTTP on the listening socket that the worker was started with; answered by Serving."""

    models: tuple[ServedModel, ...]
    limits: ServerLimits
    keys: tuple[ApiKey, ...]
    needs_key: bool
    hosts: tuple[str, ...]
    """Names besides localhost and addresses that a request's Host may be."""


class SetKeys(WorkerMessage, frozen=True):
    """Replaces the keys of a server that runs."""

    keys: tuple[ApiKey, ...]


class StopServing(WorkerMessage, frozen=True):
    """Takes no more connections and finishes the requests in flight; answered by ServingStopped."""

    grace_s: float


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


class Serving(WorkerMessage, frozen=True):
    """Requests are answered. ``models``: a line about each that is loaded."""

    models: tuple[str, ...]


class ServingStopped(WorkerMessage, frozen=True):
    unanswered: int
    """Requests that the grace period was too short for."""
