"""Nodes into one node and out of it again, with the order of links kept: variadic ports count by it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from backend.catalogue.record import MODEL_CATEGORIES, Category, PortKind
from backend.graph import Body, Link, Node, Wiring
from backend.shapes import node_type, nodes_of_type
from engine_app.document.errors import EditError
from engine_app.document.ports import ports_of, rect_of
from engine_app.document.view import W, bounds, place_of, placed, with_view
from engine_app.document.wiring import FreshIds, find, reaches, shown

DOOR_DISTANCE = 260.0
"""From the nodes inside to the Input and Output nodes left and right of them."""

Source = tuple[str, str]


# -- making --------------------------------------------------------------------------------------


def make(wiring: W, chosen: frozenset[str], title: str) -> W:
    """The chosen nodes become a Subgraph where the first of them was. Raises EditError."""
    nodes: list[Node] = [node for node in wiring.nodes if node.id in chosen]
    _check_insides(wiring, nodes, chosen)
    sources = _distinct((each.source_node, each.source_port) for each in _crossing(wiring, chosen, into=True))
    results = _results(wiring, nodes, chosen)
    ids = FreshIds(Body(tuple(nodes)))
    doors: dict[Source, str] = {source: ids.fresh("input") for source in sources}
    ends: dict[Source, str] = {result: ids.fresh("output") for result in results}
    links = [
        Link(
            doors[each.source_node, each.source_port],
            "output",
            each.target_node,
            each.target_port,
            each.extra,
        )
        if each.source_node not in chosen
        else each
        for each in wiring.links
        if each.target_node in chosen
    ]
    links += [Link(*result, end, "input") for result, end in ends.items()]
    inner = Body((*_doors(nodes, doors, ends),), tuple(links))
    new = FreshIds(wiring).fresh("subgraph")
    outside = _outer_links(wiring, chosen, new, sources, results)
    whole = _placed_like(Node(new, "Subgraph", body=inner), nodes)
    whole = with_view(whole, title=title) if title else whole
    at = next(index for index, node in enumerate(wiring.nodes) if node.id in chosen)
    kept = [whole if index == at else node for index, node in enumerate(wiring.nodes)]
    return replace(
        wiring,
        nodes=tuple(node for node in kept if node is whole or node.id not in chosen),
        links=tuple(outside),
    )


def _check_insides(wiring: Wiring, nodes: list[Node], chosen: frozenset[str]) -> None:
    if not nodes:
        raise EditError("nothing is selected: select layers to put them into a subgraph")
    for node in nodes:
        record = node_type(node)
        if record is not None and record.category not in MODEL_CATEGORIES - {Category.STRUCTURE}:
            raise EditError(f"{node.type} {shown(node.id)} cannot be inside a subgraph, only layers can")
    for link in (*_crossing(wiring, chosen, into=True), *_crossing(wiring, chosen, into=False)):
        port = ports_of(find(wiring, link.source_node), wiring.links).output(link.source_port)
        if port is not None and port.kind not in (PortKind.TENSOR, PortKind.LABELS, None):
            raise EditError(
                f"a link of {shown(link.source_node)} carries {port.kind.value}, only tensors go in and out"
            )
    leaving = {each.target_node for each in _crossing(wiring, chosen, into=False)}
    entering = {each.source_node for each in _crossing(wiring, chosen, into=True)}
    for start in sorted(leaving):
        for goal in sorted(entering):
            if reaches(wiring, start, goal):
                raise EditError(f"{shown(start)} lies between what is selected: select it too")


def _crossing(wiring: Wiring, chosen: frozenset[str], *, into: bool) -> list[Link]:
    return [
        link
        for link in wiring.links
        if (link.source_node in chosen) != (link.target_node in chosen)
        and (link.target_node in chosen) == into
    ]


def _results(wiring: Wiring, nodes: list[Node], chosen: frozenset[str]) -> list[Source]:
    """What leaves; where nothing does, what nobody takes. Raises EditError for neither."""
    found = _distinct((each.source_node, each.source_port) for each in _crossing(wiring, chosen, into=False))
    if found:
        return found
    used = {(link.source_node, link.source_port) for link in wiring.links}
    loose = [
        (node.id, port.name)
        for node in nodes
        for port in ports_of(node, wiring.links).outputs
        if port.kind is PortKind.TENSOR and (node.id, port.name) not in used
    ]
    if not loose:
        raise EditError("what is selected has no output")
    return loose


def _distinct(sources: Iterable[Source]) -> list[Source]:
    return list(dict.fromkeys(sources))


def _outer_links(
    wiring: Wiring, chosen: frozenset[str], new: str, sources: list[Source], results: list[Source]
) -> list[Link]:
    found: list[Link] = []
    entered: set[Source] = set()
    for link in wiring.links:
        source = link.source_node, link.source_port
        if link.target_node in chosen:
            if link.source_node not in chosen and source not in entered:
                entered.add(source)
                found.append(Link(*source, new, "input"))
        elif link.source_node in chosen:
            number = results.index(source) + 1
            port = "output" if number == 1 else f"output{number}"
            found.append(replace(link, source_node=new, source_port=port))
        else:
            found.append(link)
    return found


def _doors(nodes: list[Node], doors: dict[Source, str], ends: dict[Source, str]) -> list[Node]:
    """The nodes with Input nodes on their left and Output nodes on their right."""
    around = bounds(rect_of(node) for node in nodes if place_of(node))
    if around is None:
        return [
            *(Node(d, "Input") for d in doors.values()),
            *nodes,
            *(Node(e, "Output") for e in ends.values()),
        ]
    left, right = around.x - DOOR_DISTANCE, around.right + DOOR_DISTANCE - 200
    inputs = [placed(Node(d, "Input"), left, around.y + 120 * n) for n, d in enumerate(doors.values())]
    outputs = [placed(Node(e, "Output"), right, around.y + 120 * n) for n, e in enumerate(ends.values())]
    return [*inputs, *nodes, *outputs]


def _placed_like(node: Node, nodes: list[Node]) -> Node:
    around = bounds(rect_of(each) for each in nodes if place_of(each))
    if around is None:
        return node
    width, height = rect_of(node).width, rect_of(node).height
    x, y = around.centre
    return placed(node, x - width / 2, y - height / 2)


# -- expanding -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Opened:
    body: Body
    names: dict[str, str]
    """From ids inside to ids outside."""
    entries: dict[str, Source]
    """What is linked to each Input node."""
    ends: list[str]


def expand(wiring: W, node: Node) -> W:
    """What is inside takes the node's place. Raises EditError."""
    if node.type != "Subgraph" or node.body is None:
        raise EditError(f"{node.type} {shown(node.id)} is no subgraph, only those can be expanded")
    found = _open(wiring, node, node.body)
    inside = [each for each in node.body.nodes if each.id in found.names]
    nodes: list[Node] = []
    for each in wiring.nodes:
        nodes += _moved(inside, node, found) if each.id == node.id else [each]
    return replace(wiring, nodes=tuple(nodes), links=tuple(_expanded_links(wiring, node, found)))


