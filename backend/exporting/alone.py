"""Each node of a model in a graph of its own: how to find the one that a format cannot hold."""

from __future__ import annotations

from collections.abc import Iterator

from backend.catalogue import CATALOGUE
from backend.catalogue.record import TensorType
from backend.graph import Graph, JsonValue, Link, Node, model_nodes
from backend.shapes import Shapes, infer_shapes, ordered_inputs


def lone_nodes(graph: Graph) -> Iterator[tuple[Node, Graph]]:
    """Sources first, without Inputs and Outputs; of nodes that differ in their id alone only the first."""
    shapes, incoming = infer_shapes(graph), graph.incoming()
    seen: list[tuple[object, ...]] = []
    for node in model_nodes(graph):
        kind = (node.type, dict(node.parameters), node.body, shapes.nodes[node.id].inputs)
        if node.type in ("Input", "Output") or kind in seen:
            continue
        seen.append(kind)
        yield node, _graph_around(node, ordered_inputs(CATALOGUE[node.type], incoming[node.id]) or [], shapes)


def _graph_around(node: Node, links: list[Link], shapes: Shapes) -> Graph:
    prefix = f"{node.id}_"
    doors, ends, wires = [], [], []
    for number, (link, entering) in enumerate(zip(links, shapes.nodes[node.id].inputs, strict=False)):
        assert isinstance(entering, TensorType)
        given: dict[str, JsonValue] = {"shape": list(entering.shape), "vocabulary": entering.ids}
        doors.append(Node(f"{prefix}in{number}", "Input", 1, given))
        wires.append(Link(doors[-1].id, "output", node.id, link.target_port))
    for name, value in shapes.nodes[node.id].outputs.items():
        if isinstance(value, TensorType):
            ends.append(Node(f"{prefix}{name}", "Output"))
            wires.append(Link(node.id, name, ends[-1].id, "input"))
    if not doors:
        doors.append(Node(f"{prefix}in", "Input", 1, {"shape": [1]}))
        ends.append(Node(f"{prefix}same", "Output"))
        wires.append(Link(doors[0].id, "output", ends[-1].id, "input"))
    return Graph(node.id, (*doors, node, *ends), tuple(wires))
