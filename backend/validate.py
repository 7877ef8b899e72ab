"""What is wrong with a graph, and at which node. Pure; whatever the graph, this never raises.

Each mistake is told once, at the node where it can be put right, and with edits that do so where
there is one way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from itertools import chain, islice

from backend.catalogue import CATALOGUE, Category, NodeType, Parameter
from backend.catalogue.parameter import ParameterType, problem_of
from backend.catalogue.record import MODEL_CATEGORIES, Port, PortKind, may_link
from backend.diagnostics import (
    AddLink,
    AddNode,
    ChangeParameter,
    ChangeType,
    Diagnostic,
    Edit,
    Fix,
    RemoveLink,
    RemoveNode,
    RemoveParameter,
    Severity,
    ends_of,
    error,
    free_id,
    insert_before,
    moved_inside,
)
from backend.errors import InsertBefore, SetParameter
from backend.graph import Body, Graph, JsonValue, Link, Node, Wiring, cycle_members, upstream
from backend.shapes import MAX_NESTING, Problem, Shapes, framed, infer_shapes, node_type, nodes_of_type
from backend.training_checks import DataFacts, check_data, check_training, fix_scores
from backend.tuning import check_gradients, check_trainable, check_tunings

__all__ = ["DataFacts", "Diagnostic", "Severity", "diagnose", "has_errors"]

MAX_DIAGNOSTICS = 200
MAX_SUGGESTIONS = 20
MAX_FIXES = 50


def diagnose(
    graph: Graph,
    data: DataFacts | None = None,
    *,
    for_training: bool = True,
    shapes: Shapes | None = None,
) -> tuple[Diagnostic, ...]:
    """All that is wrong, in document order; empty if the graph can be trained (on ``data``, if given).

    Without ``for_training`` it only has to be a model: dataset, loss and optimizer may be missing.
    ``shapes``: the graph's own, for those who have worked them out already.
    """
    shapes = infer_shapes(graph) if shapes is None else shapes
    budget = _Budget()
    found = [*_check_wiring(graph, shapes, budget, 0), *_check_model(graph)]
    found = [*_with_score_fixes(found, graph, shapes, budget)]
    if for_training:
        found += check_training(graph, shapes)
        if not has_errors(found):
            found += [*check_trainable(graph, shapes), *check_gradients(graph, shapes)]
        if data is not None and not has_errors(found):
            found += check_data(graph, shapes, data)
    place: dict[str | None, int] = {node.id: index for index, node in enumerate(graph.nodes)}
    return tuple(_bounded(sorted(found, key=lambda each: place.get(each.node_id, -1))))


def _with_score_fixes(
    found: Iterable[Diagnostic], graph: Graph, shapes: Shapes, budget: _Budget
) -> Iterator[Diagnostic]:
    """What a loss cannot compare is put right in the layers before it."""
    losses = {node.id for node in graph.nodes if _category(node) is Category.LOSS} & shapes.problems.keys()
    for each in found:
        if each.fix is None and each.node_id in losses and budget.takes_fix():
            each = replace(each, fix=fix_scores(graph, shapes, str(each.node_id)))
        yield each


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    return any(diagnostic.severity is Severity.ERROR for diagnostic in diagnostics)


class _Budget:
    """Bounds what is looked for: graphs come from strangers."""

    def __init__(self) -> None:
        self._suggestions = MAX_SUGGESTIONS
        self._fixes = MAX_FIXES

    def closest(self, name: str, names: Iterable[str]) -> str | None:
        """A name that is alike."""
        if not self._suggestions:
            return None
        self._suggestions -= 1
        matches = get_close_matches(name[:64], names, n=1)
        return matches[0] if matches else None

    def takes_fix(self) -> bool:
        """Whether one more fix, for which the whole graph is looked at, may be worked out."""
        self._fixes -= 1
        return self._fixes >= 0


def _bounded(found: list[Diagnostic]) -> list[Diagnostic]:
    """Errors rather than warnings where there are too many, and a last one that says how many more."""
    if len(found) <= MAX_DIAGNOSTICS:
        return found
    ranked = sorted(found, key=lambda each: each.severity is not Severity.ERROR)
    more = f"{len(found) - MAX_DIAGNOSTICS} more, shown are {MAX_DIAGNOSTICS}"
    return [*ranked[:MAX_DIAGNOSTICS], Diagnostic(ranked[MAX_DIAGNOSTICS].severity, None, more)]


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:57]}...")


def _check_wiring(wiring: Wiring, shapes: Shapes, budget: _Budget, depth: int) -> Iterator[Diagnostic]:
    """A graph, or what is inside a node."""
    incoming = wiring.incoming()
    yield from _check_nodes(wiring, budget)
    yield from _check_links(wiring, incoming)
    yield from _check_cycles(wiring, incoming)
    yield from check_tunings(wiring)
    for node_id, problem in shapes.problems.items():
        fix = _remedy(wiring, node_id, problem, incoming[node_id]) if budget.takes_fix() else None
        yield error(node_id, problem.text, fix)
    for node in wiring.nodes:
        yield from _check_body(node, shapes, budget, depth)


# -- nodes ---------------------------------------------------------------------------------------


def _check_nodes(wiring: Wiring, budget: _Budget) -> Iterator[Diagnostic]:
    for node_id, count in Counter(node.id for node in wiring.nodes).items():
        if count > 1:
            yield error(node_id, f"{count} nodes have this id, must be 1")
    for node in wiring.nodes:
        record = CATALOGUE.get(node.type)
        if record is None:
            closest = budget.closest(node.type, CATALOGUE)
            fix = Fix(f"did you mean {closest}?", (ChangeType(node.id, closest),)) if closest else None
            yield error(node.id, f"type {_shown(node.type)} is not known to this program", fix)
        elif not 1 <= node.version <= record.version:
            yield error(
                node.id, f"version {node.version} of {node.type}, this program knows 1 to {record.version}"
            )
        else:
            yield from _check_parameters(node, record, budget)


def _check_parameters(node: Node, record: NodeType, budget: _Budget) -> Iterator[Diagnostic]:
    names = [parameter.name for parameter in record.parameters]
    for name, value in node.parameters.items():
        if name not in names:
            closest = budget.closest(name, names)
            text = f"did you mean {closest}?" if closest else "remove it"
            edits: tuple[Edit, ...] = (RemoveParameter(node.id, name),)
            if closest and closest not in node.parameters:
                edits = (*edits, ChangeParameter(node.id, closest, value))
            yield error(node.id, f"{node.type} has no parameter {_shown(name)}", Fix(text, edits))
    for parameter in record.parameters:
        if parameter.name in node.parameters:
            value = node.parameters[parameter.name]
            problem = problem_of(parameter, value)
            if problem:
                yield error(node.id, problem, _nearest(node, parameter, value))


def _nearest(node: Node, parameter: Parameter, value: JsonValue) -> Fix:
    """The value in range that is closest, or the default."""
    near: JsonValue = parameter.default if not isinstance(parameter.default, tuple) else [*parameter.default]
    low, high = parameter.minimum, parameter.maximum
    scalar = parameter.type in (ParameterType.INTEGER, ParameterType.NUMBER)
    if scalar and isinstance(value, int | float) and not isinstance(value, bool):
        bounded = min(max(value, low if low is not None else value), high if high is not None else value)
        near = int(bounded) if parameter.type is ParameterType.INTEGER else bounded
    return Fix(f"set {parameter.name} to {near}", (ChangeParameter(node.id, parameter.name, near),))


# -- links ---------------------------------------------------------------------------------------


def _check_links(wiring: Wiring, incoming: Mapping[str, list[Link]]) -> Iterator[Diagnostic]:
    nodes = {node.id: node for node in wiring.nodes}
    for link in wiring.links:
        yield from _check_link(link, nodes)
    for node in nodes.values():
        record = node_type(node)
        if record is not None:
            yield from _check_inputs(node, record, incoming[node.id])


def _check_link(link: Link, nodes: dict[str, Node]) -> Iterator[Diagnostic]:
    source, target = nodes.get(link.source_node), nodes.get(link.target_node)
    if source is None:
        place = link.target_node if target else None
        yield error(
            place, f"a link comes from node {_shown(link.source_node)}, which does not exist", _unlinked(link)
        )
    if target is None:
        place = link.source_node if source else None
        yield error(
            place, f"a link goes to node {_shown(link.target_node)}, which does not exist", _unlinked(link)
        )
    if source is None or target is None:
        return
    source_type, target_type = node_type(source), node_type(target)
    out = source_type.output(link.source_port) if source_type else None
    into = target_type.input(link.target_port) if target_type else None
    if source_type and out is None:
        yield _missing_port(source, "output", link.source_port, source_type.outputs, _unlinked(link))
    if target_type and into is None:
        yield _missing_port(target, "input", link.target_port, target_type.inputs, _unlinked(link))
    if out and into and not may_link(out.kind, into.kind):
        yield error(
            target.id,
            f"{into.name} takes {into.kind.value}, {out.name} of {_shown(source.id)} gives {out.kind.value}",
            _unlinked(link),
        )


def _unlinked(link: Link) -> Fix:
    return Fix("remove the link", (RemoveLink(*ends_of(link)),))


def _missing_port(node: Node, side: str, name: str, ports: tuple[Port, ...], fix: Fix) -> Diagnostic:
    names = ", ".join(port.name for port in ports) or "none"
    return error(node.id, f"{node.type} has no {side} {_shown(name)}, there is {names}", fix)


def _check_inputs(node: Node, record: NodeType, links: list[Link]) -> Iterator[Diagnostic]:
    for port in record.inputs:
        here = [link for link in links if link.target_port == port.name]
        if port.required and not here:
            yield error(node.id, f"nothing is linked to {port.name}", Fix(f"link a {port.kind.value} to it"))
        if len(here) > 1 and not port.variadic:
            fix = Fix("keep the first", tuple(RemoveLink(*ends_of(link)) for link in reversed(here[1:])))
            yield error(node.id, f"{len(here)} links into {port.name}, must be 1", fix)


def _check_cycles(wiring: Wiring, incoming: Mapping[str, list[Link]]) -> Iterator[Diagnostic]:
    members = cycle_members(wiring)
    for node_id in incoming:
        if node_id in members:
            back = next(link for link in incoming[node_id] if link.source_node in members)
            fix = Fix("remove a link of the cycle", (RemoveLink(*ends_of(back)),))
            yield error(node_id, "its output comes back to its input", fix)


def _remedy(wiring: Wiring, node_id: str, problem: Problem, links: list[Link]) -> Fix | None:
    """The remedies of a problem as edits."""
    texts: list[str] = []
    edits: tuple[Edit, ...] = ()
    for remedy in problem.remedies:
        match remedy:
            case SetParameter(name, value):
                plain = list(value) if isinstance(value, tuple) else value
                texts.append(f"set {name} to {plain}")
                edits += (ChangeParameter(node_id, name, plain),)
            case InsertBefore(type_name, parameters) if links:
                texts.append(f"insert {type_name}")
                edits += insert_before(wiring, links[0], type_name, parameters)
    return Fix(" and ".join(texts), edits) if texts else None


# -- bodies --------------------------------------------------------------------------------------


def _check_body(node: Node, shapes: Shapes, budget: _Budget, depth: int) -> Iterator[Diagnostic]:
    record = node_type(node)
    if record is None:
        return
    if record.wrapping is None:
        if node.body is not None:
            yield error(node.id, f"has a body, {node.type} wraps nothing")
        return
    if node.body is None:
        yield error(node.id, "has nothing inside it, needs a body")
    elif depth < MAX_NESTING:
        inside = shapes.bodies.get(node.id, Shapes())
        found: Iterable[Diagnostic] = [*_check_insides(node.body, record)]
        if not (record.wrapping.one_node and found):
            body = framed(node.body, record)
            found = chain(found, _check_wiring(body, inside, budget, depth + 1))
        # Enough to say that there are too many: nested bodies would pass all of them on again and again.
        yield from moved_inside(node.id, islice(found, MAX_DIAGNOSTICS + 1))
    else:
        yield error(node.id, f"nested more than {MAX_NESTING} deep, limit {MAX_NESTING}")


def _check_insides(body: Body, record: NodeType) -> Iterator[Diagnostic]:
    wrapping = record.wrapping
    if wrapping is None:
        return
    for node in body.nodes:
        inner = node_type(node)
        if inner is not None and inner.category not in MODEL_CATEGORIES:
            yield error(
                node.id, f"{node.type} cannot be inside a node", Fix("remove it", (RemoveNode(node.id),))
            )
        elif wrapping.allowed and inner is not None and node.type not in wrapping.allowed:
            yield error(node.id, f"{record.name} wraps one of {', '.join(sorted(wrapping.allowed))}")
    doors = {node.id for node in nodes_of_type(body, "Input")}
    for link in body.links:
        if link.target_node in doors:
            yield error(link.target_node, "takes what is linked to the node it is in", _unlinked(link))
    if not wrapping.one_node:
        if not nodes_of_type(body, "Output"):
            yield error(None, "the graph inside has no Output node, must have one or more")
    elif len(body.nodes) != 1 or body.links:
        yield error(
            None, f"wraps {len(body.nodes)} nodes with {len(body.links)} links, must be 1 node without links"
        )
    elif not _takes_one(body.nodes[0]):
        yield error(body.nodes[0].id, f"{record.name} wraps a layer with 1 input")


def _takes_one(node: Node) -> bool:
    record = node_type(node)
    if record is None:
        return True
    is_end = record.category is Category.STRUCTURE
    return not is_end and [port.kind for port in record.inputs] == [PortKind.TENSOR]


# -- the model -----------------------------------------------------------------------------------


def _check_model(graph: Graph) -> Iterator[Diagnostic]:
    for name in ("Input", "Output"):
        if not nodes_of_type(graph, name):
            yield error(None, f"the graph has no {name} node, must have one or more", _added(graph, name))
    ends, entries = nodes_of_type(graph, "Output"), nodes_of_type(graph, "Input")
    used = upstream(graph, [node.id for node in ends])
    if ends and entries and not any(node.id in used for node in entries):
        yield error(ends[0].id, "it depends on no Input")
    starts = [n.id for n in graph.nodes if n.type in ("Input", "Output") or _category(n) is Category.LOSS]
    needed = upstream(graph, starts)
    for node in graph.nodes:
        if _category(node) in MODEL_CATEGORIES and node.id not in needed:
            text = "the output does not depend on it: it is left out"
            yield Diagnostic(Severity.WARNING, node.id, text, Fix("remove it", (RemoveNode(node.id),)))


def _added(graph: Graph, name: str) -> Fix:
    """An Input or Output node more; an Output is linked to the layer whose answer nobody takes."""
    new = free_id(graph, name.lower())
    outgoing = graph.outgoing()
    loose = [n for n in graph.nodes if _category(n) in MODEL_CATEGORIES and not outgoing[n.id]]
    if name == "Output" and len(loose) == 1:
        link = AddLink(loose[0].id, "output", new, "input")
        return Fix(f"add one after {_shown(loose[0].id)}", (AddNode(new, name), link))
    return Fix("add one", (AddNode(new, name),))


def _category(node: Node) -> Category | None:
    record = node_type(node)
    return record.category if record else None
