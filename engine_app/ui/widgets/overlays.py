"""What lies above the window: sheets, dialogs, lists to choose from, short messages and tips.

One Host fills the window and holds the content below them. While something asks, only that can be
touched and only that has the keyboard; a touch beside it, or Escape, takes it away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kivy.animation import Animation
from kivy.clock import Clock
from kivy.core.window import Window
from kivy.graphics import ClearBuffers, ClearColor
from kivy.uix.floatlayout import FloatLayout
from kivy.uix.widget import Widget

from engine_app.ui import theme
from engine_app.ui.theme import Look
from engine_app.ui.widgets.box import Column, Gap, Panel, Row, Text, paint
from engine_app.ui.widgets.buttons import IconButton, Kind, ListRow, PushButton
from engine_app.ui.widgets.focus import TAB, FocusRing
from engine_app.ui.widgets.press import is_main
from engine_app.ui.widgets.scroll import Scroll

ESCAPE, F1, F12 = 27, 282, 293
WIDE_FROM = 1000.0
"""Windows at least so many dp wide have their panels at the side."""


WIDEST_BELOW = 840.0
"""Sheets at the bottom, in dp: as wide as a tablet that stands."""
NARROW_LIFT = 208.0
WIDE_LIFT = 80.0
"""Where messages are: above the canvas's tools, and in a narrow window above its bars too."""


class Foot(Column):
    """What stays in sight below a sheet whose body scrolls."""

    def __init__(self, look: Look) -> None:
        super().__init__(look, pad=(theme.LARGE, theme.MEDIUM, theme.LARGE, theme.LARGE))


class Sheet(FloatLayout):
    """A shade over everything, and on it something: in the middle, at the bottom or at the right."""

    def __init__(
        self,
        look: Look,
        title: str,
        body: Widget,
        gone: Callable[[], Any],
        place: str,
        wide: float,
        fills: bool,
        foot: Widget | None,
    ) -> None:
        super().__init__()
        self._gone = gone
        self._place = place
        self._look = look
        self._wide = look.px(wide)
        self._fills = fills
        paint(self, look.palette.shade)
        self.box = Column(look, gap=0, size_hint=(None, None))
        paint(self.box, look.palette.surface, look.px(theme.RADIUS_LARGE), look.palette.line)
        head = Row(look, pad=(theme.LARGE, theme.STEP, theme.STEP, theme.HALF))
        head.add_widget(
            Text(look, title, theme.HEADING, lines=1, size_hint=(1, None), pos_hint={"center_y": 0.5})
        )
        head.add_widget(IconButton(look, "close", "Close", gone))
        self.box.add_widget(head)
        self.body = body
        self._scroll = None
        if fills:
            if isinstance(body, Panel):
                body.ground.a = 0  # the sheet has one, with round corners
            self.box.add_widget(body)
        else:
            self._scroll = Scroll(look, body, size_hint_y=None)
            self.box.add_widget(self._scroll)
            body.bind(height=lambda *_: self._arrange())
        self._foot = foot
        if foot is not None:
            self.box.add_widget(foot)
            foot.bind(height=lambda *_: self._arrange())
        if place == "bottom":
            self.box.padding = [0, 0, 0, look.px(theme.RADIUS_LARGE)]
        self.add_widget(self.box)
        self.bind(size=lambda *_: self._arrange(), pos=lambda *_: self._arrange())

    def to_end(self) -> None:
        """Scrolls to the last line."""
        if self._scroll is not None:
            self._scroll.scroll_by(self.body.height)

    def _arrange(self) -> None:
        if self.width < 2:
            return
        px = self._look.px
        margin = px(theme.STEP)
        is_bottom = self._place == "bottom"
        fixed = px(theme.TOUCH + theme.MEDIUM) + (self._foot.height if self._foot is not None else 0)
        most = self.height * (0.72 if is_bottom else 0.95) - fixed
        room, widest = (self.width, px(WIDEST_BELOW)) if is_bottom else (self.width - 2 * margin, self._wide)
        self.box.width = min(room, widest)
        content = most if self._fills else min(most, self.body.height)
        if self._scroll is not None:
            self._scroll.height = content
        else:
            self.body.size_hint_y, self.body.height = None, content
        below = px(theme.RADIUS_LARGE) if is_bottom else 0  # the lower corners, out of the window
        self.box.height = fixed + content + below
        x = (
            (self.x + self.width) - self.box.width - margin
            if self._place == "right"
            else (self.x + self.width / 2) - self.box.width / 2
        )
        y = {"bottom": self.y - below, "right": (self.y + self.height) - self.box.height - margin}.get(
            self._place, (self.y + self.height / 2) - self.box.height / 2
        )
        self.box.pos = (x, y)

    def on_touch_down(self, touch: Any) -> bool:
        if self.box.collide_point(*touch.pos):
            super().on_touch_down(touch)
        elif is_main(touch):
            self._gone()
        return True

    def on_touch_move(self, touch: Any) -> bool:
        super().on_touch_move(touch)
        return True

    def on_touch_up(self, touch: Any) -> bool:
        super().on_touch_up(touch)
        return True


