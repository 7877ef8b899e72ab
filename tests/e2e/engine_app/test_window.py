"""The whole window, drawn offscreen, under a finger and under keys."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.graph import Graph
from engine_app.ui.examples import DIGITS

pytestmark = pytest.mark.e2e

Open = Callable[..., AbstractAsyncContextManager[tuple[Any, Any]]]


def row_named(panel: Any, name: str) -> Any:
    from engine_app.ui.widgets.buttons import ListRow

    return next(each for each in panel.walk() if isinstance(each, ListRow) and each.name == name)


async def press(window: Any, driver: Any, name: str) -> None:
    """What says so on the topmost sheet."""
    from engine_app.ui.widgets.buttons import PushButton

    await driver.frames(3)
    sheet = window.host.children[0]
    await driver.tap(next(e for e in sheet.walk() if isinstance(e, PushButton) and e.text == name))


async def test_a_node_is_found_added_changed_and_all_of_it_undone(open_window: Open) -> None:
    async with open_window() as (window, driver):
        window.open_example()
        window.desk.select("relu1")
        await driver.frames()
        from engine_app.ui.panels.palette import PalettePanel

        palette = next(each for each in window.host.walk() if isinstance(each, PalettePanel))
        palette.search.field.input.text = "dropout"
        await driver.frames(3)
        assert palette.shown[0] == "Dropout"
        await driver.tap(row_named(palette, "Dropout"))
        assert window.desk.selected == "dropout2"
        assert window.desk.can_train
        window.desk.set_parameter("dropout2", "rate", 0.1)
        for _ in range(2):
            driver.key(ord("z"), modifiers=("ctrl",))
        assert unplaced(window.desk.graph) == DIGITS
        driver.key(ord("y"), modifiers=("ctrl",))
        assert window.desk.graph.node("dropout2").type == "Dropout"


async def test_a_node_that_is_added_out_of_sight_comes_into_sight(open_window: Open) -> None:
    async with open_window() as (window, driver):
        window.open_example()
        await driver.frames(3)
        bench = window.content.bench
        canvas = bench.canvas_widget
        away = canvas.view.panned(-5000, 3000)
        for before in ("output", "conv1"):
            window.desk.select(before)
            canvas.look_at(away)
            bench.add("ReLU")
            rect = canvas.scene.rect(canvas.scene.index[window.desk.selected])
            seen = canvas.view.visible
            assert seen.x < rect.x < seen.x + seen.width - rect.width
            assert seen.y < rect.y < seen.y + seen.height - rect.height


async def test_a_search_is_opened_written_and_taken_by_keys(open_window: Open) -> None:
    from engine_app.ui.panels.palette import PalettePanel

    async with open_window() as (window, driver):
        for text, count in (("", 0), ("drop", 1)):
            driver.key(32)
            await driver.until(lambda: window.host.is_asking)
            sheet = window.host.children[0]
            palette = next(each for each in sheet.walk() if isinstance(each, PalettePanel))
            palette.search.field.input.focus = True  # which a narrow window leaves to a finger
            await driver.frames(2)
            driver.write(text)
            await driver.frames(2)
            driver.key(13)
            await driver.frames(2)
            assert [node.type for node in window.desk.graph.nodes] == ["Dropout"] * count
            assert window.host.is_asking == (count == 0)
            window.host.close()


async def test_a_problem_is_told_and_put_right_with_a_tap(open_window: Open) -> None:
    async with open_window() as (window, driver):
        window.open_example()
        window.desk.remove("output")
        await driver.frames(3)
        bar = window.bar
        assert not window.desk.can_train
        await driver.tap(bar.problems_button)
        await driver.frames(10)
        from engine_app.ui.widgets.buttons import PushButton

        problem = window.desk.analysis.diagnostics[0]
        sheet = window.host.children[0]
        await driver.tap(next(each for each in sheet.walk() if isinstance(each, PushButton)))
        assert problem.text == "the graph has no Output node, must have one or more"
        assert problem.text not in [each.text for each in window.desk.analysis.diagnostics]
        driver.key(27)
        driver.key(ord("z"), modifiers=("ctrl",))
        assert problem in window.desk.analysis.diagnostics


async def test_the_panel_of_the_graph_follows_what_is_opened(open_window: Open) -> None:
    from engine_app.ui.panels.inspector import InspectorPanel

    async with open_window() as (window, driver):
        inspector = next(each for each in window.host.walk() if isinstance(each, InspectorPanel))
        window.open_example()
        await driver.frames(3)
        assert inspector._name.text == DIGITS.name
        assert inspector._epochs.field.text == str(DIGITS.training.epochs)
        assert inspector._seed.field.text == str(DIGITS.training.seed)


async def test_the_graph_is_named_and_no_name_is_refused(open_window: Open) -> None:
    from engine_app.ui.panels.inspector import InspectorPanel
    from engine_app.ui.widgets.fields import TextField

    async with open_window() as (window, driver):
        inspector = next(each for each in window.host.walk() if isinstance(each, InspectorPanel))
        field = next(each for each in inspector.walk() if isinstance(each, TextField))
        for text in ("Mine", ""):
            field.input.focus = True
            field.input.text = text
            field.input.focus = False
            await driver.frames()
        assert field.problem
        assert window.desk.graph.name == "Mine"


async def test_what_is_saved_is_opened_again_and_a_bad_file_is_told(
    open_window: Open, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    async with open_window() as (window, driver):
        window.open_example()
        window.desk.set_parameter("dropout", "rate", 0.5)
        window._write(path)
        await driver.until(lambda: not window.desk.is_changed)
        assert window.settings.recent == (str(path),)
    (tmp_path / "bad.json").write_text("{")
    async with open_window(path) as (window, driver):
        await driver.until(lambda: window.desk.graph.name == DIGITS.name)
        assert window.desk.graph.node("dropout").parameters["rate"] == 0.5
        (tmp_path / "bad.cyxmodel").write_bytes(b"PK\x03\x04 and no more")
        window.desk.rename("changed")
        for name, told in (
            ("bad.json", "not JSON"),
            ("bad.cyxmodel", "archive of 16 bytes"),
            ("gone.json", "No such file"),
        ):
            window.host.close_toast()
            window.open_file(tmp_path / name)
            if window.desk.is_changed:
                await driver.until(lambda: window.host.is_asking)
                await press(window, driver, "Discard them")
            meanwhile = ("", f"Opening {name} …")
            await driver.until(lambda meanwhile=meanwhile: window.host.message not in meanwhile)
            assert window.host.message.startswith(f"{name}: {told}"), window.host.message
            assert window.desk.graph.name == "changed" and window.desk.can_undo


async def test_a_narrow_window_has_sheets_and_the_look_can_change(open_window: Open) -> None:
    from kivy.core.window import Window

    from engine_app.ui.pictures import resize

    async with open_window() as (window, driver):
        before = Window.size
        window.open_example()
        try:
            await resize(800, 1280)
            await driver.until(lambda: not window.host.is_wide)
            await driver.frames(3)
            window.content.show_list()
            await driver.frames(3)
            await driver.tap(row_named(window.host, "Flatten"))
            assert window.desk.selected == "flatten"
            assert window.host.is_asking
            driver.key(27)
            assert not window.host.is_asking
            import msgspec

            window.change_settings(msgspec.structs.replace(window.settings, palette="light", scale=1.5))
            await driver.frames(3)
            assert window.host.look.palette.name == "light"
            window.content.show_list()
            await driver.frames(3)
            assert min(row_named(window.host, "Flatten").size) >= 72
        finally:
            await resize(*before)


def unplaced(graph: Graph) -> Graph:
    """As an example is before it is laid out."""
    return replace(graph, nodes=tuple(replace(node, extra={}) for node in graph.nodes))


async def test_the_tour_comes_once_and_ends_in_the_example(open_window: Open) -> None:

    async with open_window(greets=True) as (window, driver):
        for name in ("Next", "Next", "Open the digits example"):
            await driver.until(lambda: window.host.is_asking)
            await press(window, driver, name)
        assert unplaced(window.desk.graph) == DIGITS
    async with open_window(greets=True) as (window, driver):
        assert not window.host.is_asking


async def test_what_was_not_saved_when_the_window_died_is_recovered(
    open_window: Open, tmp_path: Path
) -> None:

    folder = tmp_path / "engine" / "recovery"
    async with open_window() as (window, driver):
        window.open_example()
        window.desk.set_parameter("dropout", "rate", 0.5)
        await driver.until(lambda: any(folder.glob("*.json")))
        edited = window.desk.graph
    async with open_window() as (window, driver):
        await driver.until(lambda: window.host.is_asking)
        await press(window, driver, "Recover")
        assert window.desk.graph == edited
        assert window.desk.is_changed
        window._write(tmp_path / "kept.json")
        await driver.until(lambda: not any(folder.glob("*.json")))


async def test_what_was_lost_of_a_file_is_offered_when_it_is_opened_again(
    open_window: Open, tmp_path: Path
) -> None:
    path, folder = tmp_path / "mine.json", tmp_path / "engine" / "recovery"
    async with open_window() as (window, driver):
        window.open_example()
        window._write(path)
        await driver.until(lambda: window.path == path)
        window.desk.set_parameter("dropout", "rate", 0.5)
        await driver.until(lambda: any(folder.glob("*.json")))
        edited = window.desk.graph
    async with open_window(path) as (window, driver):
        await driver.until(lambda: window.host.is_asking)
        assert not window.desk.graph.nodes and any(folder.glob("*.json"))
        await press(window, driver, "Recover")
        assert window.desk.graph == edited and window.path == path
    async with open_window(path) as (window, driver):
        await driver.until(lambda: window.host.is_asking)
        await press(window, driver, "Open as saved")
        assert unplaced(window.desk.graph) == DIGITS
        await driver.until(lambda: not any(folder.glob("*.json")))


async def test_what_was_lost_is_there_until_somebody_says_what_becomes_of_it(
    open_window: Open, tmp_path: Path
) -> None:
    folder = tmp_path / "engine" / "recovery"
    async with open_window() as (window, driver):
        window.open_example()
        window.desk.rename("lost")
        await driver.until(lambda: any(folder.glob("*.json")))
    async with open_window() as (window, driver):
        await driver.until(lambda: window.host.is_asking)
        driver.key(27)
        window.desk.add("Dense")
        await driver.until(lambda: len([*folder.glob("*.json")]) == 2)
        window.desk.undo()
        await driver.until(lambda: len([*folder.glob("*.json")]) == 1)
    async with open_window() as (window, driver):
        await driver.until(lambda: window.host.is_asking)
        await press(window, driver, "Recover")
        assert window.desk.graph.name == "lost"
        await driver.until(lambda: len([*folder.glob("*.json")]) == 1)
    async with open_window() as (window, driver):
        await driver.until(lambda: window.host.is_asking)
        await press(window, driver, "Throw away")
        assert not any(folder.glob("*.json")) and not window.desk.graph.nodes


async def test_what_cannot_be_kept_is_told_once_and_kept_as_soon_as_that_is_possible(
    open_window: Open, tmp_path: Path
) -> None:
    folder = tmp_path / "engine" / "recovery"
    async with open_window() as (window, driver):
        folder.parent.mkdir(exist_ok=True)
        folder.write_text("in the way")
        window.open_example()
        window.desk.rename("first")
        await driver.until(lambda: "cannot keep" in window.host.message)
        folder.unlink()
        window.desk.rename("second")
        await driver.until(lambda: any(folder.glob("*.json")))


async def test_a_graph_that_is_there_already_is_not_replaced_without_asking(
    open_window: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_window() as (window, driver):
        window.open_example()
        window.save()
        await press(window, driver, "Save")
        await driver.until(lambda: window.path is not None)
        path = window.path
        path.write_text("precious")
        window.path = None
        window.save()
        await press(window, driver, "Save")
        await driver.until(lambda: window.host.is_asking)
        assert path.read_text() == "precious"
        await press(window, driver, "Replace")
        await driver.until(lambda: path.read_text() != "precious")


async def test_another_graph_is_begun_and_a_copy_saved_by_keys(
    open_window: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine_app.ui.widgets.fields import TextField

    monkeypatch.chdir(tmp_path)
    async with open_window() as (window, driver):
        window.open_example()
        for name in ("one.json", "two.json"):
            driver.key(ord("s"), modifiers=("ctrl", "shift"))
            await driver.frames(3)
            field = next(e for e in window.host.children[0].walk() if isinstance(e, TextField))
            field.input.text = str(tmp_path / name)
            await press(window, driver, "Save")
            await driver.until(lambda name=name: window.path == tmp_path / name)
        window.desk.rename("changed")
        driver.key(ord("n"), modifiers=("ctrl",))
        await press(window, driver, "Discard them")
        assert not window.desk.graph.nodes and window.path is None
        assert set(window.settings.recent) == {str(tmp_path / name) for name in ("one.json", "two.json")}


async def test_digits_are_trained_from_the_window_paused_and_shown(open_window: Open) -> None:
    from engine_app.ui.panels.confusion import Confusion

    async with open_window() as (window, driver):
        window.open_example()
        window.desk.set_training(epochs=40)
        canvas = window.content.bench.canvas_widget
        window.show_page("train")
        trainer = window.trainer
        await driver.until(lambda: trainer.preview is not None)
        assert trainer.preview.description.samples == 1797
        trainer.start(window.desk.graph)
        states = []
        trainer.listen(lambda: states.append(trainer.state))
        with trio.fail_after(180):
            while trainer.state != "training":
                await driver.frames(1)
            while not canvas._training.sparks or not canvas._speed:
                assert trainer.state == "training"
                await driver.frames(1)
            assert canvas._training.phase is not None
            trainer.pause()
            while trainer.state == "training":
                await driver.frames(1)
            assert canvas._training.phase is not None and canvas._speed == 0
            trainer.change_rate(0.005)
            trainer.resume()
            while not trainer.history:
                await driver.frames(1)
        assert "paused" in states
        assert trainer.run.outcome == "done", trainer.run.text
        assert trainer.run.metrics["test_accuracy"] > 0.9
        assert len(trainer.run.curves["loss"]) > 1
        assert trainer.run.metrics["learning_rate"] == 0.005
        assert await trio.Path(trainer.run.output).is_file()
        await driver.frames(3)
        matrix = next(each for each in window.host.walk() if isinstance(each, Confusion))
        assert matrix.height > 100
        spread = canvas._training.sparks["conv1"]
        assert spread.gradients and spread.spread and canvas._training.phase is None
        window.desk.rename("another")
        assert not canvas._training.sparks


async def test_a_training_is_cancelled_and_bad_data_is_told(open_window: Open, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("a,b\n1")
    async with open_window() as (window, driver):
        window.open_example()
        trainer = window.trainer
        trainer.choose(str(tmp_path / "bad.csv"))
        await driver.until(lambda: not trainer.is_reading)
        assert trainer.problem
        trainer.choose("bundled:digits")
        await driver.until(lambda: trainer.preview is not None)
        trainer.start(window.desk.graph)
        await driver.until(lambda: trainer.state == "waiting")
        trainer.cancel()
        with trio.fail_after(60):
            while trainer.is_busy:
                await driver.frames(1)
        assert trainer.run.outcome == "cancelled"


async def test_two_fingers_zoom_a_plot_one_reads_it_and_two_taps_show_all(show: Any) -> None:
    from engine_app.ui.curves import Curve
    from engine_app.ui.plots import Plot, Shown
    from engine_app.ui.theme import DARK, Look

    curve = Curve()
    for step in range(1000):
        curve.append(step, step / 1000)
    plot = Plot(Look())
    plot.show({"loss": Shown(curve, DARK.plots[0])})
    async with show(plot) as driver:
        x, y = plot.center
        one, other = driver.finger(x - 50, y), driver.finger(x + 50, y)
        one.down()
        other.down()
        for step in range(1, 6):
            one.move(x - 50 - 10 * step, y)
            other.move(x + 50 + 10 * step, y)
            await driver.frames(1)
        one.up()
        other.up()
        assert plot._view is not None
        assert 400 < plot._view.length < 600
        await driver.tap_at(x, y)
        assert plot._cursor is not None
        assert abs(plot._cursor - 500) < 60
