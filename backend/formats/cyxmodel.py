"""The .cyxmodel: graph, weights, training position and history of one model in one ZIP.

Writing is atomic and deterministic; reading trusts nothing: every member is bounded, hashed and
parsed strictly. A model at rest, no runtime: numpy arrays in and out.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from blake3 import blake3

from backend.errors import ArchiveError
from backend.facts import DataNotes, why_notes_are_wrong
from backend.formats.archive import read_archive, write_archive
from backend.formats.tensor_header import TensorInfo, read_tensor_header
from backend.reports import Metrics, Numerics

FORMAT = "cyxmodel"
FORMAT_VERSION = 1
MAX_HISTORY = 100_000

_MANIFEST, _GRAPH, _WEIGHTS = "manifest.json", "graph.json", "weights.safetensors"
_OPTIMIZER, _TRAINING, _HISTORY = "optimizer.safetensors", "training.json", "history.json"
_NOTES = "notes.json"
_REQUIRED = (_GRAPH, _WEIGHTS, _TRAINING, _HISTORY)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """The largest members, in bytes, that a reader accepts."""

    graph_bytes: int = 4 << 20
    weights_bytes: int = 2 << 30
    optimizer_bytes: int = 3 << 30
    training_bytes: int = 8 << 20
    history_bytes: int = 64 << 20
    notes_bytes: int = 24 << 20

    def by_member(self) -> dict[str, int]:
        return {
            _MANIFEST: 1 << 16,
            _GRAPH: self.graph_bytes,
            _WEIGHTS: self.weights_bytes,
            _OPTIMIZER: self.optimizer_bytes,
            _TRAINING: self.training_bytes,
            _HISTORY: self.history_bytes,
            _NOTES: self.notes_bytes,
        }


class Normalization(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs become ``(x - offset) * factor``, per channel of samples shaped (channel, ...)."""

    offset: tuple[float, ...]
    factor: tuple[float, ...]


class OptimizerGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One parameter group: its plain settings, and the indices of its parameters."""

    settings: dict[str, bool | int | float | str | list[float] | None]
    parameters: list[int]


class EpochSums(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the batches of an epoch that has begun."""

    loss: float
    correct: int
    places: int
    samples: int


