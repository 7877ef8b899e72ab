"""What values are put into: text, numbers, one of many. What is wrong is said, not taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from kivy.graphics import Color, InstructionGroup, SmoothEllipse, SmoothRoundedRectangle
from kivy.properties import BooleanProperty, NumericProperty
from kivy.uix.textinput import TextInput

from engine_app.plain import drawable
from engine_app.ui import theme
from engine_app.ui.theme import Look, faded
from engine_app.ui.widgets.box import Column, Row, Text
from engine_app.ui.widgets.buttons import LEFT, RIGHT, IconButton, Kind
from engine_app.ui.widgets.focus import TAB, host_of
from engine_app.ui.widgets.icons import Icon
from engine_app.ui.widgets.press import Pressable, nothing

ESCAPE = 27
LOCKS = {"capslock", "numlock"}
EDITING = {ord(key): ord(key) for key in "acxvzr"} | {ord("y"): ord("r")}
"""What a field does with Control and a key; Kivy calls redo R."""
Check = Callable[[str], str | None]
"""Why a text will not do; None if it will."""


class _Input(TextInput):
    """Kivy's, in our colours; Tab belongs to the window's focus ring."""

    can_focus = True
    has_focus = BooleanProperty(False)

    def __init__(
        self, look: Look, text: str, hint: str, secret: bool, lines: int = 1, **options: Any
    ) -> None:
        palette = look.palette
        side = look.px(theme.MEDIUM)
        high = look.px(theme.TOUCH)
        size = look.px(theme.BODY.size)
        above = (high - size * 1.172) / 2
        super().__init__(
            text=drawable(text),
            hint_text=drawable(hint),
            multiline=lines > 1,
            password=secret,
            size_hint_y=None,
            height=high + (lines - 1) * look.px(theme.BODY.line),
            font_size=size,
            padding=[side, above, side, 0],
            background_color=(0, 0, 0, 0),
            foreground_color=palette.text,
            hint_text_color=palette.muted,
            cursor_color=palette.accent,
            selection_color=faded(palette.accent, 0.35),
            write_tab=False,
            text_validate_unfocus=True,
            **options,
        )
        self.bind(has_focus=self._follow, focus=self._tell)

    def _follow(self, *_: Any) -> None:
        self.focus = self.has_focus

    def _tell(self, *_: Any) -> None:
        host = host_of(self) if self.focus else None
        if host is not None:
            host.ring.take(self)

    def on_touch_down(self, touch: Any) -> bool:
        """Kivy works its lines out a frame after it is made, and cannot be touched before."""
        return bool(self._lines) and bool(super().on_touch_down(touch))

    def edit(self, code: int, modifiers: list[str]) -> bool:
        """Copies, pastes, undoes; False for another key. Kivy itself asks for a text with the key."""
        if set(modifiers) - LOCKS not in ({"ctrl"}, {"meta"}) or code not in EDITING:
            return False
        self._handle_shortcut(EDITING[code])
        return True

    def keyboard_on_key_down(self, window: Any, keycode: Any, text: Any, modifiers: Any) -> bool:
        if keycode[0] == TAB:
            return False
        return bool(super().keyboard_on_key_down(window, keycode, text, modifiers))

    def release(self, touch: Any) -> None:
        touch.ungrab(self)


class TextField(Column):
    """``changed`` gets what passes the check, as it is finished (or, with ``live``, as it is written)."""

    def __init__(
        self,
        look: Look,
        text: str = "",
        changed: Callable[[str], Any] = lambda text: None,
        check: Check = lambda text: None,
        *,
        hint: str = "",
        secret: bool = False,
        live: bool = False,
        lines: int = 1,
        **options: Any,
    ) -> None:
        options.setdefault("pos_hint", {"top": 1})
        super().__init__(look, gap=0, **options)
        self._look = look
        self._changed = changed
        self._check = check
        self._taken = drawable(text)
        self._live = live
        self.input = _Input(look, text, hint, secret, lines)
        self._edge = paint_field(look, self.input)
        self._problem = Text(look, "", theme.SMALL, look.palette.danger, padding=(0, look.px(theme.HALF)))
        self.add_widget(self.input)
        self.add_widget(self._problem)
        self.input.bind(text=self._on_text, focus=self._on_focus)
        self.input.bind(on_text_validate=lambda *_: self._finish())

    @property
    def text(self) -> str:
        return str(self.input.text)

    @property
    def problem(self) -> str:
        return str(self._problem.text)

    def show(self, text: str) -> None:
        """As the value is now; what is just being written stays."""
        self._taken = drawable(text)
        if not self.input.focus:
            self.input.text = drawable(text)
            self.input.scroll_x = 0  # a shorter text would lie beside the view of a longer one
            self._judge()

    def _on_text(self, *_: Any) -> None:
        if self._judge() and self._live:
            self._take()

    def _on_focus(self, _input: Any, has_focus: bool) -> None:
        self._judge()
        if not has_focus:
            self._finish()

    def _finish(self) -> None:
        if self._judge():
            self._take()

    def _take(self) -> None:
        if self.text != self._taken:
            self._taken = self.text
            self._changed(self.text)

    def _judge(self) -> bool:
        found = self._check(self.text)
        palette = self._look.palette
        self._problem.text = found or ""
        self._edge.rgba = palette.danger if found else palette.accent if self.input.focus else palette.border
        return found is None


def paint_field(look: Look, widget: Any) -> Color:
    """Border and ground of a field; gives the border's colour."""
    edge = Color(*look.palette.border)
    outer = SmoothRoundedRectangle(radius=[look.px(theme.RADIUS)])
    inner = SmoothRoundedRectangle(radius=[look.px(theme.RADIUS - 1)])
    ground = InstructionGroup()
    for instruction in (edge, outer, Color(*look.palette.surface), inner):
        ground.add(instruction)
    widget.canvas.before.insert(0, ground)  # Kivy's text has the last colour that is set before it

    def follow(*_: Any) -> None:
        thick = max(1.0, look.px(1))
        outer.pos, outer.size = widget.pos, widget.size
        inner.pos = (widget.x + thick, widget.y + thick)
        inner.size = (widget.width - 2 * thick, widget.height - 2 * thick)

    widget.bind(pos=follow, size=follow)
    return edge


