"""What a drag does, from where it began: it pans, moves, resizes, links, selects or cuts. Pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backend.diagnostics import ends_of
from engine_app.document.alignment import snapped
from engine_app.document.commands import duplicate
from engine_app.document.edits import Batch, Disconnect, Edit, InsertOnLink, MoveNodes, SetFrame
from engine_app.document.linking import through
from engine_app.document.view import MIN_FRAME, FrameKind, Rect, bounds
from engine_app.scene.gestures import Button, DragBegun, Dragged
from engine_app.scene.hits import (
    FINGER,
    OnFrame,
    OnNode,
    OnPort,
    hit,
    link_at,
    links_cut,
    nodes_in,
    nodes_within,
    touched_by,
)
from engine_app.scene.links import drop_link, end_of, magnet, pull
from engine_app.scene.snapshot import KINDS, Floats, Snapshot
from engine_app.scene.tool_state import (
    Action,
    Cutting,
    Intent,
    Linking,
    Look,
    Make,
    Mode,
    Moving,
    Outcome,
    Panning,
    Resizing,
    Select,
    Selecting,
    Stage,
    ToolState,
)

SNAP_REACH = 6.0
"""In dp."""
MAX_OUTLINE = 2_000
"""Points of a lasso or a cut."""


def begin_drag(state: ToolState, begun: DragBegun, stage: Stage) -> Outcome:
    at = stage.view.to_world(begun.x, begun.y)
    if begun.button is Button.MIDDLE:
        return replace(state, action=Panning()), []
    if begun.button is Button.SECONDARY or begun.modifiers.control or state.mode is Mode.CUTTING:
        return replace(state, action=Cutting((at,))), []
    on = hit(stage.scene, stage.view, begun.x, begun.y, stage.dp)
    is_lasso = begun.modifiers.alt or state.mode is Mode.SELECTING
    if is_lasso and not isinstance(on, OnPort | OnNode):
        return replace(state, action=Selecting((at,), False, stage.selected)), []
    match on:
        case OnPort():
            return replace(state, action=pull(end_of(stage.scene, on.number), at, stage), pending=None), []
        case OnNode(node):
            chosen = stage.selected if node in stage.selected else frozenset({node})
            action = Moving(chosen, copies=begun.modifiers.alt)
            return replace(state, action=action, pending=None), [Select(chosen)]
        case OnFrame(kind, name, on_handle) if not begun.modifiers.shift:
            return replace(state, action=_take_frame(kind, name, on_handle, stage)), []
        case _ if begun.modifiers.shift:
            return replace(state, action=Selecting((at, at), True, stage.selected)), []
        case _:
            return replace(state, action=Panning()), []


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


def drag(state: ToolState, moved: Dragged, stage: Stage) -> Outcome:
    at = stage.view.to_world(moved.x, moved.y)
    dx, dy = moved.dx / stage.view.zoom, moved.dy / stage.view.zoom
    match state.action:
        case Panning():
            return state, [Look(stage.view.panned(moved.dx, moved.dy))]
        case Moving() as action:
            return replace(state, action=_moved(action, dx, dy, at, stage)), []
        case Resizing(kind, frame):
            rect = frame.rect
            width, height = max(rect.width + dx, MIN_FRAME), max(rect.height + dy, MIN_FRAME)
            return replace(
                state, action=Resizing(kind, replace(frame, rect=Rect(rect.x, rect.y, width, height)))
            ), []
        case Linking() as action:
            target = magnet(action.start, at, stage)
            return replace(state, action=replace(action, x=at[0], y=at[1], target=target)), []
        case Selecting(points, is_box, before):
            line = (points[0], at) if is_box else (*points, at)[-MAX_OUTLINE:]
            found = _inside(stage.scene, line, is_box)
            return replace(state, action=Selecting(line, is_box, before)), [Select(before | found)]
        case Cutting(points):
            return replace(state, action=Cutting((*points, at)[-MAX_OUTLINE:])), []
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
    staying = touched_by(stage.scene, near)
    if not action.copies:
        staying[numbers] = False
    others = [stage.scene.rect(int(number)) for number in np.flatnonzero(staying)]
    found = snapped(wanted, others, stage.world(SNAP_REACH))
    may_insert = len(numbers) == 1 and not action.frames and not action.copies
    link = _link_below(action, at, stage) if may_insert else None
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


def _inside(scene: Snapshot, points: tuple[tuple[float, float], ...], is_box: bool) -> frozenset[str]:
    outline: Floats = np.array(points, np.float32)
    if not is_box:
        return nodes_within(scene, outline)
    low, high = outline.min(0), outline.max(0)
    return nodes_in(scene, Rect(float(low[0]), float(low[1]), *map(float, high - low)))


def end_drag(state: ToolState, stage: Stage) -> Outcome:
    idle = replace(state, action=None)
    match state.action:
        case Moving() as action:
            return idle, _drop(action, stage)
        case Resizing(kind, frame):
            return idle, [Make(SetFrame(kind, frame))]
        case Linking() as action:
            return drop_link(idle, action, stage)
        case Cutting(points):
            places = links_cut(stage.scene, points)
            ends = tuple(ends_of(stage.wiring.links[place]) for place in places)
            return idle, [Make(Disconnect(ends))] if ends else []
        case _:
            return idle, []


def _drop(action: Moving, stage: Stage) -> list[Intent]:
    if not (action.dx or action.dy):
        return []
    if action.copies:
        copies = duplicate(stage.wiring, action.nodes, action.dx, action.dy)
        return [Make(copies.edit), Select(copies.ids)]
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
