"""What gestures mean on the canvas. Pure: state and gesture in, new state and intents out.

- A tap selects; on a port it begins a link that a tap on another port ends; elsewhere it lets go.
- A drag of a node moves it, with all that is selected, or, with Alt, copies of them; of a port pulls a link;
  of the ground pans the view.
- A drag of the ground in selection mode, or with Alt, goes around nodes (lasso); with Shift it goes over them
  (box).
- A drag in cutting mode, with Control, or of the right button, cuts links.
- A pinch anywhere only moves the view.
- A long press, or the right button, opens a menu.
- A link that ends in the void asks for a node; a double tap on the ground too, on a subgraph it opens it, and
  on another node it asks for its title.
"""

from __future__ import annotations

from dataclasses import replace

from engine_app.scene.drags import begin_drag, drag, end_drag
from engine_app.scene.gestures import (
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
from engine_app.scene.hits import OnFrame, OnNode, OnPort, hit
from engine_app.scene.links import end_of, link_to_node, tap_port
from engine_app.scene.snapshot import Snapshot
from engine_app.scene.tool_state import (
    AskForNode,
    EditFrame,
    EditTitle,
    Enter,
    Linking,
    Look,
    Mode,
    Moving,
    Outcome,
    PortEnd,
    Resizing,
    Select,
    ShowMenu,
    Stage,
    ToolState,
)
from engine_app.scene.view import View

ZOOM_STEP = 1.15


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
            return begin_drag(state, gesture, stage)
        case Dragged():
            return drag(state, gesture, stage)
        case DragEnded():
            return end_drag(state, stage)
        case DragCancelled():
            return replace(state, action=None), []
        case _:
            return state, []


def still_possible(state: ToolState, scene: Snapshot) -> ToolState:
    """After an edit that came from elsewhere, such as undo in the middle of a drag.

    What is carried, and what it snapped to, may be gone: it is let go of.
    """
    action = None if isinstance(state.action, Moving | Resizing | Linking) else state.action
    pending = state.pending if state.pending is not None and _is_there(state.pending, scene) else None
    return replace(state, action=action, pending=pending)


def _is_there(end: PortEnd, scene: Snapshot) -> bool:
    number = scene.index.get(end.node)
    if number is None:
        return False
    ports = scene.cards[number].ports
    return any(port.name == end.port for port in (ports.outputs if end.is_output else ports.inputs))


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
            return tap_port(state, end_of(stage.scene, on.number), stage)
        case OnNode(node) if state.pending is not None:
            return link_to_node(state, state.pending, node, stage)
        case OnNode(node):
            chosen = stage.selected ^ {node} if adds else frozenset({node})
            return state, [Select(chosen)]
        case _:
            idle = replace(state, pending=None)
            return idle, [] if adds or not stage.selected else [Select(frozenset())]


def _double_tap(state: ToolState, x: float, y: float, stage: Stage) -> Outcome:
    idle = replace(state, pending=None)
    match hit(stage.scene, stage.view, x, y, stage.dp):
        case OnNode(node, number):
            card = stage.scene.cards[number]
            chosen = Select(frozenset({node}))
            return idle, [Enter(node)] if card.node.body is not None else [chosen, EditTitle(node)]
        case OnFrame(kind, name):
            return idle, [EditFrame(kind, name)]
        case OnPort():
            return idle, []
        case _:
            return idle, [AskForNode(*stage.view.to_world(x, y), state.pending)]
