"""The canvas on the build page, with its tools, breadcrumbs and menus; tied to the window's desk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from kivy.core.clipboard import Clipboard
from kivy.uix.floatlayout import FloatLayout

from backend.diagnostics import ends_of
from engine_app.document import commands
from engine_app.document.clipboard import Pasted, copied, pasted, with_fresh_ids
from engine_app.document.edits import (
    Disconnect,
    DissolveNodes,
    Edit,
    ExpandSubgraph,
    MakeSubgraph,
    RemoveFrame,
    RemoveNodes,
    Reroute,
    SetFrame,
)
from engine_app.document.errors import EditError
from engine_app.document.search import find_types
from engine_app.document.templates import TEMPLATES
from engine_app.document.view import FrameKind, Mode, frames_of, title_of
from engine_app.plain import plain
from engine_app.scene import tool_state as tools
from engine_app.scene.hits import OnFrame, OnLink, OnNode
from engine_app.ui import theme
from engine_app.ui.canvas import CanvasActions, GraphCanvas
from engine_app.ui.context import Context
from engine_app.ui.widgets.box import Column, Row, paint
from engine_app.ui.widgets.buttons import IconButton, Kind, PushButton
from engine_app.ui.widgets.fields import TextField

ON_NODES = {
    "Duplicate": "duplicate",
    "Copy": "copy",
    "Bypass": "bypass",
    "Mute": "mute",
    "Collapse": "collapse",
    "Group": "group",
    "Put into a subgraph": "subgraph",
    "Take out of the subgraph": "expand",
    "Remove and keep the link": "dissolve",
    "Remove": "remove",
}
MAX_CHOICES = 24


class Workbench(FloatLayout):
    def __init__(self, context: Context, ask_for_node: Callable[[], Any]) -> None:
        super().__init__()
        self._context = context
        self._ask = ask_for_node
        self._wanted: tools.AskForNode | None = None
        actions = CanvasActions(self._asked_for_node, self._show_menu, self._edit_frame, context.host.toast)
        self.canvas_widget = GraphCanvas(context.look, context.desk, actions)
        self.add_widget(self.canvas_widget)
        self._bar = self._tools()
        self.add_widget(self._bar)
        self._crumbs = Row(context.look, gap=theme.HALF)
        self.add_widget(self._crumbs)
        self._shown: tuple[str, ...] | None = None
        self._stop = context.desk.listen(self._follow)
        self.bind(pos=self._arrange, size=self._arrange)
        self._follow()

    def close(self) -> None:
        self._stop()
        self.canvas_widget.close()

    def _follow(self) -> None:
        self.canvas_widget.refresh()
        self._show_crumbs()

    # -- adding --------------------------------------------------------------------------------

    def add(self, type_name: str) -> None:
        """Where a double tap or a link's end asked for it; else behind what is selected."""
        canvas, wanted = self.canvas_widget, self._wanted
        self._wanted = None
        if wanted is None:
            self._context.desk.add(type_name)
            return
        end = (wanted.end.node, wanted.end.port, wanted.end.is_output) if wanted.end else None
        edit, new = commands.new_node(canvas.wiring, type_name, wanted.x, wanted.y, end)
        if canvas.change(edit):
            canvas.select(frozenset({new}))

    def _asked_for_node(self, wanted: tools.AskForNode) -> None:
        """A link that was dropped offers what takes it; the ground offers everything."""
        self._wanted = wanted
        end = wanted.end
        if end is None or end.kind is None:
            self._ask()
            return
        found = find_types(takes=end.kind) if end.is_output else find_types(gives=end.kind)
        names = [record.name for record in found]
        if len(names) > MAX_CHOICES:
            self._ask()
            return
        title = f"Takes {end.kind.value}" if end.is_output else f"Gives {end.kind.value}"
        self._context.host.choose_from(names, "", self.add, title)

    # -- commands ------------------------------------------------------------------------------

    def command(self, name: str) -> bool:
        """False for what the canvas does not know, or does not need now."""
        canvas = self.canvas_widget
        if name == "cancel":
            return canvas.cancel()
        if name in ("remove", "dissolve") and not canvas.state.selected:
            return False
        action = self._commands().get(name)
        if action is None:
            return False
        try:
            action()
        except EditError as error:
            self._context.host.toast(str(error))
        return True

    def _commands(self) -> dict[str, Callable[[], Any]]:
        canvas = self.canvas_widget
        wiring, chosen = canvas.wiring, tuple(sorted(canvas.state.selected))
        return {
            "fit": canvas.fit,
            "fit_selected": canvas.fit_selected,
            "select_all": lambda: canvas.select(frozenset(canvas.scene.index)),
            "select_mode": self._toggle_selecting,
            "copy": lambda: Clipboard.copy(copied(wiring, self._some(chosen))),
            "paste": lambda: self._paste(pasted(wiring, Clipboard.paste(), canvas.view.visible.centre)),
            "duplicate": lambda: self._paste(commands.duplicate(wiring, chosen)),
            "remove": lambda: canvas.change(RemoveNodes(chosen)),
            "dissolve": lambda: canvas.change(DissolveNodes(chosen)),
            "bypass": lambda: canvas.change(commands.toggle_mode(wiring, chosen, Mode.BYPASSED)),
            "mute": lambda: canvas.change(commands.toggle_mode(wiring, chosen, Mode.MUTED)),
            "collapse": lambda: canvas.change(commands.toggle_collapsed(wiring, chosen)),
            "group": lambda: canvas.change(commands.group(wiring, chosen)),
            "subgraph": lambda: canvas.change(MakeSubgraph(chosen)),
            "expand": lambda: canvas.change(ExpandSubgraph(self._some(chosen)[0])),
            "arrange": lambda: self._arrange_nodes(chosen),
        }

    def _some(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        if not chosen:
            raise EditError("nothing is selected")
        return chosen

    def _paste(self, found: Pasted) -> None:
        if self.canvas_widget.change(found.edit):
            self.canvas_widget.select(found.ids)

    def _arrange_nodes(self, chosen: tuple[str, ...]) -> None:
        canvas = self.canvas_widget
        if canvas.change(commands.arrange(canvas.wiring, chosen)):
            canvas.fit()

    def _toggle_selecting(self) -> None:
        canvas = self.canvas_widget
        is_on = canvas.tools.mode is tools.Mode.SELECTING
        canvas.set_mode(tools.Mode.NORMAL if is_on else tools.Mode.SELECTING)
        self._selecting.set_ground(
            self._context.look.palette.accent_soft if not is_on else self._context.look.palette.surface
        )

    # -- menus ---------------------------------------------------------------------------------

    def _show_menu(self, x: float, y: float, menu: tools.ShowMenu) -> None:
        place = self.canvas_widget.view.to_world(menu.x, menu.y)
        match menu.on:
            case OnNode(node):
                if node not in self.canvas_widget.state.selected:
                    self.canvas_widget.select(frozenset({node}))
                choices: dict[str, Callable[[], Any]] = {
                    words: partial(self.command, name) for words, name in ON_NODES.items()
                }
                title = "Selected nodes" if len(self.canvas_widget.state.selected) > 1 else node
            case OnLink(number):
                choices, title = self._on_link(number, place), "Link"
            case OnFrame(kind, name):
                choices, title = self._on_frame(kind, name), kind.name.capitalize()
            case _:
                choices, title = self._on_ground(place), "Canvas"
        self._context.host.choose_from(list(choices), "", lambda words: choices[words](), plain(title))

    def _on_link(self, number: int, place: tuple[float, float]) -> dict[str, Callable[[], Any]]:
        ends = ends_of(self.canvas_widget.wiring.links[number])
        change = self.canvas_widget.change
        return {
            "Add a bend": lambda: change(Reroute(ends, *place)),
            "Remove the link": lambda: change(Disconnect((ends,))),
        }

    def _on_frame(self, kind: FrameKind, name: str) -> dict[str, Callable[[], Any]]:
        return {
            "Change the text": lambda: self._edit_frame(tools.EditFrame(kind, name)),
            "Remove": lambda: self._change(RemoveFrame(kind, name)),
        }

    def _on_ground(self, place: tuple[float, float]) -> dict[str, Callable[[], Any]]:
        return {
            "Add a node": lambda: self._asked_for_node(tools.AskForNode(*place)),
            "Add a pattern": lambda: self._offer_patterns(place),
            "Add a note": lambda: self._change(commands.note(self.canvas_widget.wiring, *place)),
            "Paste": partial(self.command, "paste"),
            "Select all": partial(self.command, "select_all"),
            "Arrange all": partial(self.command, "arrange"),
            "Show all": self.canvas_widget.fit,
        }

    def _offer_patterns(self, place: tuple[float, float]) -> None:
        names = [each.name for each in TEMPLATES]

        def take(name: str) -> None:
            piece = TEMPLATES[names.index(name)].graph()
            self._paste(with_fresh_ids(self.canvas_widget.wiring, piece, place))

        self._context.host.choose_from(names, "", take, "Add a pattern")

    def _change(self, edit: Edit) -> None:
        self.canvas_widget.change(edit)

    def _edit_frame(self, wanted: tools.EditFrame) -> None:
        frames = frames_of(self.canvas_widget.wiring, wanted.kind)
        frame = next((each for each in frames if each.id == wanted.id), None)
        if frame is None:
            return
        look, host = self._context.look, self._context.host
        column = Column(look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))
        field = TextField(look, frame.text)
        column.add_widget(field)

        def agreed() -> None:
            host.close()
            self.canvas_widget.change(SetFrame(wanted.kind, replace(frame, text=field.text)))

        row = Row(look)
        row.add_widget(PushButton(look, "Change", agreed, Kind.PRIMARY))
        column.add_widget(row)
        host.open(f"Text of the {wanted.kind.name.lower()}", column)

    # -- what floats over the canvas -----------------------------------------------------------

    def _tools(self) -> Row:
        look = self._context.look
        bar = Row(look, gap=theme.HALF, pad=theme.HALF)
        paint(bar, look.palette.surface, look.px(theme.RADIUS_LARGE), look.palette.line)
        self._selecting = IconButton(
            look, "check", "Select several by dragging", partial(self.command, "select_mode")
        )
        buttons = (
            self._selecting,
            IconButton(look, "search", "Show all", partial(self.command, "fit")),
            IconButton(look, "list", "Arrange", partial(self.command, "arrange")),
            IconButton(look, "delete", "Remove what is selected", partial(self.command, "remove")),
        )
        for button in buttons:
            bar.add_widget(button)
        bar.size_hint = (None, None)
        side, gap = look.px(theme.TOUCH), look.px(theme.HALF)
        bar.width, bar.height = len(buttons) * side + (len(buttons) + 1) * gap, side + 2 * gap
        return bar

    def _show_crumbs(self) -> None:
        inside = self.canvas_widget.state.inside
        if inside == self._shown:
            return
        self._shown = inside
        self._crumbs.clear_widgets()
        look, graph = self._context.look, self._context.desk.graph
        names = [graph.name or "Graph"]
        wiring: Any = graph
        for node_id in inside:
            node = wiring.node(node_id)
            names.append(title_of(node))
            wiring = node.body
        for depth, name in enumerate(names if inside else ()):
            go = partial(self.canvas_widget.go_to, depth)
            self._crumbs.add_widget(PushButton(look, plain(name)[:24], go, Kind.PLAIN))
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        edge = self._context.look.px(theme.MEDIUM)
        self.canvas_widget.pos, self.canvas_widget.size = self.pos, self.size
        self._bar.pos = (self.x + edge, self.y + edge)
        self._crumbs.size_hint = (None, None)
        self._crumbs.width = max(self.width - 2 * edge, 1)
        self._crumbs.height = self._context.look.px(theme.TOUCH) if self._shown else 0
        self._crumbs.pos = (self.x + edge, self.y + self.height - edge - self._crumbs.height)