class Watched(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The validation losses so far: see ``backend.stopping``."""

    best: float | None
    best_step: int
    bad_epochs: int


class TrainingState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where training stands. Batches and dropout masks follow from ``seed`` and ``step`` alone."""

    step: int
    total_steps: int
    segments: int
    segments_done: int
    seed: int
    samples: int
    sample_shape: tuple[int, ...]
    classes: int
    """0 for a regression target."""
    normalization: Normalization | None = None
    optimizer_groups: list[OptimizerGroup] = []
    schedule: dict[str, bool | int | float | str | list[float] | None] = {}
    numerics: Numerics | None = None
    """None where the program that wrote it knew of one way to compute."""
    learning_rate: float | None = None
    """That was set while it ran; None for the graph's."""
    epoch: EpochSums | None = None
    watched: Watched | None = None
    class_weights: tuple[tuple[float, ...], ...] = ()
    """By loss, where losses balance classes: see ``backend.balance``."""


class SavedNotes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the training data said of its inputs and classes, for whoever asks the model: DataNotes."""

    class_names: tuple[str, ...] = ()
    input_names: tuple[str, ...] = ()
    tokenizer: str = ""
    kind: str = ""
    target_names: tuple[str, ...] = ()
    input_fills: tuple[float, ...] = ()
    white: float = 0.0


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int
    blake3: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    format_version: int
    graph_hash: str
    """BLAKE3 of graph.json, which is canonical."""
    members: dict[str, Member]


@dataclass(frozen=True, slots=True)
class CyxModel:
    """``graph`` is canonical JSON; arrays are numpy's, by the names that the compiler gives."""

    graph: bytes
    weights: Mapping[str, Any]
    training: TrainingState
    history: tuple[Metrics, ...] = ()
    optimizer: Mapping[str, Any] | None = field(default=None)
    notes: DataNotes = DataNotes()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class CyxModelSummary:
    """What a .cyxmodel is, without its arrays."""

    graph: bytes
    graph_hash: str
    training: TrainingState
    history: tuple[Metrics, ...]
    weights: dict[str, TensorInfo]
    can_continue: bool
    """Holds the optimizer's state."""
    notes: DataNotes = DataNotes()  # noqa: RUF009 - frozen


def write_cyxmodel(path: Path, model: CyxModel, limits: ArchiveLimits = ArchiveLimits()) -> None:
    """Raises ArchiveError, also for what a reader with these limits would not accept; OSError."""
    from backend.formats.tensors import pack_tensors

    members = {
        _GRAPH: model.graph,
        _WEIGHTS: pack_tensors(model.weights),
        _TRAINING: msgspec.json.encode(model.training),
        _HISTORY: msgspec.json.encode(model.history),
    }
    if model.optimizer is not None:
        members[_OPTIMIZER] = pack_tensors(model.optimizer)
    if model.notes != DataNotes():
        members[_NOTES] = msgspec.json.encode(SavedNotes(**asdict(model.notes)))
    for name, data in members.items():
        if len(data) > limits.by_member()[name]:
            raise ArchiveError(f"member {name!r} of {len(data)} bytes, limit {limits.by_member()[name]}")
    manifest = Manifest(
        format=FORMAT,
        format_version=FORMAT_VERSION,
        graph_hash=blake3(model.graph).hexdigest(),
        members={name: Member(len(data), blake3(data).hexdigest()) for name, data in members.items()},
    )
    write_archive(path, {_MANIFEST: msgspec.json.encode(manifest), **members})


def read_cyxmodel(
    path: Path, limits: ArchiveLimits = ArchiveLimits(), *, require_finite: bool = True
) -> CyxModel:
    """Reads and checks everything. Raises ArchiveError; also for weights that are not finite."""
    from backend.formats.tensors import first_not_finite, unpack_tensors

    members, _ = _checked_members(path, limits)
    weights = unpack_tensors(members[_WEIGHTS])
    broken = first_not_finite(weights) if require_finite else None
    if broken is not None:
        raise ArchiveError(f"tensor {broken!r} holds NaN or infinity")
    return CyxModel(
        graph=members[_GRAPH],
        weights=weights,
        training=_training(members),
        history=_history(members),
        optimizer=unpack_tensors(members[_OPTIMIZER]) if _OPTIMIZER in members else None,
        notes=_notes(members),
    )


def inspect_cyxmodel(path: Path, limits: ArchiveLimits = ArchiveLimits()) -> CyxModelSummary:
    """Reads and checks all but the values of the arrays; needs no numpy. Raises ArchiveError."""
    members, manifest = _checked_members(path, limits)
    weights = members[_WEIGHTS]
    return CyxModelSummary(
        graph=members[_GRAPH],
        graph_hash=manifest.graph_hash,
        training=_training(members),
        history=_history(members),
        weights=read_tensor_header(io.BytesIO(weights), len(weights)).tensors,
        can_continue=_OPTIMIZER in members,
        notes=_notes(members),
    )


def is_cyxmodel(path: Path) -> bool:
    """Whether the file begins as one does."""
    try:
        with path.open("rb") as file:
            return file.read(30 + len(_MANIFEST))[30:] == _MANIFEST.encode()
    except OSError:
        return False


def _checked_members(path: Path, limits: ArchiveLimits) -> tuple[dict[str, bytes], Manifest]:
    members = read_archive(path, limits.by_member())
    manifest = _decode(_MANIFEST, members.pop(_MANIFEST, b""), Manifest)
    if (manifest.format, manifest.format_version) != (FORMAT, FORMAT_VERSION):
        found = f"{manifest.format[:40]} version {manifest.format_version}"
        raise ArchiveError(f"{found}, readable is {FORMAT} version {FORMAT_VERSION}")
    if missing := [name for name in _REQUIRED if name not in members]:
        raise ArchiveError(f"members missing: {', '.join(missing)}")
    if manifest.members.keys() != members.keys():
        raise ArchiveError("the manifest lists other members than the archive holds")
    for name, data in members.items():
        if manifest.members[name] != Member(len(data), blake3(data).hexdigest()):
            raise ArchiveError(f"member {name!r} is not what the manifest says: damaged or changed")
    if manifest.graph_hash != blake3(members[_GRAPH]).hexdigest():
        raise ArchiveError("the manifest's graph hash is not that of the graph")
    return members, manifest


def _training(members: Mapping[str, bytes]) -> TrainingState:
    state = _decode(_TRAINING, members[_TRAINING], TrainingState)
    if not 0 <= state.step <= state.total_steps or not 0 <= state.segments_done <= state.segments:
        raise ArchiveError(f"step {state.step} of {state.total_steps}: not a position")
    return state


def _history(members: Mapping[str, bytes]) -> tuple[Metrics, ...]:
    history = _decode(_HISTORY, members[_HISTORY], tuple[Metrics, ...])
    if len(history) > MAX_HISTORY:
        raise ArchiveError(f"history of {len(history)} points, limit {MAX_HISTORY}")
    return history


def _notes(members: Mapping[str, bytes]) -> DataNotes:
    if _NOTES not in members:
        return DataNotes()
    notes = DataNotes(**msgspec.structs.asdict(_decode(_NOTES, members[_NOTES], SavedNotes)))
    wrong = why_notes_are_wrong(notes)
    if wrong is not None:
        raise ArchiveError(f"member {_NOTES!r}: {wrong}")
    return notes


def _decode(name: str, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArchiveError(f"member {name!r}: {error}") from error
