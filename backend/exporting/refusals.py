"""Which nodes of a model a file format cannot hold, as the catalogue says. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backend.catalogue import CATALOGUE
from backend.graph import Graph, Wiring, model_nodes


@dataclass(frozen=True, slots=True)
class Refusal:
    node_id: str
    type: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node_id!r} ({self.type}): {self.reason}"


def refusals(graph: Graph, format: str) -> tuple[Refusal, ...]:
    """Of the model, with what is inside its nodes; empty where the format holds all of it."""
    return tuple(_refused(graph, format))


def _refused(wiring: Wiring, format: str) -> Iterator[Refusal]:
    for node in model_nodes(wiring) or wiring.nodes:
        record = CATALOGUE[node.type]
        if format not in record.formats:
            reason = record.format_notes.get(format, f"{format} cannot hold it")
            yield Refusal(node.id, node.type, reason)
        if node.body is not None:
            yield from _refused(node.body, format)