class SearchField(Row):
    """Tells of every letter, and of Enter."""

    def __init__(
        self, look: Look, hint: str, changed: Callable[[str], Any], entered: Callable[[], Any] = nothing
    ) -> None:
        super().__init__(look, gap=theme.HALF)
        self.field = TextField(look, "", changed, hint=hint, live=True)
        self.field.input.bind(on_text_validate=lambda *_: entered())
        self.add_widget(self.field)
        self._clear = IconButton(look, "close", "Clear the search", self.clear)
        self.add_widget(_top(self._clear))
        self._clear.disabled = True
        self.field.input.bind(text=lambda *_: setattr(self._clear, "disabled", not self.field.text))

    def clear(self) -> None:
        self.field.input.text = ""


class Stepper(Row):
    """A number, with a step down and up beside it."""

    def __init__(
        self,
        look: Look,
        value: float,
        changed: Callable[[float], Any],
        *,
        check: Check,
        whole: bool = True,
        step: Callable[[float, int], float] | None = None,
    ) -> None:
        """``step(value, 1 or -1)`` is the next number; by default one more or less."""
        super().__init__(look, gap=theme.HALF)
        self._whole = whole
        self._changed = changed
        self._check = check
        self._value = value
        self._step = step or (lambda value, way: value + way)
        self.field = TextField(look, number_text(value), self._read, self._problem)
        self.add_widget(_top(IconButton(look, "remove", "Less", lambda: self._move(-1), Kind.PLAIN)))
        self.add_widget(self.field)
        self.add_widget(_top(IconButton(look, "add", "More", lambda: self._move(1), Kind.PLAIN)))

    def show(self, value: float) -> None:
        self._value = value
        self.field.show(number_text(value))

    def _problem(self, text: str) -> str | None:
        return self._check(text)

    def _read(self, text: str) -> None:
        self._value = int(text) if self._whole else float(text)
        self._changed(self._value)

    def _move(self, way: int) -> None:
        value = self._step(self._value, way)
        value = int(value) if self._whole else value
        if self._check(number_text(value)) is None:
            self.show(value)
            self._changed(value)


def _top(button: IconButton) -> IconButton:
    """Stays beside the field when a problem is told below it."""
    button.pos_hint = {"top": 1}
    return button


def number_text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


