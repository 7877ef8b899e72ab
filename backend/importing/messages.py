"""What a supervisor and a worker tell each other about models that are taken over. Pure data."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from backend.worker_message import FileName, WorkerMessage

MAX_FILES = 1024
MAX_SIZE = 1 << 20
UNKNOWN_IDS = 2
"""How many ids an input of whole numbers is asked with where nothing says how many there are."""


AxisName = Annotated[str, Meta(min_length=1, max_length=128)]


class ImportModel(WorkerMessage, frozen=True):
    """Makes a .cyxmodel of a model file, or of several files of weights.

    ``graph``: the graph.json that weights belong to, where the files do not hold one. Answered by
    Stages, then ModelImported or Failed.
    """

    files: Annotated[tuple[FileName, ...], Meta(min_length=1, max_length=MAX_FILES)]
    graph: FileName | None = None
    config: FileName | None = None
    """The config.json beside weights, which may say of what model they are."""
    tokenizer: FileName | None = None
    """Beside them; the model keeps it for whoever exports it."""
    sizes: Annotated[dict[AxisName, Annotated[int, Meta(ge=1, le=MAX_SIZE)]], Meta(max_length=16)] = field(
        default_factory=dict
    )
    """Of axes that a file leaves open, by their names; ``steps`` for a language model."""


class ModelImported(WorkerMessage, frozen=True):
    """The body is a certificate as JSON where the file could be run to compare; else empty."""

    file: FileName
    about: str
