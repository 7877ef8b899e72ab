from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backend.graph import Graph, Node
from backend.serialize import load_graph
from engine_app.document.analysis import analyse
from engine_app.document.editing import MAX_STEPS
from engine_app.document.edits import MoveNodes
from engine_app.ui.desk import LARGE, Desk, Found
from tests.unit.engine_app.document.builders import line

DIGITS = Path(__file__).parents[4] / "scripts/examples/digits_cnn.json"


@pytest.fixture
def desk() -> Desk:
    return Desk(load_graph(DIGITS.read_bytes()))


def test_a_new_node_goes_into_the_link_behind_the_selected_one(desk: Desk) -> None:
    desk.select("conv1")
    new = desk.add("Dropout")
    ends = {(link.source_node, link.target_node) for link in desk.graph.links}
    assert {("conv1", new), (new, "norm1")} <= ends
    assert ("conv1", "norm1") not in ends
    assert desk.selected == new
    assert desk.can_train


def test_a_removed_node_leaves_its_neighbours_linked_and_undo_brings_it_back(desk: Desk) -> None:
    before = desk.graph
    desk.select("relu1")
    desk.remove("relu1")
    assert ("norm1", "conv2") in {(link.source_node, link.target_node) for link in desk.graph.links}
    assert desk.can_train
    assert desk.selected == "norm1"
    desk.undo()
    assert desk.graph == before
    desk.redo()
    assert not any(node.id == "relu1" for node in desk.graph.nodes)


def test_a_slider_that_moves_is_one_step_for_undo(desk: Desk) -> None:
    before = desk.graph
    for rate in (0.3, 0.4, 0.5):
        desk.set_parameter("dropout", "rate", rate)
    desk.set_parameter("conv1", "filters", 8)
    desk.undo()
    assert desk.graph.node("dropout").parameters["rate"] == 0.5
    desk.undo()
    assert desk.graph == before
    assert not desk.can_undo


def test_an_edit_that_changes_nothing_is_no_step(desk: Desk) -> None:
    desk.set_parameter("dropout", "rate", 0.25)
    assert not desk.can_undo
    assert not desk.is_changed


def test_a_reset_parameter_has_the_catalogues_default_again(desk: Desk) -> None:
    desk.reset_parameter("dropout", "rate")
    assert "rate" not in desk.graph.node("dropout").parameters


def test_a_problem_brings_its_fix_and_the_fix_takes_it_away() -> None:
    graph = Graph("broken", nodes=(Node("d", "Dense", parameters={"units": -3}),))
    desk = Desk(graph)
    found = next(each for each in desk.problems_of("d") if each.fix)
    assert found.fix is not None
    desk.apply(found.fix)
    assert found.text not in [each.text for each in desk.problems_of("d")]
    desk.undo()
    assert desk.graph == graph


def test_shapes_and_counts_follow_every_edit(desk: Desk) -> None:
    assert desk.shape_text("conv1") == "16 × 8 × 8"
    before = desk.analysis.counts.parameters
    desk.set_parameter("conv1", "filters", 32)
    assert desk.shape_text("conv1") == "32 × 8 × 8"
    assert desk.analysis.counts.parameters > before


def test_listeners_hear_of_changes_until_they_stop(desk: Desk) -> None:
    heard: list[str] = []
    stop = desk.listen(lambda: heard.append(desk.graph.name))
    desk.rename("other")
    stop()
    desk.rename("third")
    assert heard == ["other"]


def test_undo_is_bounded(desk: Desk) -> None:
    for number in range(MAX_STEPS + 10):
        desk.rename(str(number))
    count = 0
    while desk.can_undo:
        desk.undo()
        count += 1
    assert count == MAX_STEPS


def test_saving_marks_the_graph_that_was_saved(desk: Desk) -> None:
    desk.rename("one")
    saved = desk.graph
    desk.rename("two")
    desk.mark_saved(saved)
    assert desk.is_changed
    desk.undo()
    assert not desk.is_changed


def test_a_large_graph_is_analysed_aside_and_the_newest_one_counts() -> None:
    work: list[tuple[Callable[[], Found], Callable[[Found], None]]] = []
    small = Desk(line("Dense"))
    small.think_with(lambda think, done: work.append((think, done)))
    assert small.analysis.graph is small.graph and not work
    large = Desk(line(*["ReLU"] * LARGE))
    large.think_with(lambda think, done: work.append((think, done)))
    first = large.analysis
    assert large.is_thinking and not large.can_train and not first.shapes.nodes
    told: list[bool] = []
    large.listen(lambda: told.append(large.is_thinking))
    large.set_training(epochs=2)
    think, done = work.pop()
    done(think())
    assert told == [True, True]
    think, done = work.pop()
    done(think())
    assert told[-1] is False and large.analysis == analyse(large.graph)
    large.do(MoveNodes({"relu": (1.0, 2.0)}))
    assert not large.is_thinking and not work


def test_an_analysis_that_fails_is_shown_once_and_what_was_known_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work: list[tuple[Callable[[], Found], Callable[[Found], None]]] = []
    nodes = tuple(Node(f"n{number}", "ReLU") for number in range(LARGE + 2))
    large = Desk(Graph("large", nodes))
    known = large.analysis
    large.think_with(lambda think, done: work.append((think, done)))
    large.listen(lambda: str(large.is_thinking))
    large.remove("n0")
    assert large.is_thinking
    think, done = work.pop()
    with monkeypatch.context() as broken:
        broken.setattr("engine_app.ui.desk.analyse", lambda *_, **__: 1 / 0)
        result = think()
    with pytest.raises(ZeroDivisionError):
        done(result)
    assert not large.is_thinking and not large.can_train and not work and large.analysis is known
    large.remove("n1")
    assert large.is_thinking
    think, done = work.pop()
    done(think())
    assert not large.is_thinking and large.analysis == analyse(large.graph)
