"""Edits that commands make of what is selected. Each raises EditError where there is nothing to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from backend.catalogue import CATALOGUE
from backend.facts import DataFacts
from backend.graph import JsonValue, Node, Wiring
from engine_app.document.alignment import Axis, Edge, aligned, distributed
from engine_app.document.clipboard import OFFSET, Pasted, free_frame_id, piece_of, with_fresh_ids
from engine_app.document.edits import (
    AddNodes,
    Batch,
    Collapse,
    Connect,
    Edit,
    MoveNodes,
    SetFrame,
    SetMode,
    SetParameter,
)
from engine_app.document.errors import EditError
from engine_app.document.layout import ASPECT, arranged
from engine_app.document.linking import best_input, best_output
from engine_app.document.ports import ports_of, rect_of, size_of
from engine_app.document.view import (
    Frame,
    FrameKind,
    Mode,
    Rect,
    bounds,
    frames_of,
    is_collapsed,
    mode_of,
    placed,
)
from engine_app.document.wiring import FreshIds, find, find_all

GROUP_MARGIN = 28.0
GROUP_TITLE = 36.0


def new_node(
    wiring: Wiring, type_name: str, x: float, y: float, link: tuple[str, str, bool] | None = None
) -> tuple[Edit, str]:
    """A node around a place, and its id; ``link``: node, port and whether it is an output, to link it to."""
    record = CATALOGUE.get(type_name)
    if record is None:
        raise EditError(f"type {type_name[:40]!r} is not known to this program")
    node = Node(FreshIds(wiring).fresh(type_name.lower()), type_name, record.version)
    width, height = size_of(node)
    left = x - width / 2 if link is None else x if link[2] else x - width
    node = placed(node, left, y - height / 2 if link is None else y - 48)
    edit: Edit = AddNodes((node,))
    if link is not None:
        connect = _connection(wiring, node, link)
        edit = Batch((edit, connect)) if connect else edit
    return edit, node.id


def fitted_to(wiring: Wiring, data: DataFacts) -> Edit:
    """The dataset's node, and an only Input, as the data is; what the layers make of it is said elsewhere."""
    sources = [node for node in wiring.nodes if node.type == "DatasetInput"]
    if len(sources) != 1:
        raise EditError(f"the graph has {len(sources)} DatasetInput nodes, must have 1 to take data")
    wanted: dict[str, JsonValue] = {
        "sample_shape": list(data.sample_shape),
        "target_shape": list(data.target_shape),
        "classes": data.classes,
    }
    edits = _set_parameters(sources[0], wanted)
    inputs = [node for node in wiring.nodes if node.type == "Input"]
    if len(inputs) == 1:
        edits += _set_parameters(inputs[0], {"shape": list(data.sample_shape)})
    if not edits:
        raise EditError("the graph takes this data as it is")
    return Batch(edits)


def _set_parameters(node: Node, wanted: Mapping[str, JsonValue]) -> tuple[Edit, ...]:
    """Where they differ from what the node has, or has by default."""
    record = CATALOGUE[node.type]
    has = {each.name: node.parameters.get(each.name, each.default) for each in record.parameters}
    return tuple(
        SetParameter(node.id, name, value)
        for name, value in wanted.items()
        if name in has and _plain(has[name]) != _plain(value)
    )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple | list) else value


def _connection(wiring: Wiring, node: Node, link: tuple[str, str, bool]) -> Connect | None:
    other_id, port_name, is_output = link
    ports = ports_of(find(wiring, other_id), wiring.links)
    there = ports.output(port_name) if is_output else ports.input(port_name)
    if there is None:
        return None
    if is_output:
        into = best_input(wiring, node, there.kind)
        return Connect(other_id, port_name, node.id, into.name) if into else None
    out = best_output(node, there.kind)
    return Connect(node.id, out.name, other_id, port_name) if out else None


def duplicate(wiring: Wiring, selected: Iterable[str], dx: float = OFFSET, dy: float = OFFSET) -> Pasted:
    """Copies so far beside the selected nodes."""
    chosen = _some(selected)
    around = bounds(map(rect_of, find_all(wiring, chosen)))
    at = (around.centre[0] + dx, around.centre[1] + dy) if around else None
    return with_fresh_ids(wiring, piece_of(wiring, chosen), at)


def line_up(wiring: Wiring, selected: Iterable[str], how: Edge | Axis) -> MoveNodes:
    """The selected nodes with an edge or their middles in line, or with equal gaps along an axis."""
    rects = {node.id: rect_of(node) for node in find_all(wiring, _some(selected))}
    return aligned(rects, how) if isinstance(how, Edge) else distributed(rects, how)


def nudge(wiring: Wiring, selected: Iterable[str], dx: float, dy: float) -> MoveNodes:
    """The selected nodes a little aside."""
    rects = {node.id: rect_of(node) for node in find_all(wiring, _some(selected))}
    return MoveNodes({name: (rect.x + dx, rect.y + dy) for name, rect in rects.items()})


def group(wiring: Wiring, selected: Iterable[str], title: str = "Group") -> SetFrame:
    """A frame around the selected nodes."""
    around = bounds(map(rect_of, find_all(wiring, _some(selected))))
    if around is None:
        raise EditError("nothing is selected")
    rect = around.grown(GROUP_MARGIN)
    rect = Rect(rect.x, rect.y - GROUP_TITLE, rect.width, rect.height + GROUP_TITLE)
    taken = [frame.id for frame in frames_of(wiring, FrameKind.GROUP)]
    return SetFrame(FrameKind.GROUP, Frame(free_frame_id(taken, FrameKind.GROUP), title, rect))


def note(wiring: Wiring, x: float, y: float, text: str = "Note") -> SetFrame:
    taken = [frame.id for frame in frames_of(wiring, FrameKind.NOTE)]
    return SetFrame(FrameKind.NOTE, Frame(free_frame_id(taken, FrameKind.NOTE), text, Rect(x, y, 240, 120)))


def toggle_mode(wiring: Wiring, selected: Iterable[str], mode: Mode) -> SetMode:
    """Back to normal if all are in that mode already."""
    chosen = _some(selected)
    are_all = all(mode_of(node) is mode for node in find_all(wiring, chosen))
    return SetMode(chosen, Mode.NORMAL if are_all else mode)


def toggle_collapsed(wiring: Wiring, selected: Iterable[str]) -> Collapse:
    chosen = _some(selected)
    return Collapse(chosen, not all(map(is_collapsed, find_all(wiring, chosen))))


def arrange(wiring: Wiring, selected: Iterable[str] = (), aspect: float = ASPECT) -> MoveNodes:
    """All nodes, or the selected ones, in layers where they are, for a screen of that ``aspect``."""
    chosen = tuple(sorted(selected))
    nodes = find_all(wiring, chosen) if len(chosen) > 1 else list(wiring.nodes)
    around = bounds(rect_of(node) for node in nodes)
    if around is None:
        raise EditError("there is nothing to arrange")
    return MoveNodes(arranged(wiring, [node.id for node in nodes], (around.x, around.y), aspect))


def _some(selected: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(sorted(selected))
    if not chosen:
        raise EditError("nothing is selected")
    return chosen
