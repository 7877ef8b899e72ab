"""What can be pressed: by finger, mouse or keyboard; held, it says what it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kivy.clock import Clock
from kivy.graphics import Color, SmoothLine
from kivy.properties import BooleanProperty
from kivy.uix.widget import Widget

from engine_app.ui import theme
from engine_app.ui.theme import Look
from engine_app.ui.widgets import focus

ENTER, KEYPAD_ENTER, SPACE = 13, 271, 32


def nothing() -> None:
    """Where an action may be left out."""


def is_main(touch: Any) -> bool:
    """A finger, or the mouse's first button."""
    return touch.button in (None, "left")


class Pressable(Widget):
    """Calls ``action`` when a touch that began on it ends on it. ``tip`` is shown while it is held."""

    is_down = BooleanProperty(False)
    has_focus = BooleanProperty(False)
    can_focus = True

    def __init__(
        self, look: Look, action: Callable[[], Any] = nothing, tip: str = "", **options: Any
    ) -> None:
        super().__init__(**options)
        self.look = look
        self.action = action
        self.tip = tip
        self._held: Any = None
        self._was_held = False
        self._finger: Any = None
        """Of several that are down, the one that presses: what it does is not done twice."""
        with self.canvas.after:
            self._ring_colour = Color(*theme.faded(look.palette.accent, 0))
            self._ring = SmoothLine(width=look.px(theme.STROKE) / 2)
        self.bind(pos=self._move_ring, size=self._move_ring, has_focus=self._show_ring)

    def _move_ring(self, *_: Any) -> None:
        inset = self.look.px(1)
        radius = self.look.px(theme.RADIUS)
        size = (self.width - 2 * inset, self.height - 2 * inset)
        self._ring.rounded_rectangle = (
            self.x + inset,
            self.y + inset,
            *size,
            min(radius, *(max(1, n / 2) for n in size)),
        )

    def _show_ring(self, *_: Any) -> None:
        self._ring_colour.a = 1 if self.has_focus else 0

    # -- touch ---------------------------------------------------------------------------------

    def on_touch_down(self, touch: Any) -> bool:
        if self.disabled or not is_main(touch) or not self.collide_point(*touch.pos):
            return bool(self.disabled and self.collide_point(*touch.pos)) or super().on_touch_down(touch)
        touch.grab(self)
        self._finger = touch.uid
        self.is_down = True
        self._was_held = False
        if self.tip:
            self._held = Clock.schedule_once(self._begin_hold)
        return True

    def on_touch_move(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return super().on_touch_move(touch)
        if touch.uid == self._finger:
            self.is_down = self.collide_point(*touch.pos)
        return True

    def on_touch_up(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return super().on_touch_up(touch)
        was_down = self.is_down and not self._was_held and touch.uid == self._finger
        self.release(touch)
        if was_down:
            self.press()
        return True

    def release(self, touch: Any) -> None:
        """Something else, such as scrolling, takes the touch."""
        touch.ungrab(self)
        if touch.uid != self._finger:
            return
        self.is_down = False
        if self._held is not None:
            self._held.cancel()

    def _begin_hold(self, _dt: float) -> None:
        """Counted from the next frame: this one may take long, and the finger be up at its end."""
        self._held = Clock.schedule_once(self._show_tip, theme.LONG_PRESS_S)

    def _show_tip(self, _dt: float) -> None:
        if self.is_down:
            self._was_held = True
            focus.show_tip(self, self.tip)

    # -- keyboard ------------------------------------------------------------------------------

    def press(self) -> None:
        if not self.disabled:
            self.action()

    def on_key(self, code: int) -> bool:
        """While it has the focus; True if it was for it."""
        if code in (ENTER, KEYPAD_ENTER, SPACE):
            self.press()
            return True
        return False
