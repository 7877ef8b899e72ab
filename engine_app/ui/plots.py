"""A plot of curves, as meshes: two fingers zoom and move, one reads values, a double tap shows all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from kivy.clock import Clock
from kivy.core.text import Label as CoreLabel
from kivy.graphics import (
    Color,
    InstructionGroup,
    Mesh,
    Rectangle,
    ScissorPop,
    ScissorPush,
    SmoothRoundedRectangle,
)
from kivy.uix.widget import Widget

from engine_app.ui import theme
from engine_app.ui.curves import (
    Curve,
    Span,
    log_ticks,
    number_label,
    ribbon,
    smoothed,
    span_of,
    thinned,
    ticks,
)
from engine_app.ui.theme import Colour, Look, faded

FORMAT = [(b"vPosition", 2, "float")]
LEFT, BOTTOM, TOP, RIGHT = 56.0, 28.0, 12.0, 12.0
"""Room for numbers, in dp."""
SAMPLE_DP = 1.0
"""Two points for so much width at most."""
MIN_ZOOM = 1e-4
"""The shortest span, as a share of all."""
NOTHING = "Curves appear here while a graph trains"


@dataclass(frozen=True, slots=True)
class Shown:
    curve: Curve
    colour: Colour
    is_faint: bool = False
    """Of another run."""


class Plot(Widget):
    """Redrawn before the next frame after ``refresh``, at most once a frame."""

    def __init__(self, look: Look, **options: Any) -> None:
        super().__init__(**options)
        self._look = look
        self._shown: Mapping[str, Shown] = {}
        self._view: Span | None = None
        """None: all there is."""
        self._cursor: float | None = None
        self._fingers: dict[Any, tuple[float, float]] = {}
        self.window = 1
        """Points to smooth over."""
        self.is_log = False
        self._flipped_in: float | None = None
        """The height of the picture that Kivy writes upside down: a scissor is not turned with the rest."""
        self._ground = InstructionGroup()
        self._lines = InstructionGroup()
        self._front = InstructionGroup()
        for group in (self._ground, self._lines, self._front):
            self.canvas.add(group)
        self._labels: dict[tuple[str, float], Any] = {}
        self.refresh = Clock.create_trigger(self._draw, -1)
        self.bind(pos=self.refresh, size=self.refresh)

    def show(self, curves: Mapping[str, Shown]) -> None:
        self._shown = curves
        self.refresh()

    @property
    def shown(self) -> Mapping[str, Shown]:
        return self._shown

    def copy(self, picture_height: float) -> Plot:
        """The same curves in the same view, at the lower left of a picture of that height, off the screen."""
        found = Plot(self._look, pos=(0, 0), size=self.size)
        found._flipped_in = picture_height
        found._shown, found._view = self._shown, self._view
        found.window, found.is_log = self.window, self.is_log
        found._draw()
        return found

    def show_all(self) -> None:
        self._view = None
        self.refresh()

    # -- geometry ------------------------------------------------------------------------------

    @property
    def _box(self) -> tuple[float, float, float, float]:
        """Of the curves: left, bottom, width, height, in pixels."""
        px = self._look.px
        left, low = self.x + px(LEFT), self.y + px(BOTTOM)
        return left, low, max(1.0, self.width - px(LEFT + RIGHT)), max(1.0, self.height - px(BOTTOM + TOP))

    def _all(self) -> Span:
        found = [each.curve.x for each in self._shown.values() if len(each.curve)]
        if not found:
            return Span(0, 1)
        low, high = min(float(x[0]) for x in found), max(float(x[-1]) for x in found)
        return Span(low, high if high > low else low + 1)

    def _step_at(self, x: float) -> float:
        left, _, wide, _ = self._box
        span = self._view or self._all()
        return span.low + (x - left) / wide * span.length

    # -- drawing -------------------------------------------------------------------------------

    def _draw(self, *_: Any) -> None:
        left, low, wide, high = self._box
        span = self._view or self._all()
        columns = max(8, int(wide / self._look.px(SAMPLE_DP)))
        parts = []
        for each in self._shown.values():
            # The mean looks back, so that smoothing comes before what is out of sight is left out.
            y = smoothed(each.curve.y, self.window)
            parts.append((each, *thinned(each.curve.x, y, span.low, span.high, columns)))
        values = span_of([y for _, _, y in parts], log=self.is_log)
        self._draw_grid(span, values)
        self._lines.clear()
        bottom = low if self._flipped_in is None else self._flipped_in - low - high
        self._lines.add(ScissorPush(x=int(left), y=int(bottom), width=int(wide), height=int(high)))
        for each, x, y in parts:
            points = np.stack([self._across(x, span), self._up(y, values)], axis=1)
            if len(points) > 1:
                self._add_line(each, points)
        self._lines.add(ScissorPop())
        self._draw_cursor(span, values)

    def _across(self, x: Any, span: Span) -> Any:
        left, _, wide, _ = self._box
        return left + (x - span.low) / span.length * wide

    def _up(self, y: Any, span: Span) -> Any:
        _, low, _, high = self._box
        if self.is_log:
            with np.errstate(divide="ignore", invalid="ignore"):
                y = np.where(np.asarray(y) > 0, np.log10(y), np.nan)
            span = Span(math.log10(span.low), math.log10(span.high))
        return low + (y - span.low) / span.length * high

    def _add_line(self, each: Shown, points: Any) -> None:
        thick = self._look.px(1.25 if each.is_faint else 2)
        vertices, indices = ribbon(points, thick)
        if len(indices):
            self._lines.add(Color(*faded(each.colour, 0.45 if each.is_faint else 1)))
            self._lines.add(Mesh(mode="triangles", fmt=FORMAT, vertices=vertices.ravel(), indices=indices))

    def _draw_grid(self, span: Span, values: Span) -> None:
        palette, px = self._look.palette, self._look.px
        left, low, wide, high = self._box
        self._ground.clear()
        if not self._shown:
            self._say_nothing()
            return
        self._ground.add(Color(*palette.line))
        rows = log_ticks(values) if self.is_log else ticks(values, max(2, int(high / px(56))))
        columns = ticks(span, max(2, int(wide / px(110))))
        for value in rows:
            self._ground.add(Rectangle(pos=(left, round(float(self._up(value, values)))), size=(wide, px(1))))
        for step in columns:
            self._ground.add(Rectangle(pos=(round(self._across(step, span)), low), size=(px(1), high)))
        self._ground.add(Color(1, 1, 1))
        for value in rows:
            texture = self._text(number_label(value))
            y = float(self._up(value, values)) - texture.height / 2
            place = (left - texture.width - px(8), round(max(y, low - texture.height / 2)))
            self._ground.add(Rectangle(texture=texture, pos=place, size=texture.size))
        for step in columns:
            texture = self._text(number_label(step))
            place = (round(self._across(step, span) - texture.width / 2), low - texture.height - px(6))
            self._ground.add(Rectangle(texture=texture, pos=place, size=texture.size))

    def _say_nothing(self) -> None:
        """In the middle, where there is no curve: lines and numbers would mean nothing."""
        texture = self._text(NOTHING)
        place = (
            round(self.x + (self.width - texture.width) / 2),
            round(self.y + (self.height - texture.height) / 2),
        )
        self._ground.add(Color(1, 1, 1))
        self._ground.add(Rectangle(texture=texture, pos=place, size=texture.size))

    def _draw_cursor(self, span: Span, values: Span) -> None:
        self._front.clear()
        if self._cursor is None:
            return
        palette, px = self._look.palette, self._look.px
        left, low, wide, high = self._box
        found = {
            name: point for name, each in self._shown.items() if (point := each.curve.value_at(self._cursor))
        }
        if not found:
            return
        step = next(iter(found.values()))[0]
        x = float(self._across(step, span))
        if not left <= x <= left + wide:
            return
        self._front.add(Color(*palette.border))
        self._front.add(Rectangle(pos=(round(x), low), size=(px(1), high)))
        lines = [(f"step {step:g}", palette.text)]
        lines += [(f"{name}  {number_label(y)}", self._shown[name].colour) for name, (_, y) in found.items()]
        textures = [self._text(text, colour) for text, colour in lines]
        box_wide = max(texture.width for texture in textures) + px(24)
        box_high = sum(texture.height for texture in textures) + px(16)
        box_x = x + px(12) if x + px(12) + box_wide < left + wide else x - px(12) - box_wide
        top = low + high - px(8)
        self._front.add(Color(*palette.surface))
        self._front.add(
            SmoothRoundedRectangle(
                pos=(box_x, top - box_high), size=(box_wide, box_high), radius=[px(theme.RADIUS)]
            )
        )
        self._front.add(Color(1, 1, 1))
        y = top - px(8)
        for texture in textures:
            y -= texture.height
            self._front.add(
                Rectangle(texture=texture, pos=(round(box_x + px(12)), round(y)), size=texture.size)
            )

    def _text(self, text: str, colour: Colour | None = None) -> Any:
        key = (text, hash(colour))
        if key not in self._labels:
            if len(self._labels) > 256:
                self._labels.clear()
            label = CoreLabel(
                text=text, font_size=self._look.px(theme.LABEL.size), color=colour or self._look.palette.muted
            )
            label.refresh()
            self._labels[key] = label.texture
        return self._labels[key]

    # -- touch ---------------------------------------------------------------------------------

    def on_touch_down(self, touch: Any) -> bool:
        if not self.collide_point(*touch.pos):
            return False
        if touch.button in ("scrollup", "scrolldown"):
            self._zoom(touch.x, 1.2 if touch.button == "scrolldown" else 1 / 1.2, 0)
            return True
        touch.grab(self)
        touch.ud["held"] = self  # what lies around does not scroll
        self._fingers[touch.uid] = touch.pos
        if touch.is_double_tap:
            self._cursor = None
            self.show_all()
        elif len(self._fingers) == 1:
            self._cursor = self._step_at(touch.x)
            self.refresh()
        return True

    def on_touch_move(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return False
        if len(self._fingers) == 1:
            self._cursor = self._step_at(touch.x)
            self.refresh()
        elif touch.uid in list(self._fingers)[:2]:
            before = [self._fingers[uid][0] for uid in list(self._fingers)[:2]]
            self._fingers[touch.uid] = touch.pos
            after = [self._fingers[uid][0] for uid in list(self._fingers)[:2]]
            apart = max(abs(before[0] - before[1]), 1.0)
            factor = max(abs(after[0] - after[1]), 1.0) / apart
            self._zoom(sum(after) / 2, factor, (sum(after) - sum(before)) / 2)
        self._fingers[touch.uid] = touch.pos
        return True

    def on_touch_up(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return False
        touch.ungrab(self)
        self._fingers.pop(touch.uid, None)
        return True

    def release(self, touch: Any) -> None:
        touch.ungrab(self)
        self._fingers.pop(touch.uid, None)

    def _zoom(self, x: float, factor: float, moved: float) -> None:
        whole = self._all()
        span = self._view or whole
        by = -moved / self._box[2] * span.length
        factor = min(factor, span.length / (whole.length * MIN_ZOOM))
        found = span.moved(by).zoomed(self._step_at(x) + by, factor).within(whole)
        self._view = None if found == whole else found
        self._cursor = None
        self.refresh()
