"""The graph on the window's desk: edits with undo, what is selected, and what is known of every node. Pure.

Every graph is frozen, so what undo needs is the graphs themselves; they share all that did not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from backend.catalogue import CATALOGUE, NodeType, Port
from backend.catalogue.record import Counts, TensorType, may_link
from backend.diagnostics import (
    AddLink,
    AddNode,
    ChangeParameter,
    Diagnostic,
    Edit,
    Fix,
    RemoveLink,
    RemoveNode,
    RemoveParameter,
    apply_fix,
    ends_of,
    free_id,
)
from backend.graph import Graph, JsonValue, Link, Node, topological_order
from backend.shapes import Shapes, infer_shapes, node_type
from backend.validate import diagnose, has_errors

MAX_UNDO = 500
Listener = Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Step:
    graph: Graph
    key: str
    """Steps of one key in a row are one for undo: a slider that moves."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that is known of a graph without running it."""

    shapes: Shapes
    problems: tuple[Diagnostic, ...]
    counts: Counts

    @property
    def can_train(self) -> bool:
        return not has_errors(self.problems)

    def problems_of(self, node_id: str) -> list[Diagnostic]:
        return [found for found in self.problems if found.node_id == node_id]

    def shape_text(self, node_id: str) -> str:
        """Of what leaves the node: ``16 × 8 × 8``; empty where that is unknown or no tensor."""
        found = self.shapes.nodes.get(node_id)
        for value in found.outputs.values() if found else ():
            if isinstance(value, TensorType):
                return " × ".join(map(str, value.shape)) or "1"
        return ""


def analyse(graph: Graph) -> Analysis:
    shapes = infer_shapes(graph)
    counts = Counts()
    for found in shapes.nodes.values():
        counts += found.counts
    return Analysis(shapes, diagnose(graph), counts)


