"""Places for nodes, in layers from left to right: what flows, flows to the right. Deterministic.

After Sugiyama, Tagawa and Toda (1981): layers by longest path, order within layers by the median of the
neighbours in sweeps both ways, then heights by the same medians with what lies in the way pushed on.
Parts that hang together are laid out one below the other; a long one goes on in another row, like text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import median

from backend.graph import Node, Wiring, topological_order
from engine_app.document.ports import MAX_WIDTH, rect_of, size_of
from engine_app.document.view import Rect, bounds, place_of

COLUMN_GAP, ROW_GAP, PART_GAP = 80.0, 32.0, 80.0
SWEEPS = 4
BAND_GAP, ONE_BAND, ASPECT = 120.0, 2200.0, 1.7
"""A part that is wider than ``ONE_BAND`` goes on below, like a line of text; less on narrow screens."""

FEW = 8
"""New nodes that are put beside what they are linked to, each alone."""

Places = dict[str, tuple[float, float]]
Neighbours = Mapping[str, list[str]]


def arranged(
    wiring: Wiring,
    only: Iterable[str] | None = None,
    corner: tuple[float, float] = (0, 0),
    aspect: float = ASPECT,
) -> Places:
    """The top left corner of every node, or of ``only`` these, the whole beginning at ``corner``.

    ``aspect``: about how many times as wide as high it may be.
    """
    chosen = {node.id for node in wiring.nodes} if only is None else set(only)
    sizes = {node.id: size_of(node) for node in wiring.nodes if node.id in chosen}
    layers = _layers(wiring, chosen)
    before: dict[str, list[str]] = {node_id: [] for node_id in sizes}
    after: dict[str, list[str]] = {node_id: [] for node_id in sizes}
    for link in wiring.links:
        source, target = link.source_node, link.target_node
        if source in layers and target in layers and layers[source] < layers[target]:
            before[target].append(source)
            after[source].append(target)
    found: Places = {}
    top = corner[1]
    for part in _parts(sizes, before, after):
        places, height = _part(part, layers, before, after, sizes, aspect)
        found.update({node_id: (corner[0] + x, top + y) for node_id, (x, y) in places.items()})
        top += height + PART_GAP
    return found


def missing_places(wiring: Wiring, aspect: float = ASPECT) -> Places:
    """Places for the nodes that have none: all of them in layers, or a few below what is there."""
    without = [node.id for node in wiring.nodes if place_of(node) is None]
    if not without:
        return {}
    if len(without) <= FEW and len(without) < len(wiring.nodes):
        return _beside(wiring, without)
    rects = [(place, size_of(node)) for node in wiring.nodes if (place := place_of(node))]
    if not rects:
        return arranged(wiring, aspect=aspect)
    left = min(place[0] for place, _ in rects)
    bottom = max(place[1] + size[1] for place, size in rects)
    return arranged(wiring, without, (left, bottom + PART_GAP), aspect)


def _beside(wiring: Wiring, without: list[str]) -> Places:
    """Each at the right of what it is linked from, further down where that is taken."""
    nodes = {node.id: node for node in wiring.nodes}
    lefts = {name: place[0] for name, node in nodes.items() if (place := place_of(node))}
    rects = _Rects(nodes)
    found: Places = {}
    for name in without:
        width, height = size_of(nodes[name])
        sources = [
            rects[each.source_node]
            for each in wiring.links
            if each.target_node == name and each.source_node in lefts
        ]
        if sources:
            x, y = sources[0].right + COLUMN_GAP, sources[0].y
        else:
            around = bounds(rects[each] for each in lefts) or Rect(0, 0, 0, 0)
            x, y = around.x, around.bottom + PART_GAP
        rect = Rect(x, y, width, height)
        near = (rects[each] for each, left in lefts.items() if x - MAX_WIDTH <= left <= rect.right)
        column = [other for other in near if x <= other.right]
        for _ in range(len(column) + 1):
            below = [other.bottom + ROW_GAP for other in column if other.touches(rect)]
            if not below:
                break
            rect = Rect(x, max(below), width, height)
        rects[name], lefts[name] = rect, rect.x
        found[name] = (round(rect.x, 1), round(rect.y, 1))
    return found


class _Rects(dict[str, Rect]):
    """Of nodes that have a place; worked out for those that somebody asks for."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        super().__init__()
        self._nodes = nodes

    def __missing__(self, name: str) -> Rect:
        self[name] = found = rect_of(self._nodes[name])
        return found


def _layers(wiring: Wiring, chosen: set[str]) -> dict[str, int]:
    """The longest way to each node; those on a cycle follow in document order."""
    order = topological_order(wiring)
    nodes = [*order.nodes, *(node for node in wiring.nodes if node.id in order.stuck)]
    incoming = wiring.incoming()
    layers: dict[str, int] = {}
    for node in nodes:
        if node.id in chosen:
            sources = [layers[link.source_node] for link in incoming[node.id] if link.source_node in layers]
            layers[node.id] = max(sources, default=-1) + 1
    outgoing = wiring.outgoing()
    for node in reversed(nodes):
        # What nothing flows into stands right before what takes it, not at the far left.
        if node.id in layers and not incoming[node.id]:
            targets = [layers[each.target_node] for each in outgoing[node.id] if each.target_node in layers]
            layers[node.id] = max(min(targets, default=1) - 1, 0)
    return layers


