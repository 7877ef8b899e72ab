"""Fingers and mouse become gestures, whatever order they come in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine_app.document.view import Rect
from engine_app.scene.gestures import (
    LONG_PRESS_S,
    Button,
    DoubleTapped,
    DragBegun,
    DragCancelled,
    DragEnded,
    Dragged,
    GestureRecognizer,
    Held,
    Pinched,
    Pressed,
    Tapped,
)
from engine_app.scene.view import MAX_ZOOM, MIN_ZOOM, View


def test_a_finger_that_slips_a_little_still_taps() -> None:
    seen = GestureRecognizer()
    assert seen.down(1, 10, 10, 0) == [Pressed(10, 10)]
    assert seen.move(1, 15, 14) == []
    assert seen.up(1, 15, 14, 0.1) == [Tapped(10, 10)]


def test_two_taps_near_each_other_are_one_double_tap() -> None:
    seen = GestureRecognizer()
    found = []
    for at in (0.0, 0.2, 0.4):
        seen.down(1, 10, 10, at)
        found += seen.up(1, 12, 10, at + 0.05)
    assert found == [Tapped(10, 10), DoubleTapped(10, 10), Tapped(10, 10)]


def test_a_drag_begins_where_the_finger_went_down_and_loses_no_distance() -> None:
    seen = GestureRecognizer()
    seen.down(1, 0, 0, 0)
    found = [*seen.move(1, 8, 0), *seen.move(1, 30, 0), *seen.up(1, 40, 5, 1)]
    assert found == [DragBegun(0, 0), Dragged(30, 0, 30, 0), Dragged(40, 5, 10, 5), DragEnded(40, 5)]


def test_a_long_press_is_told_while_the_finger_is_down_and_what_it_does_then_is_the_menus() -> None:
    seen = GestureRecognizer()
    seen.down(1, 5, 5, 0)
    assert seen.tick(LONG_PRESS_S - 0.1) == []
    assert seen.tick(LONG_PRESS_S) == [Held(5, 5)]
    assert seen.tick(9) == []
    assert seen.move(1, 50, 5) == []


def test_a_frame_that_takes_long_makes_no_long_press_of_a_drag() -> None:
    seen = GestureRecognizer()
    seen.down(1, 5, 5, 0)
    assert seen.tick(2 * LONG_PRESS_S) == []
    assert seen.move(1, 50, 5) == [DragBegun(5, 5), Dragged(50, 5, 45, 0)]
    assert seen.tick(3 * LONG_PRESS_S) == []


def test_a_second_finger_cancels_a_drag_and_both_move_the_view() -> None:
    seen = GestureRecognizer()
    seen.down(1, 100, 100, 0)
    seen.move(1, 130, 100)
    assert seen.down(2, 230, 100, 0.1) == [DragCancelled()]
    assert seen.move(2, 330, 100) == [Pinched(230, 100, 50, 0, 2.0)]
    assert seen.up(2, 330, 100, 0.2) == [Pinched(230, 100, 0, 0, 1.0)]
    assert seen.move(1, 0, 0) == [] and seen.up(1, 0, 0, 0.3) == []
    assert seen.is_idle


def test_the_right_button_taps_for_the_menu_and_never_holds() -> None:
    seen = GestureRecognizer()
    seen.down(1, 5, 5, 0, button=Button.SECONDARY)
    assert seen.tick(4) == seen.tick(5) == []
    assert seen.up(1, 5, 5, 6) == [Tapped(5, 5, secondary=True)]


@given(
    st.lists(st.tuples(st.sampled_from("dmutc"), st.integers(0, 3), st.integers(0, 99), st.integers(0, 99)))
)
def test_every_drag_that_begins_ends_once(events: list[tuple[str, int, int, int]]) -> None:
    seen, dragging = GestureRecognizer(), False
    for at, (what, finger, x, y) in enumerate(events):
        match what:
            case "d":
                found = seen.down(finger, x, y, at / 5)
            case "m":
                found = seen.move(finger, x, y)
            case "u":
                found = seen.up(finger, x, y, at / 5)
            case "t":
                found = seen.tick(at / 5)
            case _:
                found = seen.cancel()
        for each in found:
            match each:
                case DragBegun():
                    assert not dragging
                    dragging = True
                case Dragged():
                    assert dragging
                case DragEnded() | DragCancelled():
                    assert dragging
                    dragging = False


@given(st.floats(0.1, 9), st.floats(0, 1280), st.floats(0, 800))
def test_zooming_keeps_what_is_under_the_finger(factor: float, x: float, y: float) -> None:
    view = View(30, -40, 0.7)
    found = view.zoomed(factor, x, y)
    before, after = view.to_world(x, y), found.to_world(x, y)
    assert MIN_ZOOM <= found.zoom <= MAX_ZOOM
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) < 1e-6


def test_what_is_fitted_is_all_in_sight() -> None:
    rect = Rect(-500, 200, 4000, 300)
    seen = View().fitted(rect).visible
    assert seen.x < rect.x and seen.right > rect.right and seen.y < rect.y and seen.bottom > rect.bottom
