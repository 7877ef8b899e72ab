"""History, clipboard, layout, search, templates, files: what they promise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.catalogue.record import PortKind
from backend.diagnostics import ends_of
from backend.graph import Graph, Node
from backend.serialize import dump_graph
from backend.validate import diagnose
from engine_app.document import recovery
from engine_app.document.alignment import Axis, Edge, aligned, distributed, snapped
from engine_app.document.analysis import analyse, short_number
from engine_app.document.apply import apply
from engine_app.document.clipboard import copied, pasted, with_fresh_ids
from engine_app.document.editing import (
    MAX_STEPS,
    Editing,
    do,
    end_gesture,
    enter,
    leave,
    redo,
    select,
    undo,
)
from engine_app.document.edits import (
    MakeSubgraph,
    MoveNodes,
    RemoveNodes,
    Rename,
    SetFrame,
    SetMode,
    SetParameter,
)
from engine_app.document.errors import EditError, FileError
from engine_app.document.files import editable, open_graph, save_graph
from engine_app.document.layout import arranged
from engine_app.document.ports import rect_of
from engine_app.document.recovery import RecoveryFile, recoverable
from engine_app.document.search import find_in, find_types
from engine_app.document.templates import TEMPLATES
from engine_app.document.view import (
    MAX_TITLE_CHARACTERS,
    Frame,
    FrameKind,
    Mode,
    Rect,
    bounds,
    place_of,
    placed,
    title_of,
)
from engine_app.ui.examples import DIGITS
from tests.unit.engine_app.document.builders import line

MLP = line("Dense", "ReLU")


# -- history -------------------------------------------------------------------------------------


def test_a_drag_is_one_step_and_the_next_drag_another() -> None:
    state = Editing(MLP)
    for x in range(5):
        state = do(state, MoveNodes({"relu": (float(x), 50.0)}), "drag 1")
    state = do(end_gesture(state), MoveNodes({"relu": (9.0, 9.0)}), "drag 1")
    assert [step.label for step in state.done] == ["move 1 node"] * 2
    once = undo(state)
    assert place_of(once.graph.node("relu")) == (4.0, 50.0)
    assert undo(once).graph == MLP
    assert redo(redo(undo(once))).graph == state.graph


def test_a_drag_that_comes_back_to_where_it_began_is_no_step() -> None:
    state = do(Editing(MLP), SetParameter("dense", "units", 8), "slider")
    for x in (5.0, 0.0):
        state = do(state, MoveNodes({"relu": (x, 50.0)}), "there")
    before = state
    for x in (9.0, 0.0):
        state = do(state, MoveNodes({"relu": (x, 50.0)}), "there and back")
    assert (state.graph, state.done) == (before.graph, before.done)


def test_undo_shows_where_it_happened_and_selects_what_was_selected() -> None:
    nested = do(select(Editing(MLP), {"dense"}), MakeSubgraph(("dense", "relu")))
    inside = do(enter(nested, "subgraph"), RemoveNodes(("relu",)))
    outside = leave(inside, 0)
    assert outside.selected == {"subgraph"}
    assert undo(outside).inside == ("subgraph",)
    back = undo(undo(outside))
    assert (back.graph, back.inside, back.selected) == (MLP, (), {"dense"})


def test_a_new_step_forgets_what_was_undone_and_old_steps_are_dropped() -> None:
    state = undo(do(Editing(MLP), SetParameter("dense", "units", 5)))
    assert redo(do(state, SetParameter("dense", "units", 6))).graph.node("dense").parameters == {"units": 6}
    for units in range(1, MAX_STEPS + 20):
        state = do(state, SetParameter("dense", "units", units))
    assert len(state.done) == MAX_STEPS


def test_a_document_is_dirty_until_it_is_as_saved() -> None:
    state = Editing(MLP, saved=MLP)
    changed = do(state, SetParameter("dense", "units", 5))
    assert not state.is_dirty and changed.is_dirty and not undo(changed).is_dirty
    assert Editing(MLP).is_dirty


# -- clipboard -----------------------------------------------------------------------------------


def test_pastes_never_lie_on_each_other_and_keep_their_links() -> None:
    text = copied(MLP, ("dense", "relu"))
    graph, places = MLP, {place_of(node) for node in MLP.nodes}
    for count in range(1, 4):
        found = pasted(graph, text)
        graph = apply(graph, found.edit)
        fresh = {place_of(graph.node(name)) for name in found.ids}
        assert len(fresh) == 2 and not fresh & places
        places |= fresh
        assert len(graph.links) == len(MLP.links) + count
    assert [node.id for node in graph.nodes[4:6]] == ["dense2", "relu2"]


def test_only_a_graph_can_be_pasted() -> None:
    for text in ("", "{}", "hello", "[1]", '{"format_version":2,"nodes":[]}'):
        with pytest.raises(EditError, match="what was copied"):
            pasted(MLP, text)


# -- layout and alignment ------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_every_template_is_valid_and_laid_out_without_overlap(template: object) -> None:
    graph = template.example()  # type: ignore[attr-defined]
    assert not diagnose(graph, for_training=template.is_model)  # type: ignore[attr-defined]
    rects = [rect_of(node) for node in graph.nodes]
    assert not any(a.touches(b) for i, a in enumerate(rects) for b in rects[:i])
    at = {node.id: rect_of(node) for node in graph.nodes}
    ends = [(at[link.source_node], at[link.target_node]) for link in graph.links]
    assert all(a.x < b.x or a.bottom < b.y for a, b in ends)


def test_a_template_can_be_dropped_into_a_graph_twice() -> None:
    piece = next(each for each in TEMPLATES if each.name == "Residual block").graph()
    graph = MLP
    for _ in range(2):
        graph = apply(graph, with_fresh_ids(graph, piece, (0.0, 500.0)).edit)
    assert len(graph.nodes) == len(MLP.nodes) + 2 * len(piece.nodes)


def test_layout_does_not_depend_on_where_nodes_were() -> None:
    moved = apply(MLP, MoveNodes({"relu": (-400.0, 90.0)}))
    assert arranged(moved) == arranged(MLP)


def test_a_long_graph_is_laid_out_for_the_screen_that_shows_it() -> None:
    def shape(aspect: float) -> float:
        whole = bounds(rect_of(node) for node in editable(DIGITS, aspect).graph.nodes)
        assert whole is not None
        return whole.width / whole.height

    assert shape(0.7) < 1 < 1.4 < shape(1.8)


def test_edges_snap_within_reach_and_the_grid_takes_the_rest() -> None:
    found = snapped(Rect(103, 57, 50, 50), [Rect(100, 300, 80, 80)], 6.0)
    assert (found.dx, found.dy) == (-3, -1)
    assert [guide.at for guide in found.guides] == [100]


def test_aligned_and_distributed_nodes_are_in_line() -> None:
    rects = {"a": Rect(0, 0, 10, 10), "b": Rect(50, 5, 20, 10), "c": Rect(200, 9, 10, 10)}
    assert {place[1] for place in aligned(rects, Edge.TOP).places.values()} == {0}
    assert [place[0] for place in distributed(rects, Axis.HORIZONTAL).places.values()] == [0, 95, 200]
    with pytest.raises(EditError, match="must be 3 or more"):
        distributed({"a": rects["a"]}, Axis.VERTICAL)


# -- search and analysis -------------------------------------------------------------------------


def test_types_are_found_by_name_keyword_and_port() -> None:
    assert find_types("conv2d")[0].name == "Conv2D"
    assert "Dense" in [record.name for record in find_types("fully connected")]
    assert {record.category.name for record in find_types(takes=PortKind.LOSS)} == {"OPTIMIZER", "PENALTY"}
    assert find_types("no such thing") == []


def test_nodes_groups_and_notes_are_found_inside_others_too() -> None:
    note = Frame("n", "Why 64 units are enough", Rect(0, 0, 240, 120))
    nested = apply(apply(MLP, Rename("dense", "Encoder")), MakeSubgraph(("dense", "relu")))
    nested = apply(nested, SetFrame(FrameKind.NOTE, note), ("subgraph",))
    (found,) = find_in(nested, "relu")
    assert (found.id, found.inside) == ("relu", ("subgraph",))
    assert [each.id for each in find_in(nested, "encoder")] == ["dense"]
    assert [each.id for each in find_in(nested, "dense")] == ["dense"]
    assert [(each.id, each.frame) for each in find_in(nested, "64 enough")] == [("n", FrameKind.NOTE)]
    assert find_in(nested, "no such thing") == []


def test_analysis_tells_shapes_sizes_and_problems_where_they_are() -> None:
    nested = apply(MLP, MakeSubgraph(("dense", "relu")))
    found = analyse(nested)
    assert found.shape_text("dense", "output", ("subgraph",)) == "64"
    assert found.counts.parameters == 8 * 64 + 64
    broken = apply(nested, RemoveNodes(("input",)))
    assert set(analyse(broken).problems_at(())) >= {"subgraph"}
    assert short_number(1_234_567) == "1.23M" and short_number(999) == "999" and short_number(0) == "0"


def test_a_fix_is_not_offered_for_a_link_that_was_not_drawn() -> None:
    conv = apply(line("ReLU", "Conv2D", shape=(8,)), SetMode(("relu",), Mode.BYPASSED))
    (problem,) = [each for each in analyse(conv).diagnostics if each.node_id == "conv2d"]
    assert problem.fix is None


# -- files ---------------------------------------------------------------------------------------


def test_files_keep_what_nobody_knows_and_are_replaced_whole(tmp_path: Path) -> None:
    strange = Node("alien", "Warp", 7, {"speed": [1, 2]}, {"later": {"x": 1}})
    graph = editable(Graph("g", (*MLP.nodes, strange), MLP.links, extra={"future": True})).graph
    path = tmp_path / "g.json"
    save_graph(path, graph)
    first = path.stat().st_mode
    save_graph(path, graph)
    assert open_graph(path).graph == graph and path.stat().st_mode == first
    assert [each.name for each in tmp_path.iterdir()] == ["g.json"]
    alien = open_graph(path).graph.node("alien")
    assert (alien.type, alien.version, alien.parameters) == ("Warp", 7, {"speed": [1, 2]})


def test_an_old_file_is_migrated_and_laid_out(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(
        '{"format_version":0,"name":"old","nodes":{"a":{"type":"Input"},"b":{"type":"Output"}},'
        '"links":["a.output -> b.input"]}'
    )
    graph = open_graph(path).graph
    assert [ends_of(link)[0] for link in graph.links] == ["a"]
    places = [place_of(node) for node in graph.nodes]
    assert places[0] and places[1] and places[0][0] < places[1][0]


def test_a_title_without_end_is_shown_as_far_as_one_may_be_long(tmp_path: Path) -> None:
    """Laying out 100,000 characters takes the window 14 s."""
    node = Node("a", "ReLU", 1, {}, {"view": {"x": 0, "y": 0, "title": "W" * 100_000}})
    path = tmp_path / "long.json"
    save_graph(path, Graph("g", (node,)))
    assert title_of(open_graph(path).graph.node("a")) == "W" * MAX_TITLE_CHARACTERS


def test_a_file_that_is_no_graph_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match=r"bad\.json: not JSON"):
        open_graph(path)
    with pytest.raises(FileError, match=r"missing\.json"):
        open_graph(tmp_path / "missing.json")


def test_what_was_not_saved_can_be_recovered_until_it_is(tmp_path: Path) -> None:
    kept = RecoveryFile(tmp_path / "r", tmp_path / "g.json")
    for x in (1.0, 2.0):
        kept.keep(apply(MLP, MoveNodes({"relu": (x, 0.0)})))
    RecoveryFile(tmp_path / "r", None).keep(MLP)
    (tmp_path / "r" / "torn.recovery.json").write_text('{"document":')
    found = {each.document: each.graph for each in recoverable(tmp_path / "r")}
    assert found[None] == MLP
    assert place_of(found[(tmp_path / "g.json").resolve()].node("relu")) == (2.0, 0.0)
    kept.discard()
    assert [each.document for each in recoverable(tmp_path / "r")] == [None]


def test_the_newest_of_many_that_were_lost_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "MAX_FILES", 2)
    for number in range(4):
        kept = RecoveryFile(tmp_path, None, f"untitled {number}")
        kept.keep(Graph(f"graph {number}"))
        os.utime(kept.path, (number, number))
    assert [each.graph.name for each in recoverable(tmp_path)] == ["graph 3", "graph 2"]


def test_equal_places_give_equal_files() -> None:
    node = Node("a", "ReLU")
    assert dump_graph(Graph("g", (placed(node, 0.1 + 0.2, 1),))) == dump_graph(
        Graph("g", (placed(node, 0.3, 1.0),))
    )