def _open(wiring: Wiring, node: Node, body: Body) -> _Opened:
    if any(each.source_node == node.id and each.source_port == "parameters" for each in wiring.links):
        raise EditError(f"a penalty takes the weights of {shown(node.id)}: unlink it first")
    doors = [each.id for each in nodes_of_type(body, "Input")]
    ends = [each.id for each in nodes_of_type(body, "Output")]
    fed = [(each.source_node, each.source_port) for each in wiring.links if each.target_node == node.id]
    ids = FreshIds(Body(tuple(each for each in wiring.nodes if each.id != node.id)))
    kept = [each.id for each in body.nodes if each.id not in {*doors, *ends}]
    return _Opened(body, {name: ids.fresh(name) for name in kept}, dict(zip(doors, fed, strict=False)), ends)


def _source_outside(found: _Opened, source: Source) -> Source | None:
    node_id, port = source
    if node_id in found.names:
        return found.names[node_id], port
    return found.entries.get(node_id)


def _expanded_links(wiring: Wiring, node: Node, found: _Opened) -> list[Link]:
    results = {
        "output" if number == 0 else f"output{number + 1}": next(
            ((each.source_node, each.source_port) for each in found.body.links if each.target_node == end),
            None,
        )
        for number, end in enumerate(found.ends)
    }
    inner = []
    for link in found.body.links:
        source = _source_outside(found, (link.source_node, link.source_port))
        if source is not None and link.target_node in found.names:
            inner.append(Link(*source, found.names[link.target_node], link.target_port, link.extra))
    links: list[Link] = []
    for link in wiring.links:
        if link.target_node == node.id:
            continue
        if link.source_node != node.id:
            links.append(link)
            continue
        result = results.get(link.source_port)
        source = _source_outside(found, result) if result else None
        if source is not None:
            links.append(replace(link, source_node=source[0], source_port=source[1]))
    return links + inner


def _moved(inside: list[Node], node: Node, found: _Opened) -> list[Node]:
    """Around the place that the node had."""
    around = bounds(rect_of(each) for each in inside if place_of(each))
    middle = rect_of(node).centre if place_of(node) else None

    def move(each: Node) -> Node:
        renamed = replace(each, id=found.names[each.id])
        place = place_of(each)
        if around is None or middle is None or place is None:
            return renamed
        return placed(
            renamed, place[0] + middle[0] - around.centre[0], place[1] + middle[1] - around.centre[1]
        )

    return [move(each) for each in inside]
