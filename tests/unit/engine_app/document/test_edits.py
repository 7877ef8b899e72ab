"""Each edit does what it says, and refuses what makes no sense."""

from __future__ import annotations

import pytest

from backend.diagnostics import ends_of
from backend.graph import Body, Graph, Link, Node
from backend.shapes import infer_shapes
from backend.validate import diagnose
from engine_app.document.apply import apply
from engine_app.document.edits import (
    AddNodes,
    ApplyFix,
    Batch,
    ChangeType,
    Connect,
    Disconnect,
    DissolveNodes,
    ExpandSubgraph,
    InsertOnLink,
    MakeSubgraph,
    MoveNodes,
    RemoveNodes,
    Rename,
    Reroute,
    SetFrame,
    SetMode,
    SetParameter,
)
from engine_app.document.errors import EditError
from engine_app.document.files import editable
from engine_app.document.lowering import lowered
from engine_app.document.view import Frame, FrameKind, Mode, Rect, frames_of, is_reroute, place_of, title_of
from engine_app.document.wiring import opened
from tests.unit.engine_app.document.builders import line

MLP = line("Dense", "ReLU", "Dropout")


def links(graph: Graph) -> list[tuple[str, str]]:
    return [(link.source_node, link.target_node) for link in graph.links]


def test_a_removed_node_takes_its_links_along_and_a_dissolved_one_leaves_the_way_open() -> None:
    assert links(apply(MLP, RemoveNodes(("relu",)))) == [("input", "dense"), ("dropout", "output")]
    assert ("dense", "dropout") in links(apply(MLP, DissolveNodes(("relu",))))
    assert ("input", "dropout") in links(apply(MLP, DissolveNodes(("relu", "dense"))))


