"""Links made by hand: from port to port by two taps, or pulled, with a magnet at their end. Pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backend.catalogue.record import PortKind
from backend.diagnostics import ends_of
from engine_app.document.edits import Batch, Connect, Disconnect
from engine_app.document.linking import best_input, best_output, why_not
from engine_app.scene.hits import nearest_port, node_at
from engine_app.scene.snapshot import KINDS, Snapshot
from engine_app.scene.tool_state import AskForNode, Linking, Make, Outcome, PortEnd, Stage, Tell, ToolState

MAGNET = 40.0
"""How far, in dp, a link jumps to a port that takes it."""


def tap_port(state: ToolState, end: PortEnd, stage: Stage) -> Outcome:
    if state.pending is None or state.pending == end:
        return replace(state, pending=None if state.pending else end), []
    return _link(replace(state, pending=None), state.pending, end, stage)


def link_to_node(state: ToolState, start: PortEnd, node_id: str, stage: Stage) -> Outcome:
    end = _fitting_end(start, node_id, stage)
    idle = replace(state, pending=None)
    if end is None:
        kind = start.kind.value if start.kind else "this"
        return idle, [Tell(f"this node has no port for {kind}")]
    return _link(idle, start, end, stage)


def pull(end: PortEnd, at: tuple[float, float], stage: Stage) -> Linking:
    """From an input that is linked, its link is taken off and goes on from its other end."""
    if not end.is_output:
        into = [x for x in stage.wiring.links if (x.target_node, x.target_port) == (end.node, end.port)]
        if into:
            link = into[-1]
            kind = _kind(stage, link.source_node, link.source_port)
            return Linking(PortEnd(link.source_node, link.source_port, True, kind), *at, moved=link)
    return Linking(end, *at)


def magnet(start: PortEnd, at: tuple[float, float], stage: Stage) -> PortEnd | None:
    """The port, or the node with a port, near the finger that would take the link."""
    scene = stage.scene
    other_side = scene.port_outputs != start.is_output
    point = np.array(at, np.float32)
    port = nearest_port(scene, point, stage.world(MAGNET), other_side)
    if port is not None:
        end = end_of(scene, port)
        if _refusal(start, end, stage) is None:
            return end
    number = node_at(scene, point)
    if number is None:
        return None
    end_at_node = _fitting_end(start, scene.cards[number].node.id, stage)
    return end_at_node if end_at_node and _refusal(start, end_at_node, stage) is None else None


def drop_link(state: ToolState, action: Linking, stage: Stage) -> Outcome:
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


def end_of(scene: Snapshot, number: int) -> PortEnd:
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
