"""Vertices of boxes, links and glyphs. Everything that is not a link or text is a rounded box.

A box's shader gets the distance to its outline from the place inside it, so it is sharp at any zoom.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from engine_app.scene.curves import curve_points, normals_of
from engine_app.scene.snapshot import Floats
from engine_app.scene.text import CORNERS, Line

BOX_FORMAT = (("vPosition", 2), ("vLocal", 2), ("vShape", 4), ("vFill", 4), ("vLine", 4), ("vHead", 4))
"""vShape: half width, half height, radius, shadow; vLine: colour, width; vHead: colour, height."""
RIBBON_FORMAT = (("vPosition", 2), ("vSide", 2), ("vColour", 4))
GLYPH_FORMAT = (("vPosition", 2), ("vTexture", 2), ("vColour", 4))
FLAT_FORMAT = (("vPosition", 2), ("vColour", 4))
BOX_FLOATS, RIBBON_FLOATS, GLYPH_FLOATS, FLAT_FLOATS = 20, 8, 8, 6
SHADOW_SOFTNESS, SHADOW_DROP = 12.0, 4.0
SHADOW_SEEN = 8.5
"""How far beyond its outline a shadow of 0.35 still changes a colour of 8 bits."""
QUAD = np.array([0, 1, 2, 2, 1, 3], np.int64)

Colour = Sequence[float]
Integers64 = npt.NDArray[np.int64]
NO_COLOUR = (0.0, 0.0, 0.0, 0.0)


def no_boxes() -> Floats:
    return np.zeros((0, 4, BOX_FLOATS), np.float32)


def boxes(
    corners: Floats,
    sizes: Floats,
    fills: Floats | Colour,
    *,
    radius: Floats | float = 0.0,
    lines: Floats | Colour = NO_COLOUR,
    heads: Floats | Colour = NO_COLOUR,
    shadows: Floats | float = 0.0,
) -> Floats:
    """(boxes, 4, 20). ``lines``: red, green, blue, width; ``heads``: red, green, blue, height.

    ``shadows``: how strong each one's is, 0 to 1.
    """
    count = len(corners)
    if not count:
        return no_boxes()
    shade = np.broadcast_to(np.asarray(shadows, np.float32), (count,))
    margin = np.where(shade > 0, SHADOW_SEEN, 2.0).astype(np.float32)[:, None]
    drop = np.where(shade > 0, SHADOW_DROP, 0.0)[:, None] * np.array([0, 1], np.float32)
    outer, middle = sizes + 2 * margin, (corners + sizes / 2)[:, None]
    found = np.empty((count, 4, BOX_FLOATS), np.float32)
    found[:, :, 2:4] = (CORNERS - 0.5) * outer[:, None] + drop[:, None]
    found[:, :, 0:2] = middle + found[:, :, 2:4]
    found[:, :, 4:6] = (sizes / 2)[:, None]
    found[:, :, 6] = np.broadcast_to(np.asarray(radius, np.float32), (count,))[:, None]
    found[:, :, 7] = shade[:, None]
    for start, values in ((8, fills), (12, lines), (16, heads)):
        found[:, :, start : start + 4] = np.broadcast_to(np.asarray(values, np.float32), (count, 4))[:, None]
    return found


def blocks(corners: Floats, sizes: Floats, fills: Floats | Colour) -> Floats:
    """(blocks, 4, 6): rectangles of one colour, with hard edges; much cheaper than boxes."""
    found = np.empty((len(corners), 4, FLAT_FLOATS), np.float32)
    found[:, :, 0:2] = corners[:, None] + CORNERS * sizes[:, None]
    found[:, :, 2:6] = np.broadcast_to(np.asarray(fills, np.float32), (len(corners), 4))[:, None]
    return found


def grid(width: float, height: float, gap: float, side: float, colour: Colour) -> Floats:
    """Square dots over a rectangle of that size, and a row beyond each edge, as blocks."""
    across, down = np.arange(-1, width / gap + 1), np.arange(-1, height / gap + 1)
    places = np.stack(np.meshgrid(across, down), -1).reshape(-1, 2) * gap - side / 2
    return blocks(np.round(places).astype(np.float32), np.full((1, 2), side, np.float32), colour)


def dots(
    centres: Floats, radius: float, fills: Floats | Colour, lines: Floats | Colour = NO_COLOUR
) -> Floats:
    sizes = np.full((len(centres), 2), 2 * radius, np.float32)
    return boxes(centres - radius, sizes, fills, radius=radius, lines=lines)


def ribbons(starts: Floats, ends: Floats, colours: Floats, width: float, segments: int) -> Floats:
    """(links, 2 (segments + 1), 8): both sides of each curve, ``width`` across, soft edges included."""
    points = curve_points(starts, ends, segments)
    across = normals_of(points) * (width / 2)
    found = np.empty((len(starts), segments + 1, 2, RIBBON_FLOATS), np.float32)
    found[:, :, 0, 0:2], found[:, :, 1, 0:2] = points + across, points - across
    found[:, :, 0, 2], found[:, :, 1, 2] = 1.0, -1.0
    found[:, :, :, 3] = width / 2
    found[:, :, :, 4:8] = colours[:, None, None]
    return found.reshape(len(starts), 2 * (segments + 1), RIBBON_FLOATS)


def strips(points: Floats, colour: Colour, width: float) -> Floats:
    """(1, 2 points, 8): a drawn line; (0, ...) for less than two points."""
    if len(points) < 2:
        return np.zeros((0, 4, RIBBON_FLOATS), np.float32)
    along = np.gradient(points, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], -1)
    across = across / np.maximum(np.sqrt((across**2).sum(-1, keepdims=True)), 1e-6) * (width / 2)
    found = np.empty((1, len(points), 2, RIBBON_FLOATS), np.float32)
    found[0, :, 0, 0:2], found[0, :, 1, 0:2] = points + across, points - across
    found[0, :, 0, 2], found[0, :, 1, 2] = 1.0, -1.0
    found[0, :, :, 3] = width / 2
    found[0, :, :, 4:8] = np.asarray(colour, np.float32)
    return found.reshape(1, -1, RIBBON_FLOATS)


def ribbon_indices(segments: int) -> Integers64:
    """Triangles of one ribbon."""
    places: Integers64 = np.arange(segments, dtype=np.int64)[:, None] * 2 + QUAD
    return places.ravel()


def glyphs(line: Line, x: float, y: float, size: float, colour: Colour) -> Floats:
    """(glyphs, 4, 8): the line's top left corner at (x, y)."""
    found = np.empty((len(line.quads), 4, GLYPH_FLOATS), np.float32)
    found[:, :, 0:2] = line.quads[:, :, 0:2] * size + np.array([x, y], np.float32)
    found[:, :, 2:4] = line.quads[:, :, 2:4]
    found[:, :, 4:8] = np.asarray(colour, np.float32)
    return found


def joined(parts: Iterable[Floats], floats: int) -> Floats:
    held = [part for part in parts if len(part)]
    return np.concatenate(held) if held else np.zeros((0, 4, floats), np.float32)