class Host(FloatLayout):
    """The window's root."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look
        self.ring = FocusRing()
        self._content: Widget | None = None
        self._sheets: list[tuple[Any, Callable[[], Any]]] = []
        self._toast: Widget | None = None
        self.message = ""
        """What is told just now."""
        self._tip: Widget | None = None
        self._ground = ClearColor(*look.palette.canvas)
        for instruction in (self._ground, ClearBuffers(clear_color=True)):  # much cheaper than a rectangle
            self.canvas.before.add(instruction)

    def set_look(self, look: Look) -> None:
        """For what is made from now on."""
        self.look = look
        self._ground.rgba = look.palette.canvas
        while self._sheets:
            self.close()
        self.close_toast()

    @property
    def is_wide(self) -> bool:
        return bool(self.width >= WIDE_FROM * self.look.pixels_per_dp)

    @property
    def is_asking(self) -> bool:
        return bool(self._sheets)

    def set_content(self, content: Widget) -> None:
        if self._content is not None:
            self.remove_widget(self._content)
        self._content = content
        self.add_widget(content, index=len(self.children))

    # -- sheets and dialogs --------------------------------------------------------------------

    def open(
        self,
        title: str,
        body: Widget,
        *,
        side: bool = False,
        wide: float = 440,
        fills: bool = False,
        foot: Widget | None = None,
        gone: Callable[[], Any] = lambda: None,
    ) -> None:
        """In the middle; with ``side`` at the right of a wide window and at the bottom of a narrow one.

        ``foot`` stays in sight below a body that scrolls.
        """
        place = ("right" if self.is_wide else "bottom") if side else "middle"
        sheet = Sheet(self.look, title, body, self.close, place, wide, fills, foot)
        self._sheets.append((sheet, gone))
        self.ring.clear()
        sheet.opacity = 0
        self.add_widget(sheet)
        Animation(opacity=1, duration=theme.QUICK_S).start(sheet)

    def lay_over(self, widget: Any) -> None:
        """What is no sheet; ``widget.box`` is what the keyboard may reach. ``close`` takes it away."""
        self._sheets.append((widget, lambda: None))
        self.ring.clear()
        self.add_widget(widget)

    def close(self) -> None:
        """The topmost, if there is one."""
        if self._sheets:
            sheet, gone = self._sheets.pop()
            self.ring.clear()
            self.remove_widget(sheet)
            gone()

    def close_with(self, body: Widget) -> None:
        """The sheet of that body, wherever it is, if it still is there."""
        for at, (sheet, gone) in enumerate(self._sheets):
            if isinstance(sheet, Sheet) and sheet.body is body:
                del self._sheets[at]
                self.ring.clear()
                self.remove_widget(sheet)
                gone()
                return

    def ask(
        self,
        title: str,
        text: str,
        yes: str,
        action: Callable[[], Any],
        *,
        danger: bool = False,
        instead: tuple[str, Callable[[], Any]] | None = None,
    ) -> None:
        """A question with two answers. ``instead`` of doing nothing, something else can be done."""

        def does(what: Callable[[], Any]) -> None:
            self.close()
            what()

        no, other = instead or ("Cancel", lambda: None)
        column = Column(self.look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))
        column.add_widget(Text(self.look, text))
        row = Row(self.look)
        row.add_widget(Gap(self.look))
        row.add_widget(PushButton(self.look, no, partial(does, other), Kind.QUIET))
        kind = Kind.DANGER if danger else Kind.PRIMARY
        row.add_widget(PushButton(self.look, yes, partial(does, action), kind))
        column.add_widget(row)
        self.open(title, column)

    def choose_from(
        self, choices: Sequence[str], chosen: str, take: Callable[[str], Any], title: str = "Choose"
    ) -> None:
        column = Column(self.look, gap=2, pad=(theme.HALF, 0, theme.HALF, theme.STEP))

        def picked(value: str) -> None:
            self.close()
            take(value)

        for value in choices:
            row = ListRow(self.look, value, action=partial(picked, value))
            row.choose(value == chosen)
            column.add_widget(row)
        self.open(title, column, wide=360)

    # -- messages ------------------------------------------------------------------------------

    def toast(
        self,
        text: str,
        action: tuple[str, Callable[[], Any]] | None = None,
        bad: bool = False,
        stays: bool = False,
    ) -> None:
        """A message that goes by itself; one that is bad or ``stays`` is closed, or followed by another."""
        self.close_toast()
        look = self.look
        row = Row(look, pad=(theme.LARGE, theme.STEP, theme.HALF, theme.STEP), size_hint_x=None)
        row.width = min(self.width - look.px(theme.HUGE), look.px(560))
        paint(
            row,
            look.palette.raised,
            look.px(theme.RADIUS),
            look.palette.danger if bad else look.palette.border,
        )
        row.add_widget(
            Text(
                look, text[:600], theme.BODY, look.palette.danger if bad else None, pos_hint={"center_y": 0.5}
            )
        )
        if action is not None:
            name, act = action

            def taken() -> None:
                self.close_toast()
                act()

            row.add_widget(PushButton(look, name, taken, Kind.QUIET, pos_hint={"center_y": 0.5}))
        close = IconButton(look, "close", "Close", self.close_toast)
        close.pos_hint = {"center_y": 0.5}
        row.add_widget(close)
        lift = WIDE_LIFT if self.is_wide else NARROW_LIFT
        row.bind(
            size=lambda *_: setattr(
                row, "pos", ((self.x + self.width / 2) - row.width / 2, self.y + look.px(lift))
            )
        )
        row.pos = ((self.x + self.width / 2) - row.width / 2, self.y + look.px(lift))
        row.pos_hint = {"center_x": 0.5}
        self._toast = row
        self.message = text
        self.add_widget(row)
        if not bad and not stays:
            Clock.schedule_once(lambda _dt: self.close_toast() if self._toast is row else None, theme.TOAST_S)

    def close_toast(self) -> None:
        if self._toast is not None:
            self.remove_widget(self._toast)
            self._toast = None
            self.message = ""

    def show_tip(self, widget: Widget, text: str) -> None:
        """Beside the widget, until the next touch ends."""
        self._hide_tip()
        look = self.look
        tip = Column(look, gap=0, pad=(theme.MEDIUM, theme.STEP, theme.MEDIUM, theme.STEP), size_hint_x=None)
        paint(tip, look.palette.raised, look.px(theme.RADIUS), look.palette.border)
        tip.width = min(self.width - look.px(theme.LARGE), look.px(min(300, 40 + 7.5 * len(text))))
        tip.add_widget(Text(look, text, theme.SMALL))
        x, y = widget.to_window(*widget.pos)

        def place(*_: Any) -> None:
            below = y - tip.height - look.px(theme.HALF)
            tip.x = min(max(x, look.px(theme.STEP)), self.width - tip.width - look.px(theme.STEP))
            tip.y = below if below > 0 else y + widget.height + look.px(theme.HALF)

        tip.bind(height=place)
        place()
        self._tip = tip
        self.add_widget(tip)

    def _hide_tip(self) -> None:
        if self._tip is not None:
            self.remove_widget(self._tip)
            self._tip = None

    # -- touches and keys ----------------------------------------------------------------------

    def on_touch_down(self, touch: Any) -> bool:
        self._hide_tip()
        self.ring.clear()
        for found in (self._toast, self._sheets[-1][0] if self._sheets else self._content):
            if found is not None and found.dispatch("on_touch_down", touch):
                return True
        return False

    def on_touch_up(self, touch: Any) -> bool:
        if self._tip is not None:
            self._hide_tip()
        return bool(super().on_touch_up(touch))

    def on_key(self, code: int, modifiers: list[str]) -> bool:
        """True if it was for the focus or for what asks; a window's shortcuts come after that."""
        if code == ESCAPE:
            if self._sheets:
                self.close()
                return True
            if self._toast is not None:
                self.close_toast()
                return True
        root = self._sheets[-1][0].box if self._sheets else self._content
        return bool(root is not None and self.ring.key(root, code, modifiers)) or bool(self._sheets)


def is_written(code: int, modifiers: list[str]) -> bool:
    """Whether a field that has the focus keeps the key from shortcuts: letters, arrows, Enter."""
    is_letter = not {"ctrl", "meta"} & set(modifiers)
    return is_letter and code not in (TAB, ESCAPE) and not F1 <= code <= F12


def bind_keys(
    host: Host,
    shortcuts: Callable[[int, str, list[str]], bool],
    first: Callable[[int, str, list[str]], bool] = lambda *_: False,
) -> Callable[[], None]:
    """Leads the window's keys to ``first``, the host, its shortcuts; gives the function that ends it."""

    def on_key_down(_window: Any, code: int, _scan: int, text: str | None, modifiers: list[str]) -> bool:
        writing = host.ring.writing
        if writing is not None:
            if writing.edit(code, modifiers):
                return True
            if is_written(code, modifiers):
                return False
        pressed = code, text or "", modifiers
        return first(*pressed) or host.on_key(code, modifiers) or shortcuts(*pressed)

    Window.bind(on_key_down=on_key_down)
    return lambda: Window.unbind(on_key_down=on_key_down)
