"""What went on at the nodes of a training, step after step, as its canvas shows it. Pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from backend.graph import Graph
from backend.reports import MAX_WATCHED, Watched

KEPT = 64
"""Looks that are remembered of each node."""
SLOWEST, FASTEST = 0.15, 1.6
"""Lengths of a link that a pulse goes in a second."""


@dataclass(slots=True)
class Trace:
    """``spread``: the standard deviation of what a node gives; ``gradients``: the norm of its weights'."""

    spread: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    gradients: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))


class Activity:
    """Of one training of ``graph``."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.traces: dict[str, Trace] = {}

    def add(self, watched: Watched) -> None:
        """What is no number is left out: it comes from a process that holds a stranger's model."""
        for node in watched.nodes:
            if node.node not in self.traces and len(self.traces) >= MAX_WATCHED:
                continue
            trace = self.traces.setdefault(node.node, Trace())
            if math.isfinite(node.std):
                trace.spread.append(node.std)
            if node.gradient is not None and math.isfinite(node.gradient):
                trace.gradients.append(node.gradient)

    def belongs_to(self, graph: Graph) -> bool:
        """Whether the graph is the one that was trained, edited perhaps since."""
        return graph.name == self.graph.name and any(node.id in self.traces for node in graph.nodes)


def pulse_speed(samples_per_s: float | None) -> float:
    """Lengths of a link in a second: tenfold samples go a third of the range faster; 0 for none."""
    if samples_per_s is None or not 0 < samples_per_s < math.inf:
        return 0.0
    share = math.log10(1 + samples_per_s) / 5
    return SLOWEST + (FASTEST - SLOWEST) * min(share, 1.0)
