"""The history of runs under a finger: compared, saved as picture and table; what failed says why."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from PIL import Image

from engine_app.ui.runs import Run, RunFiles

pytestmark = pytest.mark.e2e


def keep_run(folder: Path, number: int, rate: float, outcome: str = "done", text: str = "") -> None:
    run = Run(f"net {number}", "bundled:digits", number, outcome=outcome, text=text)
    for step in range(1, 51):
        run.add({"step": step, "loss": 2.0 / (1 + rate * step), "accuracy": 1 - 1 / (1 + rate * step)})
    RunFiles(folder).save(run.saved(1e9 + number))


def rows_of(window: Any) -> dict[str, Any]:
    from engine_app.ui.widgets.buttons import ListRow

    return {each.name: each for each in window.content.walk() if isinstance(each, ListRow)}


async def tap_row(window: Any, driver: Any, name: str) -> None:
    """Scrolled to before, as a finger would."""
    from engine_app.ui.widgets.scroll import scroll_of

    row = rows_of(window)[name]
    scroll = scroll_of(row)
    assert scroll is not None
    scroll.scroll_to(row)
    await driver.frames(2)
    await driver.tap(row)


def legend(window: Any) -> list[str]:
    texts = (getattr(each, "text", "") for each in reversed(window.content._curves._legend.children))
    return [text for text in texts if text]


async def save_as(window: Any, driver: Any, path: Path) -> None:
    """Presses the button of the curves, writes the path and presses Save."""
    from engine_app.ui.widgets.buttons import IconButton, PushButton
    from engine_app.ui.widgets.fields import TextField

    tip = "Save as a picture and as a table"
    await driver.tap(next(e for e in window.content.walk() if isinstance(e, IconButton) and e.tip == tip))
    await driver.frames(3)
    sheet = window.host.children[0]
    next(each for each in sheet.walk() if isinstance(each, TextField)).input.text = str(path)
    await driver.frames(2)
    await driver.tap(next(e for e in sheet.walk() if isinstance(e, PushButton) and e.text == "Save"))
    await driver.frames(2)


async def test_two_runs_are_compared_and_their_curves_saved_as_a_picture_and_a_table(
    open_window: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "engine" / "runs"
    for number, rate in ((1, 0.1), (2, 0.5), (3, 0.9)):
        keep_run(folder, number, rate)
    async with open_window() as (window, driver):
        assert len(window.trainer.history) == 3, window.trainer._files._folder
        window.show_page("train")
        await driver.frames(4)
        for name in ("1  net 1", "2  net 2"):
            await tap_row(window, driver, name)
        assert legend(window) == ["training, run 2", "training, run 1"]
        await tap_row(window, driver, "3  net 3")  # the one that was chosen first gives way
        assert legend(window) == ["training, run 3", "training, run 2"]
        await tap_row(window, driver, "3  net 3")
        assert legend(window) == ["training"]
        await tap_row(window, driver, "1  net 1")
        target = tmp_path / "saved" / "curves.png"
        await trio.Path(target.parent).mkdir()
        await save_as(window, driver, target)
        await driver.until(lambda: window.host.message == "Saved curves.png and curves.csv")
        plot = window.content._curves.plot
        with Image.open(target) as picture:
            assert picture.width == round(plot.width) and picture.height > round(plot.height)
            line = tuple(round(255 * each) for each in window.host.look.palette.plots[0][:3])
            drawn = np.argwhere((np.asarray(picture.convert("RGB")) == line).all(-1))
            assert drawn[:, 1].min() < 0.1 * picture.width and drawn[:, 1].max() > 0.95 * picture.width
        table = [*csv.DictReader((await trio.Path(target.with_suffix(".csv")).read_text()).splitlines())]
        assert [*table[0]] == ["step", "training, run 1", "training, run 2"]
        assert len(table) == 50
        for row in table:
            for name, rate in (("training, run 1", 0.1), ("training, run 2", 0.5)):
                assert float(row[name]) == pytest.approx(2.0 / (1 + rate * float(row["step"])))
        assert {each.name for each in await trio.Path(target.parent).iterdir()} == {
            "curves.png",
            "curves.csv",
        }


async def test_neither_file_is_replaced_without_asking(open_window: Any, tmp_path: Path) -> None:
    keep_run(tmp_path / "engine" / "runs", 1, 0.3)
    table = trio.Path(tmp_path / "curves.csv")
    await table.write_text("precious")
    async with open_window() as (window, driver):
        window.show_page("train")
        await driver.frames(4)
        await tap_row(window, driver, "1  net 1")
        await save_as(window, driver, tmp_path / "curves.png")
        assert window.host.is_asking and await table.read_text() == "precious"
        driver.key(27)
        await driver.frames(2)
        assert await table.read_text() == "precious"


async def test_a_training_that_fails_at_its_first_step_is_in_the_history_with_its_reason(
    open_window: Any, tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    samples = random.normal(0, 1e30, (200, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "huge.npz", x=samples, y=np.arange(200) % 10)
    async with open_window() as (window, driver):
        window.open_example()
        window.desk.remove("normalize")
        window.show_page("train")
        trainer = window.trainer
        trainer.choose(str(tmp_path / "huge.npz"))
        await driver.until(lambda: trainer.preview is not None)
        trainer.start(window.desk.graph)
        with trio.fail_after(180):
            while not trainer.history:
                await driver.frames(1)
        (saved,) = trainer.history
        assert saved.outcome == "failed" and "norm1" in saved.text
        await driver.frames(3)
        row = rows_of(window)[f"1  {window.desk.graph.name}"]
        assert row._note.text.startswith("Failed: ") and "norm1" in row._note.text
        assert window.content._status.text == f"Failed: {saved.text}"
