"""Which class was taken for which, as a square of shades with the numbers in it where they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kivy.core.text import Label as CoreLabel
from kivy.graphics import Color, InstructionGroup, Rectangle
from kivy.uix.widget import Widget

from engine_app.ui import theme
from engine_app.ui.theme import Look, mixed

MAX_NUMBERED = 16
"""Classes, of which each field has its number written."""


class Confusion(Widget):
    """Rows are what was right, columns what was said."""

    def __init__(self, look: Look, rows: Sequence[Sequence[int]]) -> None:
        super().__init__(size_hint_y=None)
        self._look = look
        self._rows = rows
        self._drawn = InstructionGroup()
        self.canvas.add(self._drawn)
        self.bind(pos=self._draw, width=self._resize)

    def _resize(self, *_: Any) -> None:
        self.height = min(self.width, self._look.px(420))
        self._draw()

    def _draw(self, *_: Any) -> None:
        palette, count = self._look.palette, len(self._rows)
        margin = self._look.px(24)
        side = max(1.0, (self.height - margin) / max(1, count))
        self._drawn.clear()
        for at, row in enumerate(self._rows):
            total = sum(row) or 1
            y = self.y + self.height - margin - (at + 1) * side
            self._write(str(at), self.x, y, margin, side)
            self._write(str(at), self.x + margin + at * side, self.y + self.height - margin, side, margin)
            for other, number in enumerate(row):
                strong = palette.success if at == other else palette.danger
                colour = mixed(palette.surface, strong, min(1.0, (number / total) ** 0.5) * 0.75)
                x = self.x + margin + other * side
                self._drawn.add(Color(*colour))
                self._drawn.add(Rectangle(pos=(x, y), size=(side - 1, side - 1)))
                if number and count <= MAX_NUMBERED:
                    self._write(str(number), x, y, side, side, strong=True)

    def _write(self, text: str, x: float, y: float, wide: float, high: float, strong: bool = False) -> None:
        if not strong and len(self._rows) > 2 * MAX_NUMBERED:
            return
        palette = self._look.palette
        label = CoreLabel(
            text=text,
            font_size=self._look.px(theme.LABEL.size),
            color=palette.text if strong else palette.muted,
        )
        label.refresh()
        texture = label.texture
        if texture.width > wide:
            return
        self._drawn.add(Color(1, 1, 1))
        place = (round(x + (wide - texture.width) / 2), round(y + (high - texture.height) / 2))
        self._drawn.add(Rectangle(texture=texture, pos=place, size=texture.size))
