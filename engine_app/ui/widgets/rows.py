"""A long list whose rows are made as they come into view. What has been made is kept, up to a number."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kivy.uix.widget import Widget

from engine_app.ui import theme
from engine_app.ui.theme import Look

AHEAD_DP = 2 * (theme.TOUCH + theme.STEP)
"""Rows so far out of sight are there too, so that the keyboard can go on to them."""
KEPT_ROWS = 500
"""Of those that have been made; then only what is in view is kept."""


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

    @property
    def made(self) -> Mapping[str, Widget]:
        """The rows that there are, by key."""
        return self._made

    def show(self, entries: Sequence[Entry], *, anew: bool = False) -> None:
        """Other rows, or others first. ``anew``: those of a known key say something else than before."""
        self._entries, self._tops, top = entries, [], 0.0
        for entry in entries:
            self._tops.append(top)
            top += entry.height
        if anew:
            self._made = {}
        self.height = top + self._below
        self._fill()

    def look_between(self, top: float, bottom: float) -> None:
        """What can be seen, in pixels below the first row's top."""
        if (top, bottom) != self._seen:
            self._seen = (top, bottom)
            self._fill()

    def place_of(self, key: str) -> tuple[float, float] | None:
        """A row's top, in pixels below the first one's, and its height; None where there is none."""
        found = zip(self._entries, self._tops, strict=True)
        return next(((top, entry.height) for entry, top in found if entry.key == key), None)

    def _in_view(self) -> range:
        """Places of the entries that are seen, or nearly so."""
        top, bottom = self._seen[0] - self._ahead, self._seen[1] + self._ahead
        first = max(0, bisect_right(self._tops, top) - 1)
        last = bisect_left(self._tops, bottom)
        if first < last and self._tops[first] + self._entries[first].height <= top:
            first += 1
        return range(first, last)

    def _fill(self) -> None:
        rows = [self._row(self._entries[at]) for at in self._in_view()]
        if rows != self.children[::-1]:
            self.clear_widgets()
            for row in rows:
                self.add_widget(row)
        if len(self._made) > KEPT_ROWS:
            self._made = {key: row for key, row in self._made.items() if row.parent is self}
        self._place()

    def _row(self, entry: Entry) -> Widget:
        if entry.key not in self._made:
            self._made[entry.key] = entry.make()
        return self._made[entry.key]

    def _place(self, *_: Any) -> None:
        top = self.y + self.height
        for at in self._in_view():
            entry = self._entries[at]
            row = self._made.get(entry.key)
            if row is not None and row.parent is self:
                row.size = (self.width - 2 * self._side, entry.height)
                row.pos = (self.x + self._side, top - self._tops[at] - entry.height)
