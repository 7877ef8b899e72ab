"""What gestures mean on the canvas. Pure: state and gesture in, new state and intents out.

- A tap selects; on a port it begins a link that a tap on another port ends; elsewhere it lets go.
- A drag of a node moves it, with all that is selected; of a port pulls a link; of the ground pans the view.
- A drag after a long press, with Shift, or in selection mode, goes around nodes (lasso) or over them (box).
- A drag with Control, or of the right button, cuts links. A pinch anywhere only moves the view.
- A link that ends in the void asks for a node; a double tap on the ground too, on a subgraph it opens it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

import numpy as np

from backend.catalogue.record import PortKind
from backend.diagnostics import ends_of
from backend.graph import Link, Wiring
from engine_app.document.alignment import Guide, snapped
from engine_app.document.edits import Batch, Connect, Disconnect, Edit, InsertOnLink, MoveNodes, SetFrame
from engine_app.document.linking import best_input, best_output, through, why_not
from engine_app.document.view import MIN_FRAME, Frame, FrameKind, Rect, bounds
from engine_app.scene.gestures import (
    Button,
    DoubleTapped,
    DragBegun,
    DragCancelled,
    DragEnded,
    Dragged,
    Gesture,
    Held,
    Modifiers,
    Pinched,
    Scrolled,
    Tapped,
)
from engine_app.scene.hits import (
    FINGER,
    Hit,
    OnFrame,
    OnNode,
    OnPort,
    hit,
    link_at,
    links_cut,
    nearest_port,
    node_at,
    nodes_in,
    nodes_within,
)
from engine_app.scene.snapshot import KINDS, Floats, Snapshot
from engine_app.scene.view import View

SNAP_REACH = 6.0
"""In dp."""
MAGNET = 40.0
"""How far, in dp, a link jumps to a port that takes it."""
ZOOM_STEP = 1.15
MAX_OUTLINE = 2_000


class Mode(Enum):
    NORMAL = "normal"
    SELECTING = "selecting"
    """Drags of the ground select, and taps add: for fingers, which have no Shift."""


@dataclass(frozen=True, slots=True)
class PortEnd:
    node: str
    port: str
    is_output: bool
    kind: PortKind | None


# -- what is going on ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Panning:
    pass


@dataclass(frozen=True, slots=True)
class Moving:
    """Nodes and groups on their way, by (dx, dy) of the world from where they are in the document."""

    nodes: frozenset[str]
    frames: tuple[tuple[FrameKind, Frame], ...] = ()
    raw_x: float = 0.0
    raw_y: float = 0.0
    dx: float = 0.0
    dy: float = 0.0
    guides: tuple[Guide, ...] = ()
    link: int | None = None
    """Place of the link that the node would go into if it were dropped."""


@dataclass(frozen=True, slots=True)
class Resizing:
    kind: FrameKind
    frame: Frame


@dataclass(frozen=True, slots=True)
class Linking:
    """A link from ``start`` to the finger, or to the port it jumped to. ``moved``: the link it was."""

    start: PortEnd
    x: float
    y: float
    target: PortEnd | None = None
    moved: Link | None = None


@dataclass(frozen=True, slots=True)
class Selecting:
    """World places; two corners of a box, or the line of a lasso."""

    points: tuple[tuple[float, float], ...]
    is_box: bool
    before: frozenset[str]


@dataclass(frozen=True, slots=True)
class Cutting:
    start: tuple[float, float]
    end: tuple[float, float]


Action: TypeAlias = Panning | Moving | Resizing | Linking | Selecting | Cutting | None


@dataclass(frozen=True, slots=True)
class ToolState:
    """``pending``: a port that was tapped and waits for the other one."""

    action: Action = None
    mode: Mode = Mode.NORMAL
    pending: PortEnd | None = None


# -- what shall happen ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """The canvas shall look there."""

    view: View


@dataclass(frozen=True, slots=True)
class Select:
    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Make:
    edit: Edit


@dataclass(frozen=True, slots=True)
class AskForNode:
    """The palette at a place of the world; for the free end of a link, if there is one."""

    x: float
    y: float
    end: PortEnd | None = None


@dataclass(frozen=True, slots=True)
class ShowMenu:
    """The radial menu at a place of the screen."""

    x: float
    y: float
    on: Hit


@dataclass(frozen=True, slots=True)
class Enter:
    node: str


@dataclass(frozen=True, slots=True)
class EditFrame:
    kind: FrameKind
    id: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Why something did not happen."""

    text: str


