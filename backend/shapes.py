"""What flows through every port, worked out from the catalogue's rules. Pure; never raises on a graph.

A node that cannot be worked out has a problem or an unknown input; what comes after it is left
unknown, so that one mistake is told once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from backend.catalogue import CATALOGUE
from backend.catalogue.parameter import MAX_AXES, completed, problem_of
from backend.catalogue.record import (
    MAX_ELEMENTS,
    BodyTypes,
    Counts,
    DatasetType,
    NodeType,
    PortType,
    Shape,
    TensorType,
    Wrapping,
    converted,
    described,
    elements,
    tensor_shapes,
)
from backend.errors import InsertBefore, SetParameter, ShapeMismatchError
from backend.graph import Body, Link, Node, Wiring, model_nodes, topological_order

MAX_NESTING = 16
"""Bodies within bodies."""
MAX_EXPANDED = 20_000
"""Layers that a graph comes to when every body is built as often as it is repeated."""


@dataclass(frozen=True, slots=True)
class Inference:
    """What is known of one node. ``layers`` counts those it comes to, with what is inside it."""

    inputs: tuple[PortType, ...]
    outputs: Mapping[str, PortType]
    counts: Counts
    layers: int = 1
    node: Node | None = field(default=None, compare=False, repr=False)
    """As it was when this was worked out."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a node cannot be worked out; the remedies together, if any, put it right."""

    text: str
    remedies: tuple[SetParameter | InsertBefore, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Shapes:
    """``nodes`` holds those that could be worked out, sources first; ``problems`` says why not.

    ``bodies`` is the same for what is inside a node, by the node's id.
    """

    nodes: Mapping[str, Inference] = field(default_factory=dict)
    problems: Mapping[str, Problem] = field(default_factory=dict)
    bodies: Mapping[str, Shapes] = field(default_factory=dict)

    def output(self, node_id: str, port: str = "output") -> PortType | None:
        found = self.nodes.get(node_id)
        return found.outputs.get(port) if found else None

    def shape(self, node_id: str, port: str = "output") -> Shape | None:
        """Of one sample; None where it is unknown or no tensor."""
        found = self.output(node_id, port)
        return found.shape if isinstance(found, TensorType) else None


def node_type(node: Node) -> NodeType | None:
    """The record of a node's type; None for one that is unknown, or known only to a newer program."""
    found = CATALOGUE.get(node.type)
    return found if found is not None and 1 <= node.version <= found.version else None


def parameters_of(node: Node) -> dict[str, Any]:
    """Complete and normalized. The node must be of a known type and free of parameter problems."""
    return completed(CATALOGUE[node.type].parameters, node.parameters)


def parameter_problems(record: NodeType, node: Node) -> list[str]:
    """What is wrong with the values given; names nobody knows are not looked at."""
    found = []
    for parameter in record.parameters:
        if parameter.name in node.parameters:
            problem = problem_of(parameter, node.parameters[parameter.name])
            if problem:
                found.append(problem)
    return found


def ordered_inputs(record: NodeType, links: list[Link]) -> list[Link] | None:
    """The links into a node in the order of its ports; None if one is missing or one too many."""
    if len(record.inputs) == 1 == len(links) and links[0].target_port == record.inputs[0].name:
        return links
    found: list[Link] = []
    for port in record.inputs:
        here = [link for link in links if link.target_port == port.name]
        if (port.required and not here) or (len(here) > 1 and not port.variadic):
            return None
        found += here
    return found


def infer_shapes(graph: Wiring, before: Shapes | None = None) -> Shapes:
    """Works out every node that can be worked out.

    ``before``: of a graph that was much the same; what is as it was there is not worked out again.
    """
    return _infer(graph, None, 0, {}, before or Shapes())


def framed(body: Body, record: NodeType) -> Body:
    """The body as a graph: one that holds a single node gets an Input and an Output around it."""
    if record.wrapping is None or not record.wrapping.one_node or len(body.nodes) != 1:
        return body
    (inner,) = body.nodes
    inner_record = node_type(inner)
    port = inner_record.inputs[0].name if inner_record and inner_record.inputs else "input"
    entry, end = f"{inner.id} in", f"{inner.id} out"
    links = (Link(entry, "output", inner.id, port), Link(inner.id, "output", end, "input"))
    return Body((Node(entry, "Input"), inner, Node(end, "Output")), links)


def nodes_of_type(wiring: Wiring, name: str) -> list[Node]:
    return [node for node in wiring.nodes if node.type == name]


def _infer(
    wiring: Wiring,
    entries: Mapping[str, TensorType] | None,
    depth: int,
    alike: _Alike,
    before: Shapes = Shapes(),
) -> Shapes:
    """``entries``: what enters a body, by the ids of its Input nodes; None for a whole graph."""
    known: dict[str, Inference] = {}
    problems: dict[str, Problem] = {}
    bodies: dict[str, Shapes] = {}
    incoming = wiring.incoming()
    for node in topological_order(wiring).nodes:
        record = node_type(node)
        old = before.nodes.get(node.id)
        old = old if old is not None and _is_same(node, old.node) else None
        if record is None or (old is None and parameter_problems(record, node)):
            continue
        inputs = _inputs(record, incoming[node.id], known)
        if inputs is None:
            continue
        if entries is not None and node.type == "Input":
            inputs = (entries[node.id],) if node.id in entries else ()
        if old is not None and old.inputs == inputs:
            known[node.id] = old
            if node.id in before.bodies:
                bodies[node.id] = before.bodies[node.id]
            continue
        try:
            if record.wrapping is None:
                found: Inference | None = _apply(record, node, inputs, alike)
            else:
                bodies[node.id] = _open(record.wrapping, record, node, inputs, depth, alike)
                found = _close(record.wrapping, record, node, inputs, bodies[node.id])
            if found is not None:
                known[node.id] = Inference(found.inputs, found.outputs, found.counts, found.layers, node)
        except ShapeMismatchError as error:
            problems[node.id] = Problem(str(error), error.remedies)
    return Shapes(known, problems, bodies)


def _is_same(node: Node, before: Node | None) -> bool:
    """Whether it gives the same for the same inputs. A document shares what did not change."""
    return (
        before is not None
        and before.parameters is node.parameters
        and before.body is node.body
        and (before.type, before.version) == (node.type, node.version)
    )


def _inputs(
    record: NodeType, links: list[Link], known: Mapping[str, Inference]
) -> tuple[PortType, ...] | None:
    ordered = ordered_inputs(record, links)
    if ordered is None:
        return None
    found: list[PortType] = []
    for link in ordered:
        source = known.get(link.source_node)
        value = source.outputs.get(link.source_port) if source else None
        port = record.input(link.target_port)
        taken = converted(value, port.kind) if value is not None and port is not None else None
        if taken is None:
            return None
        found.append(taken)
    return tuple(found)


_Alike: TypeAlias = dict[tuple[Any, ...], Inference]
"""By type, parameters and inputs: deep networks are a few layers many times over."""


def _apply(record: NodeType, node: Node, inputs: tuple[PortType, ...], alike: _Alike) -> Inference:
    """Raises ShapeMismatchError."""
    parameters = completed(record.parameters, node.parameters)
    key = (record.name, *parameters.values(), *inputs)
    found = alike.get(key)
    if found is None:
        found = alike[key] = _checked(record, parameters, inputs, 1)
    return found


def _checked(
    record: NodeType, parameters: dict[str, Any], inputs: tuple[PortType, ...], layers: int
) -> Inference:
    outputs = record.rule(parameters, inputs)
    for output in outputs:
        if type(output) is TensorType:  # nearly all of them
            _check_size(output.shape)
            continue
        for shape in _shapes_in(output):
            _check_size(shape)
    counts = record.count(parameters, inputs, outputs)
    if counts.parameters > MAX_ELEMENTS:
        raise ShapeMismatchError(f"{counts.parameters} parameters, limit {MAX_ELEMENTS}")
    if not counts.activations:
        held = sum(elements(shape) for shape in tensor_shapes(outputs))
        counts = Counts(counts.parameters, counts.flops, counts.buffers, held)
    return Inference(inputs, record.name_outputs(outputs), counts, layers)


def _open(
    wrapping: Wrapping,
    record: NodeType,
    node: Node,
    inputs: tuple[PortType, ...],
    depth: int,
    alike: _Alike,
) -> Shapes:
    """Works out what is inside, once, however often it is repeated. Raises ShapeMismatchError."""
    if node.body is None or depth >= MAX_NESTING:
        return Shapes()
    parameters = completed(record.parameters, node.parameters)
    entries = wrapping.takes(parameters, tuple(each for each in inputs if isinstance(each, TensorType)))
    body = framed(node.body, record)
    doors = nodes_of_type(body, "Input")
    if len(doors) != len(entries):
        raise ShapeMismatchError(
            f"{len(entries)} linked to it, the graph inside has {len(doors)} Input nodes"
        )
    return _infer(body, dict(zip((door.id for door in doors), entries, strict=True)), depth + 1, alike)


def _close(
    wrapping: Wrapping, record: NodeType, node: Node, inputs: tuple[PortType, ...], inside: Shapes
) -> Inference | None:
    """None where what is inside could not be worked out. Raises ShapeMismatchError."""
    body = framed(node.body or Body(), record)
    ends = [inside.output(end.id) for end in nodes_of_type(body, "Output")]
    outputs = tuple(end for end in ends if isinstance(end, TensorType))
    if not outputs or len(outputs) != len(ends):
        return None
    if wrapping.one_node and len(outputs) != 1:
        raise ShapeMismatchError(f"wraps a layer with 1 output, found {len(outputs)}")
    parameters = completed(record.parameters, node.parameters)
    used = [inside.nodes[each.id] for each in model_nodes(body) if each.id in inside.nodes]
    layers = sum(each.layers for each in used) * wrapping.copies(parameters)
    if layers > MAX_EXPANDED:
        raise ShapeMismatchError(f"comes to {layers} layers, limit {MAX_EXPANDED}")
    parameters["body"] = BodyTypes(outputs, sum((each.counts for each in used), Counts()))
    return _checked(record, parameters, inputs, layers)


def _shapes_in(value: PortType) -> tuple[Shape, ...]:
    match value:
        case DatasetType(samples, labels):
            return (samples.shape, labels.shape)
        case _:
            return ()


def _check_size(shape: Shape) -> None:
    if len(shape) > MAX_AXES:
        raise ShapeMismatchError(f"{described(shape)} has {len(shape)} axes, limit {MAX_AXES}")
    if elements(shape) > MAX_ELEMENTS:
        raise ShapeMismatchError(f"{described(shape)} has {elements(shape)} elements, limit {MAX_ELEMENTS}")
