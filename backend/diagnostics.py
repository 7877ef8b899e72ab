"""What is said of a graph that has something wrong, and edits that put it right. Pure.

A Fix is a list of edits to the graph, or to a body inside it, that an editor can apply with one tap;
one without edits only says in words what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, TypeAlias, TypeVar

from backend.graph import Body, Graph, JsonValue, Link, Node, TrainingSettings, Wiring


class Severity(Enum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class ChangeParameter:
    node: str
    name: str
    value: JsonValue


@dataclass(frozen=True, slots=True)
class RemoveParameter:
    node: str
    name: str


@dataclass(frozen=True, slots=True)
class ChangeType:
    node: str
    type: str


@dataclass(frozen=True, slots=True)
class AddNode:
    node: str
    type: str
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """With its links."""

    node: str


@dataclass(frozen=True, slots=True)
class AddLink:
    source_node: str
    source_port: str
    target_node: str
    target_port: str


@dataclass(frozen=True, slots=True)
class RemoveLink:
    """The last link between these ports."""

    source_node: str
    source_port: str
    target_node: str
    target_port: str


@dataclass(frozen=True, slots=True)
class ChangeTraining:
    """``name`` is that of a field of ``TrainingSettings``."""

    name: str
    value: int | str


Edit: TypeAlias = (
    ChangeParameter
    | RemoveParameter
    | ChangeType
    | AddNode
    | RemoveNode
    | AddLink
    | RemoveLink
    | ChangeTraining
)


@dataclass(frozen=True, slots=True)
class Fix:
    """``edits`` in order; ``inside`` are the nodes whose bodies lead to where they apply."""

    text: str
    edits: tuple[Edit, ...] = ()
    inside: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """``node_id`` is None for what concerns the whole graph; ``inside`` goes on from it into bodies."""

    severity: Severity
    node_id: str | None
    text: str
    fix: Fix | None = None
    """What would put it right, where that can be told."""
    inside: tuple[str, ...] = ()

    def __str__(self) -> str:
        path = "/".join((self.node_id, *self.inside)) if self.node_id is not None else ""
        place = f" at {path}" if path else ""
        return f"{self.severity.value}{place}: {self.text}" + (f" ({self.fix})" if self.fix else "")


def error(node_id: str | None, text: str, fix: Fix | None = None) -> Diagnostic:
    return Diagnostic(Severity.ERROR, node_id, text, fix)


def moved_inside(node_id: str, found: Iterable[Diagnostic]) -> Iterable[Diagnostic]:
    """What was found in the body of a node, as told from outside."""
    for each in found:
        inner = (each.node_id, *each.inside) if each.node_id is not None else ()
        fix = replace(each.fix, inside=(node_id, *each.fix.inside)) if each.fix else None
        yield replace(each, node_id=node_id, inside=inner, fix=fix)


def edit_document(edit: Edit) -> dict[str, Any]:
    """As JSON, for programs: its kind and fields."""
    values = {each.name: getattr(edit, each.name) for each in fields(edit)}
    return {"edit": type(edit).__name__, **values}


# -- applying ------------------------------------------------------------------------------------

W = TypeVar("W", Graph, Body)


def apply_fix(graph: Graph, fix: Fix) -> Graph:
    """The graph with all edits made. Raises KeyError for a node that is not there."""
    for edit in fix.edits:
        match edit:
            case ChangeTraining(name, value):
                graph = replace(graph, training=_with_setting(graph.training, name, value))
            case _:
                graph = _apply_inside(graph, edit, fix.inside)
    return graph


def _with_setting(training: TrainingSettings, name: str, value: int | str) -> TrainingSettings:
    """Raises TypeError for a setting that there is not."""
    changed: dict[str, Any] = {name: value}
    return replace(training, **changed)


def _apply_inside(wiring: W, edit: Edit, inside: tuple[str, ...]) -> W:
    if not inside:
        return _apply(wiring, edit)
    first, *rest = inside

    def change(node: Node) -> Node:
        if node.body is None:
            raise KeyError(first)
        return replace(node, body=_apply_inside(node.body, edit, tuple(rest)))

    return _with_node(wiring, first, change)


def _apply(wiring: W, edit: Edit) -> W:
    match edit:
        case ChangeParameter(node_id, name, value):
            return _with_node(
                wiring, node_id, lambda node: replace(node, parameters={**node.parameters, name: value})
            )
        case RemoveParameter(node_id, name):
            return _with_node(wiring, node_id, lambda node: replace(node, parameters=_without(node, name)))
        case ChangeType(node_id, name):
            return _with_node(wiring, node_id, lambda node: replace(node, type=name))
        case AddNode(node_id, name, parameters):
            return replace(wiring, nodes=(*wiring.nodes, Node(node_id, name, 1, dict(parameters))))
        case RemoveNode(node_id):
            links = tuple(
                each for each in wiring.links if node_id not in (each.source_node, each.target_node)
            )
            return replace(wiring, nodes=tuple(n for n in wiring.nodes if n.id != node_id), links=links)
        case AddLink(a, b, c, d):
            return replace(wiring, links=(*wiring.links, Link(a, b, c, d)))
        case RemoveLink(a, b, c, d):
            return replace(wiring, links=_without_last(wiring.links, (a, b, c, d)))
        case ChangeTraining():
            return wiring


def _with_node(wiring: W, node_id: str, change: Callable[[Node], Node]) -> W:
    if all(node.id != node_id for node in wiring.nodes):
        raise KeyError(node_id)
    return replace(wiring, nodes=tuple(change(node) if node.id == node_id else node for node in wiring.nodes))


def _without(node: Node, name: str) -> dict[str, JsonValue]:
    return {key: value for key, value in node.parameters.items() if key != name}


def _without_last(links: tuple[Link, ...], ends: tuple[str, str, str, str]) -> tuple[Link, ...]:
    at = [index for index, link in enumerate(links) if ends_of(link) == ends]
    return links[: at[-1]] + links[at[-1] + 1 :] if at else links


def ends_of(link: Link) -> tuple[str, str, str, str]:
    return link.source_node, link.source_port, link.target_node, link.target_port


def insert_before(
    wiring: Wiring, link: Link, type_name: str, parameters: Mapping[str, Any]
) -> tuple[Edit, ...]:
    """Edits that put a node with one input and one output into a link."""
    new = free_id(wiring, type_name.lower())
    return (
        AddNode(new, type_name, parameters),
        RemoveLink(*ends_of(link)),
        AddLink(link.source_node, link.source_port, new, "input"),
        AddLink(new, "output", link.target_node, link.target_port),
    )


def free_id(wiring: Wiring, wanted: str) -> str:
    """``wanted``, or the first of ``wanted2``, ``wanted3`` ... that no node has."""
    taken = {node.id for node in wiring.nodes}
    number = 1
    name = wanted
    while name in taken:
        number += 1
        name = f"{wanted}{number}"
    return name
