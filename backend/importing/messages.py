"""What a supervisor and a worker tell each other about models that are taken over. Pure data."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from backend.worker_message import FileName, WorkerMessage

MAX_FILES = 1024
UNKNOWN_IDS = 2
"""How many ids an input of whole numbers has, as long as nothing says more."""


class ImportModel(WorkerMessage, frozen=True):
    """Makes a .cyxmodel of a model file, or of several files of weights.

    ``graph``: the graph.json that weights belong to, where the files do not hold one. Answered by
    Stages, then ModelImported or Failed.
    """

    files: Annotated[tuple[FileName, ...], Meta(min_length=1, max_length=MAX_FILES)]
    graph: FileName | None = None


class ModelImported(WorkerMessage, frozen=True):
    """The body is a certificate as JSON where the file could be run to compare; else empty."""

    file: FileName
    about: str
