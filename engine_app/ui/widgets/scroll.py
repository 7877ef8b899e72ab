"""Scrolls by finger, wheel or keyboard. A touch belongs to what it began on until it moves along.

Kivy's own decides by a timeout whether a touch scrolls or presses; here only the movement decides,
so that a row reacts at once and a slow drag still scrolls.
"""

from __future__ import annotations

from typing import Any

from kivy.clock import Clock
from kivy.core.window import Window
from kivy.graphics import Color, SmoothRoundedRectangle
from kivy.uix.stencilview import StencilView
from kivy.uix.widget import Widget

from engine_app.ui import theme
from engine_app.ui.theme import Look
from engine_app.ui.widgets.rows import LazyRows

SLOP = 10.0
"""A touch that moves less is a press, in dp."""
WHEEL = 64.0
_FRICTION = 4.0
"""Of what glides on: a part of its speed a second."""


class Scroll(StencilView):
    def __init__(self, look: Look, body: Widget, **options: Any) -> None:
        super().__init__(**options)
        self._look = look
        self._body = body
        self._offset = 0.0
        """How far the body's top is above this one's, in pixels."""
        self._speed = 0.0
        self._glide = None
        self.add_widget(body)
        with self.canvas.after:
            self._bar_colour = Color(*theme.faded(look.palette.muted, 0))
            self._bar = SmoothRoundedRectangle(radius=[look.px(2)])
        self.bind(pos=self._place, size=self._place)
        body.bind(height=self._place)

    @property
    def offset(self) -> float:
        return self._offset

    def scroll_by(self, pixels: float) -> None:
        self._offset += pixels
        self._place()

    def scroll_to(self, widget: Widget) -> None:
        """As little as shows the widget, which must be inside."""
        low = widget.to_window(widget.x, widget.y)[1]
        bottom = self.to_window(self.x, self.y)[1]
        top = bottom + self.height
        margin = self._look.px(theme.STEP)
        if low - margin < bottom:
            self.scroll_by(bottom - low + margin)
        elif low + widget.height + margin > top:
            self.scroll_by(top - low - widget.height - margin)

    def show_between(self, top: float, height: float) -> None:
        """As little as shows that part of the body, in pixels below its top."""
        if top < self._offset:
            self.scroll_by(top - self._offset)
        elif top + height > self._offset + self.height:
            self.scroll_by(top + height - self._offset - self.height)

    def shows(self, widget: Widget) -> bool:
        """Whether the upper end of a widget inside is in sight."""
        top = widget.to_window(widget.x, widget.y)[1] + widget.height
        low = self.to_window(self.x, self.y)[1]
        return bool(low <= top <= low + self.height)

    def to_top(self) -> None:
        self._offset = 0.0
        self._place()

    def _place(self, *_: Any) -> None:
        hidden = max(0.0, self._body.height - self.height)
        self._offset = min(max(self._offset, 0.0), hidden)
        self._body.width = self.width
        self._body.pos = (self.x, (self.y + self.height) - self._body.height + self._offset)
        if isinstance(self._body, LazyRows):
            self._body.look_between(self._offset, self._offset + self.height)
        self._bar_colour.a = 0.5 if hidden else 0
        if hidden and self.height:
            length = max(self._look.px(32), self.height * self.height / self._body.height)
            way = self.height - length
            wide = self._look.px(4)
            self._bar.size = (wide, length)
            self._bar.pos = (
                (self.x + self.width) - wide - 1,
                (self.y + self.height) - length - way * self._offset / hidden,
            )

    # -- touch ---------------------------------------------------------------------------------

    def on_touch_down(self, touch: Any) -> bool:
        if not self.collide_point(*touch.pos):
            return False
        if touch.button in ("scrollup", "scrolldown"):
            if super().on_touch_down(touch):
                return True
            self.scroll_by(self._look.px(WHEEL) * (1 if touch.button == "scrollup" else -1))
            return True
        self._stop()
        touch.ud[self] = touch.pos
        super().on_touch_down(touch)
        touch.grab(self)
        return True

    def on_touch_move(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return super().on_touch_move(touch) if self.collide_point(*touch.pos) else False
        if touch.ud.get("scrolls") is not self and not self._takes(touch):
            return False
        self.scroll_by(touch.dy)
        self._speed = touch.dy / max(1e-3, touch.time_update - touch.ud.get("scrolled", touch.time_start))
        touch.ud["scrolled"] = touch.time_update
        return True

    def on_touch_up(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return super().on_touch_up(touch) if self.collide_point(*touch.pos) else False
        touch.ungrab(self)
        if touch.ud.get("scrolls") is self and self._speed:
            self._glide = Clock.schedule_interval(self._glide_on, 0)
        return True

    def _takes(self, touch: Any) -> bool:
        """Whether the touch scrolls from now on; whatever had it is told."""
        dx, dy = touch.x - touch.ud[self][0], touch.y - touch.ud[self][1]
        taken = "scrolls" in touch.ud or touch.ud.get("held")
        if taken or abs(dy) < self._look.px(SLOP) or abs(dy) < abs(dx):
            return False
        touch.ud["scrolls"] = self
        for reference in list(touch.grab_list):
            widget = reference()
            if widget is not None and hasattr(widget, "release"):
                widget.release(touch)
        return True

    def _glide_on(self, dt: float) -> bool:
        before = self._offset
        self.scroll_by(self._speed * dt)
        self._speed *= max(0.0, 1 - _FRICTION * dt)
        return abs(self._speed) > 20 and before != self._offset

    def _stop(self) -> None:
        self._speed = 0.0
        if self._glide is not None:
            self._glide.cancel()
            self._glide = None


def scroll_of(widget: Widget) -> Scroll | None:
    """The nearest that the widget is in; None if it is in none."""
    found = widget.parent
    while found is not None and found is not Window and not isinstance(found, Scroll):
        found = found.parent
    return found if isinstance(found, Scroll) else None
