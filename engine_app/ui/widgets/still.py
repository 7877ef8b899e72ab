"""A part of the window that seldom changes, drawn into a picture of its own.

Kivy draws all of the window for every frame: beside a canvas that moves, hundreds of rows and buttons that
do not. Here they are drawn when they change, and their picture, one rectangle, otherwise.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Any

from kivy.graphics import ClearBuffers, ClearColor, Color, Fbo, PopMatrix, PushMatrix, Rectangle, Translate
from kivy.uix.boxlayout import BoxLayout
from kivy.uix.widget import Widget


class Still(BoxLayout):
    """``body`` paints a ground without holes, and scissors nothing: a scissor knows only the window."""

    def __init__(self, body: Widget) -> None:
        super().__init__(size_hint=body.size_hint, size=body.size)
        self._picture = Fbo(size=(1, 1), with_stencilbuffer=True)
        self._move = Translate()
        for instruction in (ClearColor(0, 0, 0, 0), ClearBuffers(), PushMatrix(), self._move):
            self._picture.add(instruction)
        self._shown = Rectangle()
        for instruction in (self._picture, Color(1, 1, 1, 1), self._shown):
            self.canvas.add(instruction)
        self.add_widget(body)
        self.canvas.remove(body.canvas)
        for instruction in (body.canvas, PopMatrix()):
            self._picture.add(instruction)
        self.bind(pos=self._follow, size=self._follow)
        self._follow()

    def remove_widget(self, widget: Widget, *arguments: Any, **options: Any) -> None:
        self._picture.remove(widget.canvas)
        super().remove_widget(widget, *arguments, **options)

    def _follow(self, *_: Any) -> None:
        """Pixel on pixel, also where the place is no whole number."""
        x, y = floor(self.x), floor(self.y)
        size = max(ceil(self.x + self.width) - x, 1), max(ceil(self.y + self.height) - y, 1)
        if tuple(self._picture.size) != size:
            self._picture.size = size
            self._picture.texture.mag_filter = self._picture.texture.min_filter = "nearest"
            self._shown.texture = self._picture.texture
        self._move.xy = -x, -y
        self._shown.pos, self._shown.size = (x, y), size
