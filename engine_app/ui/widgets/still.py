"""A part of the window that seldom changes, drawn into a picture of its own.

Kivy draws all of the window for every frame: beside a canvas that moves, hundreds of rows and buttons that
do not. Here they are drawn when they change, and their picture, one rectangle, otherwise.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from kivy.graphics import (
    Callback,
    ClearBuffers,
    ClearColor,
    Color,
    Fbo,
    PopMatrix,
    PushMatrix,
    Rectangle,
    Translate,
)
from kivy.graphics.opengl import GL_TEXTURE_2D, glCopyTexSubImage2D
from kivy.graphics.texture import Texture
from kivy.uix.boxlayout import BoxLayout
from kivy.uix.widget import Widget

from engine_app.ui.theme import Colour


class Still(BoxLayout):
    """``ground``: what lies behind ``body``, which scissors nothing: a scissor knows only the window.

    ``beyond``: how many pixels around it are its own too, for the soft edges of round corners.
    """

    def __init__(self, body: Widget, ground: Colour, beyond: int = 0) -> None:
        super().__init__(size_hint=body.size_hint, size=body.size)
        self._beyond = beyond
        self._picture = Fbo(size=(1, 1), with_stencilbuffer=True)
        self._move = Translate()
        for instruction in (ClearColor(*ground), ClearBuffers(), PushMatrix(), self._move):
            self._picture.add(instruction)
        self._copy: Any = None
        self._shown = Rectangle()
        for instruction in (self._picture, Color(1, 1, 1, 1), self._shown):
            self.canvas.add(instruction)
        self.add_widget(body)
        self.canvas.remove(body.canvas)
        for instruction in (body.canvas, PopMatrix(), Callback(self._copy_picture)):
            self._picture.add(instruction)
        for number, side in enumerate(("width", "height")):
            if body.size_hint[number] is None:
                body.bind(**{side: self.setter(side)})
        self.bind(pos=self._follow, size=self._follow)
        self._follow()

    def remove_widget(self, widget: Widget, *arguments: Any, **options: Any) -> None:
        self._picture.remove(widget.canvas)
        super().remove_widget(widget, *arguments, **options)

    def _follow(self, *_: Any) -> None:
        """Pixel on pixel, those whose middle is inside, also where the place is no whole number."""
        x, y = ceil(self.x - 0.5) - self._beyond, ceil(self.y - 0.5) - self._beyond
        right, top = self.x + self.width + self._beyond, self.y + self.height + self._beyond
        shown = ceil(right - 0.5) - x, ceil(top - 0.5) - y
        size = max(shown[0], 1), max(shown[1], 1)
        if self._copy is None or tuple(self._copy.size) != size:
            self._picture.size = size
            self._copy = self._shown.texture = Texture.create(size=size, colorfmt="rgba")
            self._copy.mag_filter = self._copy.min_filter = "nearest"
        self._move.xy = -x, -y
        self._shown.pos, self._shown.size = (x, y), shown

    def _copy_picture(self, _: Any) -> None:
        """Mesa's software renderer may stop at each draw with a picture that it drew itself, and wait."""
        self._copy.bind()
        glCopyTexSubImage2D(GL_TEXTURE_2D, 0, 0, 0, 0, 0, *self._picture.size)
