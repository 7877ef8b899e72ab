"""The picture of a snapshot as meshes: only what is near the view, and only as much as can be seen of it.

Below the zoom ``SHADED`` nodes are plain blocks; ports, titles and the rest of the text appear one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from backend.catalogue.record import PortKind
from engine_app.document.ports import FOOTER, HEADER, ROW
from engine_app.document.view import Frame, Mode, Rect
from engine_app.scene.bodies import CUT_FROM, LEAST_ZOOM, apart, cut
from engine_app.scene.hits import link_ends
from engine_app.scene.meshes import (
    BOX_FLOATS,
    FLAT_FLOATS,
    GLYPH_FLOATS,
    RIBBON_FLOATS,
    SHADOW_DROP,
    SHADOW_SEEN,
    blocks,
    boxes,
    dots,
    glyphs,
    joined,
    no_boxes,
    ribbons,
)
from engine_app.scene.snapshot import CATEGORIES, KINDS, Card, Floats, Snapshot
from engine_app.scene.text import TextLayout
from engine_app.ui.theme import Colour, Palette, faded, mixed

SHADED, PORTS, TITLES, GIST, DETAILS = 0.22, 0.3, 0.28, 0.42, 0.6
"""Zooms, in pixels of a dp."""
RADIUS, DOT = 10.0, 6.0
TITLE_SIZE, TEXT_SIZE, GROUP_SIZE = 14.0, 12.0, 16.0
LARGEST_TITLE, LARGEST_GIST, LARGEST_TEXT, SMALLEST_TEXT = 26.0, 22.0, 15.0, 9.5
"""Words grow as the view goes away, as far as their place allows, to be no smaller than this many dp."""
LINK_WIDTH = 3.0
FINE, COARSE = 28, 10
"""Segments of a link."""
STRAIGHT = 24.0
"""Links from far away that are shorter, in dp on the screen, are drawn straight."""
Numbers = npt.NDArray[np.int64]
COVER = 0.5
"""Of the view's width and height, built beyond each edge: panning within it builds nothing."""
PLAIN_NAMES = frozenset({"input", "output", "inputs"})


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """From back to front."""

    frames: Floats = field(default_factory=no_boxes)
    links: Floats = field(default_factory=lambda: np.zeros((0, 2 * (FINE + 1), 8), np.float32))
    segments: int = FINE
    stubs: Floats = field(default_factory=lambda: np.zeros((0, 4, RIBBON_FLOATS), np.float32))
    """Links so short on the screen that they are straight."""
    blocks: Floats = field(default_factory=lambda: np.zeros((0, 4, FLAT_FLOATS), np.float32))
    """Nodes from far away."""
    boxes: Floats = field(default_factory=no_boxes)
    glyphs: Floats = field(default_factory=lambda: np.zeros((0, 4, GLYPH_FLOATS), np.float32))


