"""A wiring as arrays: where everything is, and of what kind. Built after each edit.

Nodes that did not change since the last one are not worked out again: a document shares them.
Lengths are the document's. Numbers of colours are places in the lists at the end of this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from backend.catalogue import CATALOGUE
from backend.catalogue.record import Category, PortKind
from backend.graph import JsonValue, Link, Node, Wiring
from backend.shapes import Inference, node_type
from backend.validate import Severity
from engine_app.document.analysis import Analysis, short_number
from engine_app.document.ports import HEADER, ROW, Ports, port_offset, ports_of, size_of
from engine_app.document.search import Found
from engine_app.document.view import (
    Frame,
    FrameKind,
    Mode,
    Rect,
    bounds,
    frames_of,
    is_collapsed,
    is_reroute,
    lies_elsewhere,
    mode_of,
    place_of,
    title_of,
)

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

KINDS: tuple[PortKind | None, ...] = (*PortKind, None)
CATEGORIES: tuple[Category | None, ...] = (*Category, None)
_KIND_NUMBER = {kind: number for number, kind in enumerate(KINDS)}
_CATEGORY_NUMBER = {category: number for number, category in enumerate(CATEGORIES)}
MAX_SUMMARY = 30
MAX_FORMS = 4096
_UNKNOWN_PORT = HEADER - ROW / 4
"""How far down a link ends at a port that its node has not got."""


@dataclass(frozen=True, slots=True)
class Card:
    """What is drawn of one node, whatever it is linked to."""

    node: Node
    ports: Ports
    title: str
    summary: str
    category: int
    place: tuple[float, float]
    width: float
    height: float
    offsets: tuple[tuple[float, float], ...]
    """Of its ports, inputs first."""
    kinds: tuple[int, ...]
    rows: Mapping[tuple[str, bool], int]
    """Which of these a port is, by its name and whether it is an output."""
    collapsed: bool
    reroute: bool
    mode: Mode


_Form: TypeAlias = tuple[tuple[tuple[float, float], ...], tuple[int, ...], Mapping[tuple[str, bool], int]]
"""Offsets, kinds and rows of a card: the same for all nodes of one type and size."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Arrays of nodes are in document order, so are those of links; ports are in the order of nodes."""

    cards: tuple[Card, ...] = ()
    index: Mapping[str, int] = field(default_factory=dict)
    corners: Floats = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    sizes: Floats = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    categories: Integers = field(default_factory=lambda: np.zeros(0, np.int32))
    port_nodes: Integers = field(default_factory=lambda: np.zeros(0, np.int32))
    port_offsets: Floats = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    port_kinds: Integers = field(default_factory=lambda: np.zeros(0, np.int32))
    port_outputs: Flags = field(default_factory=lambda: np.zeros(0, np.bool_))
    first_port: Integers = field(default_factory=lambda: np.zeros(0, np.int32))
    link_nodes: Integers = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    """Source and target of each link that has both."""
    link_offsets: Floats = field(default_factory=lambda: np.zeros((0, 2, 2), np.float32))
    link_kinds: Integers = field(default_factory=lambda: np.zeros(0, np.int32))
    link_places: Integers = field(default_factory=lambda: np.zeros(0, np.int32))
    """Where in the wiring's links each one is."""
    groups: tuple[Frame, ...] = ()
    notes: tuple[Frame, ...] = ()
    footers: tuple[str, ...] = ()
    """Parameters and shape of each node, where they are known."""
    problems: Integers = field(default_factory=lambda: np.zeros(0, np.int32))
    """0 for none, 1 for a warning, 2 for an error."""
    around: Rect | None = None
    """All that there is; worked out once, as every frame asks."""

    @property
    def port_places(self) -> Floats:
        return self.corners[self.port_nodes] + self.port_offsets

    def rect(self, number: int) -> Rect:
        (x, y), (width, height) = self.corners[number], self.sizes[number]
        return Rect(float(x), float(y), float(width), float(height))

    def rect_of(self, found: Found) -> Rect | None:
        """None for what is not there."""
        if found.frame is None:
            return self.rect(self.index[found.id]) if found.id in self.index else None
        frames = self.groups if found.frame is FrameKind.GROUP else self.notes
        return next((frame.rect for frame in frames if frame.id == found.id), None)

    def bounds(self) -> Rect | None:
        """Around all that there is."""
        return self.around

    def port_name(self, port: int) -> str:
        card = self.cards[int(self.port_nodes[port])]
        place = port - int(self.first_port[int(self.port_nodes[port])])
        return (*card.ports.inputs, *card.ports.outputs)[place].name


