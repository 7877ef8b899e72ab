"""What a local training is, as files in its directory: its order, how often it is saved, where it stands."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backend.formats.cyxmodel import is_cyxmodel
from backend.reports import MAX_LEARNING_RATE
from engine_app.entry import CommandError
from engine_app.placing import install
from engine_app.training_queue import ORDER, TrainingLine
from p2p.datadir import write_atomic
from p2p.errors import RemoteFailureError

GRAPH, CHECKPOINT, PROGRESS = "graph.json", "checkpoint.cyxmodel", "progress.json"
START, RATE = "start.cyxmodel", "rate.json"
MEMORY_BYTES = 8 << 30
RUNTIME_BYTES = 2 << 30
MAX_SEGMENTS = 500
_SEGMENT_S = 20
_FLOPS_PER_S = 2e10
"""Of a plain CPU: what is faster only writes more checkpoints a minute."""
_CHECKPOINT_BYTES_PER_S = 2e8
_CHECKPOINT_SHARE = 20
"""A segment lasts at least so many times as long as its checkpoint takes to write."""


class TrainingOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a training is, on disk before it starts; graph and data lie beside it."""

    graph_file: str
    output: str
    device: str
    segments: int
    steps: int
    memory_bytes: int
    has_start: bool = False
    """START lies beside it."""
    start_partly: bool = False
    tensorboard: str | None = None


class RateChange(msgspec.Struct, frozen=True):
    """The newest one that the user made; the checkpoints from ``step`` on hold it too."""

    step: int
    rate: float


class SavedProgress(msgspec.Struct, frozen=True):
    """For those who list trainings; the checkpoint itself says where it stands."""

    step: int
    total_steps: int


def saved_progress(directory: Path) -> SavedProgress:
    """At no step of none where nothing was saved."""
    try:
        return msgspec.json.decode((directory / PROGRESS).read_bytes(), type=SavedProgress)
    except (OSError, msgspec.MsgspecError):
        return SavedProgress(0, 0)


def read_rate(found: object) -> float:
    """Raises RemoteFailureError: another process may have asked."""
    try:
        rate = float(str(found))
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= MAX_LEARNING_RATE:
        allowed = f"a number from 0 to {MAX_LEARNING_RATE:g}"
        raise RemoteFailureError("refused", f"learning rate {str(found)[:40]!r}, must be {allowed}")
    return rate


def note_rate(directory: Path, step: int, rate: float) -> None:
    """For a training that goes on from a checkpoint of ``step`` or before."""
    write_atomic(directory / RATE, msgspec.json.encode(RateChange(step, rate)))


def noted_rate(directory: Path, saved_step: int) -> float | None:
    """What the user set after the checkpoint was made."""
    try:
        change = msgspec.json.decode((directory / RATE).read_bytes(), type=RateChange)
    except (OSError, msgspec.MsgspecError):
        return None
    return change.rate if change.step >= saved_step else None


def choose_segments(steps: int, training_flops: int, parameters: int) -> int:
    """How often to save: about every 20 s on a CPU, less often where checkpoints are large."""
    total_s = training_flops / _FLOPS_PER_S
    save_s = 12 * parameters / _CHECKPOINT_BYTES_PER_S
    affordable = int(total_s / (_CHECKPOINT_SHARE * save_s)) if save_s else MAX_SEGMENTS
    wanted = min(max(4, int(total_s / _SEGMENT_S)), max(4, affordable))
    return max(1, min(wanted, steps, MAX_SEGMENTS))


def copy_start(source: Path, target: Path) -> None:
    """A copy: the training may go on when the model's own file is long another one."""
    if not is_cyxmodel(source):
        raise CommandError(f"{source.name} is no .cyxmodel to begin from")
    install(source, target)


def read_order(directory: Path) -> TrainingOrder:
    """Raises CommandError."""
    try:
        return msgspec.json.decode((directory / ORDER).read_bytes(), type=TrainingOrder)
    except (OSError, msgspec.MsgspecError) as error:
        raise CommandError(f"{directory.name}: its order cannot be read: {error}") from error


def find_interrupted(line: TrainingLine, graph: Path | None, kind: str = "train") -> str:
    """The newest training that was cut short, of ``graph`` if that is given. Raises CommandError."""
    for entry in reversed(line.entries()):
        if entry.is_alive or not entry.can_go_on or entry.ticket.kind != kind:
            continue
        if graph is None or _graph_of(entry.directory) == str(graph):
            return entry.name
    of_graph = f" of {graph.name}" if graph else ""
    raise CommandError(f"no {kind}{of_graph} was cut short; `cyxwiz trainings` lists them")


class _OfGraph(msgspec.Struct, frozen=True):
    graph_file: str


def _graph_of(directory: Path) -> str | None:
    """Of a training or sweep."""
    try:
        return msgspec.json.decode((directory / ORDER).read_bytes(), type=_OfGraph).graph_file
    except (OSError, msgspec.MsgspecError):
        return None