def test_a_link_into_a_taken_port_replaces_what_is_there() -> None:
    found = apply(MLP, Connect("input", "output", "dropout", "input"))
    assert ("input", "dropout") in links(found)
    assert ("relu", "dropout") not in links(found)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Connect("dropout", "output", "dense", "input"), "circle"),
        (Connect("dense", "parameters", "dropout", "input"), "takes Tensor"),
        (Connect("dense", "output", "relu", "input"), "linked already"),
        (Connect("dense", "answer", "relu", "input"), "no output 'answer'"),
        (Connect("dense", "output", "nobody", "input"), "no node 'nobody'"),
        (SetParameter("dense", "units", 0), "must be an integer from 1"),
        (SetParameter("dense", "unit", 1), "no parameter 'unit'"),
        (MoveNodes({"dense": (float("nan"), 0.0)}), "within"),
        (AddNodes((Node("dense", "ReLU"),)), "taken"),
        (Disconnect((("a", "b", "c", "d"),)), "no link"),
        (ChangeType("dense", "Nothing"), "not known"),
        (MakeSubgraph(("input",)), "cannot be inside"),
        (MakeSubgraph(("dense", "dropout")), "lies between"),
        (ExpandSubgraph("dense"), "no subgraph"),
        (Rename("dense", "x" * 200), "limit 128"),
        (InsertOnLink(ends_of(MLP.links[0]), Node("loss", "MSELoss")), "fits into no link"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(edit: object, words: str) -> None:
    with pytest.raises(EditError, match=words):
        apply(MLP, edit)  # type: ignore[arg-type]


def test_a_batch_is_made_whole_or_not_at_all() -> None:
    with pytest.raises(EditError):
        apply(MLP, Batch((RemoveNodes(("relu",)), RemoveNodes(("relu",)))))


def test_a_node_dropped_on_a_link_stands_between_its_ends() -> None:
    found = apply(MLP, InsertOnLink(("dense", "output", "relu", "input"), Node("norm", "BatchNorm")))
    assert {("dense", "norm"), ("norm", "relu")} <= set(links(found))
    assert ("dense", "relu") not in links(found)
    assert not diagnose(found, for_training=False)


def test_a_bend_in_a_link_is_drawn_but_not_trained() -> None:
    found = apply(MLP, Reroute(("dense", "output", "relu", "input"), 400.0, 90.0))
    (bend,) = [node for node in found.nodes if is_reroute(node)]
    assert place_of(bend) == (388.0, 78.0)
    assert lowered(found) == MLP


def test_a_subgraph_computes_the_same_and_expands_into_what_it_was() -> None:
    nested = apply(MLP, MakeSubgraph(("dense", "relu"), "Block"))
    assert links(nested) == [("input", "subgraph"), ("subgraph", "dropout"), ("dropout", "output")]
    assert title_of(nested.node("subgraph")) == "Block"
    assert infer_shapes(nested).shape("output") == infer_shapes(MLP).shape("output") == (64,)
    inner = apply(nested, SetParameter("dense", "units", 5), ("subgraph",))
    assert infer_shapes(inner).shape("output") == (5,)
    flat = apply(nested, ExpandSubgraph("subgraph"))
    assert set(map(ends_of, flat.links)) == set(map(ends_of, MLP.links))
    assert {node.id: node.parameters for node in flat.nodes} == {
        node.id: node.parameters for node in MLP.nodes
    }


def test_inputs_of_a_merge_keep_their_order_through_a_subgraph() -> None:
    nodes = (Node("a", "Input", 1, {"shape": [3]}), Node("b", "Input", 1, {"shape": [5]}))
    inner = (Node("dense", "Dense"), Node("joined", "Concatenate", 1, {"axis": 0}), Node("output", "Output"))
    wires = (
        Link("b", "output", "joined", "inputs"),
        Link("a", "output", "dense", "input"),
        Link("dense", "output", "joined", "inputs"),
        Link("a", "output", "joined", "inputs"),
        Link("joined", "output", "output", "input"),
    )
    graph = Graph("merge", nodes + inner, wires)
    nested = apply(graph, MakeSubgraph(("dense", "joined")))
    body = nested.node("subgraph").body
    assert body is not None
    into = [link.source_node for link in body.links if link.target_node == "joined"]
    assert into == ["input", "dense", "input2"]
    assert [link.source_node for link in nested.links if link.target_node == "subgraph"] == ["b", "a"]
    flat = apply(nested, ExpandSubgraph("subgraph"))
    assert [each.source_node for each in flat.links if each.target_node == "joined"] == ["b", "dense", "a"]


def test_a_fix_is_applied_where_it_belongs_and_gets_a_place() -> None:
    broken = apply(line("Conv2D", shape=(1, 8, 8)), SetParameter("conv2d", "kernel_size", 20))
    (found,) = diagnose(broken, for_training=False)
    assert found.fix is not None
    assert not diagnose(apply(broken, ApplyFix(found.fix)), for_training=False)


def test_groups_and_notes_are_kept_apart_from_content() -> None:
    note = Frame("note1", "Look here", Rect(0, 0, 200, 100), "amber")
    found = apply(MLP, SetFrame(FrameKind.NOTE, note))
    assert frames_of(found, FrameKind.NOTE) == (note,)
    assert (found.nodes, found.links) == (MLP.nodes, MLP.links)


def test_edits_inside_a_body_need_one() -> None:
    with pytest.raises(EditError, match="nothing inside"):
        apply(MLP, RemoveNodes(("relu",)), ("dense",))
    assert isinstance(opened(apply(MLP, MakeSubgraph(("relu",))), ("subgraph",)), Body)


def test_muted_nodes_leave_with_what_needs_them_and_bypassed_ones_let_through() -> None:
    bypassed = apply(MLP, SetMode(("relu", "dropout"), Mode.BYPASSED))
    assert links(lowered(bypassed)) == [("input", "dense"), ("dense", "output")]
    muted = apply(MLP, SetMode(("relu",), Mode.MUTED))
    assert [node.id for node in lowered(muted).nodes] == ["input", "dense"]
    assert apply(muted, SetMode(("relu",), Mode.NORMAL)) == MLP


def test_a_merge_goes_on_without_its_muted_branch() -> None:
    graph = Graph(
        "two ways",
        (
            Node("input", "Input"),
            Node("a", "ReLU"),
            Node("b", "Tanh"),
            Node("sum", "Add"),
            Node("out", "Output"),
        ),
        (
            Link("input", "output", "a", "input"),
            Link("input", "output", "b", "input"),
            Link("a", "output", "sum", "inputs"),
            Link("b", "output", "sum", "inputs"),
            Link("sum", "output", "out", "input"),
        ),
    )
    found = lowered(apply(graph, SetMode(("a",), Mode.MUTED)))
    assert [node.id for node in found.nodes] == ["input", "b", "sum", "out"]
    assert not diagnose(found, for_training=False)


def test_nodes_of_one_id_are_told_apart_when_a_file_is_opened() -> None:
    opened_file = editable(Graph("twins", (Node("a", "ReLU"), Node("a", "Tanh")), ()))
    assert [node.id for node in opened_file.graph.nodes] == ["a", "a2"]
    assert len(opened_file.notes) == 1
    assert all(place_of(node) for node in opened_file.graph.nodes)
