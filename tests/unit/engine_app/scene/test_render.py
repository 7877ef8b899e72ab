"""What is drawn, as arrays: what is out of sight or too small is left out."""

from __future__ import annotations

import numpy as np
import pytest

from backend.graph import Graph, Link, Node
from backend.validate import Severity
from engine_app.document.analysis import analyse
from engine_app.document.apply import apply
from engine_app.document.edits import MoveNodes, RemoveNodes
from engine_app.document.view import Rect, placed
from engine_app.scene.curves import LANE, TURN, curve_points
from engine_app.scene.hits import OnLink, OnNode, OnPort, hit
from engine_app.scene.meshes import ribbon_indices, strips
from engine_app.scene.render import DETAILS, GIST, SHADED, Look, Picture, cover_of, is_covered, moving, still
from engine_app.scene.snapshot import Snapshot, SnapshotBuilder, summary_of
from engine_app.scene.text import Glyph, TextLayout
from engine_app.scene.view import View
from engine_app.ui.theme import DARK
from tests.unit.engine_app.document.builders import line

MLP = line("Dense", "ReLU")
ALL = Rect(-1e5, -1e5, 2e5, 2e5)


class FixedWidth:
    """An atlas whose letters are all half as wide as high."""

    size = 10.0

    def glyph(self, character: str, bold: bool) -> Glyph:
        return Glyph((0.0, 0.0, 0.1, 0.1), 5.0, 10.0, 5.0)


def picture(scene: Snapshot, zoom: float = 1.0, selected: frozenset[str] = frozenset()) -> Picture:
    return Picture(scene, Look(DARK), TextLayout(FixedWidth()), zoom, selected)