class SnapshotBuilder:
    """Remembers the last snapshot: after an edit most of the next one is the same."""

    def __init__(self) -> None:
        self._cards: dict[int, Card] = {}
        self._before: dict[int, Card] = {}
        """Of the snapshot before: an undo brings them back."""
        self._forms: dict[tuple[int, float, float, bool], _Form] = {}
        self._footers: dict[str, tuple[Inference | None, Card, str]] = {}
        self._last = Snapshot()
        self._links: tuple[Link, ...] = ()
        self._path: tuple[str, ...] = ()

    def build(self, wiring: Wiring, analysis: Analysis | None = None, path: tuple[str, ...] = ()) -> Snapshot:
        known = {**self._before, **self._cards}
        cards: list[Card] = []
        for node in wiring.nodes:
            found = known.get(id(node))
            if found is None or found.node is not node:
                found = self._moved(node) or self._card(node, wiring)
            cards.append(found)
        self._before, self._cards = self._cards, {id(card.node): card for card in cards}
        form = self._form(wiring, tuple(cards), path)
        analysis = analysis or Analysis()
        groups, notes = frames_of(wiring, FrameKind.GROUP), frames_of(wiring, FrameKind.NOTE)
        self._last = replace(
            form,
            groups=groups,
            notes=notes,
            around=_around(form, (*groups, *notes)),
            footers=self._texts(form.cards, analysis, path),
            problems=_problems(form, analysis, path),
        )
        self._links, self._path = wiring.links, path
        return self._last

    def _moved(self, node: Node) -> Card | None:
        """Of a node in another place or mode; None where that is not all that differs."""
        number = self._last.index.get(node.id)
        old = self._last.cards[number] if number is not None else None
        if old is None or node_type(node) is None or not lies_elsewhere(node, old.node):
            return None
        return Card(
            node,
            old.ports,
            old.title,
            old.summary,
            old.category,
            place_of(node) or (0.0, 0.0),
            old.width,
            old.height,
            old.offsets,
            old.kinds,
            old.rows,
            old.collapsed,
            old.reroute,
            mode_of(node),
        )

    def _card(self, node: Node, wiring: Wiring) -> Card:
        is_known = node_type(node) is not None
        near = () if is_known else tuple(x for x in wiring.links if node.id in (x.source_node, x.target_node))
        ports = ports_of(node, near)
        width, height = size_of(node, ports)
        # The ports of a known type are there for good, and so is their id.
        key = id(ports), width, height, is_reroute(node)
        form = self._forms.get(key) if is_known else None
        if form is None:
            form = _form_of(node, ports)
        if is_known and len(self._forms) < MAX_FORMS:
            self._forms[key] = form
        record = CATALOGUE.get(node.type)
        return Card(
            node,
            ports,
            title_of(node),
            summary_of(node),
            _CATEGORY_NUMBER[record.category if record else None],
            place_of(node) or (0.0, 0.0),
            width,
            height,
            *form,
            is_collapsed(node),
            is_reroute(node),
            mode_of(node),
        )

    def _form(self, wiring: Wiring, cards: tuple[Card, ...], path: tuple[str, ...]) -> Snapshot:
        """Where everything is. Nodes that only moved leave ports and links at them as they were."""
        last = self._last
        if path != self._path or wiring.links is not self._links or len(cards) != len(last.cards):
            return _snapshot(wiring, cards)
        pairs = enumerate(zip(cards, last.cards, strict=True))
        changed = [number for number, (new, old) in pairs if new is not old]
        if not all(_has_same_form(cards[number], last.cards[number]) for number in changed):
            return _snapshot(wiring, cards)
        corners = last.corners.copy()
        if changed:
            corners[changed] = [cards[number].place for number in changed]
        return replace(last, cards=cards, corners=corners)

    def _texts(self, cards: tuple[Card, ...], analysis: Analysis, path: tuple[str, ...]) -> tuple[str, ...]:
        """Below each node. Those of which the same is known are not written again."""
        if path != self._path:
            self._footers = {}
        before, shapes = self._footers, analysis.inside(path)
        after: dict[str, tuple[Inference | None, Card, str]] = {}
        for card in cards:
            found = shapes.nodes.get(card.node.id)
            old = before.get(card.node.id)
            if old is None or old[0] is not found or old[1].ports is not card.ports:
                old = found, card, _footer(card, analysis, path)
            after[card.node.id] = old
        self._footers = after
        return tuple(after[card.node.id][2] for card in cards)


def _around(form: Snapshot, frames: tuple[Frame, ...]) -> Rect | None:
    found = [frame.rect for frame in frames]
    if len(form.cards):
        low, high = form.corners.min(0), (form.corners + form.sizes).max(0)
        found.append(Rect(float(low[0]), float(low[1]), *map(float, high - low)))
    return bounds(found)


