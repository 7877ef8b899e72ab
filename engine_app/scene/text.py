"""Lines of text as quads of glyphs. What draws glyphs is elsewhere: here they are places in its atlas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine_app.scene.snapshot import Floats

MAX_KEPT = 20_000
"""Lines that are remembered."""
CORNERS = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)


@dataclass(frozen=True, slots=True)
class Glyph:
    """``uv``: left, top, right, bottom in the atlas, 0 to 1; sizes in pixels of the atlas."""

    uv: tuple[float, float, float, float]
    width: float
    height: float
    advance: float


class Atlas(Protocol):
    size: float
    """Pixels of its font."""

    def glyph(self, character: str, bold: bool) -> Glyph: ...


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """``quads``: (glyphs, 4, 4): x, y, u, v at size 1 from the line's top left corner."""

    quads: Floats
    width: float


class TextLayout:
    """For one atlas; remembers what it has laid out."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self._kept: dict[tuple[str, bool], Line] = {}

    def line(self, text: str, bold: bool = False) -> Line:
        key = text, bold
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            found = self._kept[key] = self._lay(text, bold)
        return found

    def fitted(self, text: str, width: float, bold: bool = False) -> Line:
        """Cut with an ellipsis where it is wider than ``width`` (at size 1)."""
        whole = self.line(text, bold)
        if whole.width <= width or not text:
            return whole
        cut = len(text)
        while cut > 1 and self.line(text[:cut], bold).width > width - 0.8:
            cut -= 1 if cut < 12 else cut // 8
        return self.line(f"{text[:cut].rstrip()}…", bold)

    def wrapped(self, text: str, width: float, lines: int) -> list[Line]:
        """By words, at most so many lines."""
        found: list[str] = []
        for paragraph in text.split("\n"):
            row = ""
            for word in paragraph.split(" "):
                longer = f"{row} {word}" if row else word
                if row and self.line(longer).width > width:
                    found.append(row)
                    row = word
                else:
                    row = longer
                if len(found) > lines:
                    break
            found.append(row)
            if len(found) > lines:
                break
        return [self.fitted(row, width) for row in found[:lines]]

    def _lay(self, text: str, bold: bool) -> Line:
        glyphs = [self.atlas.glyph(character, bold) for character in text]
        if not glyphs:
            return Line(np.zeros((0, 4, 4), np.float32), 0.0)
        scale = 1 / self.atlas.size
        advances = np.array([glyph.advance for glyph in glyphs], np.float32) * scale
        left = np.concatenate([[0], np.cumsum(advances)[:-1]]).astype(np.float32)
        sizes = np.array([(glyph.width, glyph.height) for glyph in glyphs], np.float32) * scale
        uv = np.array([glyph.uv for glyph in glyphs], np.float32)
        quads = np.empty((len(glyphs), 4, 4), np.float32)
        quads[:, :, 0:2] = CORNERS * sizes[:, None]
        quads[:, :, 0] += left[:, None]
        quads[:, :, 2] = np.where(CORNERS[:, 0] > 0, uv[:, 2:3], uv[:, 0:1])
        quads[:, :, 3] = np.where(CORNERS[:, 1] > 0, uv[:, 3:4], uv[:, 1:2])
        return Line(quads, float(advances.sum()))
