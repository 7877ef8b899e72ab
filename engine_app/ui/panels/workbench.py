"""The canvas on the build page, with its tools, breadcrumbs and menus; tied to the window's desk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from kivy.clock import Clock
from kivy.core.clipboard import Clipboard
from kivy.core.window import Window
from kivy.uix.floatlayout import FloatLayout

from engine_app.document import commands, editing
from engine_app.document.clipboard import Pasted, copied, pasted, with_fresh_ids
from engine_app.document.editing import Editing
from engine_app.document.edits import (
    AddNodes,
    DissolveNodes,
    Edit,
    Ends,
    ExpandSubgraph,
    InsertOnLink,
    MakeSubgraph,
    RemoveNodes,
    Rename,
    SetFrame,
)
from engine_app.document.errors import EditError
from engine_app.document.search import Found
from engine_app.document.templates import Template
from engine_app.document.view import FrameKind, Mode, frames_of, title_of
from engine_app.document.wiring import find
from engine_app.plain import plain
from engine_app.scene import tool_state as tools
from engine_app.scene.hits import Hit, OnNode, OnPort
from engine_app.ui import theme
from engine_app.ui.aside import do_aside
from engine_app.ui.canvas import CanvasActions, GraphCanvas
from engine_app.ui.context import Context
from engine_app.ui.panels import menus
from engine_app.ui.panels.find import FindPanel
from engine_app.ui.panels.patterns import open_patterns
from engine_app.ui.widgets.box import Column, Gap, Row, paint
from engine_app.ui.widgets.buttons import IconButton, Kind, PushButton
from engine_app.ui.widgets.fields import TextField
from engine_app.ui.widgets.radial import RadialMenu

T = TypeVar("T")

MANY = 2_000
"""Nodes from which on what is done to them all would hold the window: it is done aside."""
NOTE_LINES = 6
NUDGE = 8.0
"""By an arrow key, in units of the world."""
AROUND_NEW = theme.TOUCH + theme.HUGE
"""Between a new node and the canvas's edges: the tools lie there."""
FIND_WIDTH, FIND_HEAD = 380.0, 120.0
"""The head: how high it is without its list, and the gap above."""
NARROWEST, WIDEST = 0.6, 2.5
"""Of the canvas, as graphs are laid out for it: width over height."""


