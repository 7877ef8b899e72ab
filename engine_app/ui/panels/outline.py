"""The graph as a list, sources first: every node with what it says of itself and what leaves it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from kivy.uix.widget import Widget

from backend.graph import Node
from backend.shapes import node_type
from engine_app.document.view import title_of as title_of_node
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.parameters import text_of, title_of
from engine_app.ui.widgets.box import Panel, empty_state
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton
from engine_app.ui.widgets.rows import Entry, LazyRows
from engine_app.ui.widgets.scroll import Scroll

ROW = theme.TOUCH + theme.STEP
MAX_TOLD = 3
"""Parameters that a row tells of."""


class OutlinePanel(Panel):
    """``tapped`` gets the id of a node."""

    def __init__(self, context: Context, tapped: Callable[[str], Any]) -> None:
        super().__init__(context.look)
        self.ground.rgba = context.look.palette.canvas
        self._context = context
        self._tapped = tapped
        self._rows = LazyRows(context.look, side=theme.HALF, below=theme.LARGE)
        self._scroll = Scroll(context.look, self._rows)
        self._shown: tuple[Any, Any] | None = None
        self._selected: str | None = None
        self._stop = context.desk.listen(self.refresh)
        self.refresh()

    def close(self) -> None:
        self._stop()

    def refresh(self) -> None:
        desk = self._context.desk
        told = desk.wiring, desk.analysis
        if self._shown is None or any(a is not b for a, b in zip(told, self._shown, strict=True)):
            self._shown = told
            self._fill()
        if desk.selected != self._selected:
            self._selected = desk.selected
            for node_id, row in self._rows.made.items():
                row.choose(node_id == self._selected)
            place = self._rows.place_of(self._selected) if self._selected is not None else None
            if place is not None:
                self._scroll.show_between(*place)

    def _fill(self) -> None:
        nodes = self._context.desk.in_order()
        if not nodes:
            self._invite()
            return
        height = self._context.look.px(ROW)
        self._rows.show([Entry(node.id, height, partial(self._row, node)) for node in nodes], anew=True)
        if self._scroll.parent is None:
            self.clear_widgets()
            self.add_widget(self._scroll)

    def _invite(self) -> None:
        look, act = self._context.look, self._context.act
        self.clear_widgets()
        self.add_widget(Widget())
        self.add_widget(
            empty_state(
                look,
                "An empty graph",
                "Add a node from the list of types, or begin with an example that trains in seconds.",
                PushButton(look, "Open the digits example", act.open_example, Kind.PRIMARY),
            )
        )
        self.add_widget(Widget())

    def _row(self, node: Node) -> ListRow:
        look, desk = self._context.look, self._context.desk
        problems = desk.problems_of(node.id)
        bad = any(found.severity.value == "error" for found in problems)
        record = node_type(node)
        if problems:
            mark = look.palette.danger if bad else look.palette.warning
        else:
            mark = look.palette.categories[record.category] if record else look.palette.muted
        row = ListRow(
            look,
            title_of_node(node),
            problems[0].text if problems else described(node),
            lambda: self._tapped(node.id),
            mark=mark,
            icon=("error" if bad else "warning") if problems else "",
            figure=desk.shape_text(node.id),
        )
        row.choose(node.id == desk.selected)
        return row


def described(node: Node) -> str:
    """The id, and what was set."""
    told = [f"{title_of(name)} {text_of(value)}" for name, value in list(node.parameters.items())[:MAX_TOLD]]
    return " · ".join([node.id, *told])
