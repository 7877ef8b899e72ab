"""What ComfyUI's and Blender's users do without looking: each does here what it does there, and is undone."""

from __future__ import annotations

from typing import Any

import pytest

from engine_app.document.apply import apply
from engine_app.document.edits import MoveNodes
from engine_app.document.view import place_of, title_of
from tests.e2e.engine_app.bench import MLP, Bench, Shown, stroke
from tests.unit.engine_app.document.builders import line

pytestmark = pytest.mark.e2e

NODE, PORT_IN, LINK, VOID = (400, 20), (600, 48), (550, 48), (560, 300)
LEFT, RIGHT, UP, DOWN, F2, ESCAPE, ENTER = 276, 275, 273, 274, 283, 27, 13
CONTROL, ALT = ("ctrl",), ("alt",)


async def test_an_alt_drag_of_a_node_leaves_it_and_drops_a_copy(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        bench.canvas.select(frozenset({"dense", "relu"}))
        with driver.holding("alt"):
            await stroke(bench, driver, (NODE, (400, 120), (400, 320)))
        assert len(bench.graph.nodes) == 6
        assert [place_of(bench.graph.node(name)) for name in ("dense", "relu")] == [(300, 0), (600, 0)]
        copies = [bench.graph.node(name) for name in bench.desk.state.selected]
        assert sorted(node.type for node in copies) == ["Dense", "ReLU"]
        assert all(node.id not in ("dense", "relu") and place_of(node)[1] > 200 for node in copies)  # type: ignore[index]
        assert bench.undone()


@pytest.mark.parametrize(
    ("code", "way"), [(LEFT, (-16, 0)), (RIGHT, (16, 0)), (UP, (0, -16)), (DOWN, (0, 16))]
)
async def test_arrows_nudge_what_is_selected_and_many_are_one_step(
    show: Any, code: int, way: tuple[float, float]
) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        driver.key(code)
        assert bench.graph == MLP  # nothing is selected
        bench.canvas.select(frozenset({"dense", "relu"}))
        driver.key(code)
        driver.key(code)
        assert place_of(bench.graph.node("dense")) == (300 + way[0], way[1])
        assert place_of(bench.graph.node("relu")) == (600 + way[0], way[1])
        assert bench.undone()


async def test_selected_nodes_are_lined_up_by_an_edge_or_with_equal_gaps(show: Any) -> None:
    moved = apply(MLP, MoveNodes({"dense": (300.0, 120.0), "relu": (500.0, 60.0)}))
    bench = Bench(moved)
    async with Shown(bench, show) as driver:

        async def line_up(*names: str) -> list[Any]:
            bench.canvas.select(frozenset(names))
            bench.page.command("line_up")
            await driver.frames(2)
            return [each for each in bench.host.walk(restrict=True) if type(each).__name__ == "ListRow"]

        assert await line_up("relu") == []  # one node is in line with itself
        assert len(await line_up("dense", "relu")) == 6
        await driver.tap(next(each for each in await line_up("dense", "relu") if each.name == "Top edges"))
        assert [place_of(bench.graph.node(name)) for name in ("dense", "relu")] == [(300, 60), (500, 60)]
        assert bench.undone()
        rows = await line_up("input", "dense", "relu")
        await driver.tap(next(each for each in rows if each.name == "Equal gaps across"))
        dense = place_of(bench.graph.node("dense"))
        assert dense is not None and dense[1] == 120 and dense[0] != 300
        assert bench.undone()


async def test_a_title_is_changed_by_a_double_tap_or_a_key_and_emptied_again(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        for _ in range(2):
            finger = driver.finger(*bench.at(NODE))
            finger.down()
            finger.up()
        await driver.until(lambda: bench.host.is_asking)
        await retitle(bench, driver, "Encoder")
        assert title_of(bench.graph.node("dense")) == "Encoder"
        assert bench.undone()
        bench.desk.redo()
        bench.desk.select("dense")
        driver.key(F2)
        await driver.frames(2)
        await retitle(bench, driver, "")
        assert title_of(bench.graph.node("dense")) == "Dense"


async def retitle(bench: Bench, driver: Any, text: str) -> None:
    from engine_app.ui.widgets.fields import TextField

    field = next(each for each in bench.host.walk() if isinstance(each, TextField))
    field.input.focus = True
    await driver.frames(2)
    field.input.text = text
    driver.key(ENTER)
    await driver.frames(2)
    assert not bench.host.is_asking


async def test_what_is_copied_in_one_graph_is_pasted_into_another(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        bench.canvas.select(frozenset({"dense", "relu"}))
        driver.key(ord("c"), modifiers=CONTROL)
        bench.before = line("Tanh")
        bench.desk.open(bench.before)
        driver.key(ord("v"), modifiers=CONTROL)
        added = [node.type for node in bench.graph.nodes if node.id in bench.desk.state.selected]
        assert added == ["Dense", "ReLU"] and len(bench.graph.links) == len(bench.before.links) + 1
        assert bench.undone()


async def test_a_link_pulled_off_its_input_is_dropped_on_another_or_gone(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        await stroke(bench, driver, (PORT_IN, (560, 200), VOID))
        assert len(bench.graph.links) == 2 and not bench.host.is_asking
        assert bench.undone()
        await stroke(bench, driver, (PORT_IN, (700, 200), (895, 48)))
        ends = {(link.source_node, link.target_node) for link in bench.graph.links}
        assert ("dense", "output") in ends and ("dense", "relu") not in ends
        assert bench.undone()


async def test_escape_calls_off_a_drag_and_what_follows_of_it_does_nothing(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        finger = driver.finger(*bench.at(NODE))
        finger.down()
        finger.move(*bench.at((400, 200)))
        await driver.frames(1)
        driver.key(ESCAPE)
        finger.move(*bench.at((400, 300)))
        finger.up()
        await driver.frames(1)
        assert bench.graph == MLP and not bench.desk.can_undo


@pytest.mark.parametrize("code", [127, 8, ord("x")])
async def test_delete_backspace_and_x_heal_the_link_around_what_they_remove(show: Any, code: int) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        bench.desk.select("relu")
        driver.key(code)
        assert ("dense", "output") in {(link.source_node, link.target_node) for link in bench.graph.links}
        assert len(bench.graph.nodes) == 3
        assert bench.undone()


async def test_the_wheel_zooms_at_the_pointer_and_the_middle_button_pans_from_anywhere(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        x, y = bench.at(NODE)
        zoom = bench.canvas.view.zoom
        await driver.click_at(x, y, "scrolldown")
        assert bench.canvas.view.zoom > zoom and bench.at(NODE) == pytest.approx((x, y), abs=1)
        await driver.click_at(x, y, "scrollup")
        assert bench.canvas.view.zoom == pytest.approx(zoom)
        for place in (NODE, LINK, VOID):
            x, y = bench.at(place)
            finger = driver.finger(x, y, button="middle")
            finger.down()
            finger.move(x + 30, y + 40)
            finger.up()
            await driver.frames(1)
            assert bench.at(place) == pytest.approx((x + 30, y + 40), abs=1)
        assert bench.graph == MLP and not bench.desk.can_undo


async def test_a_dot_shows_what_is_selected_and_home_all(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        fitted = bench.canvas.view
        for code in (ord("."), 266):
            bench.desk.select("relu")
            driver.key(code)
            await driver.frames(1)
            assert bench.canvas.view.visible.centre == pytest.approx((700, 44), abs=40)
            for again in (278, ord("f")):
                driver.key(again)
                assert bench.canvas.view == fitted


async def test_a_menu_key_turns_back_what_it_did(show: Any) -> None:
    """M, Ctrl+B, H a second time: as before, not twice as much."""
    bench = Bench()
    async with Shown(bench, show) as driver:
        bench.desk.select("dense")
        for code, modifiers in ((ord("m"), ()), (ord("b"), CONTROL), (ord("h"), ())):
            driver.key(code, modifiers=modifiers)
            assert bench.graph != MLP
            driver.key(code, modifiers=modifiers)
            assert bench.graph == MLP


async def test_g_carries_what_is_selected_with_the_mouse_until_a_click(show: Any) -> None:
    from kivy.core.window import Window

    bench = Bench()
    async with Shown(bench, show) as driver:
        driver.key(ord("g"))
        assert bench.canvas.tools.action is None  # nothing is selected
        bench.canvas.select(frozenset({"dense", "relu"}))
        for button, is_moved in (("right", False), ("left", True)):
            Window.mouse_pos = bench.at((700, 100))
            driver.key(ord("g"))
            for place in ((740, 180), (700, 260)):
                Window.mouse_pos = bench.at(place)
                await driver.frames(1)
            await driver.click_at(*bench.at((700, 260)), button)
            assert (place_of(bench.graph.node("dense")) == (300, 0)) is not is_moved
        moved = place_of(bench.graph.node("relu"))
        Window.mouse_pos = bench.at((100, 100))
        await driver.frames(1)
        assert moved == place_of(bench.graph.node("relu")) == pytest.approx((600, 160), abs=8)
        assert bench.undone() and not bench.host.is_asking


async def test_escape_and_edits_from_elsewhere_let_go_of_what_g_carries(show: Any) -> None:
    from kivy.core.window import Window

    bench = Bench()
    async with Shown(bench, show) as driver:
        bench.canvas.select(frozenset({"relu"}))
        for let_go in (lambda: driver.key(ESCAPE), lambda: bench.desk.rename("Other")):
            driver.key(ord("g"))
            Window.mouse_pos = bench.at((700, 100))
            await driver.frames(1)
            let_go()
            Window.mouse_pos = bench.at((900, 200))
            await driver.frames(1)
            await driver.click_at(*bench.at((700, 260)))
            assert place_of(bench.graph.node("relu")) == (600, 0)
            bench.canvas.select(frozenset({"relu"}))


async def test_ctrl_i_selects_the_others_and_ctrl_alt_g_takes_out_of_a_subgraph(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        bench.desk.select("relu")
        driver.key(ord("i"), modifiers=CONTROL)
        assert bench.desk.state.selected == {"input", "dense", "output"}
        bench.canvas.select(frozenset({"dense", "relu"}))
        driver.key(ord("e"), modifiers=CONTROL)
        assert len(bench.graph.nodes) == 3
        bench.canvas.select(frozenset({"subgraph"}))
        driver.key(ord("g"), modifiers=("ctrl", "alt"))
        assert {node.id for node in bench.graph.nodes} == {node.id for node in MLP.nodes}
