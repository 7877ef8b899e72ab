"""Finding: node types for the palette; nodes, groups and notes in the graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backend.catalogue import CATALOGUE
from backend.catalogue.record import NodeType, PortKind, may_link
from backend.graph import Graph, Wiring
from engine_app.document.view import FrameKind, frames_of, title_of


@dataclass(frozen=True, slots=True)
class Found:
    """A node, or with ``frame`` a group or note; ``inside`` leads to the body that it is in."""

    id: str
    title: str
    type: str
    inside: tuple[str, ...] = ()
    frame: FrameKind | None = None


def find_types(
    text: str = "", *, takes: PortKind | None = None, gives: PortKind | None = None
) -> list[NodeType]:
    """Best first; ``takes`` and ``gives``: only those with an input or output for such a link."""
    ranked = []
    for index, record in enumerate(CATALOGUE.values()):
        if takes is not None and not any(may_link(takes, port.kind) for port in record.inputs):
            continue
        if gives is not None and not any(may_link(port.kind, gives) for port in record.outputs):
            continue
        rank = match(text, record.name, (*record.keywords, record.category.value))
        if rank is not None:
            ranked.append((rank, index, record))
    return [record for _, _, record in sorted(ranked, key=lambda each: each[:2])]


def find_in(graph: Graph, text: str) -> list[Found]:
    """Nodes by title, type and id, groups and notes by their text, in all bodies too; best first."""
    ranked = [
        (rank, index, found)
        for index, found in enumerate(_walk(graph, ()))
        if (rank := match(text, found.title, (found.type, found.id))) is not None
    ]
    return [found for _, _, found in sorted(ranked, key=lambda each: each[:2])]


def match(text: str, name: str, also: Iterable[str] = ()) -> int | None:
    """0 for the best; None for no match. All words must be found, or be letters of the name in order."""
    words = text.lower().split()
    low = name.lower()
    if not words:
        return 0
    whole = " ".join(words)
    if low == whole or low == "".join(words):
        return 0
    if low.startswith(words[0]) and all(word in low for word in words):
        return 1
    if all(word in low for word in words):
        return 2
    others = " ".join(also).lower()
    if all(word in low or word in others for word in words):
        return 3
    return 4 if len(whole) > 2 and _in_order(whole.replace(" ", ""), low) else None


def _in_order(letters: str, name: str) -> bool:
    rest = iter(name)
    return all(letter in rest for letter in letters)


def _walk(wiring: Wiring, inside: tuple[str, ...]) -> Iterable[Found]:
    for node in wiring.nodes:
        yield Found(node.id, title_of(node), node.type, inside)
        if node.body is not None:
            yield from _walk(node.body, (*inside, node.id))
    for kind in FrameKind:
        for frame in frames_of(wiring, kind):
            yield Found(frame.id, frame.text, kind.name.capitalize(), inside, kind)
