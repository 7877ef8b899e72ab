"""Small changes to a wiring that edits are made of. Raises EditError for what is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from backend.diagnostics import ends_of
from backend.graph import Graph, Link, Node, Wiring
from engine_app.document.edits import Ends
from engine_app.document.errors import EditError
from engine_app.document.view import W


def shown(name: object) -> str:
    """A name out of a file, short and printable."""
    text = ascii(name)
    return text if len(text) <= 60 else f"{text[:57]}..."


def opened(graph: Graph, inside: tuple[str, ...]) -> Wiring:
    """The graph, or the body that the ids of nodes lead to. Raises EditError."""
    found: Wiring = graph
    for node_id in inside:
        node = find(found, node_id)
        if node.body is None:
            raise EditError(f"node {shown(node_id)} has nothing inside it")
        found = node.body
    return found


def change_inside(wiring: W, inside: tuple[str, ...], change: Callable[[W], W]) -> W:
    """Raises EditError."""
    if not inside:
        return change(wiring)
    first, *rest = inside
    node = find(wiring, first)
    if node.body is None:
        raise EditError(f"node {shown(first)} has nothing inside it")
    body = change_inside(node.body, tuple(rest), change)  # type: ignore[arg-type]
    return change_nodes(wiring, {first}, lambda each: replace(each, body=body))


def find(wiring: Wiring, node_id: str) -> Node:
    """Raises EditError."""
    for node in wiring.nodes:
        if node.id == node_id:
            return node
    raise EditError(f"there is no node {shown(node_id)}")


def find_all(wiring: Wiring, node_ids: Iterable[str]) -> list[Node]:
    """In the order in which they are asked for. Raises EditError."""
    known = {node.id: node for node in wiring.nodes}
    chosen = list(node_ids)
    need(wiring, chosen)
    return [known[node_id] for node_id in chosen]


def need(wiring: Wiring, node_ids: Iterable[str]) -> frozenset[str]:
    """The ids, all of which are there. Raises EditError."""
    wanted = frozenset(node_ids)
    missing = wanted - {node.id for node in wiring.nodes}
    if missing:
        raise EditError(f"there is no node {shown(min(missing))}")
    return wanted


def change_nodes(wiring: W, node_ids: Iterable[str], change: Callable[[Node], Node]) -> W:
    """Raises EditError."""
    wanted = need(wiring, node_ids)
    return replace(wiring, nodes=tuple(change(node) if node.id in wanted else node for node in wiring.nodes))


def without_links(wiring: W, ends: Iterable[Ends]) -> W:
    """Of links with equal ends the last goes first. Raises EditError for one that is not there."""
    left = list(wiring.links)
    for wanted in ends:
        at = next((i for i in range(len(left) - 1, -1, -1) if ends_of(left[i]) == wanted), None)
        if at is None:
            raise EditError(f"there is no link {described(wanted)}")
        del left[at]
    return replace(wiring, links=tuple(left))


def find_link(wiring: Wiring, ends: Ends) -> Link:
    """Raises EditError."""
    for link in wiring.links:
        if ends_of(link) == ends:
            return link
    raise EditError(f"there is no link {described(ends)}")


def described(ends: Ends) -> str:
    return f"{shown(ends[0])}.{shown(ends[1])} -> {shown(ends[2])}.{shown(ends[3])}"


class FreshIds:
    """Ids that no node of the wiring has; each is given once."""

    def __init__(self, wiring: Wiring) -> None:
        self._taken = {node.id for node in wiring.nodes}
        self._last: dict[str, int] = {}

    def fresh(self, wanted: str) -> str:
        """``wanted``, or ``wanted2``, ``wanted3`` ...; a number at its end is counted on."""
        stem = wanted.rstrip("0123456789")[:100] or "node"
        name, number = wanted[:100], self._last.get(stem, 1)
        while name in self._taken:
            number += 1
            name = f"{stem}{number}"
        self._last[stem] = number
        self._taken.add(name)
        return name


def reaches(wiring: Wiring, start: str, goal: str) -> bool:
    """Whether something flows from one node to the other; a node reaches itself."""
    outgoing: dict[str, list[str]] = {}
    for link in wiring.links:
        outgoing.setdefault(link.source_node, []).append(link.target_node)
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        node_id = waiting.pop()
        if node_id == goal:
            return True
        if node_id not in seen:
            seen.add(node_id)
            waiting += outgoing.get(node_id, ())
    return False
