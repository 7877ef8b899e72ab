"""Any edits in any order: each can be undone and redone exactly, and what is refused changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.catalogue import CATALOGUE
from backend.diagnostics import ends_of
from backend.graph import Frozen, Graph, Link, Lora, Node, Wiring
from backend.serialize import dump_graph, load_graph
from engine_app.document import edits
from engine_app.document.analysis import analyse
from engine_app.document.apply import apply
from engine_app.document.clipboard import copied, pasted
from engine_app.document.editing import Editing, Step, do, end_gesture, enter, leave, redo, select, undo
from engine_app.document.errors import EditError
from engine_app.document.files import editable
from engine_app.document.layout import arranged
from engine_app.document.lowering import lowered
from engine_app.document.templates import TEMPLATES
from engine_app.document.view import Frame, FrameKind, Mode, Rect
from engine_app.document.wiring import FreshIds
from tests.property.effort import examples

START = [each.example() for each in TEMPLATES]
SOME_TYPES = ["Dense", "ReLU", "Add", "Conv2D", "Split", "MSELoss", "Identity", "Subgraph", "Nonsense"]
KINDS = ["output", "input", "inputs", "parameters", "nonsense", "output2"]
VALUES = [1, 5, 0, True, "same", None, [1, 2], 0.5, "x" * 5000]
FAR = st.floats(-2e6, 2e6) | st.just(float("nan"))


@st.composite
def an_edit(draw: st.DrawFn, wiring: Wiring) -> edits.Edit:
    """One that may make sense for this wiring, or not."""
    ids = [node.id for node in wiring.nodes] or ["nobody"]
    node = st.sampled_from([*ids, "nobody"])
    some = st.lists(st.sampled_from(ids), min_size=1, max_size=4, unique=True).map(tuple)
    ends = st.sampled_from([ends_of(link) for link in wiring.links] or [("a", "b", "c", "d")])
    fresh = FreshIds(wiring)
    new = st.sampled_from(SOME_TYPES).map(lambda name: Node(fresh.fresh(name.lower()), name))
    frame = st.builds(
        Frame, st.sampled_from(["g1", "g2"]), st.just("text"), st.builds(Rect, FAR, FAR, st.just(90), FAR)
    )
    kind = st.sampled_from(FrameKind)
    names = st.sampled_from(["units", "rate", "filters", "padding", "times", "sizes", "unknown"])
    port = st.sampled_from(KINDS)
    choices: list[Callable[[], st.SearchStrategy[Any]]] = [
        lambda: st.builds(edits.AddNodes, st.tuples(new)),
        lambda: st.builds(edits.RemoveNodes, some),
        lambda: st.builds(edits.DissolveNodes, some),
        lambda: st.builds(edits.Connect, node, port, node, port),
        lambda: st.builds(edits.Disconnect, st.tuples(ends)),
        lambda: st.builds(edits.SetParameter, node, names, st.sampled_from(VALUES)),
        lambda: st.builds(edits.ResetParameter, node, names),
        lambda: st.builds(edits.ChangeType, node, st.sampled_from(SOME_TYPES)),
        lambda: st.dictionaries(node, st.tuples(FAR, FAR), min_size=1, max_size=3).map(edits.MoveNodes),
        lambda: st.builds(edits.ResizeNode, node, st.none() | FAR),
        lambda: st.builds(edits.Rename, node, st.text(max_size=140)),
        lambda: st.builds(edits.RenameGraph, st.text(max_size=140)),
        lambda: st.builds(edits.SetTraining, st.none() | st.integers(-1, 9), st.none() | st.integers(-1, 9)),
        lambda: st.builds(edits.SetMode, some, st.sampled_from(Mode)),
        lambda: st.builds(
            edits.SetTuning, some, st.sampled_from([None, Frozen(), Lora(4, 8.0), Lora(0, 1.0)])
        ),
        lambda: st.builds(edits.Collapse, some, st.booleans()),
        lambda: st.builds(edits.SetFrame, kind, frame),
        lambda: st.builds(edits.RemoveFrame, kind, st.sampled_from(["g1", "g2"])),
        lambda: st.builds(edits.InsertOnLink, ends, new),
        lambda: st.builds(edits.Reroute, ends, FAR, FAR),
        lambda: st.builds(edits.MakeSubgraph, some, st.just("")),
        lambda: st.builds(edits.ExpandSubgraph, node),
    ]
    one: edits.Edit = draw(draw(st.sampled_from(choices))())
    return one


Move = Callable[[Editing], Editing]


@settings(max_examples=examples(40))
@given(st.data())
def test_every_edit_is_undone_and_redone_exactly(data: st.DataObject) -> None:
    state = Editing(data.draw(st.sampled_from(START)))
    for _ in range(data.draw(st.integers(1, 8))):
        edit = data.draw(an_edit(state.wiring))
        try:
            after = do(state, edit)
        except EditError as error:
            assert str(error)
            continue
        if after is state:
            continue
        assert undo(after).graph == state.graph
        assert redo(undo(after)).graph == after.graph
        assert load_graph(dump_graph(after.graph)) == after.graph
        state = after


@settings(max_examples=examples(25))
@given(st.data())
def test_any_walk_leads_back_to_the_start_and_forth_again(data: st.DataObject) -> None:
    start = data.draw(st.sampled_from(START))
    state = Editing(start)
    for _ in range(data.draw(st.integers(1, 14))):
        state = _step(data, state)
        analyse(state.graph)
        lowered(state.graph)
        arranged(state.wiring)
        assert state.selected <= {node.id for node in state.wiring.nodes}
        ids = [node.id for node in state.wiring.nodes]
        assert len(set(ids)) == len(ids)
    end, steps = state.graph, len(state.done)
    for _ in range(steps):
        state = undo(state)
    assert state.graph == start
    for _ in range(steps):
        state = redo(state)
    assert state.graph == end


def _step(data: st.DataObject, state: Editing) -> Editing:
    ids = sorted(node.id for node in state.wiring.nodes) or ["nobody"]
    what = data.draw(
        st.sampled_from(["edit"] * 6 + ["gesture", "undo", "redo", "end", "enter", "leave", "select"])
    )
    try:
        match what:
            case "edit" | "gesture":
                gesture = "drag" if what == "gesture" else ""
                return do(state, data.draw(an_edit(state.wiring)), gesture)
            case "undo":
                return undo(state)
            case "redo":
                return redo(state)
            case "end":
                return end_gesture(state)
            case "enter":
                return enter(state, data.draw(st.sampled_from(ids)))
            case "leave":
                return leave(state, data.draw(st.integers(0, 2)))
            case _:
                return select(state, data.draw(st.sets(st.sampled_from(ids), max_size=3)))
    except EditError as error:
        assert str(error)
        return state


def _form(nodes: tuple[Node, ...], links: tuple[Link, ...]) -> tuple[object, object]:
    """Nodes and links without ids and places: by position in the document."""
    place = {node.id: index for index, node in enumerate(nodes)}
    return (
        [(node.type, dict(node.parameters), node.body) for node in nodes],
        [(place[a], b, place[c], d) for a, b, c, d in map(ends_of, links)],
    )


@settings(max_examples=examples(60))
@given(st.data())
def test_a_paste_is_like_what_was_copied(data: st.DataObject) -> None:
    graph = data.draw(st.sampled_from(START))
    chosen = data.draw(st.sets(st.sampled_from([node.id for node in graph.nodes]), min_size=1))
    found = pasted(graph, copied(graph, chosen))
    nodes = tuple(node for node in graph.nodes if node.id in chosen)
    links = tuple(link for link in graph.links if {link.source_node, link.target_node} <= chosen)
    assert _form(nodes, links) == _form(found.edit.nodes, found.edit.links)
    after = apply(graph, found.edit)
    assert (after.nodes[: len(graph.nodes)], after.links[: len(graph.links)]) == (graph.nodes, graph.links)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ANY_VIEW = st.dictionaries(st.sampled_from(["x", "y", "title", "width", "collapsed", "reroute", "z"]), JSON)


@settings(max_examples=examples(40))
@given(st.lists(st.tuples(st.sampled_from([*CATALOGUE, "Alien"]), ANY_VIEW, JSON), max_size=5), JSON, JSON)
def test_a_file_with_anything_in_its_view_opens_and_nothing_is_lost(
    nodes: list[tuple[str, Any, Any]], groups: Any, mode: Any
) -> None:
    graph = Graph(
        "any",
        tuple(
            Node(f"n{i % 3}", name, extra={"view": view, "later": later, "mode": mode})
            for i, (name, view, later) in enumerate(nodes)
        ),
        view={"groups": groups, "notes": [groups], "viewport": mode},
    )
    found = editable(graph).graph
    assert load_graph(dump_graph(found)) == found
    assert [node.extra["later"] for node in found.nodes] == [later for _, _, later in nodes]
    assert found.view == graph.view
    state = do(Editing(found), edits.SetFrame(FrameKind.GROUP, Frame("g1", "t", Rect(0, 0, 90, 90))))
    assert undo(state).graph == found
    analyse(found)
    assert isinstance(state.done[-1], Step)
