"""Where the canvas looks."""

from __future__ import annotations

import pytest

from engine_app.document.view import Rect
from engine_app.scene.view import View

VIEW = View(x=100, y=50, zoom=0.5, width=400, height=300)
"""Shows 800 by 600 of the world."""


def test_what_is_in_sight_moves_nothing() -> None:
    assert VIEW.showing(Rect(200, 200, 160, 80), 20) == VIEW


@pytest.mark.parametrize(
    ("rect", "x", "y"),
    [
        (Rect(1000, 200, 160, 80), 1000 + 160 + 40 - 800, 50),
        (Rect(-300, 200, 160, 80), -340, 50),
        (Rect(200, 900, 160, 80), 100, 900 + 80 + 40 - 600),
        (Rect(200, 0, 160, 80), 100, -40),
        (Rect(890, 200, 5, 80), 135, 50),
    ],
    ids=["right", "left", "below", "above", "too near to an edge"],
)
def test_what_is_out_of_sight_comes_in_by_the_shortest_way(rect: Rect, x: float, y: float) -> None:
    found = VIEW.showing(rect, 20)
    assert (found.x, found.y, found.zoom) == (x, y, VIEW.zoom)


def test_of_what_is_too_large_the_upper_left_is_seen() -> None:
    found = VIEW.showing(Rect(2000, 3000, 900, 700), 20)
    assert (found.x, found.y) == (2000, 3000)


def test_a_margin_gives_way_to_what_must_be_seen() -> None:
    found = VIEW.showing(Rect(2000, 200, 780, 80), 300)
    assert (found.x, found.y) == (1990, 200 - 260)


def test_what_is_fitted_stays_above_what_lies_at_the_bottom() -> None:
    tall = Rect(-100, 300, 50, 4000)
    found = VIEW.fitted(tall, 20, foot=60)
    _, top = found.to_screen(tall.x, tall.y)
    _, bottom = found.to_screen(tall.x, tall.bottom)
    assert (top, bottom) == pytest.approx((20, VIEW.height - 60))
