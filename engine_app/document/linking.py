"""Which links can be made, and why not. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from backend.catalogue.record import PortKind, may_link
from backend.diagnostics import ends_of
from backend.graph import Link, Node, Wiring
from engine_app.document.edits import Connect, Ends
from engine_app.document.errors import EditError
from engine_app.document.ports import PortView, ports_of
from engine_app.document.view import W
from engine_app.document.wiring import described, find, reaches, shown


def connected(wiring: W, edit: Connect) -> W:
    """Raises EditError."""
    refusal = why_not(wiring, edit)
    if refusal:
        raise EditError(refusal)
    ends = edit.source_node, edit.source_port, edit.target_node, edit.target_port
    target = find(wiring, edit.target_node)
    into = ports_of(target, wiring.links).input(edit.target_port)
    links: tuple[Link, ...] = wiring.links
    if into is None or not into.variadic:
        links = tuple(link for link in links if ends_of(link)[2:] != ends[2:])
    return replace(wiring, links=(*links, Link(*ends)))


def why_not(wiring: Wiring, edit: Connect) -> str | None:
    """Why this link cannot be made; None if it can."""
    try:
        source, target = find(wiring, edit.source_node), find(wiring, edit.target_node)
    except EditError as error:
        return str(error)
    near = [
        link
        for link in wiring.links
        if edit.source_node in ends_of(link) or edit.target_node in ends_of(link)
    ]
    out = ports_of(source, near).output(edit.source_port)
    into = ports_of(target, near).input(edit.target_port)
    if out is None:
        return f"{source.type} has no output {shown(edit.source_port)}"
    if into is None:
        return f"{target.type} has no input {shown(edit.target_port)}"
    if out.kind is not None and into.kind is not None and not may_link(out.kind, into.kind):
        return f"{into.name} takes {into.kind.value}, {out.name} gives {out.kind.value}"
    ends: Ends = edit.source_node, edit.source_port, edit.target_node, edit.target_port
    if not into.variadic and any(ends_of(link) == ends for link in near):
        return f"{described(ends)} is linked already"
    if reaches(wiring, edit.target_node, edit.source_node):
        return (
            f"{shown(edit.target_node)} comes before {shown(edit.source_node)}: the link would go in a circle"
        )
    return None


def best_input(wiring: Wiring, node: Node, kind: PortKind | None) -> PortView | None:
    """The input that a link of this kind is for: one of the very kind, free rather than taken."""
    links = [link for link in wiring.links if link.target_node == node.id]
    taken = {link.target_port for link in links}
    fitting = [port for port in ports_of(node, links).inputs if _fits(kind, port.kind)]
    return min(
        fitting,
        key=lambda port: (port.kind is not kind, port.name in taken and not port.variadic),
        default=None,
    )


def best_output(node: Node, kind: PortKind | None, links: Iterable[Link] = ()) -> PortView | None:
    """The output that can go to an input of this kind."""
    fitting = [port for port in ports_of(node, links).outputs if _fits(port.kind, kind)]
    return min(fitting, key=lambda port: port.kind is not kind, default=None)


def through(node: Node) -> tuple[PortView, PortView] | None:
    """The input and the output between which a node stands in a link; None if it has no such pair."""
    ports = ports_of(node)
    for out in ports.outputs:
        for into in ports.inputs:
            if into.kind is out.kind:
                return into, out
    return None


def led_past(links: Iterable[Link], passed: Mapping[str, Node]) -> list[Link]:
    """Links around the nodes that are left out: what comes into one goes on to all that it goes to.

    Between the ports that ``through`` names, from the first node that stays. Links that have no such start,
    and those that end at a node that is left out, are not among them.
    """
    pairs = {node_id: pair for node_id, node in passed.items() if (pair := through(node))}
    entering: dict[str, Link] = {}
    for link in links:
        if link.target_node in pairs and link.target_port == pairs[link.target_node][0].name:
            entering.setdefault(link.target_node, link)
    starts: dict[str, Link | None] = {}

    def start_of(link: Link) -> Link | None:
        """The link with which the way to this one begins. Each node is passed once, for all links."""
        way: list[str] = []
        start: Link | None = link
        while start is not None and start.source_node in pairs:
            at = start.source_node
            if start.source_port != pairs[at][1].name:
                start = None
            elif at in starts:
                start = starts[at]
                break
            else:
                starts[at] = None  # so that a circle, which has no start, ends
                way.append(at)
                start = entering.get(at)
        starts.update(dict.fromkeys(way, start))
        return start

    found = []
    for link in links:
        start = start_of(link) if link.target_node not in passed else None
        if start is link:
            found.append(link)
        elif start is not None:
            found.append(replace(link, source_node=start.source_node, source_port=start.source_port))
    return found


def _fits(source: PortKind | None, target: PortKind | None) -> bool:
    return source is None or target is None or may_link(source, target)
