"""What a supervisor and a worker tell each other about code to import. Pure data."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from backend.worker_message import FileName, WorkerMessage

MAX_SOURCE_BYTES = 1 << 20
MAX_INPUTS = 16
Shape = Annotated[tuple[Annotated[int, Meta(ge=1, le=1 << 20)], ...], Meta(max_length=8)]


class ImportCode(WorkerMessage, frozen=True):
    """Runs ``file`` and follows a forward pass of a module in it; answered by CodeImported or Failed."""

    file: FileName
    name: Annotated[str, Meta(max_length=128)]
    """Of the class or module; empty: the one called Model, else the last class."""
    inputs: Annotated[tuple[Shape, ...], Meta(max_length=MAX_INPUTS)]
    """Shapes of one sample of each input; none: the module's docstring says them, as in generated files."""


class CodeImported(WorkerMessage, frozen=True):
    """The body is the graph's JSON, to be checked like any stranger's file."""

    name: Annotated[str, Meta(max_length=128)]
    weights: FileName
    """A safetensors file of the module's state, under the names that the graph's compiler gives."""


class Problem(msgspec.Struct, frozen=True):
    """Why a line of the source has no place in a graph."""

    line: int
    operation: str
    reason: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.operation}: {self.reason}"
