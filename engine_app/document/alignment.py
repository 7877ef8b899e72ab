"""Nodes in line: snapping while they are dragged, and aligning and distributing what is selected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from engine_app.document.edits import MoveNodes
from engine_app.document.errors import EditError
from engine_app.document.view import Rect, bounds

GRID = 8.0


class Edge(Enum):
    LEFT = "left"
    CENTRE = "centre"
    RIGHT = "right"
    TOP = "top"
    MIDDLE = "middle"
    BOTTOM = "bottom"


class Axis(Enum):
    HORIZONTAL = "horizontal"
    VERTICAL = "vertical"


@dataclass(frozen=True, slots=True)
class Guide:
    """A line that is drawn while something is in line: x for a vertical one, y for a horizontal one."""

    axis: Axis
    at: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Snapped:
    """``dx`` and ``dy``: to add to the place that was wanted."""

    dx: float
    dy: float
    guides: tuple[Guide, ...] = ()


def snapped(moving: Rect, others: Iterable[Rect], reach: float) -> Snapped:
    """In line with the edges and middles of others that are within ``reach``; else on the grid."""
    near = list(others)
    x, vertical = _nearest(_xs(moving), [(at, rect) for rect in near for at in _xs(rect)], reach)
    y, horizontal = _nearest(_ys(moving), [(at, rect) for rect in near for at in _ys(rect)], reach)
    dx = x if x is not None else round(moving.x / GRID) * GRID - moving.x
    dy = y if y is not None else round(moving.y / GRID) * GRID - moving.y
    guides = []
    if vertical is not None:
        at, rect = vertical
        low, high = min(moving.y + dy, rect.y), max(moving.bottom + dy, rect.bottom)
        guides.append(Guide(Axis.VERTICAL, at, low, high))
    if horizontal is not None:
        at, rect = horizontal
        guides.append(
            Guide(Axis.HORIZONTAL, at, min(moving.x + dx, rect.x), max(moving.right + dx, rect.right))
        )
    return Snapped(dx, dy, tuple(guides))


def aligned(rects: Mapping[str, Rect], edge: Edge) -> MoveNodes:
    """Raises EditError for fewer than two."""
    around = _around(rects, 2)
    places = {}
    for node_id, rect in rects.items():
        x, y = rect.x, rect.y
        match edge:
            case Edge.LEFT:
                x = around.x
            case Edge.CENTRE:
                x = around.centre[0] - rect.width / 2
            case Edge.RIGHT:
                x = around.right - rect.width
            case Edge.TOP:
                y = around.y
            case Edge.MIDDLE:
                y = around.centre[1] - rect.height / 2
            case Edge.BOTTOM:
                y = around.bottom - rect.height
        places[node_id] = (x, y)
    return MoveNodes(places)


def distributed(rects: Mapping[str, Rect], axis: Axis) -> MoveNodes:
    """Equal gaps between them, the outermost staying. Raises EditError for fewer than three."""
    around = _around(rects, 3)
    sideways = axis is Axis.HORIZONTAL
    ordered = sorted(rects, key=lambda each: rects[each].centre[0 if sideways else 1])
    filled = sum(rect.width if sideways else rect.height for rect in rects.values())
    gap = ((around.width if sideways else around.height) - filled) / (len(rects) - 1)
    places = {}
    at = around.x if sideways else around.y
    for node_id in ordered:
        rect = rects[node_id]
        places[node_id] = (at, rect.y) if sideways else (rect.x, at)
        at += (rect.width if sideways else rect.height) + gap
    return MoveNodes(places)


def _around(rects: Mapping[str, Rect], least: int) -> Rect:
    around = bounds(rects.values())
    if around is None or len(rects) < least:
        raise EditError(f"{len(rects)} nodes are selected, must be {least} or more")
    return around


def _xs(rect: Rect) -> tuple[float, float, float]:
    return rect.x, rect.centre[0], rect.right


def _ys(rect: Rect) -> tuple[float, float, float]:
    return rect.y, rect.centre[1], rect.bottom


def _nearest(
    mine: tuple[float, ...], theirs: list[tuple[float, Rect]], reach: float
) -> tuple[float | None, tuple[float, Rect] | None]:
    """The smallest step that brings a line of mine onto one of theirs."""
    best, line = None, None
    for at, rect in theirs:
        for own in mine:
            step = at - own
            if abs(step) <= reach and (best is None or abs(step) < abs(best)):
                best, line = step, (at, rect)
    return best, line
