"""The graph is in sight in every size of the window, until its user looks elsewhere, and can be read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.engine_app.bench import MLP, Bench, Shown

pytestmark = pytest.mark.e2e


async def test_what_is_in_sight_whole_stays_so_in_another_size_until_one_looks_elsewhere(show: Any) -> None:
    bench = Bench()
    async with Shown(bench, show) as driver:
        canvas = bench.canvas
        small = canvas.view.zoom
        canvas.size = (canvas.width / 2, canvas.height)
        assert canvas.view.zoom < 0.6 * small
        canvas.size = (canvas.width * 2, canvas.height)
        assert canvas.view.zoom == pytest.approx(small)
        canvas.look_at(canvas.view.panned(10, 0))
        await driver.frames(1)
        mine, middle = canvas.view.zoom, canvas.view.visible.centre
        canvas.size = (canvas.width / 2, canvas.height)
        assert canvas.view.zoom == mine and canvas.view.visible.centre == pytest.approx(middle)


def test_a_larger_size_of_everything_leaves_what_is_drawn_in_a_node() -> None:
    from engine_app.ui.canvas import CanvasActions, GraphCanvas
    from engine_app.ui.desk import Desk
    from engine_app.ui.theme import SCALES, Look

    ignore: Any = lambda *_: None  # noqa: E731
    for scale in (1.0, SCALES[-1]):
        canvas = GraphCanvas(Look(pixels_per_dp=scale), Desk(MLP), CanvasActions(*[ignore] * 4))
        canvas.look_at(canvas.view.zoomed(0.32 / canvas.view.zoom, 0, 0))
        canvas._draw()
        assert canvas._still.blocks._is_empty and not canvas._still.glyphs._is_empty
        canvas.close()