def _has_same_form(one: Card, other: Card) -> bool:
    return (one.node.id, one.category, one.kinds, one.offsets, one.width, one.height) == (
        other.node.id,
        other.category,
        other.kinds,
        other.offsets,
        other.width,
        other.height,
    ) and (one.ports is other.ports or one.ports == other.ports)


def _form_of(node: Node, ports: Ports) -> _Form:
    shown = [(port, False) for port in ports.inputs] + [(port, True) for port in ports.outputs]
    return (
        tuple(port_offset(node, ports, port.name, is_output=out) for port, out in shown),
        tuple(_KIND_NUMBER[port.kind] for port, _ in shown),
        # Of ports of one name the first counts.
        {(port.name, out): row for row, (port, out) in reversed([*enumerate(shown)])},
    )


def summary_of(node: Node) -> str:
    """The parameters that were set, in a few characters: ``16 · 3 · same``."""
    parts = [text for value in node.parameters.values() if (text := _short(value))]
    text = " · ".join(parts)
    return text if len(text) <= MAX_SUMMARY else f"{text[: MAX_SUMMARY - 1]}…"


def _short(value: JsonValue) -> str:
    match value:
        case bool():
            return ""
        case int() | float():
            return f"{value:g}"
        case str():
            return value[:12]
        case list() if len(value) <= 4 and all(isinstance(each, int | float) for each in value):
            return "×".join(f"{each:g}" for each in value if isinstance(each, int | float))
        case _:
            return ""


def _snapshot(wiring: Wiring, cards: tuple[Card, ...]) -> Snapshot:
    index = {card.node.id: number for number, card in enumerate(cards)}
    counts = np.array([len(card.kinds) for card in cards], np.int32)
    inputs = np.array([len(card.ports.inputs) for card in cards], np.int32)
    first = (np.cumsum(counts) - counts).astype(np.int32)
    nodes = np.repeat(np.arange(len(cards), dtype=np.int32), counts)
    ports = [offset for card in cards for offset in card.offsets]
    form = Snapshot(
        cards,
        index,
        np.array([card.place for card in cards], np.float32).reshape(-1, 2),
        np.array([(card.width, card.height) for card in cards], np.float32).reshape(-1, 2),
        np.array([card.category for card in cards], np.int32),
        nodes,
        np.array(ports, np.float32).reshape(-1, 2),
        np.array([kind for card in cards for kind in card.kinds], np.int32),
        np.arange(len(nodes)) - first[nodes] >= inputs[nodes],
        first,
    )
    return _linked(form, wiring)


def _problems(form: Snapshot, analysis: Analysis, path: tuple[str, ...]) -> Integers:
    levels = np.zeros(len(form.cards), np.int32)
    for node_id, severity in analysis.problems_at(path).items():
        if node_id in form.index:
            levels[form.index[node_id]] = 1 + (severity is Severity.ERROR)
    return levels


def _footer(card: Card, analysis: Analysis, path: tuple[str, ...]) -> str:
    """The shape that it gives, and how many weights it has."""
    found = analysis.of(card.node.id, path)
    if found is None:
        return ""
    outputs = card.ports.outputs
    shape = analysis.shape_text(card.node.id, outputs[0].name, path) if outputs else ""
    weights = short_number(found.counts.parameters) if found.counts.parameters else ""
    return "  ".join(text for text in (shape, weights) if text)


def _linked(form: Snapshot, wiring: Wiring) -> Snapshot:
    """Links of nodes that do not exist are not drawn; a problem says that they are there."""
    cards, index = form.cards, form.index
    found = [
        (
            place,
            source,
            target,
            cards[source].rows.get((link.source_port, True), -1),
            cards[target].rows.get((link.target_port, False), -1),
        )
        for place, link in enumerate(wiring.links)
        if (source := index.get(link.source_node)) is not None
        and (target := index.get(link.target_node)) is not None
    ]
    if not found:
        return form
    places, sources, targets, begins, ends = np.array(found, np.int32).T
    offsets = np.full((len(found), 2, 2), _UNKNOWN_PORT, np.float32)
    offsets[:, 0, 0], offsets[:, 1, 0] = form.sizes[sources, 0], 0
    kinds = np.full(len(found), _KIND_NUMBER[None], np.int32)
    known = begins >= 0
    begun = form.first_port[sources[known]] + begins[known]
    offsets[known, 0], kinds[known] = form.port_offsets[begun], form.port_kinds[begun]
    known = ends >= 0
    offsets[known, 1] = form.port_offsets[form.first_port[targets[known]] + ends[known]]
    return replace(
        form,
        link_nodes=np.stack([sources, targets], 1),
        link_offsets=offsets,
        link_kinds=kinds,
        link_places=places,
    )
