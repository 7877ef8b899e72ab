"""A graph as SVG, for papers and pages: the same places, colours and words as on the canvas. Pure.

No script, no style sheet and no link is in it; names of nodes are escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

import numpy as np

from engine_app.document.ports import FOOTER, HEADER, ROW
from engine_app.document.view import Frame, Mode, Rect
from engine_app.scene.curves import curve_points
from engine_app.scene.hits import link_ends
from engine_app.scene.render import (
    DOT,
    GROUP_SIZE,
    LINK_WIDTH,
    PLAIN_NAMES,
    RADIUS,
    TEXT_SIZE,
    TITLE_SIZE,
)
from engine_app.scene.snapshot import CATEGORIES, KINDS, Card, Floats, Snapshot
from engine_app.ui.theme import Colour, Palette, mixed

MARGIN = 32.0
SEGMENTS = 72
"""Of a link: it may be looked at closely."""
FONT = "Roboto, 'Helvetica Neue', Arial, sans-serif"
_WIDE = 0.56
"""Of a character, in parts of the size of the font: what a text may need at most, roughly."""


def around_of(scene: Snapshot) -> Rect | None:
    """All nodes, frames and links, with a margin; None where there is nothing."""
    inner = scene.bounds()
    if inner is None:
        return None
    curves = _curves(scene)
    corners = np.array([(inner.x, inner.y), (inner.right, inner.bottom)], np.float32)
    places = np.concatenate([curves.reshape(-1, 2), corners])
    low, high = places.min(0) - MARGIN, places.max(0) + MARGIN
    return Rect(float(low[0]), float(low[1]), *map(float, high - low))


def _curves(scene: Snapshot) -> Floats:
    """(links, points, 2)."""
    if not len(scene.link_nodes):
        return np.zeros((0, 1, 2), np.float32)
    ends = link_ends(scene)
    return curve_points(ends[:, 0], ends[:, 1], SEGMENTS)


def svg_of(scene: Snapshot, palette: Palette, title: str) -> str:
    around = around_of(scene) or Rect(0, 0, 320, 160)
    x, y, width, height = around.x, around.y, around.width, around.height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{_n(x)} {_n(y)} {_n(width)} {_n(height)}" '
        f'width="{_n(width)}" height="{_n(height)}" font-family="{FONT}">',
        f"<title>{_words(title)}</title>",
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" '
        f'fill="{_hex(palette.canvas)}"/>',
        *_frames(scene, palette),
        *_links(scene, palette),
        *(line for number, card in enumerate(scene.cards) for line in _node(scene, number, card, palette)),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _n(value: float) -> str:
    return f"{float(value):.2f}".rstrip("0").rstrip(".")


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour[:3])


def _words(text: str) -> str:
    """Without what XML does not allow."""
    return escape("".join(char if char.isprintable() else " " for char in text), {'"': "&quot;"})


def _fitted(text: str, width: float, size: float) -> str:
    most = max(1, int(width / (size * _WIDE)))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(x: float, y: float, text: str, size: float, colour: Colour, more: str = "") -> str:
    """``y``: of the base line."""
    place = f'x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" fill="{_hex(colour)}"'
    return f"<text {place}{more}>{_words(text)}</text>"


def _box(rect: Rect, fill: Colour, line: Colour, radius: float, more: str = "") -> str:
    return (
        f'<rect x="{_n(rect.x)}" y="{_n(rect.y)}" width="{_n(rect.width)}" height="{_n(rect.height)}" '
        f'rx="{_n(radius)}" fill="{_hex(fill)}" stroke="{_hex(line)}"{more}/>'
    )


# -- frames and links ----------------------------------------------------------------------------


def _frames(scene: Snapshot, palette: Palette) -> Iterator[str]:
    for frames, tint, is_note in (
        (scene.groups, palette.accent, False),
        (scene.notes, palette.warning, True),
    ):
        for frame in frames:
            fill, line = mixed(palette.canvas, tint, 0.1), mixed(palette.canvas, tint, 0.35)
            yield _box(frame.rect, fill, line, RADIUS * 1.5)
            if is_note:
                yield from _note(frame, palette)
            else:
                text = _fitted(frame.text, frame.rect.width - 32, GROUP_SIZE)
                place = frame.rect.x + 16, frame.rect.y + 10 + GROUP_SIZE
                yield _text(*place, text, GROUP_SIZE, palette.muted, ' font-weight="bold"')


def _note(frame: Frame, palette: Palette) -> Iterator[str]:
    leading = TITLE_SIZE * 1.4
    most = max(1, int((frame.rect.width - 28) / (TITLE_SIZE * _WIDE)))
    rows = max(1, int((frame.rect.height - 20) / leading))
    lines: list[str] = [""]
    for word in frame.text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    for row, line in enumerate(lines[:rows]):
        y = frame.rect.y + 10 + leading * row + TITLE_SIZE
        yield _text(
            frame.rect.x + 14, y, _fitted(line, frame.rect.width - 28, TITLE_SIZE), TITLE_SIZE, palette.text
        )


def _links(scene: Snapshot, palette: Palette) -> Iterator[str]:
    for points, kind in zip(_curves(scene), scene.link_kinds, strict=True):
        port_kind = KINDS[int(kind)]
        colour = palette.links[port_kind] if port_kind else palette.muted
        places = " ".join(f"{_n(x)},{_n(y)}" for x, y in np.asarray(points, np.float64))
        yield (
            f'<polyline points="{places}" fill="none" stroke="{_hex(colour)}" '
            f'stroke-width="{_n(LINK_WIDTH)}" stroke-linecap="round" stroke-linejoin="round"/>'
        )


# -- nodes ---------------------------------------------------------------------------------------


def _node(scene: Snapshot, number: int, card: Card, palette: Palette) -> Iterator[str]:
    rect = scene.rect(number)
    category = CATEGORIES[card.category]
    colour = palette.categories[category] if category else palette.muted
    strength = "" if card.mode is Mode.NORMAL else ' opacity="0.5"'
    yield f"<g{strength}>"
    yield _box(rect, palette.raised, palette.line, rect.height / 2 if card.reroute else RADIUS)
    if not card.reroute:
        yield from _head(rect, card, colour, palette)
        if not card.collapsed:
            yield from _details(rect, card, scene.footers[number], palette)
    yield from _ports(rect, card, palette)
    yield "</g>"


def _head(rect: Rect, card: Card, colour: Colour, palette: Palette) -> Iterator[str]:
    right, low = rect.x + rect.width, rect.y + min(HEADER, rect.height)
    path = (
        f"M{_n(rect.x)} {_n(low)} V{_n(rect.y + RADIUS)} q0 -{_n(RADIUS)} {_n(RADIUS)} -{_n(RADIUS)} "
        f"H{_n(right - RADIUS)} q{_n(RADIUS)} 0 {_n(RADIUS)} {_n(RADIUS)} V{_n(low)} Z"
    )
    if rect.height > HEADER:
        yield f'<path d="{path}" fill="{_hex(mixed(palette.raised, colour, 0.24))}"/>'
    yield f'<circle cx="{_n(rect.x + 16)}" cy="{_n(rect.y + HEADER / 2)}" r="4.5" fill="{_hex(colour)}"/>'
    title = _fitted(card.title, rect.width - 36, TITLE_SIZE)
    place = rect.x + 28, rect.y + HEADER / 2 + 0.35 * TITLE_SIZE
    yield _text(*place, title, TITLE_SIZE, palette.text, ' font-weight="bold"')


def _details(rect: Rect, card: Card, footer: str, palette: Palette) -> Iterator[str]:
    rows = zip((*card.ports.inputs, *card.ports.outputs), card.offsets, strict=True)
    for place, (port, (dx, dy)) in enumerate(rows):
        if port.name in PLAIN_NAMES:
            continue
        is_input = place < len(card.ports.inputs)
        x = rect.x + 14 if is_input else rect.x + dx - 14
        anchor = "" if is_input else ' text-anchor="end"'
        name = _fitted(port.name, rect.width / 2, TEXT_SIZE)
        yield _text(x, rect.y + dy + 0.35 * TEXT_SIZE, name, TEXT_SIZE, palette.muted, anchor)
    first = card.ports.inputs[0].name if card.ports.inputs else "input"
    if card.summary and first in PLAIN_NAMES:
        room = max(rect.width - (100 if len(card.ports.outputs) > 1 else 32), 90)
        y = rect.y + HEADER + ROW / 2 + 0.35 * TEXT_SIZE
        yield _text(rect.x + 14, y, _fitted(card.summary, room, TEXT_SIZE), TEXT_SIZE, palette.text)
    note = {Mode.BYPASSED: "bypassed", Mode.MUTED: "muted"}.get(card.mode, footer)
    if note:
        y = rect.y + rect.height - FOOTER / 2 + 0.35 * TEXT_SIZE
        yield _text(rect.x + 14, y, _fitted(note, rect.width - 28, TEXT_SIZE), TEXT_SIZE, palette.muted)


def _ports(rect: Rect, card: Card, palette: Palette) -> Iterator[str]:
    for (dx, dy), kind in zip(card.offsets, card.kinds, strict=True):
        port_kind = KINDS[kind]
        colour = palette.links[port_kind] if port_kind else palette.muted
        yield (
            f'<circle cx="{_n(rect.x + dx)}" cy="{_n(rect.y + dy)}" r="{_n(DOT)}" fill="{_hex(colour)}" '
            f'stroke="{_hex(palette.canvas)}" stroke-width="1.5"/>'
        )
