"""A square to draw on: by finger or mouse; by keyboard with the arrows, and Space to put the pen down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from kivy.graphics import Color, InstructionGroup, Line, Rectangle, SmoothEllipse
from kivy.graphics.texture import Texture
from kivy.properties import BooleanProperty
from kivy.uix.widget import Widget

from engine_app.ui import theme
from engine_app.ui.ink import PEN, Pixels
from engine_app.ui.theme import Look
from engine_app.ui.widgets.box import paint
from engine_app.ui.widgets.press import SPACE, is_main

UP, DOWN, RIGHT, LEFT = 273, 274, 275, 276
_ARROWS = {UP: (0.0, 0.05), DOWN: (0.0, -0.05), RIGHT: (0.05, 0.0), LEFT: (-0.05, 0.0)}
MAX_POINTS = 20_000
BLACK, WHITE = (0.0, 0.0, 0.0, 1.0), (1.0, 1.0, 1.0, 1.0)


class DrawPad(Widget):
    """``changed`` is called when a stroke has ended, and when all is wiped."""

    can_focus = True
    has_focus = BooleanProperty(False)

    def __init__(self, look: Look, side_dp: float, changed: Callable[[], Any]) -> None:
        side = look.px(side_dp)
        super().__init__(size_hint=(None, None), size=(side, side))
        self._look = look
        self._changed = changed
        self._points = 0
        self._pen = (0.5, 0.5)
        self._pen_is_down = False
        self.strokes: list[list[tuple[float, float]]] = []
        """From 0 to 1, y upwards."""
        self._edge = paint(self, BLACK, look.px(theme.RADIUS), look.palette.border, look.px(1.5))
        self._drawn = InstructionGroup()
        self.canvas.add(self._drawn)
        with self.canvas.after:
            self._pen_colour = Color(*look.palette.accent[:3], 0)
            self._pen_dot = SmoothEllipse(size=(look.px(14), look.px(14)))
        self.bind(pos=self._draw, size=self._draw, has_focus=self._show_pen)

    def draw(self, strokes: Sequence[Sequence[tuple[float, float]]]) -> None:
        """As if a finger had drawn them."""
        for stroke in strokes:
            for at, point in enumerate(stroke):
                self._add(*point, is_new=at == 0)
        self._changed()

    def wipe(self) -> None:
        self.strokes, self._points, self._pen_is_down = [], 0, False
        self._draw()
        self._changed()

    def _add(self, x: float, y: float, is_new: bool) -> None:
        if self._points >= MAX_POINTS:
            return
        point = (min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0))
        if is_new:
            self.strokes.append([])
        self.strokes[-1].append(point)
        self._points += 1
        if is_new:
            self._draw_stroke(self.strokes[-1])
        else:
            self._extend(self.strokes[-1])

    # -- drawing -------------------------------------------------------------------------------

    def _draw(self, *_: Any) -> None:
        self._drawn.clear()
        for stroke in self.strokes:
            self._draw_stroke(stroke)
        self._show_pen()

    def _draw_stroke(self, stroke: list[tuple[float, float]]) -> None:
        self._drawn.add(Color(*WHITE))
        self._drawn.add(Line(width=PEN * self.width, cap="round", joint="round"))
        self._extend(stroke)

    def _extend(self, stroke: list[tuple[float, float]]) -> None:
        """The last line on the canvas becomes this stroke."""
        line = self._drawn.children[-1]
        points = stroke if len(stroke) > 1 else [stroke[0], (stroke[0][0] + 1e-3, stroke[0][1])]
        line.points = [number for point in points for number in self._place(*point)]

    def _place(self, x: float, y: float) -> tuple[float, float]:
        return self.x + x * self.width, self.y + y * self.height

    def _share(self, touch: Any) -> tuple[float, float]:
        return (touch.x - self.x) / self.width, (touch.y - self.y) / self.height

    def _show_pen(self, *_: Any) -> None:
        x, y = self._place(*self._pen)
        self._pen_colour.a = 1 if self.has_focus else 0
        self._pen_dot.pos = (x - self._pen_dot.size[0] / 2, y - self._pen_dot.size[1] / 2)

    # -- touch and keys ------------------------------------------------------------------------

    def on_touch_down(self, touch: Any) -> bool:
        if not is_main(touch) or not self.collide_point(*touch.pos):
            return False
        touch.grab(self)
        touch.ud["held"] = self  # what lies around does not scroll
        self._add(*self._share(touch), is_new=True)
        return True

    def on_touch_move(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return False
        self._add(*self._share(touch), is_new=False)
        return True

    def on_touch_up(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return False
        touch.ungrab(self)
        self._changed()
        return True

    def release(self, touch: Any) -> None:
        touch.ungrab(self)

    def on_key(self, code: int) -> bool:
        if code == SPACE:
            self._pen_is_down = not self._pen_is_down
            if self._pen_is_down:
                self._add(*self._pen, is_new=True)
            else:
                self._changed()
            return True
        if code not in _ARROWS:
            return False
        dx, dy = _ARROWS[code]
        x, y = (round(min(max(at + by, 0.0), 1.0), 4) for at, by in zip(self._pen, (dx, dy), strict=True))
        self._pen = (x, y)
        if self._pen_is_down:
            self._add(*self._pen, is_new=False)
        self._show_pen()
        return True


class Picture(Widget):
    """A small grey picture, each pixel a square."""

    def __init__(self, look: Look, side_dp: float) -> None:
        side = look.px(side_dp)
        super().__init__(size_hint=(None, None), size=(side, side))
        paint(self, BLACK, look.px(theme.HALF), look.palette.line)
        with self.canvas:
            Color(1, 1, 1)
            self._drawn = Rectangle(size=(0, 0))
        self._look = look
        self._has_pixels = False
        self.bind(pos=self._place, size=self._place)

    def show(self, pixels: Pixels | Sequence[Sequence[float]]) -> None:
        """Rows from the top, 0 to 1."""
        found = np.clip(np.asarray(pixels, np.float32) * 255, 0, 255).astype(np.uint8)
        texture = Texture.create(size=(found.shape[1], found.shape[0]), colorfmt="luminance")
        texture.mag_filter = "nearest"
        texture.blit_buffer(
            np.ascontiguousarray(found[::-1]).tobytes(), colorfmt="luminance", bufferfmt="ubyte"
        )
        self._drawn.texture, self._has_pixels = texture, True
        self._place()

    def _place(self, *_: Any) -> None:
        edge = self._look.px(2)
        if self._has_pixels:
            self._drawn.pos = (self.x + edge, self.y + edge)
            self._drawn.size = (self.width - 2 * edge, self.height - 2 * edge)