class Look:
    """A palette as arrays."""

    def __init__(self, palette: Palette) -> None:
        self.palette = palette
        named = [palette.categories[each] if each else palette.muted for each in CATEGORIES]
        self.categories = np.array(named, np.float32)
        self.heads = np.array([mixed(palette.raised, colour, 0.24) for colour in named], np.float32)
        self.heads[:, 3] = HEADER
        kinds: list[Colour] = [palette.links[each] if each else palette.muted for each in KINDS]
        self.kinds = np.array(kinds, np.float32)
        self.shadow = faded(palette.shade, 0.35 if palette.name == "dark" else 0.16)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What to draw a snapshot with. ``zoom``: pixels of a dp to a unit."""

    scene: Snapshot
    look: Look
    text: TextLayout
    zoom: float
    selected: frozenset[str] = frozenset()


def cover_of(visible: Rect) -> Rect:
    return Rect(
        visible.x - COVER * visible.width,
        visible.y - COVER * visible.height,
        visible.width * (1 + 2 * COVER),
        visible.height * (1 + 2 * COVER),
    )


def is_covered(visible: Rect, cover: Rect, zoom: float, built_zoom: float) -> bool:
    """Whether what was built for ``cover`` still does."""
    inside = (
        cover.x <= visible.x
        and cover.y <= visible.y
        and visible.right <= cover.right
        and visible.bottom <= cover.bottom
    )
    return inside and LEAST_ZOOM < zoom / built_zoom < 1.34


def still(picture: Picture, cover: Rect, without: frozenset[int] = frozenset()) -> Layers:
    """All that touches ``cover``, but the nodes ``without``, which move, and their links."""
    scene = picture.scene
    low, high = np.array([cover.x, cover.y]), np.array([cover.right, cover.bottom])
    seen = ((scene.corners <= high) & (scene.corners + scene.sizes >= low)).all(1)
    moving = np.zeros(len(scene.cards), np.bool_)
    moving[list(without)] = True
    ends = link_ends(scene)
    drawn = ((ends.min(1) - 120 <= high) & (ends.max(1) + 180 >= low)).all(1)
    if len(drawn):
        drawn &= ~moving[scene.link_nodes].any(1)
    return Layers(
        _frames(picture),
        *_links(picture, np.flatnonzero(drawn), scene.corners),
        *_nodes(picture, np.flatnonzero(seen & ~moving), scene.corners),
    )


def moving(picture: Picture, numbers: frozenset[int], dx: float, dy: float) -> Layers:
    """The nodes that are being dragged, with their links, where they are now."""
    scene = picture.scene
    corners = scene.corners.copy()
    chosen = np.array(sorted(numbers), np.int64)
    corners[chosen] += np.array([dx, dy], np.float32)
    inside = np.zeros(len(scene.cards), np.bool_)
    inside[chosen] = True
    links = np.flatnonzero(inside[scene.link_nodes].any(1)) if len(scene.link_nodes) else chosen[:0]
    return Layers(no_boxes(), *_links(picture, links, corners), *_nodes(picture, chosen, corners))


def _links(picture: Picture, numbers: Numbers, corners: Floats) -> tuple[Floats, int, Floats]:
    """Curves, their segments, and those that look straight."""
    scene = picture.scene
    segments = FINE if picture.zoom >= SHADED else COARSE
    ends = corners[scene.link_nodes[numbers]] + scene.link_offsets[numbers]
    width = LINK_WIDTH if picture.zoom >= SHADED else LINK_WIDTH * SHADED / picture.zoom
    colours = picture.look.kinds[scene.link_kinds[numbers]]
    selected: npt.NDArray[np.bool_] = np.array([c.node.id in picture.selected for c in scene.cards], np.bool_)
    if picture.selected and len(numbers):
        near = selected[scene.link_nodes[numbers]].any(axis=1)
        colours = np.where(near.reshape(-1, 1), colours, colours * np.array([1, 1, 1, 0.65], np.float32))
    width += 2 / max(picture.zoom, 0.05)
    short = np.zeros(len(numbers), np.bool_)
    if picture.zoom < SHADED:
        short = np.abs(ends[:, 1] - ends[:, 0]).max(-1) * picture.zoom < STRAIGHT
    long = ~short
    curves = ribbons(ends[long, 0], ends[long, 1], colours[long], width, segments)
    return curves, segments, ribbons(ends[short, 0], ends[short, 1], colours[short], width, 1)


# -- nodes ---------------------------------------------------------------------------------------


def _nodes(picture: Picture, numbers: Numbers, corners: Floats) -> tuple[Floats, Floats, Floats]:
    """Blocks, boxes and text."""
    if picture.zoom < SHADED:
        return _blocks(picture, numbers, corners), no_boxes(), joined((), GLYPH_FLOATS)
    insides, *parts = _bodies(picture, numbers, corners)
    if picture.zoom >= PORTS:
        parts += [_ports(picture, numbers, corners), _badges(picture, numbers, corners)]
    texts = []
    if picture.zoom >= TITLES:
        texts = [_texts(picture, int(number), corners) for number in numbers]
    return insides, joined(parts, BOX_FLOATS), joined(texts, GLYPH_FLOATS)


def _blocks(picture: Picture, numbers: Numbers, corners: Floats) -> Floats:
    """Those that are selected lie on a larger one."""
    scene, look = picture.scene, picture.look
    cards = [scene.cards[number] for number in numbers]
    fills = look.categories[scene.categories[numbers]]
    fills[:, 3] = [1.0 if card.mode is Mode.NORMAL else 0.45 for card in cards]
    chosen = (
        numbers[[card.node.id in picture.selected for card in cards]] if picture.selected else numbers[:0]
    )
    rim = 2.5 / picture.zoom
    parts = [
        blocks(corners[chosen] - rim, scene.sizes[chosen] + 2 * rim, look.palette.accent),
        blocks(corners[numbers], scene.sizes[numbers], fills),
    ]
    return joined(parts, FLAT_FLOATS)


def _bodies(picture: Picture, numbers: Numbers, corners: Floats) -> tuple[Floats, Floats, Floats]:
    """Blocks of those that are cut, their boxes, and those of the others."""
    scene, look, palette = picture.scene, picture.look, picture.look.palette
    cards = [scene.cards[number] for number in numbers]
    at, sizes = corners[numbers], scene.sizes[numbers]
    chosen = np.array([card.node.id in picture.selected for card in cards], np.bool_)
    strengths = np.array([1.0 if card.mode is Mode.NORMAL else 0.45 for card in cards], np.float32)
    lines = np.where(chosen[:, None], [*palette.accent[:3], 2.5], [*palette.line[:3], 1.2]).astype(np.float32)
    fills = np.repeat(np.array([palette.raised], np.float32), len(cards), 0)
    fills[:, 3] = strengths
    heads = look.heads[scene.categories[numbers]].copy()
    bends = np.array([card.reroute for card in cards], np.bool_)
    heads[bends, 3] = 0
    radius = np.where(bends, sizes[:, 1] / 2, RADIUS)
    shadows = np.where(strengths < 1, 0, look.shadow[3])
    marks = at + np.array([16, HEADER / 2], np.float32)
    shown = look.categories[scene.categories[numbers]].copy()
    shown[:, 3] = strengths
    bodies = boxes(at, sizes, fills, radius=radius, lines=lines, heads=heads, shadows=shadows)
    spots = dots(marks, 4.5, shown)
    whole, rims, insides = np.ones(len(cards), np.bool_), bodies[:0], joined((), FLAT_FLOATS)
    if picture.zoom >= CUT_FROM:
        free = np.flatnonzero(apart(at, sizes, SHADOW_SEEN + SHADOW_DROP))
        rims, insides, is_cut = cut(bodies[free], picture.zoom, float(lines[:, 3].max(initial=0.0)))
        whole[free[is_cut]] = False
        rims = np.concatenate([rims, spots[~whole]])
    # One node after the other, so that one lies over another with all that it has.
    layered = np.stack([bodies[whole], spots[whole]], 1).reshape(-1, 4, BOX_FLOATS)
    return insides, rims, layered


def _ports(picture: Picture, numbers: Numbers, corners: Floats) -> Floats:
    scene, palette = picture.scene, picture.look.palette
    shown = np.zeros(len(scene.cards), np.bool_)
    shown[numbers] = True
    ports = np.flatnonzero(shown[scene.port_nodes])
    centres = corners[scene.port_nodes[ports]] + scene.port_offsets[ports]
    return dots(centres, DOT, picture.look.kinds[scene.port_kinds[ports]], (*palette.canvas[:3], 1.5))


def _badges(picture: Picture, numbers: Numbers, corners: Floats) -> Floats:
    scene, palette = picture.scene, picture.look.palette
    wrong = numbers[scene.problems[numbers] > 0]
    fills = np.where((scene.problems[wrong] > 1)[:, None], palette.danger, palette.warning).astype(np.float32)
    places = corners[wrong] + np.stack([scene.sizes[wrong, 0] - 18, np.full(len(wrong), HEADER / 2)], -1)
    return dots(places.astype(np.float32), 9, fills)


def _texts(picture: Picture, number: int, corners: Floats) -> Floats:
    scene, text, palette = picture.scene, picture.text, picture.look.palette
    card = scene.cards[number]
    if card.reroute:
        return joined((), GLYPH_FLOATS)
    x, y = map(float, corners[number])
    strength = 1.0 if card.mode is Mode.NORMAL else 0.6
    strong, muted = faded(palette.text, strength), faded(palette.muted, strength)
    wrong = int(scene.problems[number])
    size = _grown(TITLE_SIZE, LARGEST_TITLE, picture.zoom)
    title = text.fitted(card.title, (card.width - (66 if wrong else 36)) / size, bold=True)
    parts = [glyphs(title, x + 28, y + HEADER / 2 - 0.62 * size, size, strong)]
    if wrong:
        mark = text.line("!", bold=True)
        ink = palette.on_danger if wrong > 1 else palette.canvas
        parts.append(glyphs(mark, x + card.width - 18 - mark.width * 6.5, y + 10, 13, ink))
    if picture.zoom >= GIST and not card.collapsed:
        footer = scene.footers[number]
        if card.mode is not Mode.NORMAL:
            footer = {Mode.BYPASSED: "bypassed", Mode.MUTED: "muted"}[card.mode]
        if picture.zoom >= DETAILS:
            size = _grown(TEXT_SIZE, LARGEST_TEXT, picture.zoom)
            parts += _details(text, card, (x, y), footer, size, strong, muted)
        else:
            size = _grown(TEXT_SIZE, LARGEST_GIST, picture.zoom)
            line = text.fitted(footer or card.summary, (card.width - 28) / size)
            middle = y + (card.height + HEADER) / 2 - 0.62 * size
            parts.append(glyphs(line, x + 14, middle, size, muted))
    return joined(parts, GLYPH_FLOATS)


def _grown(size: float, largest: float, zoom: float) -> float:
    return min(max(size, SMALLEST_TEXT / zoom), largest)


def _details(
    text: TextLayout,
    card: Card,
    at: tuple[float, float],
    footer: str,
    size: float,
    strong: Colour,
    muted: Colour,
) -> list[Floats]:
    parts, (x, y), above = [], at, size * 2 / 3
    rows = zip((*card.ports.inputs, *card.ports.outputs), card.offsets, strict=True)
    for place, (port, (dx, dy)) in enumerate(rows):
        if port.name in PLAIN_NAMES:
            continue
        line = text.fitted(port.name, card.width / 2 / size)
        left = 14.0 if place < len(card.ports.inputs) else dx - 14 - line.width * size
        parts.append(glyphs(line, x + left, y + dy - above, size, muted))
    first = card.ports.inputs[0].name if card.ports.inputs else "input"
    if card.summary and first in PLAIN_NAMES:
        room = card.width - (100 if len(card.ports.outputs) > 1 else 32)
        line = text.fitted(card.summary, max(room, 90) / size)
        parts.append(glyphs(line, x + 14, y + HEADER + ROW / 2 - above, size, strong))
    line = text.fitted(footer, (card.width - 28) / size)
    parts.append(glyphs(line, x + 14, y + card.height - FOOTER / 2 - above, size, muted))
    return parts


# -- frames --------------------------------------------------------------------------------------


def _frames(picture: Picture) -> Floats:
    palette = picture.look.palette
    parts = []
    for frames, tint in ((picture.scene.groups, palette.accent), (picture.scene.notes, palette.warning)):
        if frames:
            corners = np.array([(frame.rect.x, frame.rect.y) for frame in frames], np.float32)
            sizes = np.array([(frame.rect.width, frame.rect.height) for frame in frames], np.float32)
            fill = mixed(palette.canvas, tint, 0.1)
            line = (*mixed(palette.canvas, tint, 0.35)[:3], 1.5)
            parts.append(boxes(corners, sizes, fill, radius=RADIUS * 1.5, lines=line))
    return joined(parts, BOX_FLOATS)


def frame_texts(picture: Picture) -> Floats:
    """Titles of groups, and notes."""
    palette, text = picture.look.palette, picture.text
    parts: list[Floats] = []
    if picture.zoom < PORTS:
        return joined(parts, GLYPH_FLOATS)
    for frame in picture.scene.groups:
        size = _grown(GROUP_SIZE, LARGEST_GIST, picture.zoom)
        line = text.fitted(frame.text, (frame.rect.width - 32) / size, bold=True)
        parts.append(glyphs(line, frame.rect.x + 16, frame.rect.y + 10, size, palette.muted))
    for frame in picture.scene.notes:
        parts += _note(frame, text, _grown(TITLE_SIZE, LARGEST_TITLE, picture.zoom), palette.text)
    return joined(parts, GLYPH_FLOATS)


def _note(frame: Frame, text: TextLayout, size: float, colour: Colour) -> list[Floats]:
    leading = size * 1.4
    count = max(1, int((frame.rect.height - 20) / leading))
    lines = text.wrapped(frame.text, (frame.rect.width - 28) / size, count)
    x, y = frame.rect.x + 14, frame.rect.y + 10
    return [glyphs(line, x, y + leading * row, size, colour) for row, line in enumerate(lines)]


def link_colour(look: Look, kind: PortKind | None) -> Colour:
    return look.palette.links[kind] if kind else look.palette.muted
