"""Bodies of nodes, cut into rims, which need the shader of boxes, and insides, which are flat.

A box's shader costs several times what a flat colour does, and most of a node is one colour. The picture
stays the same; bodies that touch others stay whole, so that one lies over another with all that it has.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine_app.scene.meshes import BOX_FLOATS, FLAT_FLOATS, Integers64
from engine_app.scene.snapshot import Floats
from engine_app.scene.text import CORNERS

CUT_FROM = 0.5
"""Zoom below which a body is hardly more than its rim."""
MOST_COMPARED = 800
"""Bodies near the view; each is compared with each."""
LEAST_ZOOM = 0.75
"""Of the zoom that something is built for: how far it is drawn smaller before it is built anew."""
_RIGHT, _LOWER = CORNERS.astype(np.int64).T
# Left, right, upper and lower line of each part; lines across and down are those of ``cut``.
_RIM = np.array(
    [(0, 3, 0, 1), (0, 1, 1, 2), (2, 3, 1, 2), (0, 3, 2, 3), (0, 1, 3, 4), (2, 3, 3, 4), (0, 3, 4, 5)]
)
_INSIDE = np.array([(1, 2, 1, 2), (1, 2, 3, 4)])

Flags = npt.NDArray[np.bool_]


def apart(corners: Floats, sizes: Floats, margin: float) -> Flags:
    """Those that no other comes nearer to than twice ``margin``; none of too many."""
    if len(corners) > MOST_COMPARED:
        return np.zeros(len(corners), np.bool_)
    low, high = corners - margin, corners + sizes + margin
    touching = (low[:, None] < high[None]).all(-1) & (high[:, None] > low[None]).all(-1)
    found: Flags = touching.sum(1) == 1
    return found


def cut(whole: Floats, zoom: float, widest_line: float) -> tuple[Floats, Floats, Flags]:
    """Rims, as boxes, and insides, as blocks, of bodies (n, 4, 20); and which were large enough to be cut.

    ``zoom``: pixels of a unit. The others are in neither.
    """
    least = LEAST_ZOOM * zoom
    inset, edge = max(widest_line, 1.1 / least) + 0.5 / least, 0.5 / least
    half, radius, head = whole[:, 0, 4:6], whole[:, 0, 6], whole[:, 0, 19]
    low, high, top = whole[:, 0, 2:4], whole[:, 3, 2:4], -half[:, 1]
    across = np.stack([low[:, 0], inset - half[:, 0], half[:, 0] - inset, high[:, 0]], 1)
    down = np.stack(
        [low[:, 1], top + radius, top + head - edge, top + head + edge, half[:, 1] - radius, high[:, 1]], 1
    )
    fits = (np.diff(across, axis=1) > 0).all(1) & (np.diff(down, axis=1) > 0).all(1)
    fits &= (radius >= inset) & (head > 0)
    whole, across, down = whole[fits], across[fits], down[fits]
    rims, inside = _parts(whole, across, down, _RIM), _parts(whole, across, down, _INSIDE)
    flat = np.empty((*inside.shape[:3], FLAT_FLOATS), np.float32)
    flat[..., 0:2], flat[..., 5] = inside[..., 0:2], inside[..., 11]
    flat[:, 0, :, 2:5], flat[:, 1, :, 2:5] = whole[:, :, 16:19], whole[:, :, 8:11]
    return rims.reshape(-1, 4, BOX_FLOATS), flat.reshape(-1, 4, FLAT_FLOATS), fits


def _parts(whole: Floats, across: Floats, down: Floats, lines: Integers64) -> Floats:
    """(bodies, parts, 4, 20). Parts that meet have the very same numbers there: no crack between them."""
    found = np.repeat(whole[:, None], len(lines), 1)
    middle = whole[:, None, :1, 0:2] - whole[:, None, :1, 2:4]
    found[..., 2] = across[:, np.where(_RIGHT, lines[:, 1:2], lines[:, 0:1])]
    found[..., 3] = down[:, np.where(_LOWER, lines[:, 3:4], lines[:, 2:3])]
    found[..., 0:2] = middle + found[..., 2:4]
    return found
