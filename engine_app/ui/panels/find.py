"""Finds nodes, groups and notes of the document: a panel over the canvas, which goes to what is found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from kivy.clock import Clock
from kivy.core.window import Window

from backend.catalogue import CATALOGUE
from backend.graph import Graph
from engine_app.document.search import Found, find_in
from engine_app.plain import plain
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.widgets.box import Column, Row, Text, paint
from engine_app.ui.widgets.buttons import IconButton, ListRow
from engine_app.ui.widgets.fields import TextField
from engine_app.ui.widgets.rows import Entry, LazyRows
from engine_app.ui.widgets.scroll import Scroll

ROW = theme.TOUCH + theme.STEP
MOST_ROWS, LEAST_ROWS = 3.5, 1.5
"""In sight: the graph is what is looked at, and a row cut in half says that there are more."""
MOST_LETTERS = 80


class FindPanel(Column):
    """``go_to`` is called with what is found first, and then with what is stepped to."""

    def __init__(self, context: Context, go_to: Callable[[Found], Any], close: Callable[[], Any]) -> None:
        look = context.look
        super().__init__(look, gap=0, pad=theme.STEP, size_hint=(None, None))
        self._context, self._go_to = context, go_to
        self.found: list[Found] = []
        self.at = 0
        self.room = float("inf")
        """Pixels that a list may take; where there is no room for rows, the arrows are left."""
        self._searched: Graph | None = None
        paint(self, look.palette.surface, look.px(theme.RADIUS_LARGE), look.palette.border)
        row = Row(look, gap=0)
        self.field = TextField(look, "", lambda _text: self._search(), hint="Title, type or note", live=True)
        self.field.input.text_validate_unfocus = False
        self.field.input.bind(on_text_validate=lambda *_: self.step(-1 if "shift" in Window.modifiers else 1))
        for part in (
            self.field,
            IconButton(look, "up", "The one before", partial(self.step, -1)),
            IconButton(look, "down", "Next that is found", partial(self.step, 1)),
            IconButton(look, "close", "Close", close),
        ):
            row.add_widget(part)
        self.add_widget(row)
        self.told = Text(look, "", theme.SMALL, look.palette.muted, lines=1, padding=look.px(theme.HALF))
        self._rows = LazyRows(look)
        self._scroll = Scroll(look, self._rows, size_hint_y=None, height=0)

    def begin(self) -> None:
        """The field has the keyboard, with all of it selected: the next letter begins another search."""
        if self._searched is not self._context.desk.graph:
            self._search(keeps=True)
        self.field.input.focus = True
        Clock.schedule_once(lambda _dt: self.field.input.select_all(), -1)

    def on_touch_down(self, touch: Any) -> bool:
        """What misses its parts is not for the canvas below."""
        return bool(super().on_touch_down(touch)) or bool(self.collide_point(*touch.pos))

    def step(self, way: int) -> None:
        """To the next one (1) or the one before (-1), round and round."""
        if self._searched is not self._context.desk.graph:
            self._search(keeps=True)
        if self.found:
            self._choose((self.at + way) % len(self.found))

    def _search(self, keeps: bool = False) -> None:
        """``keeps``: the place among what is found, as the graph has changed and not the words."""
        graph, words = self._context.desk.graph, self.field.text.strip()
        self._searched = graph
        self.found = find_in(graph, words) if words else []
        height = self._context.look.px(ROW)
        entries = [Entry(str(at), height, partial(self._row, at)) for at in range(len(self.found))]
        seen = min(len(entries), MOST_ROWS, self.room / height)
        self._show_parts(bool(words), seen * height if seen >= min(len(entries), LEAST_ROWS) else 0)
        self._rows.show(entries, anew=True)
        self.at = min(self.at, max(len(self.found) - 1, 0)) if keeps else 0
        self.told.text = f"{len(self.found)} found" if self.found else "Nothing is called that"
        if not keeps:
            self._scroll.to_top()
            if self.found:
                self._choose(0)

    def _show_parts(self, is_told: bool, height: float) -> None:
        self._scroll.height = height
        for part, is_shown in ((self.told, is_told), (self._scroll, height > 0)):
            if is_shown != (part.parent is not None):
                (self.add_widget if is_shown else self.remove_widget)(part)

    def _choose(self, at: int) -> None:
        self.at = at
        self.told.text = f"{at + 1} of {len(self.found)}"
        place = self._rows.place_of(str(at))
        if place is not None:
            self._scroll.show_between(*place)
        for key, row in self._rows.made.items():
            row.choose(key == str(at))
        self._go_to(self.found[at])

    def _row(self, at: int) -> ListRow:
        found, look = self.found[at], self._context.look
        record = CATALOGUE.get(found.type)
        mark = look.palette.categories[record.category] if record and not found.frame else look.palette.muted
        about = [found.type] if found.title != found.type else []
        about += [] if found.frame else [found.id]
        about += [f"in {' / '.join(found.inside)}"] if found.inside else []
        title = " ".join(found.title.split()) or found.type
        row = ListRow(
            look,
            plain(title)[:MOST_LETTERS],
            plain(" · ".join(about))[:MOST_LETTERS],
            partial(self._choose, at),
            mark=mark,
        )
        row.choose(at == self.at)
        return row
