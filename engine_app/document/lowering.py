"""The graph that is trained: bypassed and muted nodes and bends in links taken out of what was drawn.

- **Bypassed**: the node is left out, and what comes into its first input goes on to all that its output of
  the same kind goes to. A node without such a pair (a loss) counts as muted.
- **Muted**: the node is left out with its links. A node that lacks an input which it needs is left out too,
  and so on down the line; a port that takes any number of links goes on with those that are left.
- **A bend**: an Identity that is drawn as a dot is left out as if bypassed: it costs nothing.

The same holds inside bodies. A graph without any of these is returned as it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from backend.graph import Graph, Link, Node
from backend.serialize import load_graph
from backend.shapes import node_type
from engine_app.document.linking import led_past, through
from engine_app.document.view import Mode, W, is_reroute, mode_of


def lowered(graph: Graph) -> Graph:
    """Ids of nodes that stay are the same. Never raises."""
    return _lowered(graph)


def _lowered(wiring: W) -> W:
    nodes: tuple[Node, ...] = tuple(_with_plain_body(node) for node in wiring.nodes)
    if any(new is not old for new, old in zip(nodes, wiring.nodes, strict=True)):
        wiring = replace(wiring, nodes=nodes)
    passed: dict[str, Node] = {n.id: n for n in wiring.nodes if is_bypassed(n)}
    muted: set[str] = {n.id for n in wiring.nodes if mode_of(n) is not Mode.NORMAL and n.id not in passed}
    if not passed and not muted:
        return wiring
    links: list[Link] = led_past(wiring.links, passed)
    gone = muted | passed.keys()
    links = [link for link in links if link.source_node not in muted and link.target_node not in muted]
    gone |= _starved(wiring, links, gone)
    return replace(
        wiring,
        nodes=tuple(node for node in wiring.nodes if node.id not in gone),
        links=tuple(each for each in links if each.source_node not in gone and each.target_node not in gone),
    )


def is_bypassed(node: Node) -> bool:
    """Whether what comes in goes on around it."""
    wanted = mode_of(node) is Mode.BYPASSED or (is_reroute(node) and mode_of(node) is Mode.NORMAL)
    return wanted and through(node) is not None


def _with_plain_body(node: Node) -> Node:
    if node.body is None:
        return node
    body = _lowered(node.body)
    return node if body is node.body else replace(node, body=body)


def _starved(wiring: W, links: list[Link], gone: set[str]) -> set[str]:
    """The nodes that lack an input which they had, because of nodes that are gone."""
    needs = {
        node.id: [port.name for port in record.inputs if port.required]
        for node in wiring.nodes
        if node.id not in gone and (record := node_type(node)) is not None
    }
    drawn = {(link.target_node, link.target_port) for link in wiring.links}
    left = Counter((link.target_node, link.target_port) for link in links)
    outgoing: dict[str, list[Link]] = {}
    for link in links:
        outgoing.setdefault(link.source_node, []).append(link)

    def is_starved(node_id: str) -> bool:
        return any((node_id, port) in drawn and not left[node_id, port] for port in needs[node_id])

    found: set[str] = set()
    waiting = [node_id for node_id in needs if is_starved(node_id)]
    while waiting:
        node_id = waiting.pop()
        if node_id in found:
            continue
        found.add(node_id)
        for link in outgoing.get(node_id, ()):
            left[link.target_node, link.target_port] -= 1
            if link.target_node in needs and is_starved(link.target_node):
                waiting.append(link.target_node)
    return found


def load_lowered(data: bytes) -> Graph:
    """The graph that a file asks to train. Raises GraphFormatError."""
    return lowered(load_graph(data))
