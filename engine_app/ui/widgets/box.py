"""What holds other widgets: text that wraps, rows and columns as high as what is in them, panels.

Whoever arranges children when its size changes reckons from x, y, width and height: Kivy's right,
top and centre may still be those of before.
"""

from __future__ import annotations

from typing import Any

from kivy.core.text import Label as CoreLabel
from kivy.graphics import Color, Rectangle, SmoothRoundedRectangle
from kivy.uix.boxlayout import BoxLayout
from kivy.uix.label import Label
from kivy.uix.widget import Widget

from engine_app.plain import drawable
from engine_app.ui import theme
from engine_app.ui.theme import BODY, Colour, Look, TextStyle
from engine_app.ui.widgets.icons import Icon


class Text(Label):
    """As high as its lines, unless ``lines`` limits them: what is too long then ends in an ellipsis."""

    def __init__(
        self,
        look: Look,
        text: str = "",
        style: TextStyle = BODY,
        colour: Colour | None = None,
        *,
        align: str = "left",
        lines: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(
            text=drawable(text),
            font_size=look.px(style.size),
            bold=style.bold,
            color=colour or look.palette.text,
            disabled_color=colour or look.palette.text,
            halign=align,
            valign="middle",
            # Roboto's own line is 1.172 of its size; what is added goes below, out of the middle of one line.
            line_height=1.0 if lines == 1 else style.line / (style.size * 1.172),
            size_hint_y=None,
            **({"font_name": "RobotoMono-Regular"} if style.mono else {}),
            **options,
        )
        self._line = look.px(style.line)
        self.bind(text=self._keep_drawable)
        if lines:
            self.shorten, self.shorten_from = lines == 1, "right"
            self.max_lines = lines
            self.height = self._line * lines
            self.bind(size=self._fill)
        else:
            self.bind(width=self._wrap, texture_size=self._grow)
            self.height = self._line if text else 0

    def _keep_drawable(self, _: Any, text: str) -> None:
        """Kivy draws it in the next frame, and not at all if it cannot."""
        if drawable(text) != text:
            self.text = drawable(text)

    def _fill(self, *_: Any) -> None:
        self.text_size = self.size

    def _wrap(self, *_: Any) -> None:
        self.text_size = (self.width, None)

    def _grow(self, *_: Any) -> None:
        self.height = max(self._line, self.texture_size[1]) if self.text else 0


def width_of(look: Look, text: str, style: TextStyle) -> float:
    """In pixels, of the longest line."""
    font = {"font_name": "RobotoMono-Regular"} if style.mono else {}
    ruler = CoreLabel(font_size=look.px(style.size), bold=style.bold, **font)
    return float(max((ruler.get_extents(line)[0] for line in drawable(text).split("\n")), default=0))


class Row(BoxLayout):
    """As high as its highest child."""

    def __init__(self, look: Look, gap: float = theme.STEP, pad: Any = 0, **options: Any) -> None:
        options.setdefault("size_hint_y", None)
        super().__init__(spacing=look.px(gap), padding=_padding(look, pad), **options)
        if self.size_hint_y is None and "height" not in options:
            self.height = self.minimum_height
            self.bind(minimum_height=self.setter("height"))


class Column(BoxLayout):
    """As high as its children together."""

    def __init__(self, look: Look, gap: float = theme.STEP, pad: Any = 0, **options: Any) -> None:
        options.setdefault("size_hint_y", None)
        super().__init__(orientation="vertical", spacing=look.px(gap), padding=_padding(look, pad), **options)
        if self.size_hint_y is None:
            self.height = self.minimum_height
            self.bind(minimum_height=self.setter("height"))


class Flow(BoxLayout):
    """Parts beside each other where each gets ``least`` dp, else one below the other."""

    def __init__(self, look: Look, least: float = theme.COLUMN_WIDTH) -> None:
        gap = look.px(theme.LARGE)
        super().__init__(size_hint_y=None, orientation="vertical", spacing=gap, padding=gap)
        self._least = look.px(least)
        self.bind(minimum_height=self.setter("height"), width=self._turn, children=self._turn)

    def _turn(self, *_: Any) -> None:
        fits = self.width >= len(self.children) * (self._least + self.spacing) + self.spacing
        self.orientation = "horizontal" if fits else "vertical"


def _padding(look: Look, pad: Any) -> Any:
    """In dp: one number, or left, top, right, bottom."""
    return [look.px(side) for side in pad] if isinstance(pad, tuple) else look.px(pad)


class Gap(Widget):
    """Takes what is left, or so many dp."""

    def __init__(self, look: Look, size_dp: float | None = None) -> None:
        super().__init__()
        if size_dp is not None:
            self.size_hint = (None, None)
            self.size = (look.px(size_dp), look.px(size_dp))


def paint(
    widget: Widget,
    colour: Colour,
    radius: float = 0,
    border: Colour | None = None,
    border_px: float = 1,
    inset: float = 0,
) -> Color:
    """A ground that follows the widget, ``inset`` pixels within it; gives its colour, to be changed."""
    shape = SmoothRoundedRectangle if radius else Rectangle
    rounded = {"radius": [radius]} if radius else {}
    with widget.canvas.before:
        edge = None
        if border is not None:
            Color(*border)
            edge = shape(**rounded)
        found = Color(*colour)
        ground = shape(**({"radius": [max(radius - border_px, 0)]} if radius else {}))
    inset += border_px if border is not None else 0

    def follow(*_: Any) -> None:
        if edge is not None:
            edge.pos, edge.size = widget.pos, widget.size
        ground.pos = (widget.x + inset, widget.y + inset)
        ground.size = (widget.width - 2 * inset, widget.height - 2 * inset)

    widget.bind(pos=follow, size=follow)
    follow()
    return found


class Card(Column):
    """Things that belong together."""

    def __init__(self, look: Look, **options: Any) -> None:
        options.setdefault("pad", theme.LARGE)
        super().__init__(look, **options)
        paint(self, look.palette.raised, look.px(theme.RADIUS), look.palette.line)


class Panel(Column):
    """A side of the window, as high as the window lets it be."""

    def __init__(self, look: Look, **options: Any) -> None:
        options.setdefault("gap", 0)
        super().__init__(look, size_hint_y=1, **options)
        self.ground = paint(self, look.palette.surface)


class Line(Widget):
    """Separates, across or (with ``upright``) along."""

    def __init__(self, look: Look, upright: bool = False) -> None:
        super().__init__()
        if upright:
            self.size_hint_x, self.width = None, look.px(1)
        else:
            self.size_hint_y, self.height = None, look.px(1)
        paint(self, look.palette.line)


def flow_of(look: Look, *parts: Widget) -> Flow:
    """Each begins at the top."""
    flow = Flow(look)
    for part in parts:
        part.pos_hint = {"top": 1}
        flow.add_widget(part)
    return flow


def page_title(look: Look, text: str) -> Text:
    """Above a page's cards."""
    side = look.px(theme.LARGE)
    title = Text(look, text, theme.TITLE, lines=1, padding=(side, side, side, 0))
    title.height = look.px(theme.TITLE.line) + side
    return title


def empty_state(look: Look, heading: str, text: str, *actions: Widget, sign: str = "") -> Column:
    """What stands where there is nothing yet, and what to do about it; ``sign``: an icon above."""
    column = Column(look, gap=theme.STEP, pad=theme.HUGE)
    if sign:
        place = Widget(size_hint_y=None, height=look.px(theme.TOUCH))
        icon = Icon(place.canvas, sign, look.px(40), look.palette.border)
        place.bind(pos=lambda *_: icon.move(place.x + place.width / 2, place.y + place.height / 2))
        column.add_widget(place)
    column.add_widget(Text(look, heading, theme.HEADING, align="center"))
    column.add_widget(Text(look, text, theme.BODY, look.palette.muted, align="center"))
    for action in actions:
        row = Row(look)
        row.add_widget(Gap(look))
        row.add_widget(action)
        row.add_widget(Gap(look))
        column.add_widget(Gap(look, theme.HALF))
        column.add_widget(row)
    return column
