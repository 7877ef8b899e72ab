"""What flows through every port, worked out from the catalogue's rules. Pure; never raises on a graph.

A node that cannot be worked out has a problem or an unknown input; what comes after it is left
unknown, so that one mistake is told once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backend.catalogue import CATALOGUE
from backend.catalogue.record import (
    KIND_OF,
    MAX_AXES,
    MAX_ELEMENTS,
    Counts,
    DatasetType,
    NodeType,
    PortType,
    Shape,
    TensorType,
    completed,
    described,
    elements,
    problem_of,
)
from backend.errors import ShapeMismatchError
from backend.graph import Graph, Link, Node, topological_order


@dataclass(frozen=True, slots=True)
class Inference:
    """What is known of one node."""

    inputs: tuple[PortType, ...]
    outputs: Mapping[str, PortType]
    counts: Counts


@dataclass(frozen=True, slots=True)
class Shapes:
    """``nodes`` holds those that could be worked out, sources first; ``problems`` says why not."""

    nodes: Mapping[str, Inference] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

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
    found: list[Link] = []
    for port in record.inputs:
        here = [link for link in links if link.target_port == port.name]
        if (port.required and not here) or (len(here) > 1 and not port.variadic):
            return None
        found += here
    return found


def infer_shapes(graph: Graph) -> Shapes:
    """Works out every node that can be worked out."""
    known: dict[str, Inference] = {}
    problems: dict[str, str] = {}
    incoming = graph.incoming()
    for node in topological_order(graph).nodes:
        record = node_type(node)
        if record is None or parameter_problems(record, node):
            continue
        inputs = _inputs(record, incoming[node.id], known)
        if inputs is None:
            continue
        try:
            known[node.id] = _apply(record, node, inputs)
        except ShapeMismatchError as error:
            problems[node.id] = str(error)
    return Shapes(known, problems)


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
        if value is None or port is None or KIND_OF[type(value)] is not port.kind:
            return None
        found.append(value)
    return tuple(found)


def _apply(record: NodeType, node: Node, inputs: tuple[PortType, ...]) -> Inference:
    """Raises ShapeMismatchError."""
    parameters = completed(record.parameters, node.parameters)
    outputs = record.rule(parameters, inputs)
    for output in outputs:
        for shape in _shapes_in(output):
            _check_size(shape)
    counts = record.count(parameters, inputs, outputs)
    if counts.parameters > MAX_ELEMENTS:
        raise ShapeMismatchError(f"{counts.parameters} parameters, limit {MAX_ELEMENTS}")
    named = {port.name: value for port, value in zip(record.outputs, outputs, strict=True)}
    return Inference(inputs, named, counts)


def _shapes_in(value: PortType) -> tuple[Shape, ...]:
    match value:
        case TensorType(shape):
            return (shape,)
        case DatasetType(samples, labels):
            return (samples.shape, labels.shape)
        case _:
            return ()


def _check_size(shape: Shape) -> None:
    if len(shape) > MAX_AXES:
        raise ShapeMismatchError(f"{described(shape)} has {len(shape)} axes, limit {MAX_AXES}")
    if elements(shape) > MAX_ELEMENTS:
        raise ShapeMismatchError(f"{described(shape)} has {elements(shape)} elements, limit {MAX_ELEMENTS}")
