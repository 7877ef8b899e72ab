"""Small graphs for tests of the document."""

from __future__ import annotations

from itertools import pairwise

from backend.graph import Graph, Link, Node
from engine_app.document.view import placed


def line(*types: str, shape: tuple[int, ...] = (8,)) -> Graph:
    """Input, these types, Output, each linked to the next; ids are the types in lower case."""
    names = ["Input", *types, "Output"]
    nodes = []
    for index, name in enumerate(names):
        parameters = {"shape": list(shape)} if name == "Input" else {}
        nodes.append(placed(Node(name.lower(), name, 1, parameters), 300.0 * index, 0.0))
    ids = [node.id for node in nodes]
    links = [Link(a, "output", b, "input") for a, b in pairwise(ids)]
    return Graph("line", tuple(nodes), tuple(links))
