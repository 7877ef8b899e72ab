"""Every gesture of the build page under fingers, mouse and keys; each change is undone by one step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backend.graph import Graph, Node
from engine_app.document.apply import apply
from engine_app.document.edits import AddNodes, Disconnect, MakeSubgraph, SetFrame
from engine_app.document.view import Frame, FrameKind, Mode, Rect, frames_of, mode_of, place_of
from tests.e2e.engine_app.bench import MLP, Bench, Shown, stroke

pytestmark = pytest.mark.e2e

CUT = apply(MLP, Disconnect((("dense", "output", "relu", "input"),)))
NODE, PORT_OUT, PORT_IN, LINK, VOID = (400, 20), (500, 48), (600, 48), (550, 48), (560, 300)


async def hold(bench: Bench, driver: Any, place: tuple[float, float]) -> Any:
    """A finger that stays until its menu is there."""
    finger = driver.finger(*bench.at(place))
    finger.down()
    await driver.until(lambda: bench.menu is not None)
    return finger


# -- the menu ------------------------------------------------------------------------------------


async def test_a_long_press_opens_a_menu_around_the_finger_and_a_tap_beside_closes_it(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        finger = await hold(bench, driver, NODE)
        x, y = bench.at(NODE)
        for item in bench.menu.items:
            assert min(item.size) >= 48
            assert abs(item.x + item.width / 2 - x) < 160 and abs(item.y + item.height / 2 - y) < 160
        finger.up()
        await driver.frames()
        assert bench.menu is not None and bench.desk.selected == "dense"
        await driver.tap_at(bench.host.width - 5, bench.host.height - 5)
        assert bench.menu is None and bench.graph == MLP


@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
async def test_a_menu_stays_in_the_window(show: Any, place: tuple[float, float]) -> None:
    bench = Bench(Graph("empty"))
    async with Shown(bench, show) as driver:
        canvas = bench.canvas
        x = canvas.x + 4 + place[0] * (canvas.width - 8)
        finger = driver.finger(x, canvas.y + 100 + place[1] * (canvas.height - 108))
        finger.down()
        await driver.until(lambda: bench.menu is not None)
        finger.up()
        for item in bench.menu.items:
            assert item.x >= 0 and item.right <= bench.host.width
            assert item.y >= 0 and item.top <= bench.host.height


async def test_sliding_from_a_long_press_to_a_target_does_it_and_undo_takes_it_back(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        finger = await hold(bench, driver, NODE)
        finger.move(*bench.centre_of("Mute"))
        await driver.frames(1)
        finger.up()
        await driver.frames()
        assert mode_of(bench.graph.node("dense")) is Mode.MUTED
        assert bench.menu is None
        assert bench.undone()


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("Duplicate", lambda graph: len(graph.nodes) == 5),
        ("Bypass", lambda graph: mode_of(graph.node("dense")) is Mode.BYPASSED),
        ("Remove", lambda graph: len(graph.nodes) == 3 and len(graph.links) == 2),
        ("Group", lambda graph: len(frames_of(graph, FrameKind.GROUP)) == 1),
        ("Collapse", lambda graph: graph != MLP),
    ],
)
async def test_what_a_nodes_menu_does_is_undone_by_one_step(show: Any, name: str, holds: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        (await hold(bench, driver, NODE)).up()
        await driver.tap(bench.item(name))
        assert holds(bench.graph)
        assert bench.undone()


@pytest.mark.parametrize(
    ("name", "holds"),
    [("Bend", lambda graph: len(graph.nodes) == 5), ("Cut", lambda graph: len(graph.links) == 2)],
)
async def test_what_a_links_menu_does_is_undone_by_one_step(show: Any, name: str, holds: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        (await hold(bench, driver, LINK)).up()
        await driver.tap(bench.item(name))
        assert holds(bench.graph)
        assert bench.undone()


async def test_a_node_is_inserted_on_a_link_from_its_menu(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        (await hold(bench, driver, LINK)).up()
        await driver.tap(bench.item("Insert"))
        await driver.frames(3)
        row = bench.found("Dropout")
        row.press()
        await driver.frames()
        ends = {(link.source_node, link.target_node) for link in bench.graph.links}
        assert {("dense", "dropout"), ("dropout", "relu")} <= ends
        assert bench.undone()


async def test_the_grounds_menu_adds_a_note_where_it_was_opened(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        (await hold(bench, driver, VOID)).up()
        await driver.tap(bench.item("Note"))
        (found,) = frames_of(bench.graph, FrameKind.NOTE)
        assert abs(found.rect.x - VOID[0]) < 3 and abs(found.rect.y - VOID[1]) < 3
        assert bench.undone()


async def test_a_menu_that_escape_closed_under_the_finger_does_nothing_more(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        finger = await hold(bench, driver, NODE)
        finger.move(*bench.centre_of("Remove"))
        await driver.frames(1)
        driver.key(27)
        finger.up()
        await driver.frames()
        assert bench.menu is None and bench.graph == MLP


async def test_a_right_click_opens_the_same_menu(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        await driver.click_at(*bench.at(LINK), button="right")
        assert [item.name for item in bench.menu.items] == ["Insert", "Bend", "Cut"]
        driver.key(27)
        assert bench.menu is None


async def test_the_menu_key_opens_it_at_what_is_selected_and_arrows_go_around(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        bench.desk.select("relu")
        driver.key(291, modifiers=("shift",))
        await driver.frames()
        assert bench.menu.items[0].has_focus
        driver.key(274)
        driver.key(274)
        driver.key(276)
        assert bench.menu.items[1].has_focus
        driver.key(273)
        driver.key(13)
        await driver.frames()
        assert bench.menu is None and len(bench.graph.nodes) == 5
        assert bench.undone()


# -- two fingers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [NODE, LINK, PORT_OUT, VOID])
async def test_two_fingers_pan_and_zoom_wherever_they_start(show: Any, place: tuple[float, float]) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        zoom = bench.canvas.view.zoom
        x, y = bench.at(place)
        one, two = driver.finger(x - 20, y), driver.finger(x + 20, y)
        one.down()
        two.down()
        one.move(x - 40, y + 60)
        two.move(x + 40, y + 60)
        await driver.frames(1)
        assert bench.at(place) == pytest.approx((x, y + 60), abs=2)
        assert bench.canvas.view.zoom == pytest.approx(2 * zoom, rel=0.01)
        one.up()
        two.up()
        assert bench.graph == MLP and not bench.desk.state.done and bench.menu is None


@pytest.mark.parametrize("place", [NODE, PORT_OUT])
async def test_a_second_finger_calls_off_what_the_first_one_does(
    show: Any, place: tuple[float, float]
) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        x, y = bench.at(place)
        one, two = driver.finger(x, y), driver.finger(x + 90, y)
        one.down()
        one.move(x, y - 80)
        await driver.frames(1)
        assert bench.canvas.tools.action is not None
        two.down()
        await driver.frames(1)
        assert bench.canvas.tools.action is None
        two.up()
        one.up()
        assert bench.graph == MLP and not bench.desk.state.done


async def test_what_is_left_of_a_pinch_drags_nothing(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        x, y = bench.at(NODE)
        one, two = driver.finger(x, y), driver.finger(x + 90, y)
        one.down()
        two.down()
        two.up()
        view = bench.canvas.view
        one.move(x + 100, y + 100)
        one.up()
        assert bench.canvas.view == view and bench.graph == MLP


# -- one finger ----------------------------------------------------------------------------------


async def test_a_drag_of_the_ground_pans(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        before = bench.at(NODE)
        x, y = bench.at(VOID)
        await driver.drag((x, y), (x + 60, y - 40))
        assert bench.at(NODE) == pytest.approx((before[0] + 60, before[1] - 40), abs=2)


async def test_a_port_is_met_by_a_finger_at_any_zoom(show: Any) -> None:
    bench = Bench(CUT)
    async with Shown(bench, show) as driver:
        for zoom in (0.5, 1.0, 2.0):
            canvas = bench.canvas
            middle = (
                PORT_OUT[0] - canvas.width * (0.2 + zoom / 4) / zoom,
                PORT_OUT[1] - canvas.height / 2 / zoom,
            )
            canvas.look_at(replace(canvas.view, zoom=zoom, x=middle[0], y=middle[1]))
            x, y = bench.at(PORT_OUT)
            finger = driver.finger(x + 18, y)
            finger.down()
            finger.up()
            await driver.frames(2)
            assert bench.canvas.tools.pending is not None, zoom
            bench.canvas.cancel()


async def test_a_link_snaps_to_a_port_before_the_finger_is_there(show: Any) -> None:
    bench = Bench(CUT)
    async with Shown(bench, show) as driver:
        x, y = bench.at(PORT_IN)
        await driver.drag(bench.at(PORT_OUT), (x - 24, y + 18))
        assert len(bench.graph.links) == 3
        assert bench.undone()


async def test_a_link_dropped_on_a_node_takes_its_fitting_port(show: Any) -> None:
    bench = Bench(CUT)
    async with Shown(bench, show) as driver:
        await driver.drag(bench.at(PORT_OUT), bench.at((700, 20)))
        assert len(bench.graph.links) == 3
        assert bench.undone()


async def test_a_link_dropped_in_the_void_opens_a_palette_of_what_takes_it(show: Any) -> None:
    bench = Bench(CUT)
    async with Shown(bench, show) as driver:
        await driver.drag(bench.at(PORT_OUT), bench.at(VOID))
        await driver.until(lambda: bench.host.is_asking)
        await driver.frames(4)
        palette = bench.palette
        assert "Dropout" in palette.shown and "MNIST" not in palette.shown and "Adam" not in palette.shown
        bench.found("Dropout").press()
        await driver.frames()
        assert ("dense", "dropout") in {(link.source_node, link.target_node) for link in bench.graph.links}
        place = place_of(bench.graph.node("dropout"))
        assert place is not None and abs(place[0] - VOID[0]) < 5
        assert bench.undone()


async def test_a_palette_that_was_closed_forgets_where_it_was_asked_for(show: Any) -> None:
    bench = Bench(CUT)
    async with Shown(bench, show) as driver:
        await driver.drag(bench.at(PORT_OUT), bench.at(VOID))
        await driver.until(lambda: bench.host.is_asking)
        driver.key(27)
        await driver.frames()
        bench.page.bench.add("Dropout")
        place = place_of(bench.graph.node("dropout"))
        assert place is not None and abs(place[0] - VOID[0]) > 20


async def test_a_double_tap_searches_at_the_place(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        for _ in range(2):
            finger = driver.finger(*bench.at(VOID))
            finger.down()
            finger.up()
        await driver.until(lambda: bench.host.is_asking)
        await driver.frames(4)
        bench.found("GELU").press()
        await driver.frames()
        place = place_of(bench.graph.node("gelu"))
        assert place is not None and abs(place[0] + 100 - VOID[0]) < 60
        assert bench.undone()


async def test_tab_searches_at_the_mouse(show: Any) -> None:
    from kivy.core.window import Window

    bench = Bench()
    async with Shown(bench, show) as driver:
        assert not bench.page.search_here()
        Window.mouse_pos = bench.at(VOID)
        try:
            assert bench.page.search_here()
        finally:
            Window.mouse_pos = (0, 0)
        bench.found("GELU").press()
        await driver.frames()
        place = place_of(bench.graph.node("gelu"))
        assert place is not None and abs(place[0] + 100 - VOID[0]) < 60


# -- selecting and cutting -----------------------------------------------------------------------

AROUND_BOTH = ((280, -60), (830, -60), (830, 220), (280, 220), (280, -40))


async def test_a_finger_lassos_once_the_button_says_so(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        await driver.tap(bench.page.bench._selecting)
        await stroke(bench, driver, AROUND_BOTH)
        assert bench.desk.state.selected == {"dense", "relu"}
        await driver.tap_at(*bench.at((100, 20)))
        assert bench.desk.state.selected == {"dense", "relu", "input"}
        await driver.tap_at(*bench.at(NODE))
        assert bench.desk.state.selected == {"relu", "input"}
        await driver.tap(bench.page.bench._selecting)
        await driver.tap_at(*bench.at(VOID))
        assert not bench.desk.state.selected and bench.graph == MLP


@pytest.mark.parametrize(("key", "places"), [("shift", ((450, 250), (650, 20))), ("alt", AROUND_BOTH)])
async def test_the_mouse_selects_with_a_box_or_a_lasso(show: Any, key: str, places: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        with driver.holding(key):
            await stroke(bench, driver, places)
        assert bench.desk.state.selected == {"dense", "relu"}


async def test_a_finger_cuts_links_by_a_stroke_once_the_button_says_so(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        await driver.tap(bench.page.bench._cutting)
        await stroke(bench, driver, ((250, -60), (250, 240), (550, 240), (550, -60)))
        assert len(bench.graph.links) == 1
        assert bench.undone()
        driver.key(ord("k"))
        await stroke(bench, driver, (VOID, (600, 320)))
        assert bench.graph == MLP


@pytest.mark.parametrize(("key", "button"), [("ctrl", "left"), (None, "right")])
async def test_the_mouse_cuts_links(show: Any, key: str | None, button: str) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        with driver.holding(*([key] if key else [])):
            await stroke(bench, driver, ((550, -60), (550, 200)), button=button)
        assert len(bench.graph.links) == 2 and bench.menu is None
        assert bench.undone()


async def test_all_that_is_selected_moves_together_and_back(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        bench.canvas.select(frozenset({"dense", "relu"}))
        await driver.drag(bench.at(NODE), bench.at((400, 220)))
        places = [place_of(bench.graph.node(name)) for name in ("dense", "relu", "input")]
        assert places[0] is not None and places[1] is not None
        assert places[0][1] == places[1][1] != 0 and places[2] == (0, 0)
        assert bench.undone()


async def test_a_node_snaps_to_the_line_of_others(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        bench.desk.do(AddNodes((Node("gelu", "GELU"),)))
        bench.desk.select("gelu")
        (number,) = [bench.canvas.scene.index["gelu"]]
        rect = bench.canvas.scene.rect(number)
        grip = (rect.x + rect.width / 2, rect.y + 15)
        target = (grip[0] + (900 - rect.x), grip[1] + (4 - rect.y))
        await driver.drag(bench.at(grip), bench.at(target), steps=10)
        place = place_of(bench.graph.node("gelu"))
        assert place is not None and place[1] == 0.0


@pytest.mark.parametrize("place", [NODE, PORT_OUT, PORT_IN])
async def test_an_undo_in_the_middle_of_a_drag_lets_go_of_what_is_dragged(
    show: Any, place: tuple[float, float]
) -> None:
    bench = Bench(Graph("empty"))
    async with Shown(bench, show) as driver:
        bench.desk.do(AddNodes(MLP.nodes, MLP.links))
        bench.canvas.fit()
        await driver.frames(1)
        x, y = bench.at(place)
        finger = driver.finger(x, y)
        finger.down()
        finger.move(x, y - 80)
        await driver.frames(1)
        assert bench.canvas.tools.action is not None
        bench.desk.undo()
        await driver.frames(1)
        finger.move(x + 20, y - 90)
        finger.up()
        await driver.frames(1)
        assert not bench.graph.nodes and bench.canvas.tools.action is None and not bench.host.is_asking


async def test_a_port_that_was_tapped_and_then_removed_waits_no_more(show: Any) -> None:
    bench = Bench(CUT)
    async with Shown(bench, show) as driver:
        await driver.tap_at(*bench.at(PORT_OUT))
        assert bench.canvas.tools.pending is not None
        bench.desk.remove("dense")
        assert bench.canvas.tools.pending is None


async def test_a_group_carries_its_nodes_and_its_corner_resizes_it(show: Any) -> None:
    frame = Frame("g", "Both", Rect(280, -60, 560, 240))
    bench = Bench(apply(MLP, SetFrame(FrameKind.GROUP, frame)))
    async with Shown(bench, show) as driver:
        await driver.drag(bench.at((560, -45)), bench.at((560, 155)))
        moved = place_of(bench.graph.node("relu"))
        assert moved is not None and abs(moved[1] - 200) < 12
        assert bench.undone()
        await driver.drag(bench.at((835, 175)), bench.at((935, 275)))
        (found,) = frames_of(bench.graph, FrameKind.GROUP)
        assert found.rect.width > 640 and found.rect.x == 280
        assert bench.undone()


async def test_a_subgraph_is_entered_by_two_taps_and_left_by_its_breadcrumb(show: Any) -> None:
    bench = Bench(apply(MLP, MakeSubgraph(("dense", "relu"))))
    async with Shown(bench, show) as driver:
        for _ in range(2):
            finger = driver.finger(*bench.at((550, 20)))
            finger.down()
            finger.up()
        await driver.frames(3)
        assert bench.desk.state.inside == ("subgraph",)
        crumb = next(each for each in bench.page.bench._crumbs.walk() if getattr(each, "text", "") == "line")
        await driver.tap(crumb)
        assert bench.desk.state.inside == ()


@pytest.mark.parametrize(
    ("code", "modifiers", "holds"),
    [
        (ord("d"), ("ctrl",), lambda graph: len(graph.nodes) == 5),
        (ord("d"), ("shift",), lambda graph: len(graph.nodes) == 5),
        (ord("m"), (), lambda graph: mode_of(graph.node("dense")) is Mode.MUTED),
        (ord("b"), ("ctrl",), lambda graph: mode_of(graph.node("dense")) is Mode.BYPASSED),
        (ord("g"), ("ctrl",), lambda graph: len(frames_of(graph, FrameKind.GROUP)) == 1),
        (ord("e"), ("ctrl",), lambda graph: any(node.body for node in graph.nodes)),
        (ord("x"), ("ctrl",), lambda graph: len(graph.nodes) == 3),
        (ord("h"), (), lambda graph: graph != MLP),
    ],
)
async def test_keys_change_what_is_selected_and_undo_takes_it_back(
    show: Any, code: int, modifiers: tuple[str, ...], holds: Any
) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        bench.desk.select("dense")
        driver.key(code, modifiers=modifiers)
        assert holds(bench.graph)
        assert bench.undone()


async def test_keys_look_closer_farther_and_at_all(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        fitted = bench.canvas.view
        driver.key(ord("-"))
        driver.key(ord("-"))
        assert bench.canvas.view.zoom < fitted.zoom * 0.7
        driver.key(ord("+"))
        driver.key(278)
        assert bench.canvas.view.zoom == pytest.approx(fitted.zoom)
        driver.key(ord("a"))
        assert len(bench.desk.state.selected) == 4
        driver.key(ord("a"), modifiers=("alt",))
        assert not bench.desk.state.selected
