"""Where the targets of a menu lie around a finger, and which one it means. Pure; y upwards, in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

TARGET = 68.0
"""Diameter of a target, in dp."""
RING, SMALL_RING = 102.0, 78.0
"""Distance of the targets from the middle, in dp; the small one for a few of them."""
FEW = 5
MOST = 8
"""Targets on one ring: more would overlap."""
EDGE = 8.0

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Ring:
    middle: Place
    places: tuple[Place, ...]
    """Of the targets, clockwise from the top."""
    reach: float
    """How far from a target's middle it is still meant."""

    def meant(self, x: float, y: float) -> int | None:
        """The target under a finger."""
        distances = [math.hypot(x - at_x, y - at_y) for at_x, at_y in self.places]
        best = min(range(len(distances)), key=distances.__getitem__, default=None)
        return best if best is not None and distances[best] <= self.reach else None


def ring(count: int, at: Place, size: tuple[float, float], dp: float = 1.0) -> Ring:
    """Around a place, moved as far as it takes to lie inside a window of that size."""
    radius = (SMALL_RING if count <= FEW else RING) * dp
    x, y = (_kept(at[axis], radius + (TARGET / 2 + EDGE) * dp, size[axis]) for axis in (0, 1))
    angles = (math.pi / 2 - 2 * math.pi * number / max(count, 1) for number in range(count))
    places = tuple((x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles)
    return Ring((x, y), places, (TARGET / 2 + EDGE) * dp)


def _kept(at: float, margin: float, size: float) -> float:
    return min(max(at, margin), size - margin) if size > 2 * margin else size / 2


def beside(places: Sequence[Place], chosen: int | None, step: int) -> int:
    """The target after (1) or before (-1) one, around the ring."""
    return (0 if step > 0 else -1) % len(places) if chosen is None else (chosen + step) % len(places)
