"""What is wrong with a graph, and at which node. Pure; whatever the graph, this never raises.

Each mistake is told once, at the node where it can be put right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Protocol

from backend.catalogue import CATALOGUE, Category, NodeType
from backend.catalogue.record import Port, described
from backend.graph import Graph, Link, Node, cycle_members, upstream
from backend.pipeline import Pipeline, nodes_of, read_pipeline
from backend.shapes import Shapes, infer_shapes, node_type, parameter_problems

MAX_EPOCHS = 1_000_000
MAX_SEED = 2**63 - 1
MAX_DIAGNOSTICS = 200
MAX_SUGGESTIONS = 20
MODEL_CATEGORIES = frozenset(Category) - {Category.LOSS, Category.OPTIMIZER, Category.DATA}


class Severity(Enum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """``node_id`` is None for what concerns the whole graph."""

    severity: Severity
    node_id: str | None
    text: str
    fix: str | None = None
    """What would put it right, where that can be told."""

    def __str__(self) -> str:
        place = f" at {self.node_id}" if self.node_id is not None else ""
        return f"{self.severity.value}{place}: {self.text}" + (f" ({self.fix})" if self.fix else "")


class DataFacts(Protocol):
    """What must be known of a dataset to check a graph against it."""

    @property
    def samples(self) -> int: ...
    @property
    def sample_shape(self) -> tuple[int, ...]: ...
    @property
    def classes(self) -> int: ...


def diagnose(
    graph: Graph, data: DataFacts | None = None, *, for_training: bool = True
) -> tuple[Diagnostic, ...]:
    """All that is wrong, in document order; empty if the graph can be trained (on ``data``, if given).

    Without ``for_training`` it only has to be a model: dataset, loss and optimizer may be missing.
    """
    found = [*_check_nodes(graph), *_check_links(graph), *_check_cycles(graph)]
    shapes = infer_shapes(graph)
    found += [_error(node_id, text) for node_id, text in shapes.problems.items()]
    found += _check_model(graph)
    if for_training:
        found += _check_settings(graph)
        found += _check_training(graph)
        if data is not None and not has_errors(found):
            found += _check_data(graph, read_pipeline(graph), shapes, data)
    place: dict[str | None, int] = {node.id: index for index, node in enumerate(graph.nodes)}
    return tuple(_bounded(sorted(found, key=lambda each: place.get(each.node_id, -1))))


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    return any(diagnostic.severity is Severity.ERROR for diagnostic in diagnostics)


def _error(node_id: str | None, text: str, fix: str | None = None) -> Diagnostic:
    return Diagnostic(Severity.ERROR, node_id, text, fix)


class _Suggestions:
    """Looks for names alike, a bounded number of times: graphs come from strangers."""

    def __init__(self) -> None:
        self._left = MAX_SUGGESTIONS

    def closest(self, name: str, names: Iterable[str]) -> str | None:
        if not self._left:
            return None
        self._left -= 1
        matches = get_close_matches(name[:64], names, n=1)
        return f"did you mean {matches[0]}?" if matches else None


def _bounded(found: list[Diagnostic]) -> list[Diagnostic]:
    """Errors rather than warnings where there are too many, and a last one that says how many more."""
    if len(found) <= MAX_DIAGNOSTICS:
        return found
    ranked = sorted(found, key=lambda each: each.severity is not Severity.ERROR)
    more = f"{len(found) - MAX_DIAGNOSTICS} more, shown are {MAX_DIAGNOSTICS}"
    return [*ranked[:MAX_DIAGNOSTICS], Diagnostic(ranked[MAX_DIAGNOSTICS].severity, None, more)]


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:57]}...")


# -- nodes ---------------------------------------------------------------------------------------


def _check_nodes(graph: Graph) -> Iterator[Diagnostic]:
    suggestions = _Suggestions()
    for node_id, count in Counter(node.id for node in graph.nodes).items():
        if count > 1:
            yield _error(node_id, f"{count} nodes have this id, must be 1")
    for node in graph.nodes:
        record = CATALOGUE.get(node.type)
        if record is None:
            text = f"type {_shown(node.type)} is not known to this program"
            yield _error(node.id, text, suggestions.closest(node.type, CATALOGUE))
        elif not 1 <= node.version <= record.version:
            yield _error(
                node.id, f"version {node.version} of {node.type}, this program knows 1 to {record.version}"
            )
        else:
            yield from _check_parameters(node, record, suggestions)


def _check_parameters(node: Node, record: NodeType, suggestions: _Suggestions) -> Iterator[Diagnostic]:
    names = [parameter.name for parameter in record.parameters]
    for name in node.parameters:
        if name not in names:
            text = f"{node.type} has no parameter {_shown(name)}"
            yield _error(node.id, text, suggestions.closest(name, names))
    for problem in parameter_problems(record, node):
        yield _error(node.id, problem)


# -- links ---------------------------------------------------------------------------------------


def _check_links(graph: Graph) -> Iterator[Diagnostic]:
    nodes = {node.id: node for node in graph.nodes}
    for link in graph.links:
        yield from _check_link(link, nodes)
    incoming = graph.incoming()
    for node in nodes.values():
        record = node_type(node)
        if record is not None:
            yield from _check_inputs(node, record, incoming[node.id])


def _check_link(link: Link, nodes: dict[str, Node]) -> Iterator[Diagnostic]:
    source, target = nodes.get(link.source_node), nodes.get(link.target_node)
    if source is None:
        place = link.target_node if target else None
        yield _error(place, f"a link comes from node {_shown(link.source_node)}, which does not exist")
    if target is None:
        place = link.source_node if source else None
        yield _error(place, f"a link goes to node {_shown(link.target_node)}, which does not exist")
    if source is None or target is None:
        return
    source_type, target_type = node_type(source), node_type(target)
    out = source_type.output(link.source_port) if source_type else None
    into = target_type.input(link.target_port) if target_type else None
    if source_type and out is None:
        yield _missing_port(source, "output", link.source_port, source_type.outputs)
    if target_type and into is None:
        yield _missing_port(target, "input", link.target_port, target_type.inputs)
    if out and into and out.kind is not into.kind:
        yield _error(
            target.id,
            f"{into.name} takes {into.kind.value}, {out.name} of {_shown(source.id)} gives {out.kind.value}",
        )


def _missing_port(node: Node, side: str, name: str, ports: tuple[Port, ...]) -> Diagnostic:
    names = ", ".join(port.name for port in ports) or "none"
    return _error(node.id, f"{node.type} has no {side} {_shown(name)}, there is {names}")


def _check_inputs(node: Node, record: NodeType, links: list[Link]) -> Iterator[Diagnostic]:
    counts = Counter(link.target_port for link in links)
    for port in record.inputs:
        if port.required and not counts[port.name]:
            yield _error(node.id, f"nothing is linked to {port.name}", f"link a {port.kind.value} to it")
        if counts[port.name] > 1 and not port.variadic:
            yield _error(node.id, f"{counts[port.name]} links into {port.name}, must be 1")


def _check_cycles(graph: Graph) -> Iterator[Diagnostic]:
    members = cycle_members(graph)
    for node_id in dict.fromkeys(node.id for node in graph.nodes):
        if node_id in members:
            yield _error(node_id, "its output comes back to its input", "remove a link of the cycle")


# -- the model -----------------------------------------------------------------------------------


def _check_model(graph: Graph) -> Iterator[Diagnostic]:
    for name in ("Input", "Output"):
        yield from _need_one([node for node in graph.nodes if node.type == name], name)
    used = upstream(graph, [node.id for node in graph.nodes if node.type == "Output"])
    for node in graph.nodes:
        record = node_type(node)
        if record and record.category in MODEL_CATEGORIES and node.id not in used:
            yield Diagnostic(Severity.WARNING, node.id, "the output does not depend on it: it is left out")


def _need_one(nodes: list[Node], what: str) -> Iterator[Diagnostic]:
    if not nodes:
        yield _error(None, f"the graph has no {what} node, must have 1")
    for node in nodes[1:]:
        yield _error(node.id, f"the graph has {len(nodes)} {what} nodes, must have 1")


# -- training ------------------------------------------------------------------------------------


def _check_settings(graph: Graph) -> Iterator[Diagnostic]:
    if not 1 <= graph.training.epochs <= MAX_EPOCHS:
        yield _error(None, f"epochs is {graph.training.epochs}, must be from 1 to {MAX_EPOCHS}")
    if not 0 <= graph.training.seed <= MAX_SEED:
        yield _error(None, f"seed is {graph.training.seed}, must be from 0 to {MAX_SEED}")


def _check_training(graph: Graph) -> Iterator[Diagnostic]:
    losses = nodes_of(graph, Category.LOSS)
    optimizers = nodes_of(graph, Category.OPTIMIZER)
    yield from _need_one(losses, "loss")
    yield from _need_one(optimizers, "optimizer")
    for name in ("DatasetInput", "DataLoader"):
        yield from _need_one([node for node in graph.nodes if node.type == name], name)
    for name in ("DataSplit", "Normalize"):
        several = [node for node in graph.nodes if node.type == name]
        yield from _need_one(several, name) if several else ()
    used = upstream(graph, [node.id for node in graph.nodes if node.type == "DataLoader"])
    for node in nodes_of(graph, Category.DATA):
        if node.id not in used:
            yield _error(node.id, "no DataLoader takes its dataset", "link its dataset on, or remove it")
    yield from _check_ends(graph, {node.id for node in losses})


def _check_ends(graph: Graph, losses: set[str]) -> Iterator[Diagnostic]:
    """Samples must enter the model at its Input and leave it for the loss at its Output."""
    types = {node.id: node.type for node in graph.nodes}
    incoming = graph.incoming()
    for node in graph.nodes:
        if node.type == "Input" and not incoming[node.id]:
            yield _error(node.id, "no samples are linked to it", "link samples of a DataLoader to input")
        for link in incoming[node.id]:
            source = types.get(link.source_node, "")
            if node.type == "Input" and source not in ("", "DataLoader"):
                yield _error(node.id, f"input comes from {_shown(source)}, must come from a DataLoader")
            if node.id in losses and link.target_port == "prediction" and source not in ("", "Output"):
                yield _error(node.id, f"prediction comes from {_shown(source)}, must come from the Output")
            if source == "DataLoader" and link.source_port == "samples" and node.type != "Input":
                yield _error(node.id, "takes samples past the Input", "link them to the Input")


# -- data ----------------------------------------------------------------------------------------


def _check_data(graph: Graph, pipeline: Pipeline, shapes: Shapes, data: DataFacts) -> Iterator[Diagnostic]:
    source = next(node.id for node in graph.nodes if node.type == "DatasetInput")
    if tuple(data.sample_shape) != pipeline.sample_shape:
        yield _error(
            source,
            f"sample_shape is {described(pipeline.sample_shape)}, the data has "
            f"{described(tuple(data.sample_shape))}",
            f"set it to {list(data.sample_shape)}",
        )
    if bool(data.classes) != bool(pipeline.classes) or data.classes > pipeline.classes:
        yield _error(
            source,
            f"classes is {pipeline.classes}, the data has {data.classes or 'real numbers for labels'}",
            f"set it to {data.classes}",
        )
    training = pipeline.split_sizes(data.samples)[0]
    last = training % pipeline.batch_size or pipeline.batch_size
    if training < 1:
        yield _error(source, f"{data.samples} samples leave none to train on")
    elif pipeline.steps_per_epoch(data.samples) < 1:
        yield _error(source, f"{training} training samples do not fill a batch of {pipeline.batch_size}")
    elif pipeline.batch_size == 1 or (last == 1 and not pipeline.drop_last):
        yield from _check_single_samples(graph, shapes, training)


def _check_single_samples(graph: Graph, shapes: Shapes, training: int) -> Iterator[Diagnostic]:
    """A batch of one sample has no variance for BatchNorm to divide by."""
    for node in nodes_of(graph, Category.NORMALIZATION):
        shape = shapes.shape(node.id)
        if node.type == "BatchNorm" and shape is not None and all(extent == 1 for extent in shape[1:]):
            yield _error(
                node.id,
                f"of {training} training samples a batch has only 1, at least 2 are needed here",
                "change batch_size or set drop_last of the DataLoader",
            )
