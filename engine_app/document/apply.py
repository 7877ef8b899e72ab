"""Makes edits. Pure: the old graph stays as it is, and shares with the new one all that did not change."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

from backend.catalogue import CATALOGUE
from backend.catalogue.parameter import problem_of
from backend.diagnostics import apply_fix
from backend.graph import Body, Graph, JsonValue, Link, Lora, Node, TrainingSettings, Tuning, Wiring
from backend.serialize import MAX_INTEGER, MAX_LINKS, MAX_NAME_CHARACTERS, MAX_NODES
from backend.shapes import node_type
from backend.tuning import ADAPTED, MAX_ALPHA, MAX_RANK
from engine_app.document import subgraphs
from engine_app.document.edits import (
    AddNodes,
    ApplyFix,
    Batch,
    ChangeType,
    Collapse,
    Connect,
    Disconnect,
    DissolveNodes,
    Edit,
    ExpandSubgraph,
    InsertOnLink,
    MakeSubgraph,
    MoveNodes,
    RemoveFrame,
    RemoveNodes,
    Rename,
    RenameGraph,
    Reroute,
    ResetParameter,
    ResizeNode,
    SetFrame,
    SetMode,
    SetParameter,
    SetTraining,
    SetTuning,
)
from engine_app.document.errors import EditError
from engine_app.document.linking import connected, led_past, through
from engine_app.document.ports import DOT, MAX_WIDTH, MIN_WIDTH, ports_of
from engine_app.document.view import (
    MAX_COORDINATE,
    MAX_FRAMES,
    MAX_NOTE_CHARACTERS,
    MAX_TITLE_CHARACTERS,
    MIN_FRAME,
    Frame,
    FrameKind,
    W,
    frames_of,
    placed,
    with_frame,
    with_mode,
    with_view,
)
from engine_app.document.wiring import (
    FreshIds,
    change_inside,
    change_nodes,
    find,
    find_all,
    find_link,
    need,
    opened,
    shown,
    without_links,
)


def apply(graph: Graph, edit: Edit, inside: tuple[str, ...] = ()) -> Graph:
    """``inside``: the nodes whose bodies lead to where the edit is made. Raises EditError."""
    match edit:
        case Batch(edits):
            for each in edits:
                graph = apply(graph, each, inside)
            return graph
        case RenameGraph() | SetTraining():
            return _set_graph(graph, edit)
        case ApplyFix(fix):
            try:
                return _checked(apply_fix(graph, fix))
            except KeyError as error:
                raise EditError(f"there is no node {shown(error.args[0])} any more") from error
        case _:
            opened(graph, inside)
            return _checked(change_inside(graph, inside, lambda wiring: _apply(wiring, edit)))


def _apply(wiring: W, edit: Edit) -> W:
    match edit:
        case AddNodes():
            return _add(wiring, edit)
        case RemoveNodes(node_ids):
            return _remove(wiring, node_ids)
        case DissolveNodes(node_ids):
            passed = {node.id: node for node in find_all(wiring, node_ids)}
            return _remove(replace(wiring, links=tuple(led_past(wiring.links, passed))), passed)
        case Connect():
            return connected(wiring, edit)
        case Disconnect(links):
            return without_links(wiring, links)
        case InsertOnLink(link, node):
            return _insert(wiring, find_link(wiring, link), node)
        case Reroute(link, x, y):
            dot = with_view(Node(FreshIds(wiring).fresh("reroute"), "Identity"), reroute=True)
            return _insert(wiring, find_link(wiring, link), _place(dot, x - DOT / 2, y - DOT / 2))
        case MakeSubgraph(node_ids, title):
            _check_text(title, "a title", MAX_TITLE_CHARACTERS)
            return subgraphs.make(wiring, need(wiring, node_ids), title)
        case ExpandSubgraph(node_id):
            return subgraphs.expand(wiring, find(wiring, node_id))
        case SetFrame() | RemoveFrame():
            return _set_frame(wiring, edit)
        case _:
            return _change(wiring, edit)


def _change(wiring: W, edit: Edit) -> W:
    """Edits of single nodes."""
    match edit:
        case SetParameter(node_id, name, value):
            return change_nodes(wiring, (node_id,), lambda node: _with_parameter(node, name, value))
        case ResetParameter(node_id, name):
            return change_nodes(wiring, (node_id,), lambda node: _without_parameter(node, name))
        case ChangeType(node_id, name):
            return _change_type(wiring, find(wiring, node_id), name)
        case MoveNodes(places):
            return change_nodes(wiring, places, lambda node: _place(node, *places[node.id]))
        case ResizeNode(node_id, width):
            if width is not None and not MIN_WIDTH <= width <= MAX_WIDTH:
                raise EditError(f"width {width}, must be {MIN_WIDTH:g} to {MAX_WIDTH:g}")
            return change_nodes(wiring, (node_id,), lambda node: with_view(node, width=width))
        case Rename(node_id, title):
            _check_text(title, "a title", MAX_TITLE_CHARACTERS)
            return change_nodes(wiring, (node_id,), lambda node: with_view(node, title=title.strip() or None))
        case SetMode(node_ids, mode):
            return change_nodes(wiring, node_ids, lambda node: with_mode(node, mode))
        case SetTuning(node_ids, tuning):
            return change_nodes(wiring, node_ids, lambda node: _tuned(node, tuning))
        case Collapse(node_ids, collapsed):
            return change_nodes(wiring, node_ids, lambda node: with_view(node, collapsed=collapsed or None))
        case _:
            raise EditError(f"{type(edit).__name__} is no edit of a graph")


# -- nodes and links -----------------------------------------------------------------------------


def _add(wiring: W, edit: AddNodes) -> W:
    taken = {node.id for node in wiring.nodes}
    for node in edit.nodes:
        if node.id in taken or not 1 <= len(node.id) <= MAX_NAME_CHARACTERS:
            raise EditError(f"id {shown(node.id)} is taken, or not 1 to {MAX_NAME_CHARACTERS} characters")
        taken.add(node.id)
    ends = {name for link in edit.links for name in (link.source_node, link.target_node)}
    if not ends <= taken:
        raise EditError(f"a link goes to node {shown(min(ends - taken))}, which does not exist")
    wiring = replace(wiring, nodes=wiring.nodes + edit.nodes, links=wiring.links + edit.links)
    for kind, frames in ((FrameKind.GROUP, edit.groups), (FrameKind.NOTE, edit.notes)):
        for frame in frames:
            wiring = _set_frame(wiring, SetFrame(kind, frame))
    return wiring


def _remove(wiring: W, node_ids: Iterable[str]) -> W:
    gone = need(wiring, node_ids)
    return replace(
        wiring,
        nodes=tuple(node for node in wiring.nodes if node.id not in gone),
        links=tuple(
            link for link in wiring.links if link.source_node not in gone and link.target_node not in gone
        ),
    )


def _insert(wiring: W, link: Link, node: Node) -> W:
    """In the place of the link, so that a variadic port counts as before."""
    pair = through(node)
    if pair is None:
        raise EditError(f"{node.type} has no input and output of one kind: it fits into no link")
    there = [each for each in wiring.nodes if each.id == node.id]
    if there and any(node.id in (each.source_node, each.target_node) for each in wiring.links):
        raise EditError(f"node {shown(node.id)} has links: remove them to put it into another")
    if not there:
        wiring = _add(wiring, AddNodes((node,)))
    into, out = pair
    at: int = wiring.links.index(link)
    wiring = replace(wiring, links=wiring.links[:at] + wiring.links[at + 1 :])
    before = Connect(link.source_node, link.source_port, node.id, into.name)
    after = Connect(node.id, out.name, link.target_node, link.target_port)
    wiring = connected(connected(wiring, before), after)
    *links, last = wiring.links
    return replace(wiring, links=(*links[:at], last, *links[at:]))


def _change_type(wiring: W, node: Node, name: str) -> W:
    record = CATALOGUE.get(name)
    if record is None:
        raise EditError(f"type {shown(name)} is not known to this program")
    if record.wrapping is not None or node.body is not None:
        raise EditError("a node with others inside keeps its type")
    allowed = {each.name: each for each in record.parameters}
    kept = {
        key: value
        for key, value in node.parameters.items()
        if key in allowed and problem_of(allowed[key], value) is None
    }
    changed = replace(node, type=name, version=record.version, parameters=kept)
    ports = ports_of(changed)
    links = tuple(
        link
        for link in wiring.links
        if (link.source_node != node.id or ports.output(link.source_port))
        and (link.target_node != node.id or ports.input(link.target_port))
    )
    return change_nodes(replace(wiring, links=links), (node.id,), lambda _: changed)


def _with_parameter(node: Node, name: str, value: JsonValue) -> Node:
    record = node_type(node)
    if record is None:
        raise EditError(
            f"type {shown(node.type)} is not known to this program: its parameters stay as they are"
        )
    parameter = next((each for each in record.parameters if each.name == name), None)
    if parameter is None:
        names = ", ".join(each.name for each in record.parameters) or "none"
        raise EditError(f"{node.type} has no parameter {shown(name)}, there is {names}")
    problem = problem_of(parameter, value)
    if problem:
        raise EditError(problem)
    plain = cast(JsonValue, list(value)) if isinstance(value, tuple) else value
    return replace(node, parameters={**node.parameters, name: plain})


def _without_parameter(node: Node, name: str) -> Node:
    return replace(node, parameters={key: value for key, value in node.parameters.items() if key != name})


def _tuned(node: Node, tuning: Tuning | None) -> Node:
    if isinstance(tuning, Lora):
        if node.type not in ADAPTED:
            names = ", ".join(sorted(ADAPTED))
            raise EditError(f"{shown(node.type)} takes no LoRA adapters, allowed are {names}")
        if not 1 <= tuning.rank <= MAX_RANK:
            raise EditError(f"rank {tuning.rank}, must be 1 to {MAX_RANK}")
        if not 0 < tuning.alpha <= MAX_ALPHA:
            raise EditError(f"alpha {tuning.alpha}, must be above 0 and at most {MAX_ALPHA:g}")
    return replace(node, tuning=tuning)


def _place(node: Node, x: float, y: float) -> Node:
    if not (math.isfinite(x) and math.isfinite(y) and max(abs(x), abs(y)) <= MAX_COORDINATE):
        raise EditError(f"place ({x:g}, {y:g}), must be within {MAX_COORDINATE:g} of the origin")
    return placed(node, x, y)


# -- groups, notes, settings ---------------------------------------------------------------------


def _set_frame(wiring: W, edit: SetFrame | RemoveFrame) -> W:
    known = {frame.id for frame in frames_of(wiring, edit.kind)}
    if isinstance(edit, RemoveFrame):
        if edit.id not in known:
            raise EditError(f"there is no {edit.kind.name.lower()} {shown(edit.id)}")
        return with_frame(wiring, edit.kind, None, edit.id)
    _check_frame(edit.frame)
    if edit.frame.id not in known and len(known) >= MAX_FRAMES:
        raise EditError(f"{len(known)} {edit.kind.value}, limit {MAX_FRAMES}")
    return with_frame(wiring, edit.kind, edit.frame, edit.frame.id)


def _check_frame(frame: Frame) -> None:
    _check_text(frame.text, "a text", MAX_NOTE_CHARACTERS)
    rect = frame.rect
    sides = (rect.x, rect.y, rect.width, rect.height)
    if not all(math.isfinite(side) and abs(side) <= MAX_COORDINATE for side in sides):
        raise EditError(
            f"a frame at ({rect.x:g}, {rect.y:g}), must be within {MAX_COORDINATE:g} of the origin"
        )
    if min(rect.width, rect.height) < MIN_FRAME:
        raise EditError(f"a frame of {rect.width:g} by {rect.height:g}, must be {MIN_FRAME:g} at least")
    if not 1 <= len(frame.id) <= MAX_NAME_CHARACTERS:
        raise EditError(f"id {shown(frame.id)}, must be 1 to {MAX_NAME_CHARACTERS} characters")


def _set_graph(graph: Graph, edit: RenameGraph | SetTraining) -> Graph:
    if isinstance(edit, RenameGraph):
        _check_text(edit.name, "a name", MAX_NAME_CHARACTERS)
        return replace(graph, name=edit.name)
    for value, low in ((edit.epochs, 1), (edit.seed, 0)):
        if value is not None and not low <= value <= MAX_INTEGER:
            raise EditError(f"{value}, must be {low} to {MAX_INTEGER}")
    wanted: dict[str, Any] = {"epochs": edit.epochs, "seed": edit.seed}
    training: TrainingSettings = replace(
        graph.training, **{key: value for key, value in wanted.items() if value is not None}
    )
    return replace(graph, training=training)


def _check_text(text: str, what: str, limit: int) -> None:
    if len(text) > limit:
        raise EditError(f"{what} of {len(text)} characters, limit {limit}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EditError(f"{what} that is not Unicode: {error.reason}") from error


def _checked(graph: Graph) -> Graph:
    """What could not be saved is refused at once. Raises EditError."""
    nodes, links = _counts(graph)
    if nodes > MAX_NODES or links > MAX_LINKS:
        raise EditError(f"{nodes} nodes and {links} links, limits {MAX_NODES} and {MAX_LINKS}")
    return graph


def _counts(wiring: Wiring) -> tuple[int, int]:
    nodes, links = len(wiring.nodes), len(wiring.links)
    for body in _bodies(wiring.nodes):
        inner = _counts(body)
        nodes, links = nodes + inner[0], links + inner[1]
    return nodes, links


def _bodies(nodes: Iterable[Node]) -> list[Body]:
    return [node.body for node in nodes if node.body is not None]
