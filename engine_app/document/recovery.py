"""What was not saved when the program ended: one file a document, written whole after every gesture.

The file holds the graph as it is, and where it belongs. Blocking; call it in a thread, one call at a time
for each document. A document that is saved or thrown away has none.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from backend.errors import GraphFormatError
from backend.graph import Graph
from backend.serialize import MAX_GRAPH_BYTES, document_of, graph_from_document
from engine_app.document.errors import FileError
from engine_app.document.files import write_atomically

MAX_FILES = 50
SUFFIX = ".recovery.json"


@dataclass(frozen=True, slots=True)
class Recovered:
    """``document``: the file that it belongs to; None for one that had never been saved."""

    file: Path
    document: Path | None
    graph: Graph
    changed_at_s: float
    """Of the clock on the wall, since 1970."""

    def discard(self) -> None:
        """Raises FileError."""
        _remove(self.file)


class RecoveryFile:
    """Of one open document; ``key`` tells documents without a file apart."""

    def __init__(self, folder: Path, document: Path | None, key: str = "untitled") -> None:
        self._document = document.resolve() if document else None
        name = blake3(str(self._document or key).encode()).hexdigest(16)
        self.path = folder / f"{name}{SUFFIX}"

    def keep(self, graph: Graph) -> None:
        """Raises FileError."""
        held = {"document": str(self._document) if self._document else None, "graph": document_of(graph)}
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(held, separators=(",", ":"), allow_nan=False).encode())
        except (OSError, ValueError) as error:
            raise FileError(f"cannot keep what is not saved yet: {error}") from error

    def discard(self) -> None:
        """Nothing is left to recover. Raises FileError."""
        _remove(self.path)

    def read(self) -> Recovered | None:
        """None if there is nothing, or nothing that can be read."""
        return _readable(self.path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"cannot remove what was kept: {error}") from error


def recoverable(folder: Path) -> list[Recovered]:
    """What can be recovered, newest first; files that cannot be read are left where they are."""
    found = sorted(_dated(folder), reverse=True)[:MAX_FILES]
    return [each for each in (_readable(path) for _, path in found) if each is not None]


def _dated(folder: Path) -> Iterator[tuple[float, Path]]:
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):  # another window may take it away just now
            yield path.stat().st_mtime, path


def _readable(path: Path) -> Recovered | None:
    with contextlib.suppress(OSError, ValueError, GraphFormatError, KeyError, TypeError):
        return _read(path)
    return None


def _read(path: Path) -> Recovered:
    info = path.stat()
    if info.st_size > 2 * MAX_GRAPH_BYTES:
        raise ValueError(f"{info.st_size} bytes, limit {2 * MAX_GRAPH_BYTES}")
    held = json.loads(path.read_bytes())
    graph = graph_from_document(held["graph"])
    document = held["document"]
    return Recovered(path, Path(document) if isinstance(document, str) else None, graph, info.st_mtime)
