"""Buttons, toggles, segments, tabs and rows of lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any

from kivy.graphics import Color, SmoothEllipse, SmoothRoundedRectangle
from kivy.properties import BooleanProperty, StringProperty
from kivy.uix.boxlayout import BoxLayout

from engine_app.ui import theme
from engine_app.ui.theme import Colour, Look, faded, mixed
from engine_app.ui.widgets.box import Text, paint, width_of
from engine_app.ui.widgets.icons import Icon
from engine_app.ui.widgets.press import Pressable, nothing

LEFT, RIGHT = 276, 275


class Kind(Enum):
    PRIMARY = "primary"
    """The one thing to do here."""
    PLAIN = "plain"
    QUIET = "quiet"
    """No ground until it is pressed."""
    DANGER = "danger"


def _colours(look: Look, kind: Kind) -> tuple[Colour, Colour]:
    """Ground and what is written on it."""
    palette = look.palette
    return {
        Kind.PRIMARY: (palette.accent, palette.on_accent),
        Kind.PLAIN: (mixed(palette.raised, palette.pressed, 0.5), palette.text),
        Kind.QUIET: (faded(palette.pressed, 0), palette.text),
        Kind.DANGER: (palette.danger, palette.on_danger),
    }[kind]


class Grounded(Pressable):
    """Draws its ground, darker while it is down, and fainter while it is disabled."""

    def __init__(
        self,
        look: Look,
        ground: Colour,
        *args: Any,
        radius: float = theme.RADIUS,
        inset: float = 0,
        **options: Any,
    ) -> None:
        """``inset``: dp of what can be touched that the ground leaves free."""
        self._rest = ground
        super().__init__(look, *args, **options)
        self._ground = paint(self, ground, look.px(radius), inset=look.px(inset))
        self.bind(is_down=self._tint, disabled=self._fade)
        self._fade()

    def set_ground(self, ground: Colour) -> None:
        self._rest = ground
        self._tint()

    def _tint(self, *_: Any) -> None:
        pressed = self.look.palette.pressed
        solid = self._rest if self._rest[3] else (*pressed[:3], 0)
        self._ground.rgba = (
            (mixed(solid, pressed, 0.6) if self._rest[3] else pressed) if self.is_down else solid
        )

    def _fade(self, *_: Any) -> None:
        self.opacity = 0.4 if self.disabled else 1


class PushButton(Grounded):
    """Not called Button: Kivy styles its own widgets by the names of their classes.

    A word or two, with an icon before it where there is one; as wide as that needs."""

    text = StringProperty("")

    def __init__(
        self,
        look: Look,
        text: str,
        action: Callable[[], Any] = nothing,
        kind: Kind = Kind.PLAIN,
        icon: str = "",
        **options: Any,
    ) -> None:
        ground, colour = _colours(look, kind)
        options.setdefault("size_hint", (None, None))
        super().__init__(look, ground, action, height=look.px(theme.TOUCH), **options)
        self._label = Text(look, text, theme.STRONG, colour, align="center", size_hint_x=None)
        self._icon = Icon(self.canvas, icon, look.px(20), colour) if icon else None
        self.add_widget(self._label)
        self._label.bind(texture_size=self._fit)
        self._kind = kind
        self.bind(pos=self._arrange, size=self._arrange, text=self._say, disabled=self._dress)
        self.text = text

    def _dress(self, *_: Any) -> None:
        """What cannot be pressed has no strong colour: it would be hard to read, faint as it is."""
        ground, colour = _colours(self.look, Kind.PLAIN if self.disabled else self._kind)
        self.set_ground(ground)
        self._label.color = self._label.disabled_color = colour
        if self._icon:
            self._icon.colour.rgba = colour

    def _say(self, *_: Any) -> None:
        self._label.text = self.text

    def _fit(self, *_: Any) -> None:
        self._label.unbind(width=self._label._wrap)
        self._label.text_size = (None, None)
        if self.size_hint_x is None:
            self.width = self._inner() + 2 * self.look.px(theme.LARGE)
        self._arrange()

    def _inner(self) -> float:
        icon = self.look.px(20 + theme.STEP) if self._icon else 0
        return float(self._label.texture_size[0] + icon)

    def _arrange(self, *_: Any) -> None:
        left = (self.x + self.width / 2) - self._inner() / 2
        self._label.width = self._label.texture_size[0]
        if self._icon:
            self._icon.move(left + self.look.px(10), (self.y + self.height / 2))
            left += self.look.px(20 + theme.STEP)
        self._label.pos = (left, (self.y + self.height / 2) - self._label.height / 2)


class IconButton(Grounded):
    """Says what it is for while it is held."""

    icon = StringProperty("")

    def __init__(
        self, look: Look, icon: str, tip: str, action: Callable[[], Any] = nothing, kind: Kind = Kind.QUIET
    ) -> None:
        ground, self._colour = _colours(look, kind)
        side = look.px(theme.TOUCH)
        super().__init__(look, ground, action, tip, size_hint=(None, None), size=(side, side))
        self._drawn = Icon(self.canvas, icon, look.px(theme.ICON), self._colour)
        self.bind(pos=self._arrange, size=self._arrange, icon=self._change)
        self.icon = icon

    def _change(self, *_: Any) -> None:
        self.canvas.clear()
        self._drawn = Icon(self.canvas, self.icon, self.look.px(theme.ICON), self._colour)
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        self._drawn.move(self.x + self.width / 2, self.y + self.height / 2)


class Toggle(Pressable):
    """On or off."""

    is_on = BooleanProperty(False)

    def __init__(self, look: Look, is_on: bool, changed: Callable[[bool], Any]) -> None:
        super().__init__(look, self._flip, size_hint=(None, None), size=(look.px(56), look.px(theme.TOUCH)))
        self._changed = changed
        with self.canvas:
            self._track_colour = Color()
            self._track = SmoothRoundedRectangle(radius=[look.px(14)])
            self._knob_colour = Color()
            self._knob = SmoothEllipse()
        self.bind(pos=self._draw, is_on=self._draw)
        self.is_on = is_on
        self._draw()

    def _flip(self) -> None:
        self.is_on = not self.is_on
        self._changed(self.is_on)

    def _draw(self, *_: Any) -> None:
        palette, px = self.look.palette, self.look.px
        self._track_colour.rgba = palette.accent if self.is_on else palette.border
        self._knob_colour.rgba = palette.on_accent if self.is_on else palette.surface
        self._track.size = (px(48), px(28))
        self._track.pos = ((self.x + self.width / 2) - px(24), (self.y + self.height / 2) - px(14))
        self._knob.size = (px(20), px(20))
        self._knob.pos = (
            (self.x + self.width / 2) + (px(0) if self.is_on else -px(20)),
            (self.y + self.height / 2) - px(10),
        )


class _Segment(Grounded):
    def __init__(self, look: Look, text: str, action: Callable[[], Any]) -> None:
        super().__init__(look, faded(look.palette.pressed, 0), action, inset=theme.HALF / 2)
        self._label = Text(look, text, theme.STRONG, align="center", lines=1)
        self.add_widget(self._label)
        self.bind(pos=self._arrange, size=self._arrange)

    def choose(self, is_chosen: bool) -> None:
        palette = self.look.palette
        self.set_ground(palette.accent_soft if is_chosen else faded(palette.pressed, 0))
        self._label.color = palette.text if is_chosen else palette.muted

    def _arrange(self, *_: Any) -> None:
        self._label.width = self.width
        self._label.center = self.center


class Segments(BoxLayout):
    """One of a few, side by side; also the tabs of a panel."""

    def __init__(
        self, look: Look, choices: Sequence[tuple[str, str]], chosen: str, changed: Callable[[str], Any]
    ) -> None:
        """``choices``: value and text."""
        super().__init__(size_hint_y=None, height=look.px(theme.TOUCH))
        paint(self, look.palette.canvas, look.px(theme.RADIUS), look.palette.line)
        self._changed = changed
        self._segments: dict[str, _Segment] = {}
        for value, text in choices:
            self._segments[value] = _Segment(look, text, partial(self._choose, value))
            self.add_widget(self._segments[value])
        self.value = chosen
        self._mark()

    def select(self, value: str) -> None:
        """Without telling anybody."""
        self.value = value
        self._mark()

    def _choose(self, value: str) -> None:
        if value != self.value:
            self.select(value)
            self._changed(value)

    def _mark(self) -> None:
        for value, segment in self._segments.items():
            segment.choose(value == self.value)


class ListRow(Grounded):
    """A line or two, with a mark of colour or an icon before them and a figure behind them."""

    def __init__(
        self,
        look: Look,
        text: str,
        note: str = "",
        action: Callable[[], Any] = nothing,
        *,
        mark: Colour | None = None,
        icon: str = "",
        figure: str = "",
        tip: str = "",
    ) -> None:
        high = theme.TOUCH + (theme.STEP if note else 0)
        super().__init__(
            look, faded(look.palette.pressed, 0), action, tip, size_hint_y=None, height=look.px(high)
        )
        self.name = text
        self._text = Text(look, text, theme.BODY, lines=1)
        self._note = Text(look, note, theme.SMALL, look.palette.muted, lines=1) if note else None
        self._figure = Text(look, figure, theme.SMALL, look.palette.muted, align="right", lines=1)
        self._figure_width = width_of(look, figure, theme.SMALL) + 2
        for label in filter(None, (self._text, self._note, self._figure if figure else None)):
            self.add_widget(label)
        self._mark = None
        if mark is not None and not icon:
            with self.canvas:
                Color(*mark)
                self._mark = SmoothRoundedRectangle(radius=[look.px(2)])
        self._icon = Icon(self.canvas, icon, look.px(20), mark or look.palette.muted) if icon else None
        self.bind(pos=self._arrange, size=self._arrange)

    def choose(self, is_chosen: bool) -> None:
        palette = self.look.palette
        self.set_ground(palette.accent_soft if is_chosen else faded(palette.pressed, 0))

    def _arrange(self, *_: Any) -> None:
        px = self.look.px
        left = self.x + px(theme.MEDIUM)
        if self._mark is not None:
            self._mark.size = (px(4), self.height - px(theme.LARGE))
            self._mark.pos = (left, (self.y + self.height / 2) - self._mark.size[1] / 2)
            left += px(4 + theme.MEDIUM)
        if self._icon is not None:
            self._icon.move(left + px(10), (self.y + self.height / 2))
            left += px(20 + theme.MEDIUM)
        right = (self.x + self.width) - px(theme.MEDIUM)
        if self._figure.text:
            self._figure.width = min(self._figure_width, (right - left) * 0.45)
            self._figure.right, self._figure.center_y = right, (self.y + self.height / 2)
            right = self._figure.x - px(theme.STEP)
        high = self._text.height + (self._note.height if self._note else 0)
        top = (self.y + self.height / 2) + high / 2
        for label in filter(None, (self._text, self._note)):
            label.width = max(1, right - left)
            label.x, label.top = left, top
            top -= label.height