Intent: TypeAlias = Look | Select | Make | AskForNode | ShowMenu | Enter | EditFrame | Tell
Outcome: TypeAlias = tuple[ToolState, list[Intent]]


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What a gesture happens on. ``dp``: pixels to a dp."""

    wiring: Wiring
    scene: Snapshot
    view: View
    selected: frozenset[str] = frozenset()
    dp: float = 1.0

    def world(self, dp: float) -> float:
        """A length on the screen, in dp, as one of the world."""
        return dp * self.dp / self.view.zoom


def handle(state: ToolState, gesture: Gesture, stage: Stage) -> Outcome:
    match gesture:
        case Pinched(x, y, dx, dy, factor):
            return state, [Look(stage.view.panned(dx, dy).zoomed(factor, x, y))]
        case Scrolled(x, y, steps, modifiers):
            return state, [Look(_scrolled(stage.view, x, y, steps, modifiers))]
        case Tapped():
            return _tap(state, gesture, stage)
        case DoubleTapped(x, y):
            return _double_tap(state, x, y, stage)
        case Held(x, y):
            return replace(state, pending=None), [
                ShowMenu(x, y, hit(stage.scene, stage.view, x, y, stage.dp))
            ]
        case DragBegun():
            return _begin(state, gesture, stage)
        case Dragged():
            return _drag(state, gesture, stage)
        case DragEnded():
            return _end(state, stage)
        case DragCancelled():
            return replace(state, action=None), []
        case _:
            return state, []


def _scrolled(view: View, x: float, y: float, steps: float, modifiers: Modifiers) -> View:
    if modifiers.shift:
        return view.panned(steps * 80, 0)
    if modifiers.control:
        return view.panned(0, steps * 80)
    return view.zoomed(ZOOM_STEP**steps, x, y)


# -- taps ----------------------------------------------------------------------------------------


def _tap(state: ToolState, tap: Tapped, stage: Stage) -> Outcome:
    on = hit(stage.scene, stage.view, tap.x, tap.y, stage.dp)
    if tap.secondary:
        return replace(state, pending=None), [ShowMenu(tap.x, tap.y, on)]
    adds = tap.modifiers.shift or tap.modifiers.control or state.mode is Mode.SELECTING
    match on:
        case OnPort():
            return _tap_port(state, _end_of(stage.scene, on.number), stage)
        case OnNode(node) if state.pending is not None:
            return _link_to_node(state, state.pending, node, stage)
        case OnNode(node):
            chosen = stage.selected ^ {node} if adds else frozenset({node})
            return state, [Select(chosen)]
        case _:
            idle = replace(state, pending=None)
            return idle, [] if adds or not stage.selected else [Select(frozenset())]


def _tap_port(state: ToolState, end: PortEnd, stage: Stage) -> Outcome:
    if state.pending is None or state.pending == end:
        return replace(state, pending=None if state.pending else end), []
    return _link(replace(state, pending=None), state.pending, end, stage)


def _link_to_node(state: ToolState, start: PortEnd, node_id: str, stage: Stage) -> Outcome:
    end = _fitting_end(start, node_id, stage)
    idle = replace(state, pending=None)
    if end is None:
        kind = start.kind.value if start.kind else "this"
        return idle, [Tell(f"this node has no port for {kind}")]
    return _link(idle, start, end, stage)


def _double_tap(state: ToolState, x: float, y: float, stage: Stage) -> Outcome:
    idle = replace(state, pending=None)
    match hit(stage.scene, stage.view, x, y, stage.dp):
        case OnNode(node, number):
            card = stage.scene.cards[number]
            return idle, [Enter(node)] if card.node.body is not None else [Select(frozenset({node}))]
        case OnFrame(kind, name):
            return idle, [EditFrame(kind, name)]
        case OnPort():
            return idle, []
        case _:
            return idle, [AskForNode(*stage.view.to_world(x, y), state.pending)]


# -- drags ---------------------------------------------------------------------------------------


def _begin(state: ToolState, drag: DragBegun, stage: Stage) -> Outcome:
    at = stage.view.to_world(drag.x, drag.y)
    if drag.button is Button.MIDDLE:
        return replace(state, action=Panning()), []
    if drag.button is Button.SECONDARY or drag.modifiers.control:
        return replace(state, action=Cutting(at, at)), []
    on = hit(stage.scene, stage.view, drag.x, drag.y, stage.dp)
    if drag.held or (state.mode is Mode.SELECTING and not isinstance(on, OnPort | OnNode)):
        return replace(state, action=Selecting((at,), False, stage.selected)), []
    match on:
        case OnPort():
            return replace(state, action=_pull(_end_of(stage.scene, on.number), at, stage), pending=None), []
        case OnNode(node):
            chosen = stage.selected if node in stage.selected else frozenset({node})
            return replace(state, action=Moving(chosen), pending=None), [Select(chosen)]
        case OnFrame(kind, name, on_handle) if not drag.modifiers.shift:
            return replace(state, action=_take_frame(kind, name, on_handle, stage)), []
        case _ if drag.modifiers.shift:
            return replace(state, action=Selecting((at, at), True, stage.selected)), []
        case _:
            return replace(state, action=Panning()), []


def _pull(end: PortEnd, at: tuple[float, float], stage: Stage) -> Linking:
    """From an input that is linked, its link is taken off and goes on from its other end."""
    if not end.is_output:
        into = [x for x in stage.wiring.links if (x.target_node, x.target_port) == (end.node, end.port)]
        if into:
            link = into[-1]
            kind = _kind(stage, link.source_node, link.source_port)
            return Linking(PortEnd(link.source_node, link.source_port, True, kind), *at, moved=link)
    return Linking(end, *at)


def _take_frame(kind: FrameKind, name: str, on_handle: bool, stage: Stage) -> Action:
    frames = stage.scene.groups if kind is FrameKind.GROUP else stage.scene.notes
    frame = next(each for each in frames if each.id == name)
    if on_handle:
        return Resizing(kind, frame)
    inside: frozenset[str] = frozenset()
    if kind is FrameKind.GROUP:
        middles = stage.scene.corners + stage.scene.sizes / 2
        inside = frozenset(
            card.node.id
            for card, middle in zip(stage.scene.cards, middles, strict=True)
            if frame.rect.holds(float(middle[0]), float(middle[1]))
        )
    return Moving(inside, ((kind, frame),))


def _drag(state: ToolState, drag: Dragged, stage: Stage) -> Outcome:
    at = stage.view.to_world(drag.x, drag.y)
    dx, dy = drag.dx / stage.view.zoom, drag.dy / stage.view.zoom
    match state.action:
        case Panning():
            return state, [Look(stage.view.panned(drag.dx, drag.dy))]
        case Moving() as action:
            return replace(state, action=_moved(action, dx, dy, at, stage)), []
        case Resizing(kind, frame):
            rect = frame.rect
            width, height = max(rect.width + dx, MIN_FRAME), max(rect.height + dy, MIN_FRAME)
            return replace(
                state, action=Resizing(kind, replace(frame, rect=Rect(rect.x, rect.y, width, height)))
            ), []
        case Linking() as action:
            target = _magnet(action.start, at, stage)
            return replace(state, action=replace(action, x=at[0], y=at[1], target=target)), []
        case Selecting(points, is_box, before):
            line = (points[0], at) if is_box else (*points, at)[-MAX_OUTLINE:]
            found = _inside(stage.scene, line, is_box)
            return replace(state, action=Selecting(line, is_box, before)), [Select(before | found)]
        case Cutting(start, _):
            return replace(state, action=Cutting(start, at)), []
        case None:
            return state, []


def _moved(action: Moving, dx: float, dy: float, at: tuple[float, float], stage: Stage) -> Moving:
    raw_x, raw_y = action.raw_x + dx, action.raw_y + dy
    numbers = [stage.scene.index[name] for name in action.nodes if name in stage.scene.index]
    rects = [stage.scene.rect(number) for number in numbers]
    around = bounds([*rects, *(frame.rect for _, frame in action.frames)])
    if around is None:
        return action
    wanted = Rect(around.x + raw_x, around.y + raw_y, around.width, around.height)
    near = wanted.grown(600)
    others = [
        rect
        for number, card in enumerate(stage.scene.cards)
        if card.node.id not in action.nodes and (rect := stage.scene.rect(number)).touches(near)
    ]
    found = snapped(wanted, others, stage.world(SNAP_REACH))
    link = _link_below(action, at, stage) if len(numbers) == 1 and not action.frames else None
    return replace(
        action,
        raw_x=raw_x,
        raw_y=raw_y,
        dx=raw_x + found.dx,
        dy=raw_y + found.dy,
        guides=found.guides,
        link=link,
    )


def _link_below(action: Moving, at: tuple[float, float], stage: Stage) -> int | None:
    """The link that a node without links would go into."""
    (name,) = action.nodes
    if any(name in (link.source_node, link.target_node) for link in stage.wiring.links):
        return None
    found = link_at(stage.scene, np.array(at, np.float32), stage.world(FINGER / 2))
    if found is None:
        return None
    pair = through(stage.scene.cards[stage.scene.index[name]].node)
    kind = KINDS[int(stage.scene.link_kinds[found])]
    return int(stage.scene.link_places[found]) if pair and pair[0].kind is kind else None


def _magnet(start: PortEnd, at: tuple[float, float], stage: Stage) -> PortEnd | None:
    """The port, or the node with a port, near the finger that would take the link."""
    scene = stage.scene
    other_side = scene.port_outputs != start.is_output
    point = np.array(at, np.float32)
    port = nearest_port(scene, point, stage.world(MAGNET), other_side)
    if port is not None:
        end = _end_of(scene, port)
        if _refusal(start, end, stage) is None:
            return end
    number = node_at(scene, point)
    if number is None:
        return None
    end_at_node = _fitting_end(start, scene.cards[number].node.id, stage)
    return end_at_node if end_at_node and _refusal(start, end_at_node, stage) is None else None


def _inside(scene: Snapshot, points: tuple[tuple[float, float], ...], is_box: bool) -> frozenset[str]:
    outline: Floats = np.array(points, np.float32)
    if not is_box:
        return nodes_within(scene, outline)
    low, high = outline.min(0), outline.max(0)
    return nodes_in(scene, Rect(float(low[0]), float(low[1]), *map(float, high - low)))


def _end(state: ToolState, stage: Stage) -> Outcome:
    idle = replace(state, action=None)
    match state.action:
        case Moving() as action:
            return idle, _drop(action, stage)
        case Resizing(kind, frame):
            return idle, [Make(SetFrame(kind, frame))]
        case Linking() as action:
            return _drop_link(idle, action, stage)
        case Cutting(start, end):
            places = links_cut(stage.scene, start, end)
            ends = tuple(ends_of(stage.wiring.links[place]) for place in places)
            return idle, [Make(Disconnect(ends))] if ends else []
        case _:
            return idle, []


def _drop(action: Moving, stage: Stage) -> list[Intent]:
    if not (action.dx or action.dy):
        return []
    places = {}
    for name in sorted(action.nodes & stage.scene.index.keys()):
        x, y = stage.scene.corners[stage.scene.index[name]]
        places[name] = (float(x) + action.dx, float(y) + action.dy)
    edits: list[Edit] = [MoveNodes(places)] if places else []
    for kind, frame in action.frames:
        rect = replace(frame.rect, x=frame.rect.x + action.dx, y=frame.rect.y + action.dy)
        edits.append(SetFrame(kind, replace(frame, rect=rect)))
    if action.link is not None:
        (name,) = action.nodes
        node = stage.scene.cards[stage.scene.index[name]].node
        edits.append(InsertOnLink(ends_of(stage.wiring.links[action.link]), node))
    return [Make(edits[0] if len(edits) == 1 else Batch(tuple(edits)))] if edits else []


def _drop_link(state: ToolState, action: Linking, stage: Stage) -> Outcome:
    moved = (Disconnect((ends_of(action.moved),)),) if action.moved else ()
    if action.target is None:
        if moved:
            return state, [Make(moved[0])]
        return state, [AskForNode(action.x, action.y, action.start)]
    edit = _connect(action.start, action.target)
    ends = edit.source_node, edit.source_port, edit.target_node, edit.target_port
    if action.moved and ends == ends_of(action.moved):
        return state, []
    return state, [Make(Batch((*moved, edit)) if moved else edit)]


# -- ports ---------------------------------------------------------------------------------------


def _end_of(scene: Snapshot, number: int) -> PortEnd:
    node = scene.cards[int(scene.port_nodes[number])].node.id
    kind = KINDS[int(scene.port_kinds[number])]
    return PortEnd(node, scene.port_name(number), bool(scene.port_outputs[number]), kind)


def _kind(stage: Stage, node_id: str, port: str) -> PortKind | None:
    number = stage.scene.index.get(node_id)
    found = stage.scene.cards[number].ports.output(port) if number is not None else None
    return found.kind if found else None


def _fitting_end(start: PortEnd, node_id: str, stage: Stage) -> PortEnd | None:
    node = stage.scene.cards[stage.scene.index[node_id]].node
    port = (
        best_input(stage.wiring, node, start.kind)
        if start.is_output
        else best_output(node, start.kind, stage.wiring.links)
    )
    return PortEnd(node_id, port.name, not start.is_output, port.kind) if port else None


def _connect(one: PortEnd, other: PortEnd) -> Connect:
    source, target = (one, other) if one.is_output else (other, one)
    return Connect(source.node, source.port, target.node, target.port)


def _refusal(one: PortEnd, other: PortEnd, stage: Stage) -> str | None:
    if one.is_output == other.is_output:
        return "a link goes from an output to an input"
    return why_not(stage.wiring, _connect(one, other))


def _link(state: ToolState, one: PortEnd, other: PortEnd, stage: Stage) -> Outcome:
    refusal = _refusal(one, other, stage)
    return state, [Tell(refusal) if refusal else Make(_connect(one, other))]