def _parts(sizes: Mapping[str, object], before: Neighbours, after: Neighbours) -> list[list[str]]:
    """Nodes that hang together, the largest part first."""
    seen: set[str] = set()
    found = []
    for start in sizes:
        part: list[str] = []
        waiting = [start]
        while waiting:
            node_id = waiting.pop()
            if node_id not in seen:
                seen.add(node_id)
                part.append(node_id)
                waiting += [*before[node_id], *after[node_id]]
        if part:
            found.append(part)
    place = {node_id: index for index, node_id in enumerate(sizes)}
    ordered = [sorted(part, key=place.__getitem__) for part in found]
    return sorted(ordered, key=lambda part: -len(part))


def _part(
    part: list[str],
    layers: Mapping[str, int],
    before: Neighbours,
    after: Neighbours,
    sizes: Mapping[str, tuple[float, float]],
    aspect: float,
) -> tuple[Places, float]:
    first = min(layers[node_id] for node_id in part)
    columns: list[list[str]] = [[] for _ in range(max(layers[node_id] for node_id in part) - first + 1)]
    for node_id in part:
        columns[layers[node_id] - first].append(node_id)
    _order(columns, before, after)
    heights = _heights(columns, before, after, sizes)
    places: Places = {}
    top = 0.0
    for band in _bands([column for column in columns if column], heights, sizes, aspect):
        x, highest = 0.0, min(heights[node_id] for column in band for node_id in column)
        for column in band:
            width = max(sizes[node_id][0] for node_id in column)
            for node_id in column:
                left, y = x + (width - sizes[node_id][0]) / 2, top + heights[node_id] - highest
                places[node_id] = (round(left, 1), round(y, 1))
            x += width + COLUMN_GAP
        top = BAND_GAP + max(places[n][1] + sizes[n][1] for column in band for n in column)
    return places, top - BAND_GAP


def _bands(
    columns: list[list[str]],
    heights: Mapping[str, float],
    sizes: Mapping[str, tuple[float, float]],
    aspect: float,
) -> list[list[list[str]]]:
    """Columns in rows, as words are in lines: so that the whole is about as wide as a screen."""
    width = sum(max(sizes[node_id][0] for node_id in column) + COLUMN_GAP for column in columns)
    nodes = [node_id for column in columns for node_id in column]
    height = max(heights[n] + sizes[n][1] for n in nodes) - min(heights[n] for n in nodes)
    fits = width <= ONE_BAND * aspect / ASPECT
    count = 1 if fits else max(1, round(math.sqrt(width / (aspect * (height + BAND_GAP)))))
    each = math.ceil(len(columns) / count)
    return [columns[start : start + each] for start in range(0, len(columns), each)]


def _order(columns: list[list[str]], before: Neighbours, after: Neighbours) -> None:
    """Fewer crossings: each node to the median of its neighbours, forwards and back."""
    for sweep in range(SWEEPS):
        forwards = sweep % 2 == 0
        near = before if forwards else after
        rank = {node_id: index for column in columns for index, node_id in enumerate(column)}
        for column in columns if forwards else reversed(columns):
            middle = {
                node_id: median(rank[each] for each in near[node_id]) if near[node_id] else rank[node_id]
                for node_id in column
            }
            column.sort(key=lambda node_id: (middle[node_id], rank[node_id]))
            rank.update({node_id: index for index, node_id in enumerate(column)})


def _heights(
    columns: list[list[str]],
    before: Neighbours,
    after: Neighbours,
    sizes: Mapping[str, tuple[float, float]],
) -> dict[str, float]:
    heights: dict[str, float] = {}
    for column in columns:
        y = 0.0
        for node_id in column:
            heights[node_id] = y
            y += sizes[node_id][1] + ROW_GAP
    for sweep in range(2 * SWEEPS):
        forwards = sweep % 2 == 0
        near = before if forwards else after
        for column in columns if forwards else reversed(columns):
            _settle(column, near, sizes, heights)
    return heights


def _settle(
    column: list[str],
    near: Neighbours,
    sizes: Mapping[str, tuple[float, float]],
    heights: dict[str, float],
) -> None:
    """Each node level with its neighbours, pushed down by those above; then all as far up as is level."""
    wanted = {
        node_id: median(heights[each] + sizes[each][1] / 2 for each in near[node_id]) - sizes[node_id][1] / 2
        if near[node_id]
        else heights[node_id]
        for node_id in column
    }
    y = float("-inf")
    for node_id in column:
        heights[node_id] = max(wanted[node_id], y)
        y = heights[node_id] + sizes[node_id][1] + ROW_GAP
    if not column:
        return
    shift = median(heights[node_id] - wanted[node_id] for node_id in column)
    for node_id in column:
        heights[node_id] -= shift
