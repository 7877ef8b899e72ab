"""The ports that a node shows, and how large that makes it. Pure geometry; knows no screen.

A node of unknown type has the ports that its links name: it can be moved, and linked away, but not read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from backend.catalogue import CATALOGUE
from backend.catalogue.record import PortKind, variadic_names
from backend.graph import Link, Node
from backend.shapes import node_type, nodes_of_type
from engine_app.document.view import Rect, is_collapsed, is_reroute, place_of, width_of

WIDTH, MIN_WIDTH, MAX_WIDTH = 200.0, 128.0, 640.0
HEADER, ROW, FOOTER = 36.0, 24.0, 28.0
DOT = 24.0
"""Side of a reroute."""
MAX_OUTPUTS = 64


@dataclass(frozen=True, slots=True)
class PortView:
    """``kind`` is None where it is not known."""

    name: str
    kind: PortKind | None
    variadic: bool = False


@dataclass(frozen=True, slots=True)
class Ports:
    inputs: tuple[PortView, ...]
    outputs: tuple[PortView, ...]

    def input(self, name: str) -> PortView | None:
        return next((port for port in self.inputs if port.name == name), None)

    def output(self, name: str) -> PortView | None:
        return next((port for port in self.outputs if port.name == name), None)


def ports_of(node: Node, links: Iterable[Link] = ()) -> Ports:
    """``links``: those at the node, for what only they know."""
    record = node_type(node)
    if record is None:
        near = list(links)
        taken = dict.fromkeys(link.target_port for link in near if link.target_node == node.id)
        given = dict.fromkeys(link.source_port for link in near if link.source_node == node.id)
        return Ports(tuple(PortView(name, None) for name in taken), tuple(PortView(n, None) for n in given))
    is_variadic = any(port.variadic for port in record.outputs)
    return _ports_of_type(record.name, _values(node) if is_variadic else 1)


@cache
def _ports_of_type(name: str, values: int) -> Ports:
    """Worked out once, as graphs have thousands of nodes of few types; ``values``: of a variadic output."""
    record = CATALOGUE[name]
    inputs = tuple(PortView(port.name, port.kind, port.variadic) for port in record.inputs)
    outputs = [
        PortView(each, port.kind)
        for port in record.outputs
        for each in variadic_names(port.name, values if port.variadic else 1)
    ]
    return Ports(inputs, tuple(outputs))


def _values(node: Node) -> int:
    sizes = node.parameters.get("sizes")
    if node.body is not None:
        found = len(nodes_of_type(node.body, "Output"))
    elif node.type == "Split":
        found = len(sizes) if isinstance(sizes, list) else 2
    else:
        found = 1
    return min(max(1, found), MAX_OUTPUTS)


def size_of(node: Node, ports: Ports | None = None) -> tuple[float, float]:
    """Width and height."""
    if is_reroute(node):
        return DOT, DOT
    width = min(max(width_of(node) or WIDTH, MIN_WIDTH), MAX_WIDTH)
    if is_collapsed(node):
        return width, HEADER
    shown = ports or ports_of(node)
    rows = max(len(shown.inputs), len(shown.outputs), 1)
    return width, HEADER + rows * ROW + FOOTER


def rect_of(node: Node, ports: Ports | None = None) -> Rect:
    """A node without a place is at the origin."""
    x, y = place_of(node) or (0.0, 0.0)
    return Rect(x, y, *size_of(node, ports))


def port_offset(node: Node, ports: Ports, name: str, *, is_output: bool) -> tuple[float, float]:
    """Where a port is, from the node's corner. A port that the node does not have is at its header."""
    width, height = size_of(node, ports)
    x = width if is_output else 0.0
    if is_reroute(node):
        return x, height / 2
    if is_collapsed(node):
        return x, HEADER / 2
    names = [port.name for port in (ports.outputs if is_output else ports.inputs)]
    row = names.index(name) if name in names else -0.75
    return x, HEADER + (row + 0.5) * ROW
