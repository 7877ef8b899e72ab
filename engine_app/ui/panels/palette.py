"""All node types, by category, to be searched by name, keyword and purpose."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from backend.catalogue import CATALOGUE, Category
from backend.catalogue.record import PortKind
from engine_app.document.search import find_types
from engine_app.ui import theme
from engine_app.ui.theme import Look
from engine_app.ui.widgets.box import Column, Panel, Text
from engine_app.ui.widgets.buttons import ListRow
from engine_app.ui.widgets.fields import SearchField
from engine_app.ui.widgets.scroll import Scroll


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
        self._look = look
        head = Column(look, pad=(theme.LARGE, theme.LARGE, theme.LARGE, theme.STEP))
        if title:
            head.add_widget(Text(look, title, theme.HEADING))
        self.search = SearchField(look, f"Search {len(offered)} node types", self.find)
        head.add_widget(self.search)
        self.add_widget(head)
        self._list = Column(look, gap=0, pad=(theme.STEP, 0, theme.STEP, theme.LARGE))
        self._scroll = Scroll(look, self._list)
        self.add_widget(self._scroll)
        self._headings = {category: self._heading(category) for category in Category}
        self._nothing = Text(
            look, "Nothing is called that. Try what it does, such as “pool”.", colour=look.palette.muted
        )
        self._rows = {
            record.name: ListRow(
                look,
                record.name,
                record.help.split(". ")[0],
                partial(chosen, record.name),
                mark=look.palette.categories[record.category],
                tip=record.help,
            )
            for record in offered
        }
        self.find("")

    def _heading(self, category: Category) -> Text:
        return Text(
            self._look,
            category.value.upper(),
            theme.LABEL,
            self._look.palette.muted,
            padding=(self._look.px(theme.MEDIUM), self._look.px(theme.STEP)),
        )

    def find(self, wanted: str) -> None:
        """Shows what answers the search, the best first; all, by category, for no search."""
        self._list.clear_widgets()
        self._scroll.to_top()
        found = [each.name for each in find_types(wanted, takes=self._takes, gives=self._gives)]
        if wanted.strip():
            for name in found:
                self._list.add_widget(self._rows[name])
            if not found:
                self._list.add_widget(self._nothing)
            return
        for category in Category:
            here = [name for name in found if CATALOGUE[name].category is category]
            if here:
                self._list.add_widget(self._headings[category])
            for name in here:
                self._list.add_widget(self._rows[name])

    @property
    def shown(self) -> list[str]:
        """Names of the types, from the top."""
        return [row.name for row in reversed(self._list.children) if isinstance(row, ListRow)]