class RangeSlider(Pressable):
    """A number of a range, by finger or arrow key; ``moved`` is called on the way, ``changed`` at the end."""

    value = NumericProperty(0.0)

    def __init__(
        self,
        look: Look,
        value: float,
        low: float,
        high: float,
        changed: Callable[[float], Any],
        *,
        step: float = 0.0,
        moved: Callable[[float], Any] = lambda value: None,
    ) -> None:
        super().__init__(look, nothing, size_hint_y=None, height=look.px(theme.TOUCH))
        self._low, self._high, self._step = low, high, step
        self._changed, self._moved = changed, moved
        with self.canvas:
            Color(*look.palette.pressed)
            self._track = SmoothRoundedRectangle(radius=[look.px(2)])
            Color(*look.palette.accent)
            self._filled = SmoothRoundedRectangle(radius=[look.px(2)])
            self._knob = SmoothEllipse()
        self.bind(pos=self._draw, size=self._draw, value=self._draw)
        self.value = value
        self._draw()

    def _draw(self, *_: Any) -> None:
        px = self.look.px
        left, wide = self.x + px(12), max(1.0, self.width - px(24))
        share = (self.value - self._low) / ((self._high - self._low) or 1)
        share = min(max(share, 0), 1)
        self._track.pos, self._track.size = (left, (self.y + self.height / 2) - px(2)), (wide, px(4))
        self._filled.pos, self._filled.size = self._track.pos, (max(1, wide * share), px(4))
        radius = px(11 if self.is_down else 9)
        self._knob.size = (2 * radius, 2 * radius)
        self._knob.pos = (left + wide * share - radius, (self.y + self.height / 2) - radius)

    def _at(self, x: float) -> float:
        share = (x - self.x - self.look.px(12)) / max(1.0, self.width - self.look.px(24))
        return self._rounded(self._low + min(max(share, 0), 1) * (self._high - self._low))

    def _rounded(self, value: float) -> float:
        if self._step:
            value = self._low + round((value - self._low) / self._step) * self._step
        return min(max(value, self._low), self._high)

    def on_touch_down(self, touch: Any) -> bool:
        self._before = self.value
        return super().on_touch_down(touch)

    def on_touch_move(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return super().on_touch_move(touch)
        if not touch.ud.get("held") and abs(touch.x - touch.ox) < self.look.px(theme.HALF):
            return True
        touch.ud["held"] = self  # from now on it is no scrolling
        self.value = self._at(touch.x)
        self._moved(self.value)
        return True

    def on_touch_up(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return super().on_touch_up(touch)
        if touch.ud.get("held") is not self:
            self.value = self._at(touch.x)
        super().release(touch)
        self._draw()
        if self.value != self._before:
            self._changed(self.value)
        return True

    def on_key(self, code: int) -> bool:
        if code not in (LEFT, RIGHT):
            return False
        step = self._step or (self._high - self._low) / 20
        value = self._rounded(self.value + (step if code == RIGHT else -step))
        if value != self.value:
            self.value = value
            self._changed(value)
        return True


class Choice(Pressable):
    """One of many: shows which, and asks ``open_list`` for another when it is pressed."""

    def __init__(self, look: Look, value: str, choices: Sequence[str], changed: Callable[[str], Any]) -> None:
        super().__init__(look, self._open, size_hint_y=None, height=look.px(theme.TOUCH))
        self._choices = choices
        self._changed = changed
        paint_field(look, self)
        self._label = Text(look, value, lines=1)
        self.add_widget(self._label)
        self._icon = Icon(self.canvas, "down", look.px(18), look.palette.muted)
        self.bind(pos=self._arrange, size=self._arrange)

    @property
    def value(self) -> str:
        return str(self._label.text)

    def show(self, value: str) -> None:
        self._label.text = value

    def _open(self) -> None:
        host = host_of(self)
        if host is not None:
            host.choose_from(self._choices, self.value, self._take)

    def _take(self, value: str) -> None:
        if value != self.value:
            self.show(value)
            self._changed(value)

    def _arrange(self, *_: Any) -> None:
        px = self.look.px
        self._label.x, self._label.center_y = self.x + px(theme.MEDIUM), (self.y + self.height / 2)
        self._label.width = max(1, self.width - px(52))
        self._icon.move((self.x + self.width) - px(22), (self.y + self.height / 2))


def doubled(value: float, way: int) -> float:
    """The next of 1, 2, 5, 10, 20 ... up or down: steps for what spans decades."""
    if value <= 0:
        return 1e-4 if way > 0 else 0.0
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissas = [m * 10.0 ** (exponent + shift) for shift in (-1, 0, 1) for m in (1, 2, 5)]
    close = value * 1e-6
    if way > 0:
        return float(f"{min(m for m in mantissas if m > value + close):.6g}")
    return float(f"{max(m for m in mantissas if m < value - close):.6g}")
