"""Copies of nodes with their links, groups and notes, as text that any program can carry.

The text is an ordinary graph file, so that what was copied here can be pasted into another window, and a
whole graph file can be pasted as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from backend.errors import GraphFormatError
from backend.graph import Graph, Wiring
from backend.serialize import dump_graph, load_graph
from engine_app.document.edits import AddNodes
from engine_app.document.errors import EditError
from engine_app.document.ports import rect_of
from engine_app.document.view import Frame, FrameKind, Rect, bounds, frames_of, place_of, placed, with_frame
from engine_app.document.wiring import FreshIds, need

OFFSET = 40.0
"""Of one paste from what lies there already, to the right and down."""
MAX_OFFSETS = 200


@dataclass(frozen=True, slots=True)
class Pasted:
    """``ids``: of the new nodes, to be selected."""

    edit: AddNodes
    ids: frozenset[str]


def copied(wiring: Wiring, node_ids: Iterable[str]) -> str:
    """What ``piece_of`` gives, as a text. Raises EditError."""
    return dump_graph(piece_of(wiring, node_ids)).decode()


def piece_of(wiring: Wiring, node_ids: Iterable[str]) -> Graph:
    """The nodes, the links among them, and the groups and notes that they fill. Raises EditError."""
    chosen = need(wiring, node_ids)
    nodes = tuple(node for node in wiring.nodes if node.id in chosen)
    links = tuple(each for each in wiring.links if {each.source_node, each.target_node} <= chosen)
    piece = Graph("", nodes, links)
    for kind in FrameKind:
        for frame in frames_of(wiring, kind):
            if _is_filled(wiring, frame, chosen):
                piece = with_frame(piece, kind, frame, frame.id)
    return piece


def pasted(wiring: Wiring, text: str, at: tuple[float, float] | None = None) -> Pasted:
    """What a copy holds, with ids of its own, around ``at`` or beside where it was, never on another copy.

    Raises EditError for a text that holds no nodes.
    """
    try:
        piece = load_graph(text.encode())
    except (GraphFormatError, UnicodeEncodeError) as error:
        raise EditError(f"what was copied is no part of a graph: {error}") from error
    if not piece.nodes:
        raise EditError("what was copied holds no nodes")
    return with_fresh_ids(wiring, piece, at)


def with_fresh_ids(wiring: Wiring, piece: Graph, at: tuple[float, float] | None = None) -> Pasted:
    """A piece of graph as an edit that adds it."""
    ids = FreshIds(wiring)
    names: dict[str, str] = {}
    nodes = []
    for node in piece.nodes:
        name = ids.fresh(node.id)
        names.setdefault(node.id, name)
        nodes.append(replace(node, id=name))
    links = tuple(
        replace(each, source_node=names[each.source_node], target_node=names[each.target_node])
        for each in piece.links
        if each.source_node in names and each.target_node in names
    )
    dx, dy = _shift(wiring, piece, at)
    moved = tuple(
        placed(node, place[0] + dx, place[1] + dy) if (place := place_of(node)) else node for node in nodes
    )
    groups = _moved_frames(wiring, piece, FrameKind.GROUP, dx, dy)
    notes = _moved_frames(wiring, piece, FrameKind.NOTE, dx, dy)
    edit = AddNodes(moved, links, groups, notes)
    return Pasted(edit, frozenset(node.id for node in moved))


def _is_filled(wiring: Wiring, frame: Frame, chosen: frozenset[str]) -> bool:
    inside = {node.id for node in wiring.nodes if frame.rect.holds(*rect_of(node).centre)}
    return bool(inside) and inside <= chosen


def _shift(wiring: Wiring, piece: Graph, at: tuple[float, float] | None) -> tuple[float, float]:
    around = bounds(rect_of(node) for node in piece.nodes if place_of(node))
    if around is None:
        return 0.0, 0.0
    dx, dy = (at[0] - around.centre[0], at[1] - around.centre[1]) if at else (0.0, 0.0)
    corners = {place_of(node) for node in wiring.nodes}
    wanted = [place for node in piece.nodes if (place := place_of(node))]
    for _ in range(MAX_OFFSETS):
        if not any((round(x + dx, 1), round(y + dy, 1)) in corners for x, y in wanted):
            break
        dx, dy = dx + OFFSET, dy + OFFSET
    return dx, dy


def _moved_frames(wiring: Wiring, piece: Graph, kind: FrameKind, dx: float, dy: float) -> tuple[Frame, ...]:
    taken = {frame.id for frame in frames_of(wiring, kind)}
    found = []
    for frame in frames_of(piece, kind):
        name = free_frame_id(taken, kind)
        taken.add(name)
        rect = frame.rect
        found.append(replace(frame, id=name, rect=Rect(rect.x + dx, rect.y + dy, rect.width, rect.height)))
    return tuple(found)


def free_frame_id(taken: Iterable[str], kind: FrameKind) -> str:
    used = set(taken)
    stem = kind.name.lower()
    number = len(used) + 1
    while f"{stem}{number}" in used:
        number += 1
    return f"{stem}{number}"
