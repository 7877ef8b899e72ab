"""The curve of a link: a cubic that leaves and arrives level."""

from __future__ import annotations

from functools import cache

import numpy as np

from engine_app.scene.snapshot import Floats

SHORTEST_PULL, LONGEST_PULL = 32.0, 240.0


def curve_points(starts: Floats, ends: Floats, segments: int) -> Floats:
    """(links, segments + 1, 2)."""
    weights, _ = _weights(segments)
    points: Floats = np.einsum("sk,lkd->lsd", weights, controls(starts, ends)).astype(np.float32)
    return points


def curve_normals(starts: Floats, ends: Floats, segments: int) -> Floats:
    """Of length 1, at the same places."""
    _, slopes = _weights(segments)
    along = np.einsum("sk,lkd->lsd", slopes, controls(starts, ends))
    across = np.stack([-along[..., 1], along[..., 0]], -1)
    lengths = np.sqrt((across**2).sum(-1, keepdims=True))
    normals: Floats = (across / np.maximum(lengths, 1e-6)).astype(np.float32)
    return normals


def controls(starts: Floats, ends: Floats) -> Floats:
    """(links, 4, 2): Bernstein's points."""
    gap = np.abs(ends[:, 0] - starts[:, 0]) * 0.5 + np.abs(ends[:, 1] - starts[:, 1]) * 0.1
    pull = np.clip(gap, SHORTEST_PULL, LONGEST_PULL)
    shift = np.stack([pull, np.zeros_like(pull)], -1)
    return np.stack([starts, starts + shift, ends - shift, ends], 1)


@cache
def _weights(segments: int) -> tuple[Floats, Floats]:
    t = np.linspace(0, 1, segments + 1, dtype=np.float32)
    u = 1 - t
    values = np.stack([u**3, 3 * u * u * t, 3 * u * t * t, t**3], -1)
    slopes = np.stack([-3 * u * u, 3 * u * u - 6 * u * t, 6 * u * t - 3 * t * t, 3 * t * t], -1)
    return values, slopes
