"""How nodes, groups and notes look and where they are, read from a graph and written into it.

Lengths are in world units: dp at zoom 1. x grows to the right, y downwards; a place is a top left corner.
A file may hold anything: what cannot be read counts as absent, and stays in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from backend.graph import Body, Graph, JsonValue, Node, Wiring
from backend.onnx_node import TYPE as OPERATOR

W = TypeVar("W", Graph, Body)

MAX_COORDINATE = 1e6
MIN_FRAME = 48.0
MAX_TITLE_CHARACTERS = 128
MAX_NOTE_CHARACTERS = 4096
MAX_FRAMES = 2_000
"""Groups, and notes, of one wiring."""


class Mode(Enum):
    """What a node does in a training: see ``lowering``."""

    NORMAL = "normal"
    BYPASSED = "bypass"
    MUTED = "mute"


@dataclass(frozen=True, slots=True)
class Rect:
    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    def holds(self, x: float, y: float) -> bool:
        return self.x <= x <= self.right and self.y <= y <= self.bottom

    def touches(self, other: Rect) -> bool:
        return (
            self.x <= other.right
            and other.x <= self.right
            and self.y <= other.bottom
            and other.y <= self.bottom
        )

    def grown(self, margin: float) -> Rect:
        return Rect(self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin)


def bounds(rects: Iterable[Rect]) -> Rect | None:
    """The smallest rectangle around all; None for none."""
    found = list(rects)
    if not found:
        return None
    x, y = min(each.x for each in found), min(each.y for each in found)
    return Rect(x, y, max(each.right for each in found) - x, max(each.bottom for each in found) - y)


@dataclass(frozen=True, slots=True)
class Frame:
    """A titled rectangle behind nodes, which move with it (a group), or a text on the canvas (a note)."""

    id: str
    text: str
    rect: Rect
    colour: str = ""
    """A name that the theme knows; empty for its own choice."""


class FrameKind(Enum):
    GROUP = "groups"
    NOTE = "notes"


# -- nodes ---------------------------------------------------------------------------------------


def view_of_node(node: Node) -> Mapping[str, JsonValue]:
    found = node.extra.get("view")
    return found if isinstance(found, dict) else {}


def place_of(node: Node) -> tuple[float, float] | None:
    """None for a node that has no place yet."""
    view = view_of_node(node)
    x, y = _coordinate(view.get("x")), _coordinate(view.get("y"))
    return (x, y) if x is not None and y is not None else None


def title_of(node: Node) -> str:
    """What the user called it, or its type; of an operator of ONNX its name there."""
    title = view_of_node(node).get("title")
    if node.type == OPERATOR:
        title = title or node.parameters.get("operator")
    return title[:MAX_TITLE_CHARACTERS] if isinstance(title, str) and title else node.type


def width_of(node: Node) -> float | None:
    """None for one that nobody has resized."""
    return _coordinate(view_of_node(node).get("width"))


def lies_elsewhere(node: Node, old: Node) -> bool:
    """Whether a node is as it was but for its place and mode."""
    view, before = view_of_node(node), view_of_node(old)
    return (
        (node.id, node.type, node.version) == (old.id, old.type, old.version)
        and node.parameters is old.parameters
        and node.body is old.body
        and view.keys() == before.keys()
        and all(view[key] == before[key] for key in view if key not in ("x", "y"))
    )


def is_collapsed(node: Node) -> bool:
    return view_of_node(node).get("collapsed") is True


def is_reroute(node: Node) -> bool:
    """A bend in a link: an Identity that is drawn as a dot."""
    return node.type == "Identity" and view_of_node(node).get("reroute") is True


def mode_of(node: Node) -> Mode:
    if "mode" not in node.extra:
        return Mode.NORMAL  # nearly always, and asked of thousands
    try:
        return Mode(node.extra.get("mode", "normal"))
    except ValueError:
        return Mode.NORMAL


def with_mode(node: Node, mode: Mode) -> Node:
    extra = {key: value for key, value in node.extra.items() if key != "mode"}
    return replace(node, extra=extra if mode is Mode.NORMAL else {**extra, "mode": mode.value})


def with_view(node: Node, **changes: JsonValue) -> Node:
    """The node with fields of its view changed; None takes a field away."""
    view = {**view_of_node(node), **changes}
    view = {key: value for key, value in view.items() if value is not None}
    extra = {key: value for key, value in node.extra.items() if key != "view"}
    return replace(node, extra={**extra, "view": view} if view else extra)


def placed(node: Node, x: float, y: float) -> Node:
    """At a tenth of a unit, so that files stay short and equal places are equal."""
    view = {**view_of_node(node), "x": round(float(x), 1), "y": round(float(y), 1)}
    return replace(node, extra={**node.extra, "view": view})


# -- groups and notes ----------------------------------------------------------------------------


def view_of(wiring: Wiring) -> Mapping[str, JsonValue]:
    """Of a graph, or of the body of a node."""
    if isinstance(wiring, Graph):
        return wiring.view
    found = wiring.extra.get("view") if isinstance(wiring, Body) else None
    return found if isinstance(found, dict) else {}


def with_wiring_view(wiring: W, view: Mapping[str, JsonValue]) -> W:
    if isinstance(wiring, Graph):
        return replace(wiring, view=view)
    extra = {key: value for key, value in wiring.extra.items() if key != "view"}
    return replace(wiring, extra={**extra, "view": dict(view)} if view else extra)


def frames_of(wiring: Wiring, kind: FrameKind) -> tuple[Frame, ...]:
    """In document order; one that was drawn later lies on top."""
    entries = view_of(wiring).get(kind.value)
    found = [_frame(entry) for entry in entries[:MAX_FRAMES]] if isinstance(entries, list) else []
    unique = {frame.id: frame for frame in found if frame is not None}
    return tuple(unique.values())


def with_frame(wiring: W, kind: FrameKind, frame: Frame | None, frame_id: str) -> W:
    """The frame of this id set, added at the end, or taken away (None)."""
    view = view_of(wiring)
    entries = view.get(kind.value)
    kept = list(entries) if isinstance(entries, list) else []
    at = [
        index for index, entry in enumerate(kept) if isinstance(entry, dict) and entry.get("id") == frame_id
    ]
    if frame is None:
        kept = [entry for index, entry in enumerate(kept) if index not in at]
    elif at:
        before = kept[at[-1]]
        kept[at[-1]] = {**(before if isinstance(before, dict) else {}), **_frame_document(frame)}
    else:
        kept.append(_frame_document(frame))
    rest = {key: value for key, value in view.items() if key != kind.value}
    return with_wiring_view(wiring, {**rest, kind.value: kept} if kept else rest)


def _frame(entry: JsonValue) -> Frame | None:
    if not isinstance(entry, dict):
        return None
    name, text, colour = entry.get("id"), entry.get("text", ""), entry.get("colour", "")
    places = [_coordinate(entry.get(key)) for key in ("x", "y", "width", "height")]
    if not isinstance(name, str) or not isinstance(text, str) or not isinstance(colour, str):
        return None
    known = [each for each in places if each is not None]
    if len(known) != 4 or min(known[2:]) < MIN_FRAME:
        return None
    return Frame(name, text[:MAX_NOTE_CHARACTERS], Rect(*known), colour)


def _frame_document(frame: Frame) -> dict[str, JsonValue]:
    rect = frame.rect
    return {
        "id": frame.id,
        "text": frame.text,
        "x": round(rect.x, 1),
        "y": round(rect.y, 1),
        "width": round(rect.width, 1),
        "height": round(rect.height, 1),
        "colour": frame.colour,
    }


def _coordinate(value: JsonValue) -> float | None:
    if not isinstance(value, float) and (isinstance(value, bool) or not isinstance(value, int)):
        return None
    return float(value) if abs(value) <= MAX_COORDINATE else None  # so is no NaN
