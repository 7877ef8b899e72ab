"""All node types, by category, to be searched by name, keyword and purpose."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from backend.catalogue import Category
from backend.catalogue.record import NodeType, PortKind
from engine_app.document.search import find_types
from engine_app.ui import theme
from engine_app.ui.theme import Look
from engine_app.ui.widgets.box import Column, Panel, Text
from engine_app.ui.widgets.buttons import ListRow
from engine_app.ui.widgets.fields import SearchField
from engine_app.ui.widgets.rows import Entry, LazyRows
from engine_app.ui.widgets.scroll import Scroll

HEADING = 32.0
ROW = theme.TOUCH + theme.STEP


class PalettePanel(Panel):
    """``chosen`` gets the name of a type. ``takes``, ``gives``: only those with such an input or output."""

    def __init__(
        self,
        look: Look,
        chosen: Callable[[str], Any],
        title: str = "Add a node",
        *,
        takes: PortKind | None = None,
        gives: PortKind | None = None,
    ) -> None:
        super().__init__(look)
        self._takes, self._gives = takes, gives
        offered = find_types(takes=takes, gives=gives)
        self._look, self._chosen = look, chosen
        above = theme.LARGE if title else theme.HALF
        head = Column(look, pad=(theme.LARGE, above, theme.LARGE, theme.STEP))
        if title:
            head.add_widget(Text(look, title, theme.HEADING))
        self.search = SearchField(look, f"Search {len(offered)} node types", self.find, self._take_best)
        head.add_widget(self.search)
        self.add_widget(head)
        self._rows = LazyRows(look, side=theme.HALF, below=theme.LARGE)
        self._scroll = Scroll(look, self._rows)
        self.add_widget(self._scroll)
        self.shown: list[str] = []
        """Names of the types, from the top."""
        self.find("")

    def find(self, wanted: str) -> None:
        """Shows what answers the search, the best first; all, by category, for no search."""
        self._scroll.to_top()
        found = find_types(wanted, takes=self._takes, gives=self._gives)
        if not wanted.strip():
            order = list(Category)
            found.sort(key=lambda record: order.index(record.category))
        self.shown = [record.name for record in found]
        entries: list[Entry] = []
        for before, record in zip([None, *found], found, strict=False):
            if not wanted.strip() and (before is None or before.category is not record.category):
                entries.append(self._heading(record.category))
            entries.append(self._row(record))
        self._rows.show(entries or [self._nothing()])

    def _take_best(self) -> None:
        """Enter takes what answers a search best."""
        if self.search.field.text.strip() and self.shown:
            self._chosen(self.shown[0])

    def _heading(self, category: Category) -> Entry:
        look = self._look

        def make() -> Text:
            side = (look.px(theme.MEDIUM), 0)
            return Text(look, category.value.upper(), theme.LABEL, look.palette.muted, lines=1, padding=side)

        return Entry(f"category {category.name}", look.px(HEADING), make)

    def _row(self, record: NodeType) -> Entry:
        look = self._look

        def make() -> ListRow:
            return ListRow(
                look,
                record.name,
                record.help.split(". ")[0],
                partial(self._chosen, record.name),
                mark=look.palette.categories[record.category],
                tip=record.help,
            )

        return Entry(record.name, look.px(ROW), make)

    def _nothing(self) -> Entry:
        look = self._look
        text = "Nothing is called that. Try what it does, such as “pool”."
        side = (look.px(theme.MEDIUM), 0)
        return Entry(
            "", look.px(ROW), lambda: Text(look, text, colour=look.palette.muted, lines=2, padding=side)
        )
