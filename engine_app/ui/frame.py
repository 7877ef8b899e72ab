"""The window's frame: where one goes (at the left, or at the bottom of a narrow window) and the top bar."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from kivy.uix.boxlayout import BoxLayout
from kivy.uix.widget import Widget

from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.theme import Look, faded
from engine_app.ui.widgets.box import Line, Row, Text, paint
from engine_app.ui.widgets.buttons import Grounded, IconButton, Kind, PushButton
from engine_app.ui.widgets.icons import Icon
from engine_app.ui.widgets.still import Still

PAGES = (
    ("build", "Build", "build"),
    ("train", "Train", "train"),
    ("jobs", "Jobs", "jobs"),
    ("deploy", "Deploy", "deploy"),
    ("wallet", "Wallet", "wallet"),
    ("settings", "Settings", "settings"),
)
"""Name, title, icon."""
RAIL_WIDTH, BAR_HEIGHT = 80.0, 64.0


class NavigationItem(Grounded):
    """An icon over a word."""

    def __init__(self, look: Look, title: str, icon: str, action: Callable[[], Any]) -> None:
        super().__init__(look, faded(look.palette.pressed, 0), action, size_hint_y=None, height=look.px(60))
        self._drawn = Icon(self.canvas, icon, look.px(theme.ICON), look.palette.muted)
        self._label = Text(look, title, theme.LABEL, look.palette.muted, align="center", lines=1)
        self.add_widget(self._label)
        self.bind(pos=self._arrange, size=self._arrange)

    def choose(self, is_chosen: bool) -> None:
        palette = self.look.palette
        self.set_ground(palette.accent_soft if is_chosen else faded(palette.pressed, 0))
        colour = palette.text if is_chosen else palette.muted
        self._label.color = colour
        self._drawn.colour.rgba = colour

    def _arrange(self, *_: Any) -> None:
        px = self.look.px
        self._drawn.move((self.x + self.width / 2), (self.y + self.height / 2) + px(10))
        self._label.width = self.width
        self._label.center_x, self._label.y = (self.x + self.width / 2), (self.y + self.height / 2) - px(26)


class Navigation(BoxLayout):
    def __init__(self, look: Look, is_wide: bool, chosen: str, go: Callable[[str], None]) -> None:
        super().__init__(
            orientation="vertical" if is_wide else "horizontal",
            padding=look.px(theme.STEP if is_wide else 2),
            spacing=look.px(theme.HALF),
        )
        if is_wide:
            self.size_hint_x, self.width = None, look.px(RAIL_WIDTH)
        else:
            self.size_hint_y, self.height = None, look.px(BAR_HEIGHT)
        paint(self, look.palette.surface)
        for name, title, icon in PAGES:
            if is_wide and name == "settings":
                self.add_widget(Widget())
            item = NavigationItem(look, title, icon, partial(go, name))
            item.choose(name == chosen)
            self.add_widget(item)


LEAST_NAME = 64.0
"""Where there is less room, a dot is all that would be read."""


class TopBar(BoxLayout):
    """The document, undo and redo, what is wrong, and training."""

    def __init__(self, context: Context, is_wide: bool, show_problems: Callable[[], None]) -> None:
        look, desk, act = context.look, context.desk, context.act
        super().__init__(
            size_hint_y=None,
            height=look.px(theme.BAR + theme.STEP),
            padding=[look.px(theme.STEP), look.px(theme.STEP)],
            spacing=look.px(theme.HALF),
        )
        paint(self, look.palette.surface)
        self._context = context
        self._is_wide = is_wide
        self.add_widget(IconButton(look, "open", "Open a graph or a model", act.ask_open))
        self._save = IconButton(look, "save", "Save the graph", act.save)
        self.add_widget(self._save)
        self.add_widget(IconButton(look, "more", "More files: pictures, models", act.show_files))
        self._name = Text(look, "", theme.STRONG, lines=1, pos_hint={"center_y": 0.5})
        self._name.padding = (look.px(theme.STEP), 0)
        self._name.bind(
            width=lambda name, width: setattr(name, "opacity", float(width >= look.px(LEAST_NAME)))
        )
        self.add_widget(self._name)
        self._undo = IconButton(look, "undo", "Undo", desk.undo)
        self._redo = IconButton(look, "redo", "Redo", desk.redo)
        self.add_widget(self._undo)
        self.add_widget(self._redo)
        self._problems = PushButton(look, "No problems", show_problems, Kind.QUIET, "check")
        self._errors = PushButton(look, "", show_problems, Kind.QUIET, "warning")
        self._place = Row(look, size_hint_x=None, width=0, pos_hint={"center_y": 0.5})
        self._place.bind(minimum_width=self._place.setter("width"))
        self.add_widget(self._place)
        self._train = PushButton(look, "Train", lambda: act.show_page("train"), Kind.PRIMARY, "play")
        self.add_widget(self._train)
        self._stop = desk.listen(self.refresh)
        self.refresh()

    def close(self) -> None:
        self._stop()

    def stand_over(self, page: str) -> None:
        """The page on which one trains has a button of its own that begins."""
        if (self._train.parent is None) != (page == "train"):
            (self.remove_widget if page == "train" else self.add_widget)(self._train)

    @property
    def problems_button(self) -> Widget:
        return self._errors

    def refresh(self) -> None:
        desk = self._context.desk
        self._name.text = desk.graph.name + (" •" if desk.is_changed else "")
        self._undo.disabled = not desk.can_undo
        self._redo.disabled = not desk.can_redo
        self._save.disabled = not desk.is_changed
        count = len(desk.analysis.diagnostics) if desk.graph.nodes else 0
        self._errors.text = f"{count} problem{'' if count == 1 else 's'}" if self._is_wide else str(count)
        fine = self._problems if self._is_wide and desk.graph.nodes else None
        shown = self._errors if count else fine
        if self._place.children != ([shown] if shown else []):
            self._place.clear_widgets()
            if shown is not None:
                self._place.add_widget(shown)


def framed(context: Context, is_wide: bool, page: str, content: Widget, bar: TopBar) -> BoxLayout:
    """Everything of the window but what lies above it."""
    look = context.look
    surface = look.palette.surface
    navigation = Still(Navigation(look, is_wide, page, context.act.show_page), surface)
    bar.stand_over(page)
    inner = BoxLayout(orientation="vertical")
    for part in (Still(bar, surface), Line(look), content):
        inner.add_widget(part)
    outer = BoxLayout(orientation="horizontal" if is_wide else "vertical")
    parts = (navigation, Line(look, upright=True), inner) if is_wide else (inner, Line(look), navigation)
    for part in parts:
        outer.add_widget(part)
    return outer
