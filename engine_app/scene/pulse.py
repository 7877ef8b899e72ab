"""A training on the canvas: pulses along links, and what went on at each node as two curves below it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine_app.document.view import Rect
from engine_app.scene.curves import curve_points
from engine_app.scene.hits import link_ends
from engine_app.scene.meshes import dots, glyphs, strips
from engine_app.scene.render import DETAILS, FINE, SHADED, Picture
from engine_app.scene.snapshot import Floats, Snapshot
from engine_app.ui.theme import faded

MAX_PULSES = 600
SPACE, HEIGHT, INSET = 6.0, 30.0, 14.0
"""Below a node, in units of the world: to its curves, how high they are, and from the node's sides."""
LABEL = 10.0
PULSE, HALO = 4.0, 9.0


@dataclass(frozen=True, slots=True)
class Sparks:
    """What a node gave, and the gradients of its weights, oldest first."""

    spread: Sequence[float] = ()
    gradients: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Training:
    """``phase``: how far the pulses are, in lengths of a link; None for no pulses."""

    phase: float | None = None
    sparks: Mapping[str, Sparks] = field(default_factory=dict)


def pulses(picture: Picture, training: Training, seen: Rect) -> Floats:
    """A light on each link in sight that data flows along, between nodes that are trained."""
    scene = picture.scene
    if training.phase is None or picture.zoom < SHADED or not len(scene.link_nodes):
        return dots(np.zeros((0, 2), np.float32), PULSE, (0, 0, 0, 0))
    live = np.array([card.node.id in training.sparks for card in scene.cards], np.bool_)
    ends = link_ends(scene)
    low, high = np.array([seen.x, seen.y]), np.array([seen.right, seen.bottom])
    near = ((ends.min(1) <= high) & (ends.max(1) >= low)).all(1) & live[scene.link_nodes].any(1)
    chosen = np.flatnonzero(near)[:MAX_PULSES]
    points = curve_points(ends[chosen, 0], ends[chosen, 1], FINE)
    step, share = divmod(training.phase % 1.0 * FINE, 1.0)
    first = points[:, int(step)]
    at = (first + (points[:, int(step) + 1] - first) * share).astype(np.float32)
    colours = picture.look.kinds[scene.link_kinds[chosen]].copy()
    glow = colours.copy()
    glow[:, 3] = 0.3
    return np.concatenate([dots(at, HALO, glow), dots(at, PULSE, colours)])


def places_below(scene: Snapshot, training: Training, seen: Rect) -> list[tuple[int, Rect]]:
    """Nodes in sight that have curves, and where those are."""
    found = []
    for name in training.sparks:
        number = scene.index.get(name)
        if number is None or scene.cards[number].reroute:
            continue
        rect = scene.rect(number)
        below = Rect(rect.x, rect.bottom + SPACE, rect.width, HEIGHT)
        if below.touches(seen):
            found.append((number, below))
    return found


def curves(picture: Picture, training: Training, seen: Rect) -> tuple[list[Floats], list[Floats]]:
    """Lines as ribbons of ``FINE`` segments, and their text; none where they would be too small."""
    if picture.zoom < DETAILS:
        return [], []
    palette, lines, texts = picture.look.palette, [], []
    for number, place in places_below(picture.scene, training, seen):
        sparks = training.sparks[picture.scene.cards[number].node.id]
        halves = ((sparks.spread, palette.plots[0], "σ"), (sparks.gradients, palette.plots[1], "grad"))
        wide = (place.width - 2 * INSET - 10) / 2
        for half, (values, colour, mark) in enumerate(halves):
            left = place.x + INSET + half * (wide + 10)
            if not values:
                continue
            text = picture.text.fitted(f"{mark} {values[-1]:.2g}", wide / LABEL)
            texts.append(glyphs(text, left, place.y, LABEL, faded(colour, 0.95)))
            points = _points(values, Rect(left, place.y + LABEL + 4, wide, HEIGHT - LABEL - 6))
            lines.append(strips(points, colour, 2.0 + 1 / picture.zoom))
    return lines, texts


def _points(values: Sequence[float], place: Rect) -> Floats:
    """As many as a ribbon of the canvas has, over the range of the values; a level line for equal ones."""
    given = np.array([math.log10(max(abs(each), 1e-12)) for each in values], np.float64)
    if len(given) == 1:
        given = np.repeat(given, 2)
    at = np.linspace(0, len(given) - 1, FINE + 1)
    y = np.interp(at, np.arange(len(given)), given)
    low, high = float(given.min()), float(given.max())
    share = (y - low) / (high - low) if high - low > 1e-6 else np.full(FINE + 1, 0.5)
    x = place.x + place.width * at / (len(given) - 1)
    points: Floats = np.stack([x, place.bottom - share * place.height], -1).astype(np.float32)
    return points