class Workbench(FloatLayout):
    def __init__(self, context: Context, ask_for_node: Callable[[tools.PortEnd | None], Any]) -> None:
        super().__init__()
        self._context = context
        self._ask = ask_for_node
        self._wanted: tools.AskForNode | None = None
        self._onto: Ends | None = None
        actions = CanvasActions(self.ask_for_node, self._show_menu, self.edit_text, context.host.toast)
        self.canvas_widget = GraphCanvas(context.look, context.desk, actions)
        self.add_widget(self.canvas_widget)
        self._bar = self._tools()
        self.add_widget(self._bar)
        self._crumbs = Row(context.look, gap=theme.HALF)
        self.add_widget(self._crumbs)
        self._find = FindPanel(context, self._go_to_found, self._close_find)
        self._find.bind(height=self._arrange)
        self._is_working = False
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
        """Where a double tap or a link's end asked for it; else behind what is selected. Into sight."""
        canvas, wanted = self.canvas_widget, self._wanted
        onto, self._wanted, self._onto = self._onto, None, None
        if wanted is None:
            self._bring_into_sight(self._context.desk.add(type_name))
            return
        end = (wanted.end.node, wanted.end.port, wanted.end.is_output) if wanted.end else None
        edit, new = commands.new_node(canvas.wiring, type_name, wanted.x, wanted.y, None if onto else end)
        if onto is not None and isinstance(edit, AddNodes):
            edit = InsertOnLink(onto, edit.nodes[0])
        if canvas.change(edit):
            canvas.select(frozenset({new}))
            self._bring_into_sight(new)

    def _bring_into_sight(self, node_id: str) -> None:
        canvas = self.canvas_widget
        rect = canvas.scene.rect(canvas.scene.index[node_id])
        canvas.look_at(canvas.view.showing(rect, self._context.look.px(AROUND_NEW)))

    def ask_for_node(self, wanted: tools.AskForNode, onto: Ends | None = None) -> None:
        """A link that was dropped offers what takes it; the ground everything. ``onto``: a link for it."""
        self._wanted, self._onto = wanted, onto
        self._ask(wanted.end)

    def forget_soon(self) -> None:
        """The palette was closed; if that was a choice, it is made before the next frame."""

        def forget(_dt: float) -> None:
            self._wanted = self._onto = None

        Clock.schedule_once(forget, -1)

    def search_here(self) -> bool:
        """The palette for the place below the mouse; False where that is not over the canvas."""
        canvas = self.canvas_widget
        x, y = canvas.to_widget(*Window.mouse_pos)
        if not canvas.collide_point(x, y) or Window.mouse_pos == (0, 0):
            return False
        place = canvas.view.to_world(x - canvas.x, canvas.y + canvas.height - y)
        self.ask_for_node(tools.AskForNode(*place))
        return True

    # -- finding -------------------------------------------------------------------------------

    def find(self) -> None:
        """What is written in it stays from the last time."""
        if self._find.parent is None:
            self.add_widget(self._find)
            self._arrange()
        self._find.begin()

    def _close_find(self) -> bool:
        """False if it was not there."""
        if self._find.parent is None:
            return False
        self._context.host.ring.clear()
        self.remove_widget(self._find)
        self._arrange()
        return True

    def _find_next(self, way: int) -> None:
        if self._find.parent is None:
            self.find()
        else:
            self._find.step(way)

    def _go_to_found(self, found: Found) -> None:
        self.canvas_widget.go_to_found(found, self.y + self.height - self._find.y)

    # -- commands ------------------------------------------------------------------------------

    def command(self, name: str) -> bool:
        """False for what the canvas does not know, or does not need now."""
        canvas = self.canvas_widget
        if name == "cancel":
            return canvas.cancel() or self._close_find()
        if not canvas.state.selected and (name in ("remove", "dissolve", "grab") or name.startswith("nudge")):
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
            "find": self.find,
            "find_next": partial(self._find_next, 1),
            "find_before": partial(self._find_next, -1),
            "fit": canvas.fit,
            "fit_selected": canvas.fit_selected,
            "select_all": lambda: canvas.select(frozenset(canvas.scene.index)),
            "select_none": lambda: canvas.select(frozenset()),
            "select_others": lambda: canvas.select(frozenset(canvas.scene.index) - canvas.state.selected),
            "grab": canvas.grab,
            "select_mode": partial(self._toggle_mode, tools.Mode.SELECTING),
            "cut_mode": partial(self._toggle_mode, tools.Mode.CUTTING),
            "zoom_in": partial(canvas.zoom_by, 1.25),
            "zoom_out": partial(canvas.zoom_by, 0.8),
            "menu": self._menu_by_key,
            "cut": lambda: self._copy(chosen, lambda: self.edit("Cutting", lambda: RemoveNodes(chosen))),
            "copy": lambda: self._copy(chosen),
            "paste": lambda: self.paste_at(canvas.view.visible.centre),
            "duplicate": lambda: self.edit("Duplicating", lambda: commands.duplicate(wiring, chosen)),
            "remove": lambda: self.edit("Removing", lambda: RemoveNodes(chosen)),
            "dissolve": lambda: self.edit("Removing", lambda: DissolveNodes(chosen)),
            "bypass": lambda: self.edit(
                "Bypassing", lambda: commands.toggle_mode(wiring, chosen, Mode.BYPASSED)
            ),
            "mute": lambda: self.edit("Muting", lambda: commands.toggle_mode(wiring, chosen, Mode.MUTED)),
            "collapse": lambda: self.edit("Collapsing", lambda: commands.toggle_collapsed(wiring, chosen)),
            "group": lambda: self.edit("Grouping", lambda: commands.group(wiring, chosen)),
            "subgraph": lambda: self.edit("Making a subgraph", lambda: MakeSubgraph(chosen)),
            "expand": lambda: canvas.change(ExpandSubgraph(self._some(chosen)[0])),
            "arrange": lambda: self._arrange_nodes(chosen),
            "line_up": lambda: menus.offer_to_line_up(self, chosen),
            "rename": lambda: self.edit_text(tools.EditTitle(self._some(chosen)[0])),
            "nudge_left": partial(self._nudge, chosen, -NUDGE, 0),
            "nudge_right": partial(self._nudge, chosen, NUDGE, 0),
            "nudge_up": partial(self._nudge, chosen, 0, -NUDGE),
            "nudge_down": partial(self._nudge, chosen, 0, NUDGE),
        }

    def _some(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        if not chosen:
            raise EditError("nothing is selected")
        return chosen

    def _aside(self, doing: str, work: Callable[[], T], done: Callable[[T], Any]) -> None:
        """At once in a small graph. In one of many nodes in a thread, one after the other."""
        count = len(self.canvas_widget.wiring.nodes)
        if count < MANY:
            try:
                done(work())
            except EditError as error:
                self._context.host.toast(str(error))
        elif self._is_working:
            self._context.host.toast("The step before is still being made.")
        else:
            self._is_working = True
            do_aside(self._context, f"{doing} {count} nodes …", work, done, self._rest)

    def _rest(self) -> None:
        self._is_working = False

    def edit(
        self, doing: str, make: Callable[[], Edit | Pasted], after: Callable[[], Any] = lambda: None
    ) -> None:
        """What is pasted is selected. Nothing is done to a graph that was changed meanwhile."""
        state, desk = self.canvas_widget.state, self._context.desk

        def work() -> Editing:
            made = make()
            if isinstance(made, Pasted):
                return editing.select(editing.do(state, made.edit), made.ids)
            return editing.do(state, made)

        def done(found: Editing) -> None:
            now = self.canvas_widget.state
            if now.graph is not state.graph or now.inside != state.inside:
                self._context.host.toast("The graph was changed meanwhile: nothing has been done.")
                return
            desk.show(found)
            after()

        self._aside(doing, work, done)

    def paste_at(self, place: tuple[float, float]) -> None:
        wiring, text = self.canvas_widget.wiring, _clipboard()
        self.edit("Pasting", lambda: pasted(wiring, text, place))

    def _copy(self, chosen: tuple[str, ...], after: Callable[[], Any] = lambda: None) -> None:
        wiring = self.canvas_widget.wiring

        def keep(text: str) -> None:
            Clipboard.copy(text)
            after()

        self._aside("Copying", partial(copied, wiring, self._some(chosen)), keep)

    def _arrange_nodes(self, chosen: tuple[str, ...]) -> None:
        canvas, aspect = self.canvas_widget, self._context.desk.aspect
        wiring = canvas.wiring
        self.edit("Arranging", lambda: commands.arrange(wiring, chosen, aspect), canvas.fit)

    def _nudge(self, chosen: tuple[str, ...], dx: float, dy: float) -> None:
        """One after another they are one step."""
        canvas = self.canvas_widget
        canvas.change(commands.nudge(canvas.wiring, chosen, dx, dy), f"nudge {' '.join(chosen)}")

    def _toggle_mode(self, mode: tools.Mode) -> None:
        canvas, palette = self.canvas_widget, self._context.look.palette
        canvas.set_mode(tools.Mode.NORMAL if canvas.tools.mode is mode else mode)
        for button, its in ((self._selecting, tools.Mode.SELECTING), (self._cutting, tools.Mode.CUTTING)):
            button.set_ground(palette.accent_soft if canvas.tools.mode is its else palette.surface)

    def choose(self, title: str, choices: Mapping[str, Callable[[], Any]]) -> None:
        self._context.host.choose_from(list(choices), "", lambda words: choices[words](), title)

    # -- menus ---------------------------------------------------------------------------------

    def _show_menu(self, x: float, y: float, menu: tools.ShowMenu) -> None:
        at = self.canvas_widget.to_window(x, y)
        place = self.canvas_widget.view.to_world(menu.x, menu.y)
        self._open_menu(menu.on, place, at, self.canvas_widget.hand_over())

    def _menu_by_key(self) -> None:
        """Of what is selected, at it; of the canvas in its middle."""
        canvas = self.canvas_widget
        chosen = sorted(canvas.state.selected & canvas.scene.index.keys())
        place, on = canvas.view.visible.centre, None
        if chosen:
            number = canvas.scene.index[chosen[0]]
            place, on = canvas.scene.rect(number).centre, OnNode(chosen[0], number)
        left, top = canvas.view.to_screen(*place)
        at = canvas.to_window(canvas.x + left, canvas.y + canvas.height - top)
        self._open_menu(on, place, at, None).focus_first()

    def _open_menu(
        self, on: Hit, place: tuple[float, float], at: tuple[float, float], touch: Any
    ) -> RadialMenu:
        if isinstance(on, OnNode | OnPort) and on.node not in self.canvas_widget.state.selected:
            self.canvas_widget.select(frozenset({on.node}))
        host = self._context.host
        title, choices = menus.menu_of(self, on, place)
        menu = RadialMenu(self._context.look, plain(title)[:40], choices, at, host.close, touch)
        host.lay_over(menu)
        return menu

    def offer_patterns(self, place: tuple[float, float]) -> None:
        wiring = self.canvas_widget.wiring

        def take(template: Template) -> None:
            self.edit("Adding to", lambda: with_fresh_ids(wiring, template.graph(), place))

        open_patterns(self._context, take)

    def edit_text(self, wanted: tools.EditFrame | tools.EditTitle) -> None:
        """Of a group or note, or the title of a node."""
        canvas, look, host = self.canvas_widget, self._context.look, self._context.host
        if isinstance(wanted, tools.EditTitle):
            node = find(canvas.wiring, wanted.node)
            about, text = f"Title of {plain(node.id)[:40]}", title_of(node)

            def edit(text: str) -> Edit:
                return Rename(node.id, "" if text == node.type else text)

        else:
            frames = {frame.id: frame for frame in frames_of(canvas.wiring, wanted.kind)}
            if wanted.id not in frames:
                return
            frame = frames[wanted.id]
            about, text = f"Text of the {wanted.kind.name.lower()}", frame.text

            def edit(text: str) -> Edit:
                return SetFrame(wanted.kind, replace(frame, text=text))

        column = Column(look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))

        def agreed(*_: Any) -> None:
            host.close()
            canvas.change(edit(field.text))

        is_note = isinstance(wanted, tools.EditFrame) and wanted.kind is FrameKind.NOTE
        field = TextField(look, text, lines=NOTE_LINES if is_note else 1)
        field.input.bind(on_text_validate=agreed)
        column.add_widget(field)
        row = Row(look)
        row.add_widget(Gap(look))
        row.add_widget(PushButton(look, "Change", agreed, Kind.PRIMARY))
        column.add_widget(row)
        host.open(about, column)
        field.input.focus = host.is_wide

    # -- what floats over the canvas -----------------------------------------------------------

    def _tools(self) -> Row:
        look = self._context.look
        bar = Row(look, gap=theme.HALF, pad=theme.HALF)
        paint(bar, look.palette.surface, look.px(theme.RADIUS_LARGE), look.palette.line)
        self._selecting = IconButton(
            look, "lasso", "Select several by dragging", partial(self.command, "select_mode")
        )
        self._cutting = IconButton(
            look, "cut", "Cut links by dragging across them", partial(self.command, "cut_mode")
        )
        buttons = (
            IconButton(look, "search", "Find in the graph", partial(self.command, "find")),
            self._selecting,
            self._cutting,
            IconButton(look, "fit", "Show all", partial(self.command, "fit")),
            IconButton(look, "arrange", "Arrange", partial(self.command, "arrange")),
            IconButton(
                look, "delete", "Remove what is selected, and keep links", partial(self.command, "dissolve")
            ),
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
            sign = {"icon": "right"} if depth else {}
            kind = Kind.QUIET if depth == len(inside) else Kind.PLAIN
            self._crumbs.add_widget(PushButton(look, plain(name)[:24], go, kind, **sign))
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        edge = self._context.look.px(theme.MEDIUM)
        self.canvas_widget.pos, self.canvas_widget.size = self.pos, self.size
        self._context.desk.aspect = min(max(self.width / max(self.height, 1), NARROWEST), WIDEST)
        self._bar.pos = (self.x + edge, self.y + edge)
        self.canvas_widget.foot = self._bar.height + 2 * edge
        self._crumbs.size_hint = (None, None)
        self._crumbs.width = max(self.width - 2 * edge, 1)
        self._crumbs.height = self._context.look.px(theme.TOUCH) if self._shown else 0
        top = self.y + self.height - edge
        if self._find.parent is not None:
            self._find.room = self.height / 2 - self._context.look.px(FIND_HEAD)
            self._find.width = min(self._context.look.px(FIND_WIDTH), self.width - 2 * edge)
            self._find.pos = (self.x + self.width - edge - self._find.width, top - self._find.height)
            is_above = self._find.x < self.x + 2 * edge + self._crumbs.minimum_width
            top = self._find.y - edge if is_above else top
        self._crumbs.pos = (self.x + edge, top - self._crumbs.height)


def _clipboard() -> str:
    """Kivy gives None where a machine has no clipboard."""
    return str(Clipboard.paste() or "")
