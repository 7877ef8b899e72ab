"""What a finger drew, as the small picture that a model takes: fitted and centred as MNIST's digits are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Stroke: TypeAlias = Sequence[tuple[float, float]]
"""Points from 0 to 1, y upwards."""
Pixels: TypeAlias = NDArray[np.float32]
MAX_POINTS = 600
"""Of all strokes; more are thinned out."""
PEN = 0.045
"""Half the width of a line, as a share of what is drawn."""
_MARGIN_FROM = 20
"""Pictures of so many pixels have a margin, as MNIST's 28 have; smaller ones, as the 8 of digits, none."""
_FILLED = 20 / 28


def rasterized(strokes: Sequence[Stroke], height: int, width: int) -> Pixels:
    """(height, width), 0 for the ground to 1 for ink; all 0 where nothing is drawn."""
    points = _thinned(strokes)
    if not points:
        return np.zeros((height, width), np.float32)
    fine = 4 if max(height, width) <= 64 else 2
    placed = _placed(points, height, width)
    rows, columns = height * fine, width * fine
    x = (np.arange(columns) + 0.5) / fine
    y = height - (np.arange(rows) + 0.5) / fine
    grid_x, grid_y = np.meshgrid(x, y)
    radius = PEN * _side(height, width)
    reach = radius + 1 / fine
    nearest = np.full((rows, columns), np.inf)
    for stroke in placed:
        for begin, end in zip(stroke, stroke[1:] if len(stroke) > 1 else stroke, strict=False):
            # Farther away than the pen is wide it changes nothing.
            low, high = np.minimum(begin, end) - reach, np.maximum(begin, end) + reach
            left, right = np.searchsorted(x, (low[0], high[0]))
            top, bottom = np.searchsorted(-y, (-high[1], -low[1]))
            near = np.s_[top:bottom, left:right]
            found = _distance(grid_x[near], grid_y[near], begin, end)
            nearest[near] = np.minimum(nearest[near], found)
    ink = np.clip((radius - nearest) * fine + 0.5, 0, 1)
    pixels: Pixels = ink.reshape(height, fine, width, fine).mean(axis=(1, 3)).astype(np.float32)
    darkest = float(pixels.max())
    return pixels / np.float32(darkest) if darkest > 0 else pixels


def _thinned(strokes: Sequence[Stroke]) -> list[NDArray[np.float64]]:
    total = sum(map(len, strokes))
    step = max(1, -(-total // MAX_POINTS))
    kept = ([*stroke[::step], stroke[-1]] if step > 1 else list(stroke) for stroke in strokes if stroke)
    return [np.asarray(stroke, np.float64) for stroke in kept]


def _side(height: int, width: int) -> float:
    side = min(height, width)
    return side * (_FILLED if side >= _MARGIN_FROM else 1.0)


def _placed(strokes: list[NDArray[np.float64]], height: int, width: int) -> list[NDArray[np.float64]]:
    """In pixels of the picture: the drawing fills its square, with the pen's width inside."""
    every = np.concatenate(strokes)
    low, high = every.min(axis=0), every.max(axis=0)
    room = _side(height, width) * (1 - 2 * PEN)
    # A dot or a short line stays small: it is not blown up to the whole picture.
    scale = room / max(float((high - low).max()), 0.3)
    centre = every.mean(axis=0) if min(height, width) >= _MARGIN_FROM else (low + high) / 2
    middle = np.array([width / 2, height / 2])
    offset = middle - centre * scale
    edge = PEN * _side(height, width)
    limits = np.array([width - edge, height - edge])
    # What is centred by its weight may stick out: it is pushed back in.
    offset += np.maximum(0, edge - (low * scale + offset)) - np.maximum(0, high * scale + offset - limits)
    return [stroke * scale + offset for stroke in strokes]


def _distance(
    x: NDArray[np.float64], y: NDArray[np.float64], begin: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    dx, dy = end - begin
    length = dx * dx + dy * dy
    if length <= 0:
        return np.hypot(x - begin[0], y - begin[1])
    share = np.clip(((x - begin[0]) * dx + (y - begin[1]) * dy) / length, 0, 1)
    return np.hypot(x - begin[0] - share * dx, y - begin[1] - share * dy)
