"""Finds the node to blame where a model does not come through as ONNX. Worker processes only.

Where the exporter fails, each node is exported alone; where answers differ, all that flows inside
the model is made an output, and the first value that differs is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count

from backend.catalogue import CATALOGUE
from backend.catalogue.record import TensorType
from backend.checkpoint import restore_weights
from backend.compiler import compile_graph
from backend.exporting.onnx_export import export_onnx
from backend.exporting.runners import Inputs, in_batches, open_onnx_bytes
from backend.exporting.source import answers_of
from backend.formats.tensors import Array
from backend.graph import Graph, JsonValue, Link, Node, model_nodes
from backend.parity import compare, verdict_of
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


def untranslatable(graph: Graph) -> str:
    """The first node that cannot be exported alone, and why; empty where all of them can."""
    for node, alone in lone_nodes(graph):
        compiled = compile_graph(alone)
        compiled.module.eval()
        try:
            export_onnx(compiled.module, compiled.inputs, compiled.outputs, {})
        except Exception as error:
            # The exporter raises whatever its parts raise.
            return f"node {node.id!r} ({node.type}): {root_cause(error)}"
    return ""


@dataclass(frozen=True, slots=True)
class Probing:
    """A model, and the inputs for which it has to be looked into, in batches of these sizes."""

    graph: Graph
    weights: Mapping[str, Array]
    inputs: Inputs
    batches: tuple[int, ...]


def first_difference(probing: Probing, tolerance: float) -> str:
    """The first node, sources first, whose values onnxruntime works out otherwise; empty if none does."""
    probed, probes = _with_probes(probing.graph)
    compiled = compile_graph(probed)
    restore_weights(compiled.module, probing.weights)
    compiled.module.eval()
    run, _ = open_onnx_bytes(export_onnx(compiled.module, compiled.inputs, compiled.outputs, {}))
    ours = in_batches(lambda each: answers_of(compiled.module, each), probing.inputs, probing.batches)
    theirs = in_batches(run, probing.inputs, probing.batches)
    for name, mine, other in zip(compiled.output_names, ours, theirs, strict=True):
        found = compare(name, mine, other)
        if name in probes and verdict_of((found,), tolerance) == "differs":
            node = probes[name]
            return f"node {node.id!r} ({node.type}) is the first that differs, by {found.max_difference:.3g}"
    return ""


def _with_probes(graph: Graph) -> tuple[Graph, dict[str, Node]]:
    """The graph with an Output at each tensor inside it, sources first, and the node behind each."""
    shapes = infer_shapes(graph)
    taken = {node.id for node in graph.nodes}
    ends: dict[str, Node] = {}
    links: list[Link] = []
    for node in model_nodes(graph):
        for port, value in shapes.nodes[node.id].outputs.items():
            if isinstance(value, TensorType) and node.type not in ("Input", "Output"):
                name = next(f"probe{n}" for n in count(len(ends)) if f"probe{n}" not in taken)
                taken.add(name)
                ends[name] = node
                links.append(Link(node.id, port, name, "input"))
    nodes = (*graph.nodes, *(Node(name, "Output") for name in ends))
    return replace(graph, nodes=nodes, links=(*graph.links, *links)), ends


def root_cause(error: BaseException) -> str:
    """The cause at the bottom of what libraries wrap around each other, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
