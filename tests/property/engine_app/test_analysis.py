"""What is known of a graph after an edit does not depend on what was known before."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_app.document.analysis import analyse, still_holds
from engine_app.document.apply import apply
from engine_app.document.edits import Edit, MoveNodes, RemoveNodes, SetMode, SetParameter
from engine_app.document.errors import EditError
from engine_app.document.view import Mode
from engine_app.scene.snapshot import SnapshotBuilder
from tests.unit.engine_app.document.builders import line

GRAPH = line("Dense", "ReLU", "Dropout", "Sigmoid", "LayerNorm")
IDS = st.sampled_from([node.id for node in GRAPH.nodes])
EDITS = st.one_of(
    st.builds(lambda node, units: SetParameter(node, "units", units), IDS, st.integers(-1, 9)),
    st.builds(lambda node: RemoveNodes((node,)), IDS),
    st.builds(lambda node, x: MoveNodes({node: (x, 7.0)}), IDS, st.floats(-900, 900)),
    st.builds(lambda node, mode: SetMode((node,), mode), IDS, st.sampled_from(Mode)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(EDITS, max_size=6))
def test_what_is_kept_from_before_changes_nothing(edits: list[Edit]) -> None:
    graph, known, builder = GRAPH, analyse(GRAPH), SnapshotBuilder()
    for edit in edits:
        try:
            after = apply(graph, edit)
        except EditError:
            continue
        found = analyse(after, before=known)
        assert found == analyse(after)
        if still_holds(known, after):
            assert (known.shapes, known.diagnostics, known.counts) == (
                found.shapes,
                found.diagnostics,
                found.counts,
            )
        graph, known = after, found
        scene, fresh = builder.build(graph, known), SnapshotBuilder().build(graph, known)
        for name in (
            "corners",
            "sizes",
            "categories",
            "port_places",
            "link_nodes",
            "link_offsets",
            "problems",
        ):
            assert getattr(scene, name).tolist() == getattr(fresh, name).tolist()
        assert (scene.cards, scene.footers, scene.index) == (fresh.cards, fresh.footers, fresh.index)