def many(count: int) -> Graph:
    nodes = tuple(placed(Node(f"n{i}", "ReLU"), 300.0 * (i % 100), 120.0 * (i // 100)) for i in range(count))
    links = tuple(Link(f"n{i}", "output", f"n{i + 1}", "input") for i in range(count - 1))
    return Graph("many", nodes, links)


def test_a_snapshot_tells_where_everything_is() -> None:
    scene = SnapshotBuilder().build(MLP, analyse(MLP))
    assert scene.corners.tolist() == [[0, 0], [300, 0], [600, 0], [900, 0]]
    assert len(scene.link_nodes) == 3 and scene.footers[1] == "64  576"
    assert scene.bounds() == Rect(0, 0, 1100, float(scene.sizes[1, 1]))
    dense_out = int(scene.first_port[1]) + 1
    assert scene.port_name(dense_out) == "output" and scene.port_places[dense_out].tolist() == [500, 48]


def test_only_nodes_that_changed_are_worked_out_again() -> None:
    builder = SnapshotBuilder()
    before = builder.build(MLP)
    after = builder.build(apply(MLP, MoveNodes({"relu": (600.0, 90.0)})))
    same = [new is old for new, old in zip(after.cards, before.cards, strict=True)]
    assert same == [True, True, False, True]


def test_problems_are_shown_at_their_nodes() -> None:
    broken = apply(MLP, RemoveNodes(("dense",)))
    scene = SnapshotBuilder().build(broken, analyse(broken))
    found = analyse(broken).problems_at(())
    assert found["relu"] is Severity.ERROR
    assert scene.problems[scene.index["relu"]] == 2
    good = still(picture(SnapshotBuilder().build(broken)), ALL)
    assert len(still(picture(scene), ALL).boxes) > len(good.boxes)


def test_what_is_out_of_sight_is_not_built() -> None:
    scene = SnapshotBuilder().build(many(2000))
    near = still(picture(scene), Rect(0, 0, 1000, 500))
    everything = still(picture(scene), ALL)
    assert 0 < len(near.boxes) < len(everything.boxes) / 20
    assert 0 < len(near.links) < len(everything.links) / 10


def test_less_is_drawn_from_farther_away() -> None:
    scene = SnapshotBuilder().build(MLP, analyse(MLP))
    zooms = (1.0, DETAILS - 0.05, SHADED + 0.02, SHADED - 0.02)
    found = [still(picture(scene, zoom), ALL) for zoom in zooms]
    assert [len(each.glyphs) for each in found] == sorted((len(each.glyphs) for each in found), reverse=True)
    assert len(found[0].boxes) > len(found[2].boxes) > len(found[3].boxes) == 0
    assert [len(each.blocks) for each in found[2:]] == [0, len(MLP.nodes)]
    assert found[3].segments < found[0].segments


def test_words_of_nodes_stay_readable_as_the_view_goes_away() -> None:
    scene = SnapshotBuilder().build(MLP, analyse(MLP))
    for zoom in (1.0, DETAILS, DETAILS - 0.01, GIST):
        glyphs = still(picture(scene, zoom), ALL).glyphs
        highs = glyphs[:, 3, 1] - glyphs[:, 0, 1]
        assert highs[highs != 13].min() * zoom > 8.9, "but for signs of problems, which stay with their badge"
        titles = sum(len(card.title) for card in scene.cards)
        assert len(glyphs) > titles, "what comes out of a node is told too"


def test_a_link_to_a_row_far_below_goes_back_between_rows_and_not_behind_their_nodes() -> None:
    starts, ends = np.array([[1000, 40]], np.float32), np.array([[0, 900]], np.float32)
    for down in (1, -1):
        points = curve_points(starts * (1, down), ends * (1, down), 28)[0]
        among = points[(points[:, 0] > 10) & (points[:, 0] < 990)]
        assert np.allclose(among[:, 1], down * (900 - LANE), atol=0.5)
        assert points[:, 0].max() <= 1000 + TURN and points[:, 0].min() >= -TURN
        assert (np.diff(points[:, 1]) * down >= -0.01).all()


def test_moving_nodes_and_their_links_are_in_one_mesh_and_not_in_the_other() -> None:
    scene = SnapshotBuilder().build(MLP)
    chosen = frozenset({scene.index["dense"]})
    rest, parts = still(picture(scene), ALL, chosen), moving(picture(scene), chosen, 5.0, 7.0)
    assert (len(rest.links), len(parts.links)) == (1, 2)
    whole = still(picture(scene), ALL)
    assert len(rest.boxes) + len(parts.boxes) == len(whole.boxes)
    body = parts.boxes[0]
    middle = body[:, 0:2] - body[:, 2:4]
    assert middle[0] == pytest.approx([300 + 100 + 5, float(scene.sizes[1, 1]) / 2 + 7])


def test_a_node_on_another_is_drawn_whole_over_it() -> None:
    scene = SnapshotBuilder().build(MLP)
    over = SnapshotBuilder().build(apply(MLP, MoveNodes({"relu": (310.0, 20.0)})))
    free, touching = still(picture(scene), ALL), still(picture(over), ALL)
    assert (len(free.blocks), len(touching.blocks)) == (8, 4)
    assert len(free.boxes) - len(touching.boxes) == 2 * 6


def test_a_selected_node_has_another_outline() -> None:
    scene = SnapshotBuilder().build(MLP)
    plain, chosen = (still(picture(scene, 1.0, frozenset(which)), ALL) for which in ((), ("relu",)))
    assert not np.array_equal(plain.boxes, chosen.boxes)


def test_panning_within_the_cover_builds_nothing() -> None:
    view = View()
    cover = cover_of(view.visible)
    assert is_covered(view.panned(300, -200).visible, cover, 1.0, 1.0)
    assert not is_covered(view.panned(900, 0).visible, cover, 1.0, 1.0)
    assert not is_covered(view.visible, cover, 2.0, 1.0)


def test_ports_win_over_nodes_and_nodes_over_links() -> None:
    scene, view = SnapshotBuilder().build(MLP), View(0, -100)
    assert isinstance(hit(scene, view, 505, 150), OnPort)
    assert hit(scene, view, 400, 120) == OnNode("dense", 1)
    assert hit(scene, view, 550, 148) == OnLink(1)
    assert hit(scene, view, 550, 500) is None


def test_an_empty_graph_and_an_empty_line_are_drawn_as_nothing() -> None:
    scene = SnapshotBuilder().build(Graph("empty"))
    found = still(picture(scene), ALL)
    assert (len(found.boxes), len(found.links), len(found.glyphs)) == (0, 0, 0)
    assert len(strips(np.zeros((1, 2), np.float32), (1, 1, 1, 1), 2)) == 0
    assert ribbon_indices(4).max() == 9
    assert hit(scene, View(), 5, 5) is None


def test_text_is_cut_and_wrapped_to_its_room() -> None:
    text = TextLayout(FixedWidth())
    assert text.line("abcd").width == pytest.approx(2.0)
    assert text.fitted("abcdefghij", 2.5).width <= 2.5
    assert len(text.wrapped("one two three four", 4.0, 9)) == 3
    assert summary_of(Node("c", "Conv2D", 1, {"filters": 16, "kernel_size": [3, 3]})) == "16 · 3×3"
