"""Curves as arrays: kept while they grow, thinned without losing a peak, smoothed, made into ribbons.

Numpy only. x grows along a curve. What is not finite is a gap.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

MAX_POINTS = 1 << 20
"""Of one curve; then every other point goes."""
LARGEST_X, LARGEST_Y = 2.0**53, 1e300


class Curve:
    """Grows at its end."""

    def __init__(self) -> None:
        self._data = np.empty((2, 256))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def x(self) -> Floats:
        return self._data[0, : self._count]

    @property
    def y(self) -> Floats:
        return self._data[1, : self._count]

    def copy(self) -> Curve:
        """As it is now, for another thread."""
        found = Curve()
        found._data, found._count = self._data[:, : self._count].copy(), self._count
        return found

    def append(self, x: float, y: float) -> None:
        """An x that is not above the last one replaces it: what is done again, such as after a crash.

        What a plot could not reckon with is left out: a peer may say anything.
        """
        if not abs(x) <= LARGEST_X:
            return
        if not abs(y) <= LARGEST_Y:
            y = math.nan
        while self._count and x <= self._data[0, self._count - 1]:
            self._count -= 1
        if self._count >= MAX_POINTS:
            self._data[:, : self._count // 2] = self._data[:, : self._count // 2 * 2 : 2]
            self._count //= 2
        if self._count == self._data.shape[1]:
            self._data = np.concatenate([self._data, np.empty_like(self._data)], axis=1)
        self._data[:, self._count] = x, y
        self._count += 1

    def extend(self, x: Floats, y: Floats) -> None:
        for each_x, each_y in zip(x, y, strict=True):
            self.append(float(each_x), float(each_y))

    def value_at(self, x: float) -> tuple[float, float] | None:
        """The point nearest to x; None for an empty curve."""
        if not self._count:
            return None
        at = int(np.searchsorted(self.x, x))
        near = [index for index in (at - 1, at) if 0 <= index < self._count]
        best = min(near, key=lambda index: abs(self.x[index] - x))
        return float(self.x[best]), float(self.y[best])


def thinned(x: Floats, y: Floats, low: float, high: float, columns: int) -> tuple[Floats, Floats]:
    """What is seen between low and high, in two points (least and greatest, in their order) a column at most.

    One point beyond each end stays, so that the line leaves the picture as it should.
    """
    first = max(0, int(np.searchsorted(x, low)) - 1)
    last = min(len(x), int(np.searchsorted(x, high, side="right")) + 1)
    x, y = x[first:last], y[first:last]
    if len(x) <= 2 * columns:
        return x, y
    size = -(-len(x) // columns)
    whole = len(x) // size * size
    blocks = y[:whole].reshape(-1, size)
    starts = np.arange(0, whole, size)
    least = starts + _argmin(blocks)
    greatest = starts + _argmin(-blocks)
    kept = np.sort(np.stack([least, greatest], axis=1), axis=1).ravel()
    if whole < len(x):
        kept = np.append(kept, np.arange(whole, len(x))[[0, -1]])
    kept = np.unique(np.concatenate([[0], kept, [len(x) - 1]]))
    return x[kept], y[kept]


def _argmin(blocks: Floats) -> NDArray[np.intp]:
    """Of each row; gaps count as infinite."""
    if np.isnan(blocks.sum()):
        blocks = np.where(np.isfinite(blocks), blocks, np.inf)
    return np.asarray(np.argmin(blocks, axis=1))


def smoothed(y: Floats, window: int) -> Floats:
    """The mean of so many points up to each; gaps are left out of it."""
    if window <= 1 or not len(y):
        return y
    good = np.isfinite(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(good)])
    starts = np.maximum(0, np.arange(1, len(y) + 1) - window)
    total = sums[1:] - sums[starts]
    number = counts[1:] - counts[starts]
    return np.asarray(np.where(good & (number > 0), total / np.maximum(number, 1), np.nan))


def ribbon(points: NDArray[Any], width: float) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Vertices (n, 2) and triangle indices of a line of that width through points (n, 2), in pixels.

    Segments are quads of their own, each longer by a bit so that corners close. Gaps have none.
    """
    start, end = points[:-1], points[1:]
    good = np.isfinite(start).all(axis=1) & np.isfinite(end).all(axis=1)
    start, end = start[good], end[good]
    along = end - start
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
    along = along / length * (width / 4)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * 2
    start, end = start - along, end + along
    corners = np.stack([start + across, start - across, end + across, end - across], axis=1)
    first = np.arange(len(start), dtype=np.uint16)[:, None] * 4
    indices = first + np.array([0, 1, 2, 2, 1, 3], dtype=np.uint16)
    return corners.reshape(-1, 2).astype(np.float32), indices.ravel().astype(np.uint16)


@dataclass(frozen=True, slots=True)
class Span:
    low: float
    high: float

    @property
    def length(self) -> float:
        return self.high - self.low

    def zoomed(self, centre: float, factor: float) -> Span:
        """Shorter by the factor, with the centre where it was."""
        return Span(centre - (centre - self.low) / factor, centre + (self.high - centre) / factor)

    def moved(self, by: float) -> Span:
        return Span(self.low + by, self.high + by)

    def within(self, outer: Span) -> Span:
        """As long, if it can be, and inside the outer one."""
        if self.length >= outer.length:
            return outer
        shift = max(0.0, outer.low - self.low) - max(0.0, self.high - outer.high)
        return self.moved(shift)


def span_of(values: Sequence[Floats], margin: float = 0.06, *, log: bool = False) -> Span:
    """Around all that is finite (and, for a logarithm, above 0), never empty."""
    found = [each[np.isfinite(each) & (each > 0 if log else True)] for each in values]
    found = [each for each in found if len(each)]
    if not found:
        return Span(0.1, 1.0) if log else Span(0.0, 1.0)
    low, high = min(float(each.min()) for each in found), max(float(each.max()) for each in found)
    if log:
        return Span(low / 1.2, high * 1.2)
    room = (high - low) * margin or max(abs(high), 1e-12) * margin
    return Span(low - room, high + room)


def ticks(span: Span, count: int) -> list[float]:
    """About so many round numbers inside."""
    raw = span.length / max(1, count)
    if not math.isfinite(raw) or raw <= 0:
        return []
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((power * factor for factor in (1, 2, 2.5, 5) if power * factor >= raw), 10 * power)
    first = math.ceil(span.low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(span.high / step + 1e-9) + 1)]


def log_ticks(span: Span) -> list[float]:
    """Powers of ten inside, and between few of them their halves."""
    low, high = math.floor(math.log10(span.low)), math.ceil(math.log10(span.high))
    factors = (1, 2, 5) if high - low <= 3 else (1,)
    found = [factor * 10.0**power for power in range(low, high + 1) for factor in factors]
    return [value for value in found if span.low <= value <= span.high]


def number_label(value: float) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e5 or size < 1e-3:
        return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.5g}"


def as_csv(curves: Mapping[str, Curve]) -> str:
    """One row an x, one column a curve; empty where a curve has no point."""
    columns = {
        name: dict(zip(curve.x.tolist(), curve.y.tolist(), strict=True)) for name, curve in curves.items()
    }
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["step", *columns])
    for x in sorted({x for column in columns.values() for x in column}):
        writer.writerow([f"{x:g}", *(column.get(x, "") for column in columns.values())])
    return out.getvalue()
