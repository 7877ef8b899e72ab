"""What is known of a graph after each edit: shapes, sizes, cost, and what is wrong with fixes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from backend.catalogue.record import Counts, TensorType
from backend.diagnostics import RemoveLink, ends_of
from backend.facts import DataFacts
from backend.graph import Graph, Node, model_nodes
from backend.shapes import Inference, Shapes, infer_shapes
from backend.validate import Diagnostic, Severity, diagnose
from engine_app.document.errors import EditError
from engine_app.document.lowering import lowered
from engine_app.document.view import is_reroute, mode_of
from engine_app.document.wiring import opened


@dataclass(frozen=True, slots=True)
class Analysis:
    """Of the graph that would be trained: nodes that are bypassed or muted have no shapes."""

    shapes: Shapes = field(default_factory=Shapes)
    diagnostics: tuple[Diagnostic, ...] = ()
    counts: Counts = field(default_factory=Counts)
    """Of the whole model."""
    graph: Graph | None = field(default=None, repr=False, compare=False)
    """The drawn one that this is about."""

    @property
    def errors(self) -> int:
        return sum(each.severity is Severity.ERROR for each in self.diagnostics)

    def inside(self, path: tuple[str, ...]) -> Shapes:
        """What is known where these nodes are open."""
        found = self.shapes
        for node_id in path:
            found = found.bodies.get(node_id, Shapes())
        return found

    def of(self, node_id: str, path: tuple[str, ...] = ()) -> Inference | None:
        return self.inside(path).nodes.get(node_id)

    def shape_text(self, node_id: str, port: str, path: tuple[str, ...] = ()) -> str:
        """``3×32×32``; empty where nothing is known."""
        found = self.inside(path).output(node_id, port)
        return "×".join(map(str, found.shape)) or "1" if isinstance(found, TensorType) else ""

    def problems_at(self, path: tuple[str, ...]) -> dict[str, Severity]:
        """The worst of every node that is open, with what is inside it."""
        found: dict[str, Severity] = {}
        for each in self.diagnostics:
            place = () if each.node_id is None else (each.node_id, *each.inside)
            if len(place) > len(path) and place[: len(path)] == path:
                node_id = place[len(path)]
                if found.get(node_id) is not Severity.ERROR:
                    found[node_id] = each.severity
        return found


def analyse(graph: Graph, data: DataFacts | None = None, before: Analysis | None = None) -> Analysis:
    """Never raises on a graph. ``before``: of a graph that was much the same; saves most of the work."""
    plain = lowered(graph)
    shapes = infer_shapes(plain, before.shapes if before is not None else None)
    found = diagnose(plain, data, shapes=shapes)
    if plain is not graph:
        found = tuple(_for_drawn(each, graph) for each in found)
    used = [shapes.nodes[node.id].counts for node in model_nodes(plain) if node.id in shapes.nodes]
    return Analysis(shapes, found, sum(used, Counts()), graph)


def still_holds(known: Analysis, graph: Graph) -> bool:
    """Whether the graph differs from the one that was analysed only in where things are drawn."""
    old = known.graph
    if old is None or old.links is not graph.links or old.training is not graph.training:
        return False
    if len(old.nodes) != len(graph.nodes):
        return False
    pairs = zip(old.nodes, graph.nodes, strict=True)
    return all(one is other or _means_the_same(one, other) for one, other in pairs)


def _means_the_same(one: Node, other: Node) -> bool:
    return (
        one.parameters is other.parameters
        and one.body is other.body
        and (one.id, one.type, one.version) == (other.id, other.type, other.version)
        and one.tuning is other.tuning
        and (mode_of(one), is_reroute(one)) == (mode_of(other), is_reroute(other))
    )


def _for_drawn(found: Diagnostic, graph: Graph) -> Diagnostic:
    """A fix that takes away a link which was not drawn would not fix what was."""
    if found.fix is None:
        return found
    try:
        drawn = {ends_of(link) for link in opened(graph, found.fix.inside).links}
    except EditError:
        return replace(found, fix=None)
    removed = [edit for edit in found.fix.edits if isinstance(edit, RemoveLink)]
    fits = all(
        (edit.source_node, edit.source_port, edit.target_node, edit.target_port) in drawn for edit in removed
    )
    return found if fits else replace(found, fix=None)


def short_number(value: int) -> str:
    """``1.2M``: three figures at most."""
    size = float(value)
    for unit in ("", "k", "M", "G", "T"):
        if size < 999.5:
            return f"{size:.0f}{unit}" if not unit or size >= 99.5 else f"{size:.3g}{unit}"
        size /= 1000
    return f"{size:.0f}P"
