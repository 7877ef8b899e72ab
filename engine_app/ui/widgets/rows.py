"""A long list whose rows are made as they come into view. What has been made is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kivy.uix.widget import Widget

from engine_app.ui import theme
from engine_app.ui.theme import Look

AHEAD_DP = 2 * (theme.TOUCH + theme.STEP)
"""Rows so far out of sight are there too, so that the keyboard can go on to them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """``key`` tells rows apart that are shown again in another order; ``height`` in pixels."""

    key: str
    height: float
    make: Callable[[], Widget]


class LazyRows(Widget):
    """The body of a Scroll, which tells it what can be seen."""

    def __init__(self, look: Look, side: float = 0.0, below: float = 0.0) -> None:
        """Left free at both sides and below the last row, in dp."""
        super().__init__(size_hint_y=None, height=0)
        self._side, self._below, self._ahead = look.px(side), look.px(below), look.px(AHEAD_DP)
        self._made: dict[str, Widget] = {}
        self._entries: Sequence[Entry] = ()
        self._tops: list[float] = []
        self._seen = (0.0, 0.0)
        self.bind(pos=self._place, size=self._place)

    def show(self, entries: Sequence[Entry]) -> None:
        """Other rows, or others first."""
        self._entries, self._tops, top = entries, [], 0.0
        for entry in entries:
            self._tops.append(top)
            top += entry.height
        self.height = top + self._below
        self._fill()

    def look_between(self, top: float, bottom: float) -> None:
        """What can be seen, in pixels below the first row's top."""
        if (top, bottom) != self._seen:
            self._seen = (top, bottom)
            self._fill()

    def _fill(self) -> None:
        top, bottom = self._seen[0] - self._ahead, self._seen[1] + self._ahead
        wanted = [
            entry
            for entry, at in zip(self._entries, self._tops, strict=True)
            if at < bottom and at + entry.height > top
        ]
        rows = [self._row(entry) for entry in wanted]
        if rows != self.children[::-1]:
            self.clear_widgets()
            for row in rows:
                self.add_widget(row)
        self._place()

    def _row(self, entry: Entry) -> Widget:
        if entry.key not in self._made:
            self._made[entry.key] = entry.make()
        return self._made[entry.key]

    def _place(self, *_: Any) -> None:
        top = self.y + self.height
        for entry, at in zip(self._entries, self._tops, strict=True):
            row = self._made.get(entry.key)
            if row is not None and row.parent is self:
                row.size = (self.width - 2 * self._side, entry.height)
                row.pos = (self.x + self._side, top - at - entry.height)
