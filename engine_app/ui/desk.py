"""The document on the window's desk: all panels look at it, change it, and hear of its changes. Pure.

What a document is, and how it is edited, is the business of ``engine_app.document``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from backend.catalogue.record import TensorType
from backend.diagnostics import Diagnostic, Fix, ends_of
from backend.facts import DataFacts
from backend.graph import Graph, JsonValue, Link, Node, Tuning, Wiring, topological_order
from engine_app.document import editing
from engine_app.document.analysis import Analysis, analyse, still_holds
from engine_app.document.apply import apply
from engine_app.document.editing import Editing
from engine_app.document.edits import (
    AddNodes,
    ApplyFix,
    Batch,
    DissolveNodes,
    Edit,
    InsertOnLink,
    MoveNodes,
    RenameGraph,
    ResetParameter,
    SetParameter,
    SetTraining,
    SetTuning,
)
from engine_app.document.files import editable
from engine_app.document.layout import ASPECT, missing_places
from engine_app.document.linking import best_input, best_output, through
from engine_app.document.ports import PortView, ports_of
from engine_app.document.wiring import FreshIds, opened
from engine_app.ui.observed import Observed

Found = Analysis | Exception
Aside = Callable[[Callable[[], Found], Callable[[Found], None]], None]
"""Works something out beside the window, and gives it back there, where what is raised is shown."""
LARGE = 300
"""Nodes from which on a graph is analysed aside, where that is possible: it would cost more than a frame."""


class Desk(Observed):
    """Listeners are told after every change; they ask for what they need."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._state = Editing(graph, saved=graph)
        self._analysis: Analysis | None = None
        self._data: DataFacts | None = None
        self._aside: Aside | None = None
        self._is_thinking = False
        self._failed: Graph | None = None
        self.aspect = ASPECT
        """How many times as wide as high the place is where graphs are seen."""

    def think_with(self, aside: Aside) -> None:
        """How large graphs are analysed from now on."""
        self._aside = aside

    # -- looking -------------------------------------------------------------------------------

    @property
    def state(self) -> Editing:
        return self._state

    @property
    def graph(self) -> Graph:
        return self._state.graph

    @property
    def wiring(self) -> Wiring:
        """What is open: the graph, or what is inside a node."""
        return self._state.wiring

    @property
    def analysis(self) -> Analysis:
        """Worked out once for each graph, when somebody asks.

        Of a large graph that is worked out aside: until then, or if that fails, what was known before.
        Listeners are told.
        """
        known, graph = self._analysis, self._state.graph
        if known is None or known.graph is not graph:
            if known is not None and still_holds(known, graph):
                known = replace(known, graph=graph)
            elif self._aside is None or len(graph.nodes) < LARGE:
                known = analyse(graph, self._data, before=known)
            else:
                if self._failed is not graph:
                    self._think(self._aside, graph)
                return known or Analysis()
            self._analysis = known
        return known

    @property
    def is_thinking(self) -> bool:
        """Whether ``analysis`` is not yet of the graph as it is."""
        known, graph = self.analysis, self._state.graph
        return known.graph is not graph and self._failed is not graph

    def _think(self, aside: Aside, graph: Graph) -> None:
        """One graph at a time; the newest once it is through."""
        if self._is_thinking:
            return
        self._is_thinking = True
        before, data = self._analysis, self._data

        def think() -> Found:
            try:
                return analyse(graph, data, before=before)
            except Exception as error:  # a thread's boundary: it is raised again where it is shown
                return error

        def found(result: Found) -> None:
            self._is_thinking = False
            if self._state.graph is graph and self._data is data:
                if isinstance(result, Analysis):
                    self._analysis = result
                else:
                    self._failed = graph  # not to be tried for ever
            self._tell()  # who listens asks again, which begins with the newest graph
            if isinstance(result, Exception):
                raise result

        aside(think, found)

    @property
    def can_train(self) -> bool:
        known, graph = self.analysis, self._state.graph
        return not known.errors and not self.is_thinking and self._failed is not graph

    @property
    def can_undo(self) -> bool:
        return bool(self._state.done)

    @property
    def can_redo(self) -> bool:
        return bool(self._state.undone)

    @property
    def is_changed(self) -> bool:
        """Since it was opened or saved."""
        return self._state.is_dirty

    @property
    def selected(self) -> str | None:
        """The node that is selected alone."""
        return next(iter(self._state.selected)) if len(self._state.selected) == 1 else None

    @property
    def selected_node(self) -> Node | None:
        chosen = self.selected
        return next((node for node in self.wiring.nodes if node.id == chosen), None)

    def problems_of(self, node_id: str) -> list[Diagnostic]:
        """Of a node that is open, with what is inside it."""
        place = (*self._state.inside, node_id)
        found = ((each, (each.node_id, *each.inside)) for each in self.analysis.diagnostics if each.node_id)
        return [each for each, at in found if at[: len(place)] == place]

    def shape_text(self, node_id: str) -> str:
        """Of what leaves the node: ``16 × 8 × 8``; empty where that is unknown or no tensor."""
        found = self.analysis.of(node_id, self._state.inside)
        for value in found.outputs.values() if found else ():
            if isinstance(value, TensorType):
                return " × ".join(map(str, value.shape)) or "1"
        return ""

    def in_order(self) -> list[Node]:
        """The open nodes, sources first, then those on circles."""
        order = topological_order(self.wiring)
        return [*order.nodes, *(node for node in self.wiring.nodes if node.id in order.stuck)]

    def expect(self, data: DataFacts | None) -> None:
        """What the graph is to be trained with: what does not fit it is among the problems."""
        if data != self._data:
            self._data, self._analysis, self._failed = data, None, None
            self._tell()

    # -- whole documents -----------------------------------------------------------------------

    def open(self, graph: Graph) -> None:
        """Another one: what was done to the old one cannot be undone here."""
        graph = editable(graph, self.aspect).graph
        self._analysis = None
        self.show(Editing(graph, saved=graph))

    def open_unsaved(self, graph: Graph) -> None:
        """One that is on no disk as it is."""
        self._analysis = None
        self.show(Editing(graph))

    def mark_saved(self, graph: Graph) -> None:
        """That graph is on disk; the one on the desk may be newer."""
        self.show(replace(self._state, saved=graph))

    def show(self, state: Editing) -> None:
        """The document as somebody, such as the canvas, has changed it."""
        if state is not self._state:
            self._state = state
            self._tell()

    # -- editing -------------------------------------------------------------------------------

    def do(self, edit: Edit, gesture: str = "") -> None:
        """Raises EditError; nothing has changed then."""
        self.show(editing.do(self._state, edit, gesture))

    def undo(self) -> None:
        self.show(editing.undo(self._state))

    def redo(self) -> None:
        self.show(editing.redo(self._state))

    def select(self, node_id: str | None) -> None:
        self.show(editing.select(self._state, () if node_id is None else (node_id,)))

    def select_beside(self, way: int) -> None:
        """The node before (-1) or after (1) the selected one, sources first."""
        ids = [node.id for node in self.in_order()]
        if ids:
            at = ids.index(self.selected) + way if self.selected in ids else (0 if way > 0 else -1)
            self.select(ids[at % len(ids)])

    def enter(self, node_id: str) -> None:
        """Raises EditError for a node with nothing inside."""
        self.show(editing.enter(self._state, node_id))

    def leave(self, depth: int) -> None:
        self.show(editing.leave(self._state, depth))

    def set_parameter(self, node_id: str, name: str, value: JsonValue) -> None:
        """One step for undo with those of the same parameter before it. Raises EditError."""
        self.do(SetParameter(node_id, name, value), gesture=f"{node_id}.{name}")

    def reset_parameter(self, node_id: str, name: str) -> None:
        self.do(ResetParameter(node_id, name))

    def set_tuning(self, node_id: str, tuning: Tuning | None) -> None:
        """Raises EditError."""
        self.do(SetTuning((node_id,), tuning), gesture=f"{node_id} tuning")

    def rename(self, name: str) -> None:
        self.do(RenameGraph(name))

    def set_training(self, epochs: int | None = None, seed: int | None = None) -> None:
        self.do(SetTraining(epochs, seed), gesture="training")

    def apply(self, fix: Fix) -> None:
        """What a problem proposes. Raises EditError if what it is about has gone."""
        self.do(ApplyFix(fix))

    def add(self, type_name: str) -> str:
        """A new node behind the selected one, in the link that leaves it; gives its id, selected."""
        before = self.selected_node
        node = Node(FreshIds(self.wiring).fresh(type_name.lower()), type_name)
        edit = self._addition(node, before)
        inside = self._state.inside
        after = opened(apply(self.graph, edit, inside), inside)
        self.do(Batch((edit, MoveNodes(missing_places(after)))))
        self.select(node.id)
        return node.id

    def remove(self, node_id: str) -> None:
        """What it stood between is linked again, where that is possible."""
        into = next((link.source_node for link in self.wiring.links if link.target_node == node_id), None)
        self.do(DissolveNodes((node_id,)))
        self.select(into)

    def _addition(self, node: Node, before: Node | None) -> Edit:
        pair = self._ports_between(node, before) if before is not None else None
        if before is None or pair is None:
            return AddNodes((node,))
        out, into = pair
        leaving = [
            link
            for link in self.wiring.links
            if (link.source_node, link.source_port) == (before.id, out.name)
        ]
        if len(leaving) == 1 and through(node) is not None and out.kind is into.kind:
            return InsertOnLink(ends_of(leaving[0]), node)
        return AddNodes((node,), (Link(before.id, out.name, node.id, into.name),))

    def _ports_between(self, node: Node, before: Node) -> tuple[PortView, PortView] | None:
        """An output of ``before`` and the input of the node that it is for, of one kind."""
        for out in ports_of(before, self.wiring.links).outputs:
            into = best_input(self.wiring, node, out.kind)
            if into is not None and into.kind is out.kind and best_output(before, into.kind) is not None:
                return out, into
        return None
