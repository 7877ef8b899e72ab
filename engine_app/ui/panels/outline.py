"""The graph as a list, sources first: every node with what it says of itself and what leaves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kivy.uix.widget import Widget

from backend.graph import Node
from backend.shapes import node_type
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.parameters import text_of, title_of
from engine_app.ui.widgets.box import Column, Panel, Text, empty_state
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton
from engine_app.ui.widgets.scroll import Scroll

MAX_ROWS = 400
MAX_TOLD = 3
"""Parameters that a row tells of."""


class OutlinePanel(Panel):
    """``tapped`` gets the id of a node."""

    def __init__(self, context: Context, tapped: Callable[[str], Any]) -> None:
        super().__init__(context.look)
        self.ground.rgba = context.look.palette.canvas
        self._context = context
        self._tapped = tapped
        self._list = Column(context.look, gap=0, pad=theme.STEP)
        self._scroll = Scroll(context.look, self._list)
        self._wiring: Any = None
        self._rows: dict[str, ListRow] = {}
        self._stop = context.desk.listen(self.refresh)
        self.refresh()

    def close(self) -> None:
        self._stop()

    def refresh(self) -> None:
        desk = self._context.desk
        if desk.wiring is not self._wiring:
            self._wiring = desk.wiring
            self._fill()
        for node_id, row in self._rows.items():
            row.choose(node_id == desk.selected)

    def _fill(self) -> None:
        wiring, look = self._context.desk.wiring, self._context.look
        self.clear_widgets()
        self._list.clear_widgets()
        self._rows = {}
        if not wiring.nodes:
            act = self._context.act
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
            return
        for node in self._context.desk.in_order()[:MAX_ROWS]:
            self._rows[node.id] = self._row(node)
            self._list.add_widget(self._rows[node.id])
        if len(wiring.nodes) > MAX_ROWS:
            more = f"and {len(wiring.nodes) - MAX_ROWS} more"
            self._list.add_widget(Text(look, more, theme.SMALL, look.palette.muted, align="center"))
        self.add_widget(self._scroll)

    def _row(self, node: Node) -> ListRow:
        look, desk = self._context.look, self._context.desk
        problems = desk.problems_of(node.id)
        bad = any(found.severity.value == "error" for found in problems)
        record = node_type(node)
        if problems:
            mark = look.palette.danger if bad else look.palette.warning
        else:
            mark = look.palette.categories[record.category] if record else look.palette.muted
        return ListRow(
            look,
            node.type,
            problems[0].text if problems else described(node),
            lambda: self._tapped(node.id),
            mark=mark,
            icon=("error" if bad else "warning") if problems else "",
            figure=desk.shape_text(node.id),
        )


def described(node: Node) -> str:
    """The id, and what was set."""
    told = [f"{title_of(name)} {text_of(value)}" for name, value in list(node.parameters.items())[:MAX_TOLD]]
    return " · ".join([node.id, *told])
