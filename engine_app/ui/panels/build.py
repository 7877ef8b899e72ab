"""The page on which graphs are built: node types, the graph, the selected node; sheets where it is narrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kivy.uix.boxlayout import BoxLayout
from kivy.uix.widget import Widget

from engine_app.scene.pulse import Sparks
from engine_app.scene.tool_state import PortEnd
from engine_app.ui import theme
from engine_app.ui.activity import Trace
from engine_app.ui.context import Context
from engine_app.ui.panels.inspector import InspectorPanel, fill_problems
from engine_app.ui.panels.outline import OutlinePanel
from engine_app.ui.panels.palette import PalettePanel
from engine_app.ui.panels.workbench import Workbench
from engine_app.ui.widgets.box import Column, Gap, Line, Row, empty_state, paint
from engine_app.ui.widgets.buttons import Kind, PushButton
from engine_app.ui.widgets.still import Still


class BuildPage(BoxLayout):
    def __init__(self, context: Context, is_wide: bool) -> None:
        super().__init__(orientation="horizontal" if is_wide else "vertical")
        self._context = context
        self._is_wide = is_wide
        look = context.look
        self.bench = Workbench(context, self.show_palette)
        self._stop = context.desk.listen(self._invite)
        self._invitation: Widget | None = None
        self._invite()
        if is_wide:
            palette = PalettePanel(look, self._add)
            self._inspector = InspectorPanel(context)
            self._sides = [Still(panel, look.palette.surface) for panel in (palette, self._inspector)]
            for part in (self._sides[0], Line(look, True), self.bench, Line(look, True), self._sides[1]):
                self.add_widget(part)
            self.bind(width=self._size_sides)
            self._size_sides()
        else:
            bar = Row(look, pad=theme.STEP)
            paint(bar, look.palette.surface)
            bar.add_widget(PushButton(look, "Add a node", self.show_palette, icon="add"))
            bar.add_widget(Gap(look))
            bar.add_widget(PushButton(look, "List", self.show_list, Kind.QUIET, "list"))
            bar.add_widget(PushButton(look, "Details", self._show_inspector, Kind.QUIET, "info"))
            for part in (self.bench, Line(look), bar):
                self.add_widget(part)

    def _size_sides(self, *_: Any) -> None:
        look, host = self._context.look, self._context.host
        is_roomy = host.width >= look.px(theme.ROOMY_FROM)
        for side in self._sides:
            side.size_hint_x = None
            side.width = look.px(theme.PANEL_WIDTH if is_roomy else theme.PANEL_NARROW)

    def close(self) -> None:
        self._stop()
        self.bench.close()
        if self._is_wide:
            self._inspector.close()

    def _invite(self) -> None:
        """Over an empty canvas: what one can begin with."""
        is_empty = not self._context.desk.graph.nodes
        if is_empty and self._invitation is None:
            example = self._context.act.open_example
            self._invitation = empty_state(
                self._context.look,
                "An empty graph",
                "Add a node, or begin with an example that trains in seconds.",
                PushButton(self._context.look, "Open the digits example", example, Kind.PRIMARY),
                PushButton(self._context.look, "Open a file", self._context.act.ask_open, Kind.QUIET),
                sign="build",
            )
            self._invitation.pos_hint = {"center_x": 0.5, "center_y": 0.55}
            self.bench.add_widget(self._invitation)
        elif not is_empty and self._invitation is not None:
            self.bench.remove_widget(self._invitation)
            self._invitation = None

    def show_palette(self, end: PortEnd | None = None) -> None:
        """As a sheet, also where the panel is there: for the keyboard. ``end``: only what fits it."""

        def chosen(name: str) -> None:
            self._context.host.close()
            self._add(name)

        takes, gives, title = None, None, "Add a node"
        if end is not None and end.kind is not None:
            takes, gives = (end.kind, None) if end.is_output else (None, end.kind)
            title = f"Takes {end.kind.value}" if end.is_output else f"Gives {end.kind.value}"
        panel = PalettePanel(self._context.look, chosen, title="", takes=takes, gives=gives)
        self._context.host.open(
            title, panel, side=not self._is_wide, wide=420, fills=True, gone=self.bench.forget_soon
        )
        panel.search.field.input.focus = self._is_wide

    def _add(self, name: str) -> None:
        self.bench.add(name)

    def tap(self, node_id: str) -> None:
        self._context.desk.select(node_id)
        if not self._is_wide:
            self._show_inspector()

    def show_training(self, traces: Mapping[str, Trace], speed: float | None) -> None:
        """On the canvas; of what is open, where that is inside a node."""
        canvas = self.bench.canvas_widget
        prefix = "".join(f"{each}." for each in canvas.state.inside)
        canvas.show_training(
            {
                name.removeprefix(prefix): Sparks(tuple(trace.spread), tuple(trace.gradients))
                for name, trace in traces.items()
                if name.startswith(prefix)
            },
            speed,
        )

    def search_here(self) -> bool:
        return self.bench.search_here()

    def command(self, name: str) -> bool:
        """A shortcut of the canvas; False for one that it does not have."""
        return self.bench.command(name)

    def show_list(self) -> None:
        """All nodes as a list, for fingers and readers of screens."""

        def tapped(node_id: str) -> None:
            self._context.host.close()
            self.tap(node_id)

        outline = OutlinePanel(self._context, tapped)
        self._context.host.open("Nodes", outline, side=True, fills=True, gone=outline.close)

    def _show_inspector(self) -> None:
        """Of the selected node, or of the graph."""
        inspector = InspectorPanel(self._context)
        self._context.host.open("Details", inspector, side=True, fills=True, gone=inspector.close)


def show_problems(context: Context) -> None:
    """All that is wrong, in a sheet that follows the desk."""
    look = context.look
    column = Column(look, gap=theme.MEDIUM, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))

    def refresh(*_: Any) -> None:
        fill_problems(context, column)
        if not column.children:
            column.add_widget(
                empty_state(
                    look, "No problems", "The graph is complete and all shapes fit: it can be trained."
                )
            )

    refresh()
    stop = context.desk.listen(refresh)
    context.host.open("Problems", column, side=True, gone=stop)
