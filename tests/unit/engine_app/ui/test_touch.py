from __future__ import annotations

from collections import deque
from typing import Any

from engine_app.ui.touch import FingerEvents


class Window:
    """SDL's, with a script."""

    cursor = "arrow"

    def __init__(self, *events: Any) -> None:
        self.events = deque(events)

    def poll(self) -> Any:
        return self.events.popleft() if self.events else False


def test_fingers_reach_their_queue_in_order_and_everything_else_the_window() -> None:
    down, up = ("fingerdown", 1, 0.5, 0.5, 1.0), ("fingerup", 1, 0.6, 0.5, 1.0)
    queue: deque[Any] = deque()
    events = FingerEvents(Window(down, ("mousemotion", 3, 4), None, up), queue)
    assert [events.poll(), events.poll(), events.poll()] == [("mousemotion", 3, 4), None, False]
    assert [queue.pop(), queue.pop()] == [down, up]


def test_the_rest_of_the_window_is_as_it_was() -> None:
    window = Window()
    events = FingerEvents(window, deque())
    events.cursor = "hand"
    assert (events.cursor, window.cursor) == ("hand", "hand")
