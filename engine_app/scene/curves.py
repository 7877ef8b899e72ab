"""The curve of a link: it leaves and arrives level, goes below what stands between, and turns to go back."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from engine_app.scene.snapshot import Floats

SHORTEST_PULL, LONGEST_PULL = 32.0, 240.0
LONG, LEVEL, BOW = 560.0, 96.0, 170.0
"""A link past others in its row goes below them, by three quarters of the bow."""
BACK, APART, TURN, LANE = 240.0, 130.0, 44.0, 96.0
"""One that goes back so far, to a row so far away, turns with this radius. Its way back lies half-way between
the two rows, or so far before the second: beside its row, and not behind nodes of one between them."""


def curve_points(starts: Floats, ends: Floats, segments: int) -> Floats:
    """(links, segments + 1, 2)."""
    points: Floats = np.einsum("sk,lkd->lsd", _weights(segments), controls(starts, ends)).astype(np.float32)
    back = (starts[:, 0] - ends[:, 0] > BACK) & (np.abs(starts[:, 1] - ends[:, 1]) > APART)
    if back.any():
        points[back] = _turned(starts[back], ends[back], segments)
    return points


def normals_of(points: Floats) -> Floats:
    """Of length 1, across curves at their points."""
    along = np.empty_like(points)
    along[:, 1:-1] = points[:, 2:] - points[:, :-2]
    along[:, 0], along[:, -1] = points[:, 1] - points[:, 0], points[:, -1] - points[:, -2]
    across = np.stack([-along[..., 1], along[..., 0]], -1)
    lengths = np.sqrt((across**2).sum(-1, keepdims=True))
    normals: Floats = (across / np.maximum(lengths, 1e-6)).astype(np.float32)
    return normals


def controls(starts: Floats, ends: Floats) -> Floats:
    """(links, 4, 2): Bernstein's points."""
    across, down = np.abs((ends - starts).T)
    pull = np.clip(across * 0.5 + down * 0.1, SHORTEST_PULL, LONGEST_PULL)
    bow = np.where((across > LONG) & (down < LEVEL), BOW, 0.0).astype(np.float32)
    out, back = np.stack([pull, bow], -1), np.stack([-pull, bow], -1)
    return np.stack([starts, starts + out, ends + back, ends], 1)


def _turned(starts: Floats, ends: Floats, segments: int) -> Floats:
    """Down at the side with round corners, a straight way back beside the row, and down again."""
    t = np.linspace(0, 1, segments + 1, dtype=np.float32)
    first, last = np.clip(t / 0.3, 0, 1), np.clip((t - 0.7) / 0.3, 0, 1)
    middle = np.clip((t - 0.3) / 0.4, 0, 1)
    bulge = TURN * (np.sin(np.pi * first) * (t < 0.3) - np.sin(np.pi * last) * (t > 0.7))
    whole = ends[:, 1:] - starts[:, 1:]
    lane = whole - np.sign(whole) * np.minimum(np.abs(whole) / 2, LANE)
    x = starts[:, :1] + (ends[:, :1] - starts[:, :1]) * middle + bulge
    y = starts[:, 1:] + _corners(first, lane) + _corners(last, whole - lane)
    points: Floats = np.stack([x, y], -1).astype(np.float32)
    return points


def _corners(share: Floats, height: Floats) -> Floats:
    """How far down at each share of the way: round by a quarter, straight, round by a quarter."""
    radius = np.sign(height) * np.minimum(np.abs(height) / 2, TURN)
    angle = np.pi * share
    down: Floats = np.where(share < 0.5, radius * (1 - np.cos(angle)), height - radius * (1 + np.cos(angle)))
    return down


@cache
def _weights(segments: int) -> npt.NDArray[np.float32]:
    t = np.linspace(0, 1, segments + 1, dtype=np.float32)
    u = 1 - t
    return np.stack([u**3, 3 * u * u * t, 3 * u * t * t, t**3], -1)
