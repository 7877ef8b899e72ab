"""What is drawn over the still picture: nodes and links on their way, lassos, cuts, guides, the small map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from engine_app.document.alignment import Axis
from engine_app.document.view import Rect
from engine_app.scene.curves import curve_points
from engine_app.scene.meshes import (
    BOX_FLOATS,
    GLYPH_FLOATS,
    NO_COLOUR,
    RIBBON_FLOATS,
    blocks,
    boxes,
    dots,
    joined,
    no_boxes,
    strips,
)
from engine_app.scene.pulse import Training, curves, pulses
from engine_app.scene.render import DOT, FINE, LINK_WIDTH, Layers, Look, Picture, link_colour
from engine_app.scene.snapshot import Floats, Snapshot
from engine_app.scene.tool_state import Cutting, Linking, Moving, PortEnd, Resizing, Selecting, ToolState
from engine_app.ui.theme import Colour, faded

MAP_WIDTH, MAP_HEIGHT, MAP_MARGIN = 180.0, 120.0, 12.0
"""In dp."""
MAP_FROM = 480.0
"""A canvas narrower than this, in dp, has no map."""
MAP_NODES = 2_000
"""More than these are drawn every so many."""


@dataclass(frozen=True, slots=True)
class MapView:
    """What the canvas sees, and where it lies on the window (y upwards)."""

    visible: Rect
    x: float
    y: float
    width: float
    height: float


def drawn(
    picture: Picture,
    tools: ToolState,
    going: frozenset[int],
    draw_moving: Callable[[Picture, frozenset[int], float, float], Layers],
) -> Layers:
    """In one sheet, so that what moves lies over what stays."""
    action = tools.action
    found = Layers()
    if isinstance(action, Moving) and going:
        found = draw_moving(picture, going, action.dx, action.dy)
    lines = [_resampled(each, found.segments) for each in _lines(picture, tools)]
    links = np.concatenate([found.links, *lines]) if lines else found.links
    return replace(found, links=links, boxes=joined([found.boxes, *_shapes(picture, tools)], BOX_FLOATS))


def with_training(layers: Layers, picture: Picture, training: Training, seen: Rect) -> Layers:
    """Over what is drawn already: pulses on links and curves below nodes."""
    lines, texts = curves(picture, training, seen)
    if layers.segments != FINE:
        lines = []
    return replace(
        layers,
        links=np.concatenate([layers.links, *lines]) if lines else layers.links,
        boxes=joined([layers.boxes, pulses(picture, training, seen)], BOX_FLOATS),
        glyphs=joined([layers.glyphs, *texts], GLYPH_FLOATS),
    )


def _lines(picture: Picture, tools: ToolState) -> list[tuple[Floats, Colour]]:
    palette, pixel = picture.look.palette, 1 / picture.zoom
    match tools.action:
        case Linking(start, x, y, target):
            begin, end = _place(picture.scene, start), (x, y)
            if target is not None:
                end = _place(picture.scene, target)
            if not start.is_output:
                begin, end = end, begin
            points = curve_points(np.array([begin], np.float32), np.array([end], np.float32), FINE)[0]
            return [(points, link_colour(picture.look, start.kind))]
        case Selecting(points, False, _) if len(points) > 1:
            line: Floats = np.array([*points, points[0]], np.float32)
            return [(line, palette.accent)]
        case Cutting(stroke) if len(stroke) > 1:
            return [(np.array(stroke, np.float32), palette.danger)]
        case Moving(guides=guides):
            found = []
            for guide in guides:
                ends = [(guide.at, guide.start - 12 * pixel), (guide.at, guide.end + 12 * pixel)]
                if guide.axis is Axis.HORIZONTAL:
                    ends = [(b, a) for a, b in ends]
                found.append((np.array(ends, np.float32), palette.accent))
            return found
        case _:
            return []


def _resampled(line: tuple[Floats, Colour], segments: int) -> Floats:
    """With as many points as the links of the same mesh have."""
    points, colour = line
    steps = np.sqrt((np.diff(points, axis=0) ** 2).sum(-1))
    along = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0, along[-1], segments + 1)
    even = np.stack([np.interp(wanted, along, points[:, axis]) for axis in (0, 1)], -1).astype(np.float32)
    found = strips(even, colour, LINK_WIDTH + 2)
    return found if len(found) else np.zeros((0, 2 * (segments + 1), RIBBON_FLOATS), np.float32)


def _shapes(picture: Picture, tools: ToolState) -> list[Floats]:
    palette, pixel = picture.look.palette, 1 / picture.zoom
    found = []
    match tools.action:
        case Selecting((begin, end), True, _):
            low, high = np.minimum(begin, end), np.maximum(begin, end)
            box = np.array([low], np.float32), np.array([high - low], np.float32)
            found.append(
                boxes(*box, faded(palette.accent, 0.16), radius=4, lines=(*palette.accent[:3], 1.5 * pixel))
            )
        case Resizing(_, frame):
            rect = frame.rect
            corner = (
                np.array([(rect.x, rect.y)], np.float32),
                np.array([(rect.width, rect.height)], np.float32),
            )
            found.append(boxes(*corner, faded(palette.accent, 0.12), radius=14))
        case Moving(frames=frames, dx=dx, dy=dy) if frames:
            rects = [frame.rect for _, frame in frames]
            corners = np.array([(rect.x + dx, rect.y + dy) for rect in rects], np.float32)
            sizes = np.array([(rect.width, rect.height) for rect in rects], np.float32)
            found.append(boxes(corners, sizes, faded(palette.accent, 0.12), radius=14))
        case Linking(_, _, _, PortEnd() as target):
            found.append(_halo(picture, target))
    if tools.pending is not None:
        found.append(_halo(picture, tools.pending))
    return found


def _halo(picture: Picture, end: PortEnd) -> Floats:
    """Around a port that waits or is about to be linked."""
    colour = link_colour(picture.look, end.kind)
    centre = np.array([_place(picture.scene, end)], np.float32)
    radius = max(DOT * 2.2, 12 / picture.zoom)
    ring = dots(centre, radius, faded(colour, 0.35))
    return np.concatenate([ring, dots(centre, DOT, colour)])


def _place(scene: Snapshot, end: PortEnd) -> tuple[float, float]:
    number = scene.index.get(end.node)
    if number is None:
        return 0.0, 0.0
    card = scene.cards[number]
    ports = card.ports.outputs if end.is_output else card.ports.inputs
    row = next((row for row, port in enumerate(ports) if port.name == end.port), 0)
    dx, dy = card.offsets[row + (len(card.ports.inputs) if end.is_output else 0)]
    return float(scene.corners[number, 0]) + dx, float(scene.corners[number, 1]) + dy


@dataclass(frozen=True, slots=True)
class _Map:
    """Where the small map is on the window, y upwards, and how the world lies in it."""

    panel: Rect
    around: Rect
    scale: float
    x: float
    y: float


def has_map(scene: Snapshot, canvas: MapView, dp: float) -> bool:
    """Not where all is in sight, nor where there is no room."""
    around = scene.bounds()
    return around is not None and canvas.width >= MAP_FROM * dp and not _holds(canvas.visible, around)


def map_panel(scene: Snapshot, look: Look, canvas: MapView, dp: float) -> Floats:
    """The small map's ground, in pixels of the window, in the canvas's lower right corner."""
    found = _map(scene, canvas, dp)
    if found is None:
        return no_boxes()
    palette = look.palette
    return _rect(found.panel, (*palette.surface[:3], 0.92), 8 * dp, (*palette.line[:3], 1.2 * dp))


def map_nodes(scene: Snapshot, look: Look, canvas: MapView, dp: float) -> Floats:
    """Blocks on the small map; the same wherever the view is."""
    found = _map(scene, canvas, dp)
    every = max(1, len(scene.cards) // MAP_NODES)
    corners, sizes = scene.corners[::every], scene.sizes[::every]
    if found is None:
        return blocks(corners[:0], sizes[:0], NO_COLOUR)
    sizes = sizes * found.scale
    x = found.x + (corners[:, 0] - found.around.x) * found.scale
    y = found.y - (corners[:, 1] - found.around.y) * found.scale - sizes[:, 1]
    places = np.stack([x, y], -1).astype(np.float32)
    least = np.maximum(sizes, 1.5 * dp).astype(np.float32)
    return blocks(places, least, look.categories[scene.categories[::every]])


def map_window(scene: Snapshot, look: Look, canvas: MapView, dp: float) -> Floats:
    """What is in sight, on the small map, kept inside it."""
    found = _map(scene, canvas, dp)
    if found is None:
        return no_boxes()
    panel, seen, scale = found.panel, canvas.visible, found.scale
    x1, x2 = (
        min(max(found.x + (x - found.around.x) * scale, panel.x), panel.right) for x in (seen.x, seen.right)
    )
    y1, y2 = (
        min(max(found.y - (y - found.around.y) * scale, panel.y), panel.bottom) for y in (seen.bottom, seen.y)
    )
    accent = look.palette.accent
    box = Rect(x1, y1, max(x2 - x1, 1), max(y2 - y1, 1))
    return _rect(box, faded(accent, 0.22), 3 * dp, (*accent[:3], 1.5 * dp))


def _map(scene: Snapshot, canvas: MapView, dp: float) -> _Map | None:
    around = scene.bounds()
    if around is None:
        return None
    width, height, margin, inner = MAP_WIDTH * dp, MAP_HEIGHT * dp, MAP_MARGIN * dp, 8 * dp
    panel = Rect(canvas.x + canvas.width - width - margin, canvas.y + margin, width, height)
    scale = min((width - 2 * inner) / max(around.width, 1), (height - 2 * inner) / max(around.height, 1))
    x = panel.x + (width - around.width * scale) / 2
    return _Map(panel, around, scale, x, panel.bottom - (height - around.height * scale) / 2)


def _rect(rect: Rect, fill: Colour, radius: float, line: Colour) -> Floats:
    at = np.array([(rect.x, rect.y)], np.float32)
    size = np.array([(rect.width, rect.height)], np.float32)
    return boxes(at, size, fill, radius=radius, lines=line)


def _holds(outer: Rect, inner: Rect) -> bool:
    return outer.holds(inner.x, inner.y) and outer.holds(inner.right, inner.bottom)
