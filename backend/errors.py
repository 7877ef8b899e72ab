"""Every error that backend raises. An invalid graph is a list of diagnostics, not an exception.

BackendError
├── GraphFormatError       a graph file that cannot be read
├── GraphInvalidError      asked to compile a graph that has errors; carries the diagnostics
├── ShapeMismatchError     a layer cannot take these inputs; becomes a diagnostic
├── ExpressionError        the text of a Lambda node that does not follow its grammar
├── DatasetError           a data file that cannot be read or does not fit the graph
├── ArchiveError           a model file that is damaged or hostile
├── ExportError            a model that a file format cannot hold
├── ModelImportError       a model of another program that has no place in a graph
├── CheckpointError        a checkpoint that does not belong to this graph or job
├── CodeError              source code that cannot be made a graph
├── TrainingDivergedError  the loss is no number any more
├── InputError             values that a model cannot be asked about
├── DeadlineError          an answer that took too long
└── WorkerError            a worker process refused, failed, died or outgrew its limits
    ├── WorkerDiedError
    ├── WorkerFailedError
    └── RankLostError      another process of the same training is gone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class BackendError(Exception):
    """Base of all errors of this package."""


class GraphFormatError(BackendError):
    """A graph file that cannot be read as a graph of a known format version."""


class GraphInvalidError(BackendError):
    """The graph has errors; ``diagnostics`` says which and where."""

    def __init__(self, diagnostics: tuple[object, ...]) -> None:
        super().__init__("; ".join(str(diagnostic) for diagnostic in diagnostics))
        self.diagnostics = diagnostics


@dataclass(frozen=True, slots=True)
class SetParameter:
    """A remedy: give a parameter of the node another value."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class InsertBefore:
    """A remedy: put a node of this type in front of the node's first input."""

    type: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


class ShapeMismatchError(BackendError):
    """Raised by a catalogue rule for inputs it cannot take; the caller makes a diagnostic of it."""

    def __init__(self, text: str, *remedies: SetParameter | InsertBefore) -> None:
        """The remedies together put it right."""
        super().__init__(text)
        self.remedies = remedies


class ExpressionError(BackendError):
    """The text of a Lambda node does not follow its grammar, or is too large."""


class DatasetError(BackendError):
    """A data file that cannot be read, or does not fit the graph."""


class ArchiveError(BackendError):
    """A model file of any format that is damaged, hostile, or of an unknown version."""


class ExportError(BackendError):
    """A model, or a part of it, that a file format cannot hold; the text names the node."""


class ModelImportError(BackendError):
    """A model of another program, or a part of it, that has no place in a graph; the text names it."""


class CheckpointError(BackendError):
    """A checkpoint that does not belong to this graph, dataset or position."""


class CodeError(BackendError):
    """Source code that cannot be made a graph; the text names lines and what is supported."""


class TrainingDivergedError(BackendError):
    """The loss has become infinite or no number at all; ``node`` is where that began, if that is known."""

    def __init__(self, text: str, node: str = "") -> None:
        super().__init__(text)
        self.node = node


class InputError(BackendError):
    """An input that does not fit the model that it was sent to."""


class DeadlineError(BackendError):
    """A request was not answered within its time."""


class WorkerError(BackendError):
    """Base of what can go wrong with a worker process."""


class WorkerDiedError(WorkerError):
    """The process ended without being asked: killed, crashed, or over its memory or time."""


class WorkerFailedError(WorkerError):
    """The worker answered that it could not do what was asked; it is still usable."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class RankLostError(WorkerError):
    """Another process that trains the same model is gone: without it no step can be made."""
