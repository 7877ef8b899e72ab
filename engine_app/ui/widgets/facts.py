"""What tells: figures side by side, shares as bars, text to copy, a state with its colour, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from kivy.core.clipboard import Clipboard
from kivy.graphics import Color, SmoothEllipse, SmoothRoundedRectangle
from kivy.uix.boxlayout import BoxLayout
from kivy.uix.widget import Widget

from engine_app.plain import brief, plain
from engine_app.ui import theme
from engine_app.ui.theme import Colour, Look
from engine_app.ui.widgets.box import Column, Row, Text, paint
from engine_app.ui.widgets.buttons import IconButton, Kind, PushButton
from engine_app.ui.widgets.focus import host_of
from engine_app.ui.widgets.icons import Icon


def labelled(look: Look, title: str, *parts: Widget, note: str = "") -> Column:
    """A control under its name, with a word about it below."""
    column = Column(look, gap=theme.HALF)
    column.add_widget(Text(look, title, theme.SMALL, look.palette.muted))
    for part in parts:
        column.add_widget(part)
    if note:
        column.add_widget(Text(look, note, theme.SMALL, look.palette.muted))
    return column


def beside(look: Look, title: str, control: Widget, note: str = "") -> Row:
    """A control at the right of its name."""
    row = Row(look, gap=theme.MEDIUM)
    texts = Column(look, gap=0, pos_hint={"center_y": 0.5})
    texts.add_widget(Text(look, title, lines=1))
    if note:
        texts.add_widget(Text(look, note, theme.SMALL, look.palette.muted))
    row.add_widget(texts)
    control.pos_hint = {"center_y": 0.5}
    row.add_widget(control)
    return row


def show_order(look: Look, part: Column, problem: str, busy: str, call_off: Callable[[], Any]) -> None:
    """What went wrong with the newest order; what is being done just now, and how to call it off."""
    if problem:
        part.add_widget(Text(look, brief(problem), theme.SMALL, look.palette.danger))
    if busy:
        row = Row(look, gap=theme.MEDIUM)
        text = f"{plain(busy)}..."
        row.add_widget(Text(look, text, theme.SMALL, look.palette.muted, pos_hint={"center_y": 0.5}))
        row.add_widget(PushButton(look, "Call off", call_off, Kind.QUIET, "stop"))
        part.add_widget(row)


class Notice(Row):
    """What is wrong, or may be: a sign of it before the words."""

    def __init__(self, look: Look, text: str, is_error: bool) -> None:
        super().__init__(look)
        name, colour = ("error", look.palette.danger) if is_error else ("warning", look.palette.warning)
        sign = Widget(size_hint=(None, None), size=(look.px(20), look.px(22)), pos_hint={"top": 1})
        icon = Icon(sign.canvas, name, look.px(18), colour)
        sign.bind(pos=lambda *_: icon.move(sign.x + sign.width / 2, sign.y + sign.height / 2))
        self.add_widget(sign)
        self.add_widget(Text(look, text, theme.BODY, pos_hint={"top": 1}))


class FactList(Column):
    """What is known of something: a name and a value a line."""

    def __init__(self, look: Look, facts: Iterable[tuple[str, str]] = (), named: float = 96.0) -> None:
        """``named``: the room of the names, in dp."""
        super().__init__(look, gap=theme.HALF)
        self._look, self._named = look, look.px(named)
        self._shown: list[tuple[str, str]] = []
        self.show(facts)

    def show(self, facts: Iterable[tuple[str, str]]) -> None:
        found = list(facts)
        if found == self._shown:
            return
        self._shown = found
        self.clear_widgets()
        for title, text in found:
            row, at = Row(self._look), {"top": 1}
            name = Text(self._look, title, theme.SMALL, self._look.palette.muted, pos_hint=at)
            name.size_hint_x, name.width = None, self._named
            for part in (name, Text(self._look, text, theme.SMALL, pos_hint=at)):
                row.add_widget(part)
            self.add_widget(row)


class Tiles(Column):
    """Figures with what they count below them, ``across`` in a row."""

    def __init__(self, look: Look, figures: Sequence[tuple[str, str]] = (), across: int = 3) -> None:
        super().__init__(look, gap=theme.MEDIUM)
        self._look, self._across = look, across
        self._values: dict[str, Text] = {}
        self.show(figures)

    def _fill(self, figures: Sequence[tuple[str, str]]) -> None:
        look, across = self._look, self._across
        self.clear_widgets()
        self._values = {}
        for at in range(0, len(figures), across):
            row = Row(look, gap=theme.STEP)
            for title, value in figures[at : at + across]:
                row.add_widget(self._tile(title, value))
            for _ in range(across - len(figures[at : at + across])):
                row.add_widget(Widget(size_hint_y=None, height=1))
            self.add_widget(row)

    def _tile(self, title: str, value: str) -> Column:
        look, tile = self._look, Column(self._look, gap=0)
        self._values[title] = Text(look, value, theme.TITLE, lines=1)
        tile.add_widget(self._values[title])
        tile.add_widget(Text(look, title, theme.SMALL, look.palette.muted, lines=1))
        return tile

    def show(self, figures: Sequence[tuple[str, str]]) -> None:
        if [title for title, _ in figures] != list(self._values):
            self._fill(figures)
        for title, value in figures:
            self._values[title].text = value


class CopyRow(Row):
    """A line that can be copied: it is shown as far as it fits."""

    def __init__(self, look: Look, text: str, what: str) -> None:
        super().__init__(look, gap=0, pad=(theme.MEDIUM, 0, 0, 0))
        paint(self, look.palette.canvas, look.px(theme.RADIUS), look.palette.line)
        self.text = text
        self.add_widget(Text(look, text, theme.MONO, lines=1, pos_hint={"center_y": 0.5}))
        self.add_widget(IconButton(look, "copy", f"Copy {what}", partial(self._copy, what)))

    def _copy(self, what: str) -> None:
        Clipboard.copy(self.text)
        host = host_of(self)
        if host is not None:
            host.toast(f"Copied {what}")


class StateText(Row):
    """A dot of a colour, and a word."""

    def __init__(self, look: Look, text: str, colour: Colour) -> None:
        super().__init__(look, gap=theme.STEP)
        dot = Widget(size_hint=(None, None), size=(look.px(10), look.px(22)))
        with dot.canvas:
            Color(*colour)
            drawn = SmoothEllipse(size=(look.px(10), look.px(10)))

        def follow(*_: Any) -> None:
            drawn.pos = (dot.x, dot.y + dot.height / 2 - look.px(5))

        dot.bind(pos=follow)
        follow()
        self.add_widget(dot)
        self.add_widget(Text(look, text, theme.BODY, colour, lines=1))


class ShareBar(BoxLayout):
    """A name, a share as a bar, and the share in words; the strongest stands out."""

    def __init__(self, look: Look, name: str, share: float, is_best: bool = False) -> None:
        super().__init__(size_hint_y=None, height=look.px(28), spacing=look.px(theme.STEP))
        style = theme.STRONG if is_best else theme.BODY
        self.name = name
        self.add_widget(Text(look, name, style, lines=1, size_hint_x=0.45, pos_hint={"center_y": 0.5}))
        place = Widget()
        with place.canvas:
            Color(*look.palette.pressed)
            track = SmoothRoundedRectangle(radius=[look.px(4)])
            Color(*(look.palette.accent if is_best else look.palette.border))
            bar = SmoothRoundedRectangle(radius=[look.px(4)])
        share = min(max(share, 0.0), 1.0)

        def follow(*_: Any) -> None:
            low = place.y + place.height / 2 - look.px(4)
            track.pos, track.size = (place.x, low), (place.width, look.px(8))
            bar.pos, bar.size = (place.x, low), (max(look.px(8), place.width * share), look.px(8))

        place.bind(pos=follow, size=follow)
        self.add_widget(place)
        self.add_widget(
            Text(
                look,
                f"{share:.1%}",
                theme.SMALL,
                look.palette.text if is_best else look.palette.muted,
                align="right",
                lines=1,
                size_hint_x=0.35,
                pos_hint={"center_y": 0.5},
            )
        )


class ProgressLine(Widget):
    def __init__(self, look: Look) -> None:
        super().__init__(size_hint_y=None, height=look.px(theme.STEP))
        with self.canvas:
            Color(*look.palette.pressed)
            self._track = SmoothRoundedRectangle(radius=[look.px(4)])
            Color(*look.palette.accent)
            self._done = SmoothRoundedRectangle(radius=[look.px(4)])
        self.share = 0.0
        self.bind(pos=self._draw, size=self._draw)

    def show(self, share: float) -> None:
        self.share = min(max(share, 0.0), 1.0)
        self._draw()

    def _draw(self, *_: Any) -> None:
        self._track.pos, self._track.size = self.pos, self.size
        self._done.pos, self._done.size = self.pos, (self.width * self.share, self.height)
