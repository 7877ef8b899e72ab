"""A menu around the finger: it opens under it, and is chosen from by sliding to a target or by a tap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kivy.core.window import Window
from kivy.uix.floatlayout import FloatLayout

from engine_app.scene.radial import TARGET, Place, beside, ring
from engine_app.ui import theme
from engine_app.ui.theme import Look, faded
from engine_app.ui.widgets.box import Text, paint
from engine_app.ui.widgets.buttons import LEFT, RIGHT, Grounded
from engine_app.ui.widgets.focus import host_of
from engine_app.ui.widgets.icons import Icon
from engine_app.ui.widgets.press import is_main

UP, DOWN = 273, 274


@dataclass(frozen=True, slots=True)
class Choice:
    text: str
    icon: str
    action: Callable[[], Any]
    is_danger: bool = False


class RadialItem(Grounded):
    """An icon over a word, in a circle."""

    def __init__(
        self, look: Look, choice: Choice, take: Callable[[], Any], step: Callable[[int], Any]
    ) -> None:
        palette = look.palette
        self.name = choice.text
        self._step = step
        super().__init__(
            look, palette.raised, take, radius=TARGET / 2, size_hint=(None, None), size=(look.px(TARGET),) * 2
        )
        colour = palette.danger if choice.is_danger else palette.text
        self._icon = Icon(self.canvas, choice.icon, look.px(22), colour)
        self._label = Text(look, choice.text, theme.LABEL, colour, align="center", lines=1)
        self._label.font_size = look.px(11)
        self.add_widget(self._label)
        self.bind(pos=self._arrange, size=self._arrange)

    def light(self, is_meant: bool) -> None:
        self.set_ground(self.look.palette.accent_soft if is_meant else self.look.palette.raised)

    def on_key(self, code: int) -> bool:
        if code in (LEFT, UP, RIGHT, DOWN):
            self._step(-1 if code in (LEFT, UP) else 1)
            return True
        return super().on_key(code)

    def _move_ring(self, *_: Any) -> None:
        radius = min(self.width, self.height) / 2 - self.look.px(1)
        self._ring.circle = (self.x + self.width / 2, self.y + self.height / 2, max(radius, 1))

    def _arrange(self, *_: Any) -> None:
        px = self.look.px
        x, y = self.x + self.width / 2, self.y + self.height / 2
        self._icon.move(x, y + px(8))
        self._label.width, self._label.height = self.width - px(4), px(16)
        self._label.pos = (self.x + px(2), y - px(22))


class RadialMenu(FloatLayout):
    """Fills the window while it is there. ``touch``: the one that opened it and is still down."""

    def __init__(
        self,
        look: Look,
        title: str,
        choices: Sequence[Choice],
        at: Place,
        close: Callable[[], Any],
        touch: Any = None,
    ) -> None:
        super().__init__()
        self.box = self  # what the keyboard may reach
        self._look = look
        self._at = at
        self._close = close
        self._has_slid = False
        paint(self, faded(look.palette.shade, look.palette.shade[3] * 0.55))
        self.items = [RadialItem(look, each, partial(self._take, each), self._step) for each in choices]
        self._title = Text(look, title, theme.LABEL, look.palette.text, align="center", lines=2)
        self._title.size_hint_x = None
        paint(self._title, look.palette.surface, look.px(theme.RADIUS))
        self.add_widget(self._title)
        for item in self.items:
            self.add_widget(item)
        if touch is not None:
            touch.grab(self)
        self.bind(size=self._arrange, pos=self._arrange)
        self._ring = ring(len(self.items), at, Window.size, look.pixels_per_dp)
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        size = self.size if self.width > TARGET else Window.size
        self._ring = ring(len(self.items), self._at, size, self._look.pixels_per_dp)
        for item, (x, y) in zip(self.items, self._ring.places, strict=True):
            item.pos = (x - item.width / 2, y - item.height / 2)
        middle_x, middle_y = self._ring.middle
        self._title.width = self._look.px(84)
        self._title.pos = (middle_x - self._title.width / 2, middle_y - self._title.height / 2)

    def focus_first(self) -> None:
        """For the keyboard."""
        self._focus(0)

    def _focus(self, number: int) -> None:
        host = host_of(self)
        if host is not None:
            host.ring.take(self.items[number])

    def _step(self, step: int) -> None:
        now = next((number for number, item in enumerate(self.items) if item.has_focus), None)
        self._focus(beside(self._ring.places, now, step))

    def _take(self, choice: Choice) -> None:
        self._close()
        choice.action()

    # -- touches -------------------------------------------------------------------------------

    def on_touch_down(self, touch: Any) -> bool:
        if not super().on_touch_down(touch) and is_main(touch):
            self._close()
        return True

    def on_touch_move(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return bool(super().on_touch_move(touch)) or True
        meant = self._ring.meant(*touch.pos)
        self._has_slid = self._has_slid or meant is not None
        for number, item in enumerate(self.items):
            item.light(number == meant)
        return True

    def on_touch_up(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return bool(super().on_touch_up(touch)) or True
        touch.ungrab(self)
        is_open = self.parent is not None  # Escape may have closed it under the finger
        meant = self._ring.meant(*touch.pos) if self._has_slid and is_open else None
        if meant is not None:
            self.items[meant].press()
        return True