class Desk:
    """Listeners are told after every change; they ask for what they need."""

    def __init__(self, graph: Graph) -> None:
        self._graph = self._saved = graph
        self._undo: list[_Step] = []
        self._redo: list[_Step] = []
        self._last_key = ""
        self._listeners: list[Listener] = []
        self._analysis: Analysis | None = None
        self.selected: str | None = None

    # -- looking -------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        return self._graph

    @property
    def analysis(self) -> Analysis:
        """Worked out once for each graph, when somebody asks."""
        if self._analysis is None:
            self._analysis = analyse(self._graph)
        return self._analysis

    @property
    def can_undo(self) -> bool:
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        return bool(self._redo)

    @property
    def is_changed(self) -> bool:
        """Since it was opened or saved."""
        return self._graph is not self._saved

    @property
    def selected_node(self) -> Node | None:
        return next((node for node in self._graph.nodes if node.id == self.selected), None)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Gives the function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # -- whole graphs --------------------------------------------------------------------------

    def open(self, graph: Graph) -> None:
        """Another graph: what was done to the old one cannot be undone here."""
        self._undo, self._redo, self._last_key = [], [], ""
        self._saved = graph
        self.selected = None
        self._show(graph)

    def mark_saved(self, graph: Graph) -> None:
        """That graph is on disk; the one on the desk may be newer."""
        self._saved = graph
        self._tell()

    # -- editing -------------------------------------------------------------------------------

    def set_graph(self, graph: Graph, key: str = "") -> None:
        """One step for undo, with those of the same key before it."""
        if graph == self._graph:
            return
        if not key or key != self._last_key:
            self._undo = [*self._undo[1 - MAX_UNDO :], _Step(self._graph, key)]
        self._last_key = key
        self._redo = []
        self._show(graph)

    def do(self, *edits: Edit, key: str = "") -> None:
        """Raises KeyError for a node that is not there."""
        self.set_graph(apply_fix(self._graph, Fix("", edits)), key)

    def undo(self) -> None:
        if self._undo:
            *self._undo, step = self._undo
            self._redo.append(_Step(self._graph, step.key))
            self._last_key = ""
            self._show(step.graph)

    def redo(self) -> None:
        if self._redo:
            *self._redo, step = self._redo
            self._undo.append(_Step(self._graph, step.key))
            self._last_key = ""
            self._show(step.graph)

    def select(self, node_id: str | None) -> None:
        if node_id != self.selected:
            self.selected = node_id
            self._tell()

    def select_beside(self, way: int) -> None:
        """The node before (-1) or after (1) the selected one, sources first."""
        order = topological_order(self._graph)
        ids = [node.id for node in (*order.nodes, *(n for n in self._graph.nodes if n.id in order.stuck))]
        if ids:
            at = ids.index(self.selected) + way if self.selected in ids else (0 if way > 0 else -1)
            self.select(ids[at % len(ids)])

    def set_parameter(self, node_id: str, name: str, value: JsonValue) -> None:
        """The value must have passed ``problem_of``."""
        self.do(ChangeParameter(node_id, name, value), key=f"{node_id}.{name}")

    def reset_parameter(self, node_id: str, name: str) -> None:
        self.do(RemoveParameter(node_id, name))

    def rename(self, name: str) -> None:
        self.set_graph(replace(self._graph, name=name))

    def set_training(self, epochs: int | None = None, seed: int | None = None) -> None:
        old = self._graph.training
        new = replace(
            old,
            epochs=old.epochs if epochs is None else epochs,
            seed=old.seed if seed is None else seed,
        )
        self.set_graph(replace(self._graph, training=new), key="training")

    def apply(self, fix: Fix) -> None:
        """What a problem proposes. Raises KeyError if what it is about has gone."""
        self.set_graph(apply_fix(self._graph, fix))

    def add(self, type_name: str) -> str:
        """A new node behind the selected one, in the link that leaves it; gives its id, selected."""
        new = free_id(self._graph, type_name.lower())
        self.do(AddNode(new, type_name), *self._links_of_new(new, CATALOGUE[type_name]))
        self.select(new)
        return new

    def remove(self, node_id: str) -> None:
        """What it stood between is linked again, where that is possible."""
        graph = self._graph
        into = [link for link in graph.links if link.target_node == node_id]
        out = [link for link in graph.links if link.source_node == node_id]
        joins = [
            AddLink(into[0].source_node, into[0].source_port, link.target_node, link.target_port)
            for link in out
            if into and self._may_join(into[0], link)
        ]
        if self.selected == node_id:
            self.selected = into[0].source_node if into else None
        self.do(RemoveNode(node_id), *joins)

    def _may_join(self, into: Link, out: Link) -> bool:
        source = _port(self._type_of(into.source_node), into.source_port, is_output=True)
        target = _port(self._type_of(out.target_node), out.target_port, is_output=False)
        return source is not None and target is not None and may_link(source.kind, target.kind)

    def _links_of_new(self, new: str, record: NodeType) -> list[Edit]:
        before = self.selected_node
        source = self._type_of(before.id) if before is not None else None
        if before is None or source is None:
            return []
        for out in source.outputs:
            for into in record.inputs:
                if out.kind is into.kind:
                    link = AddLink(before.id, out.name, new, into.name)
                    return [*self._led_through(before.id, out, new, record), link]
        return []

    def _led_through(self, before: str, out: Port, new: str, record: NodeType) -> list[Edit]:
        """The link that leaves ``before`` leaves the new node instead, if it can and is the only one."""
        leaving = [
            link for link in self._graph.links if (link.source_node, link.source_port) == (before, out.name)
        ]
        through = next((port for port in record.outputs if port.kind is out.kind), None)
        if through is None or len(leaving) != 1:
            return []
        link = leaving[0]
        return [
            RemoveLink(*ends_of(link)),
            AddLink(new, through.name, link.target_node, link.target_port),
        ]

    def _type_of(self, node_id: str) -> NodeType | None:
        return node_type(self._graph.node(node_id))

    # -- telling -------------------------------------------------------------------------------

    def _show(self, graph: Graph) -> None:
        self._graph = graph
        self._analysis = None
        if self.selected is not None and self.selected_node is None:
            self.selected = None
        self._tell()

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()


def _port(record: NodeType | None, name: str, *, is_output: bool) -> Port | None:
    if record is None:
        return None
    return record.output(name) if is_output else record.input(name)
