"""Find: words are looked for in all of the document, and the canvas goes there; by key and by finger."""

from __future__ import annotations

from typing import Any

import pytest

from engine_app.document.apply import apply
from engine_app.document.edits import Batch, MakeSubgraph, MoveNodes, Rename, SetFrame
from engine_app.document.view import Frame, FrameKind, Rect
from tests.e2e.engine_app.bench import Bench, Shown
from tests.unit.engine_app.document.builders import line

pytestmark = pytest.mark.e2e

ESCAPE, ENTER, F3 = 27, 13, 284
NOTE = Frame("n", "Why 64 units are enough", Rect(9_000, 7_000, 240, 120))
GRAPH = apply(
    line("Dense", "ReLU", "Tanh", "Sigmoid"),
    Batch(
        (
            SetFrame(FrameKind.NOTE, NOTE),
            MoveNodes({"sigmoid": (20_000.0, -9_000.0)}),
            Rename("sigmoid", "Squash"),
            Rename("relu", "Dense too"),
            MakeSubgraph(("relu", "tanh")),
        )
    ),
)


def panel_of(bench: Any) -> Any:
    from engine_app.ui.panels.find import FindPanel

    return next((each for each in bench.page.walk() if isinstance(each, FindPanel)), None)


def is_seen(bench: Any, rect: Rect) -> bool:
    """Whole, below the panel, and large enough to be read."""
    canvas = bench.canvas
    _, top = canvas.view.to_screen(rect.x, rect.y)
    seen = canvas.view.visible
    below = top >= canvas.y + canvas.height - panel_of(bench).y
    return seen.x <= rect.x and rect.right <= seen.right and rect.bottom <= seen.bottom and below


async def write(bench: Any, driver: Any, text: str) -> Any:
    panel_of(bench).field.input.text = text
    await driver.frames(3)
    return panel_of(bench)


async def test_what_is_written_is_gone_to_and_stepped_through_by_keys(show: Any) -> None:
    bench = Bench(GRAPH)
    async with Shown(bench, show) as driver:
        canvas, desk = bench.canvas, bench.desk
        driver.key(ord("f"), modifiers=("ctrl",))
        await driver.frames(3)
        assert bench.host.ring.writing is panel_of(bench).field.input
        panel = await write(bench, driver, "dense")
        assert panel.told.text == "1 of 2"
        assert desk.state.selected == {"dense"} and is_seen(
            bench, canvas.scene.rect(canvas.scene.index["dense"])
        )
        driver.key(ENTER)
        await driver.frames(2)
        assert (panel.told.text, desk.state.inside, desk.state.selected) == (
            "2 of 2",
            ("subgraph",),
            {"relu"},
        )
        driver.key(F3)
        assert desk.state.inside == () and desk.state.selected == {"dense"}
        driver.key(F3, modifiers=("shift",))
        assert desk.state.selected == {"relu"}
        assert bench.graph == GRAPH and not desk.can_undo
        driver.key(ESCAPE)
        await driver.frames(2)
        assert panel_of(bench) is None and bench.host.ring.current is None


async def test_titles_and_notes_far_away_come_near_enough_to_be_read(show: Any) -> None:
    bench = Bench(GRAPH)
    async with Shown(bench, show) as driver:
        canvas = bench.canvas
        assert canvas.view.zoom < 0.1
        bench.page.command("find")
        await write(bench, driver, "squash")
        assert bench.desk.state.selected == {"sigmoid"} and canvas.view.zoom == 1
        assert is_seen(bench, canvas.scene.rect(canvas.scene.index["sigmoid"]))
        await write(bench, driver, "64 units")
        assert is_seen(bench, NOTE.rect) and not bench.desk.state.selected
        panel = await write(bench, driver, "nonsense")
        assert panel.told.text == "Nothing is called that" and panel.found == []
        driver.key(F3)
        assert bench.graph == GRAPH


async def test_a_finger_opens_it_taps_a_match_and_closes_it(show: Any) -> None:
    bench = Bench(GRAPH)
    async with Shown(bench, show) as driver:
        named = {each.tip: each for each in bench.page.walk() if getattr(each, "tip", "")}
        await driver.tap(named["Find in the graph"])
        panel = await write(bench, driver, "dense")
        rows = [each for each in panel.walk() if type(each).__name__ == "ListRow"]
        assert [row.name for row in rows] == ["Dense", "Dense too"]
        await driver.tap(rows[1])
        assert bench.desk.state.inside == ("subgraph",) and bench.desk.state.selected == {"relu"}
        await driver.tap(panel.told)  # nothing below it is touched
        assert bench.desk.state.selected == {"relu"}
        buttons = {each.tip: each for each in panel.walk() if getattr(each, "tip", "")}
        await driver.tap(buttons["The one before"])
        assert bench.desk.state.selected == {"dense"}
        await driver.tap(buttons["Close"])
        assert panel_of(bench) is None


async def test_what_is_gone_since_is_not_found_any_more(show: Any) -> None:
    bench = Bench(GRAPH)
    async with Shown(bench, show) as driver:
        bench.page.command("find")
        panel = await write(bench, driver, "dense")
        bench.desk.remove("subgraph")
        driver.key(F3)
        assert panel.told.text == "1 of 1" and bench.desk.state.selected == {"dense"}
