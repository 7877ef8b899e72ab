"""Graph files: opened, repaired where they must be, and saved in one piece. Blocking; call it in a thread."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from backend.errors import BackendError, GraphFormatError
from backend.graph import Graph, Node
from backend.serialize import MAX_GRAPH_BYTES, dump_graph, load_graph
from engine_app.document.errors import FileError
from engine_app.document.layout import ASPECT, missing_places
from engine_app.document.view import W, placed
from engine_app.document.wiring import FreshIds


@dataclass(frozen=True, slots=True)
class Opened:
    """``graph`` can be edited: its ids are unique and every node has a place. ``notes``: what was changed."""

    graph: Graph
    notes: tuple[str, ...] = ()


def open_graph(path: Path, aspect: float = ASPECT) -> Opened:
    """A graph file, of this or an older format, or the graph in a ``.cyxmodel``. Raises FileError."""
    try:
        if path.suffix.lower() == ".cyxmodel":
            return editable(_graph_in_model(path), aspect)
        if path.stat().st_size > MAX_GRAPH_BYTES:
            raise FileError(f"{path.name} has {path.stat().st_size} bytes, limit {MAX_GRAPH_BYTES}")
        return editable(load_graph(path.read_bytes()), aspect)
    except OSError as error:
        raise FileError(f"{path.name}: {error.strerror}") from error
    except BackendError as error:
        raise FileError(f"{path.name}: {error}") from error


def _graph_in_model(path: Path) -> Graph:
    from backend.formats.cyxmodel import inspect_cyxmodel

    return load_graph(inspect_cyxmodel(path).graph)


def editable(graph: Graph, aspect: float = ASPECT) -> Opened:
    """Everything in the graph stays; nodes of one id are told apart, those without a place get one.

    ``aspect``: of the screen on which they are placed.
    """
    notes: list[str] = []
    return Opened(_editable(graph, notes, aspect), tuple(notes))


def _editable(wiring: W, notes: list[str], aspect: float) -> W:
    ids = FreshIds(wiring)
    seen: set[str] = set()
    nodes: list[Node] = []
    for node in wiring.nodes:
        if node.id in seen:
            fresh = ids.fresh(node.id)
            notes.append(f"two nodes were called {node.id[:40]}: one is {fresh} now, without links")
            node = replace(node, id=fresh)
        seen.add(node.id)
        if node.body is not None:
            body = _editable(node.body, notes, aspect)
            node = node if body is node.body else replace(node, body=body)
        nodes.append(node)
    if any(new is not old for new, old in zip(nodes, wiring.nodes, strict=True)):
        wiring = replace(wiring, nodes=tuple(nodes))
    places: Mapping[str, tuple[float, float]] = missing_places(wiring, aspect)
    if not places:
        return wiring
    return replace(
        wiring, nodes=tuple(placed(n, *places[n.id]) if n.id in places else n for n in wiring.nodes)
    )


def save_graph(path: Path, graph: Graph) -> None:
    """The old file stays until the new one is whole and on disk. Raises FileError."""
    try:
        data = dump_graph(graph)
        if len(data) > MAX_GRAPH_BYTES:
            raise FileError(f"the graph takes {len(data)} bytes, limit {MAX_GRAPH_BYTES}")
        load_graph(data)
        write_atomically(path, data)
    except OSError as error:
        raise FileError(f"{path.name}: {error.strerror}") from error
    except (GraphFormatError, ValueError) as error:
        raise FileError(f"{path.name}: {error}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """With the rights that the file has, or those of a new one. Raises OSError."""
    target = path.resolve()
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found
