"""An open document: the graph, what is selected and entered, and what can be undone. Frozen.

Every edit is one step. Edits with the same gesture, one after another, are one step together: a drag, a
slider's way. A step keeps what differs, not copies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from backend.graph import Graph, Wiring
from engine_app.document.apply import apply
from engine_app.document.edits import Edit
from engine_app.document.errors import EditError
from engine_app.document.labels import label_of
from engine_app.document.patch import Patch, difference, patched
from engine_app.document.wiring import find, opened

MAX_STEPS = 500


@dataclass(frozen=True, slots=True)
class Step:
    """``inside`` and ``selected``: what was open and selected before it."""

    label: str
    patch: Patch
    inside: tuple[str, ...] = ()
    selected: frozenset[str] = frozenset()
    gesture: str = ""


@dataclass(frozen=True, slots=True)
class Editing:
    """``inside``: the breadcrumbs, ids of the nodes whose bodies are open, outermost first."""

    graph: Graph
    inside: tuple[str, ...] = ()
    selected: frozenset[str] = frozenset()
    done: tuple[Step, ...] = ()
    undone: tuple[Step, ...] = ()
    saved: Graph | None = None
    """As it is on disk; None for a document that has never been saved."""

    @property
    def wiring(self) -> Wiring:
        """What is open: the graph or a body in it."""
        return opened(self.graph, self.inside)

    @property
    def is_dirty(self) -> bool:
        """Whether there is something to save."""
        return self.graph is not self.saved and self.graph != self.saved


def do(state: Editing, edit: Edit, gesture: str = "") -> Editing:
    """Raises EditError; the state is as it was then. An edit that changes nothing is no step."""
    graph = apply(state.graph, edit, state.inside)
    patch = difference(state.graph, graph)
    if patch.is_empty:
        return state
    step = Step(label_of(edit), patch, state.inside, state.selected, gesture)
    done = state.done
    if gesture and done and done[-1].gesture == gesture and not state.undone:
        before = patched(state.graph, done[-1].patch.reversed())
        step = replace(done[-1], patch=difference(before, graph))
        done = done[:-1]
        if step.patch.is_empty:  # it came back to where it began
            return _settled(replace(state, graph=graph, done=done))
    return _settled(replace(state, graph=graph, done=(*done, step)[-MAX_STEPS:], undone=()))


def end_gesture(state: Editing) -> Editing:
    """What comes next is a step of its own."""
    if not state.done or not state.done[-1].gesture:
        return state
    return replace(state, done=(*state.done[:-1], replace(state.done[-1], gesture="")))


def undo(state: Editing) -> Editing:
    """Goes to where the step was made, so that one sees what happens. Nothing to undo changes nothing."""
    if not state.done:
        return state
    step = state.done[-1]
    graph = patched(state.graph, step.patch.reversed())
    return _settled(
        replace(
            state,
            graph=graph,
            inside=step.inside,
            selected=step.selected,
            done=state.done[:-1],
            undone=(*state.undone, replace(step, gesture="")),
        )
    )


def redo(state: Editing) -> Editing:
    if not state.undone:
        return state
    step = state.undone[-1]
    graph = patched(state.graph, step.patch)
    done = (*state.done, step)
    return _settled(replace(state, graph=graph, inside=step.inside, done=done, undone=state.undone[:-1]))


def select(state: Editing, node_ids: Iterable[str]) -> Editing:
    """Ids that are not open are left out."""
    return _settled(replace(state, selected=frozenset(node_ids)))


def enter(state: Editing, node_id: str) -> Editing:
    """Opens what is inside a node. Raises EditError."""
    node = find(state.wiring, node_id)
    if node.body is None:
        raise EditError(f"{node.type} has nothing inside it to open")
    return replace(state, inside=(*state.inside, node_id), selected=frozenset())


def leave(state: Editing, depth: int) -> Editing:
    """Back to the breadcrumb with so many nodes before it: 0 is the whole graph."""
    if not 0 <= depth < len(state.inside):
        return state
    return replace(state, inside=state.inside[:depth], selected=frozenset({state.inside[depth]}))


def go_to(state: Editing, inside: tuple[str, ...], node_ids: Iterable[str]) -> Editing:
    """Opens a body, wherever it is, with nodes of it selected. What is gone is left out."""
    return _settled(replace(state, inside=inside, selected=frozenset(node_ids)))


def _settled(state: Editing) -> Editing:
    """Without breadcrumbs and selected nodes that are gone."""
    inside: tuple[str, ...] = ()
    wiring: Wiring = state.graph
    for node_id in state.inside:
        node = next((each for each in wiring.nodes if each.id == node_id), None)
        if node is None or node.body is None:
            break
        wiring, inside = node.body, (*inside, node_id)
    selected = state.selected & {node.id for node in wiring.nodes} if state.selected else state.selected
    if inside == state.inside and selected == state.selected:
        return state
    return replace(state, inside=inside, selected=selected)
