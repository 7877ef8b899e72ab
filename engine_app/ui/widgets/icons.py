"""Icons as strokes on a grid of 24 by 24, y upwards. Pure data, drawn by ``draw``."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from engine_app.ui.theme import STROKE, Colour

Stroke: TypeAlias = tuple[tuple[float, float], ...]


def _ellipse(x: float, y: float, wide: float, high: float, start: float, end: float) -> Stroke:
    """Degrees, anticlockwise from the right."""
    count = max(6, int(abs(end - start) / 12))
    angles = (math.radians(start + (end - start) * step / count) for step in range(count + 1))
    return tuple((x + wide * math.cos(angle), y + high * math.sin(angle)) for angle in angles)


def _arc(x: float, y: float, radius: float, start: float = 0, end: float = 360) -> Stroke:
    return _ellipse(x, y, radius, radius, start, end)


def _ray(angle: float) -> Stroke:
    """Of a sun, degrees."""
    x, y = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return _line(12 + 7 * x, 12 + 7 * y, 12 + 9.5 * x, 12 + 9.5 * y)


def _line(*numbers: float) -> Stroke:
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _box(x: float, y: float, width: float, height: float) -> Stroke:
    return _line(x, y, x + width, y, x + width, y + height, x, y + height, x, y)


ICONS: dict[str, tuple[Stroke, ...]] = {
    "add": (_line(12, 5, 12, 19), _line(5, 12, 19, 12)),
    "remove": (_line(5, 12, 19, 12),),
    "close": (_line(6, 6, 18, 18), _line(6, 18, 18, 6)),
    "check": (_line(5, 12, 10, 7, 19, 17),),
    "undo": (_line(9, 18, 4, 13, 9, 8), (*_line(4, 13, 14, 13), *_arc(14, 8.5, 4.5, 90, -90), (10, 4))),
    "redo": (_line(15, 18, 20, 13, 15, 8), (*_line(20, 13, 10, 13), *_arc(10, 8.5, 4.5, 90, 270), (14, 4))),
    "save": (
        _line(4, 4, 4, 20, 16, 20, 20, 16, 20, 4, 4, 4),
        _box(8, 4, 8, 6),
        _line(8, 20, 8, 16, 14, 16, 14, 20),
    ),
    "open": (_line(3, 5, 3, 19, 9, 19, 11, 16, 19, 16, 19, 13), _line(3, 5, 7, 13, 22, 13, 18, 5, 3, 5)),
    "play": (_line(8, 5, 19, 12, 8, 19, 8, 5),),
    "pause": (_line(9, 5, 9, 19), _line(15, 5, 15, 19)),
    "stop": (_box(6, 6, 12, 12),),
    "search": (_arc(10.5, 13.5, 6), _line(15, 9, 20, 4)),
    "menu": (_line(4, 17, 20, 17), _line(4, 12, 20, 12), _line(4, 7, 20, 7)),
    "more": (_arc(12, 18, 1), _arc(12, 12, 1), _arc(12, 6, 1)),
    "left": (_line(15, 5, 8, 12, 15, 19),),
    "right": (_line(9, 5, 16, 12, 9, 19),),
    "up": (_line(5, 9, 12, 16, 19, 9),),
    "down": (_line(5, 15, 12, 8, 19, 15),),
    "back": (_line(11, 6, 5, 12, 11, 18), _line(5, 12, 19, 12)),
    "delete": (_line(4, 18, 20, 18), _line(9, 18, 9, 21, 15, 21, 15, 18), _line(6, 18, 7, 3, 17, 3, 18, 18)),
    "reset": (_arc(12, 12, 7.5, 130, -170), _line(4, 21, 7, 17.5, 11, 19)),
    "warning": (_line(12, 21, 2, 3, 22, 3, 12, 21), _line(12, 14.5, 12, 9.5), _line(12, 6.5, 12, 6)),
    "error": (_arc(12, 12, 9), _line(12, 17, 12, 11.5), _line(12, 8, 12, 7.5)),
    "info": (_arc(12, 12, 9), _line(12, 12.5, 12, 7), _line(12, 16.5, 12, 16)),
    "build": (
        _box(3, 13, 7, 7),
        _box(14, 4, 7, 7),
        (*_line(10, 16.5, 13, 16.5), *_arc(13, 14, 2.5, 90, 0), (17.5, 11)),
    ),
    "train": (_line(3, 4, 21, 4), _line(4, 19, 8, 12, 12, 14, 16, 8, 20, 7)),
    "jobs": (
        _arc(12, 18, 3),
        _arc(5, 6, 3),
        _arc(19, 6, 3),
        _line(10.5, 15.4, 6.6, 8.6),
        _line(13.5, 15.4, 17.4, 8.6),
    ),
    "wallet": (_box(3, 5, 18, 14), _line(21, 10, 15, 10, 15, 14, 21, 14), _line(17.5, 12, 18, 12)),
    "settings": (
        *(_line(4, y, 20, y) for y in (18.0, 12.0, 6.0)),
        *(_arc(x, y, 2) for x, y in ((8.0, 18.0), (16.0, 12.0), (9.0, 6.0))),
    ),
    "sun": (_arc(12, 12, 4), *(_ray(angle) for angle in range(0, 360, 45))),
    "moon": ((*_arc(12, 12, 8, 100, 350), *reversed(_arc(16, 16, 6.5, 190, 280))),),
    "help": (_arc(12, 12, 9), (*_arc(12, 14, 3, 170, -60), (12, 11.5), (12, 10)), _line(12, 7, 12, 6.5)),
    "data": (
        _ellipse(12, 18, 8, 3, 0, 360),
        _ellipse(12, 12, 8, 3, 180, 360),
        _ellipse(12, 6, 8, 3, 180, 360),
        _line(4, 18, 4, 6),
        _line(20, 18, 20, 6),
    ),
    "export": (_line(12, 8, 12, 20), _line(7, 15.5, 12, 20, 17, 15.5), _line(4, 9, 4, 4, 20, 4, 20, 9)),
    "copy": (_box(9, 4, 11, 13), _line(6, 8, 4, 8, 4, 20, 14, 20, 14, 19)),
    "deploy": (
        _box(3, 13, 18, 7),
        _line(7, 16.5, 7.5, 16.5),
        _line(11, 16.5, 17, 16.5),
        _box(3, 4, 18, 7),
        _line(7, 7.5, 7.5, 7.5),
        _line(11, 7.5, 17, 7.5),
    ),
    "send": (_line(4, 4, 20, 12, 4, 20, 7, 12, 4, 4), _line(7, 12, 13, 12)),
    "pen": (_line(4, 4, 5, 9, 16, 20, 20, 16, 9, 5, 4, 4), _line(13, 17, 17, 13)),
    "picture": (_box(3, 4, 18, 16), _arc(8.5, 15, 1.5), _line(3, 8, 9, 12, 13, 8, 17, 11, 21, 8)),
    "download": (_line(12, 20, 12, 9), _line(7, 13.5, 12, 8.5, 17, 13.5), _line(4, 9, 4, 4, 20, 4, 20, 9)),
    "bypass": (
        _arc(12, 8, 2.5),
        (*_line(3, 8, 5, 8), *_arc(12, 8, 7, 180, 20)),
        _line(14.5, 11, 19, 10, 21, 14.5),
    ),
    "mute": (_arc(12, 12, 8.5), _line(6, 6, 18, 18)),
    "collapse": (_line(6, 20, 12, 15, 18, 20), _line(6, 4, 12, 9, 18, 4), _line(4, 12, 20, 12)),
    "group": (
        _line(3, 8, 3, 3, 8, 3),
        _line(16, 3, 21, 3, 21, 8),
        _line(21, 16, 21, 21, 16, 21),
        _line(8, 21, 3, 21, 3, 16),
        _box(8, 8, 8, 8),
    ),
    "cut": (_arc(6, 6, 2.5), _arc(18, 6, 2.5), _line(7.5, 8, 17, 21), _line(16.5, 8, 7, 21)),
    "bend": ((*_line(3, 6, 9, 6), *_arc(9, 9, 3, -90, 0), (12, 15), *_arc(15, 15, 3, 180, 90), (21, 18)),),
    "note": (_line(4, 4, 4, 20, 20, 20, 20, 10, 14, 4, 4, 4), _line(14, 4, 14, 10, 20, 10)),
    "paste": (_box(5, 3, 14, 16), _box(9, 17, 6, 4), _line(9, 12, 15, 12), _line(9, 8, 15, 8)),
    "pattern": (
        _box(3, 14, 6, 6),
        _box(15, 14, 6, 6),
        _box(9, 4, 6, 6),
        _line(6, 14, 6, 7, 9, 7),
        _line(18, 14, 18, 7, 15, 7),
    ),
    "lasso": (_ellipse(12, 14, 9, 6, 0, 360), (*_line(7, 9, 6, 6), *_arc(7.5, 5, 1.8, 150, 420))),
    "all": (_box(3, 3, 18, 18), _line(8, 12, 11, 9, 16, 15)),
    "fit": (
        _line(3, 9, 3, 3, 9, 3),
        _line(15, 3, 21, 3, 21, 9),
        _line(21, 15, 21, 21, 15, 21),
        _line(9, 21, 3, 21, 3, 15),
    ),
    "arrange": (
        _box(3, 9, 6, 6),
        _box(15, 15, 6, 6),
        _box(15, 3, 6, 6),
        _line(9, 12, 12, 12, 12, 18, 15, 18),
        _line(12, 12, 12, 6, 15, 6),
    ),
    "link": (_arc(6, 12, 3), _arc(18, 12, 3), _line(9, 12, 15, 12)),
    "keyboard": (
        _box(2, 6, 20, 12),
        *(_line(x, 14, x + 0.5, 14) for x in (6, 10, 14, 17.5)),
        _line(7, 9.5, 17, 9.5),
    ),
    "plug": (
        _line(9, 21, 9, 16),
        _line(15, 21, 15, 16),
        _line(6, 16, 18, 16, 18, 12, 15, 8, 9, 8, 6, 12, 6, 16),
        _line(12, 8, 12, 3),
    ),
    "list": (*(_line(9, y, 20, y) for y in (18.0, 12.0, 6.0)), *(_arc(4.5, y, 1) for y in (18.0, 12.0, 6.0))),
}


class Icon:
    """Draws an icon on a widget's canvas, centred at a place that may move."""

    def __init__(self, canvas: Any, name: str, size: float, colour: Colour) -> None:
        """``size`` in pixels."""
        from kivy.graphics import Color, SmoothLine

        self._strokes = ICONS[name]
        self._unit = size / 24
        with canvas:
            self.colour = Color(*colour)
            self._lines = [
                SmoothLine(width=max(1.0, STROKE * self._unit * 0.6), cap="round", joint="round")
                for _ in self._strokes
            ]

    def move(self, x: float, y: float) -> None:
        """The centre, in pixels."""
        left, low = x - 12 * self._unit, y - 12 * self._unit
        for line, stroke in zip(self._lines, self._strokes, strict=True):
            line.points = [
                number for px, py in stroke for number in (left + px * self._unit, low + py * self._unit)
            ]
