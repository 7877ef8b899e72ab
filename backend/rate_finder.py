"""The learning-rate range test: a rate that grows from step to step, and what the losses say of it. Pure.

Smith 2015, "Cyclical Learning Rates for Training Neural Networks"; the suggestion is the rate at which
the smoothed loss falls fastest, over the logarithm of the rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.catalogue import Category
from backend.graph import Graph
from backend.pipeline import nodes_of

SMOOTHING = 0.9
"""Of the exponential mean of losses, corrected for its beginning."""
DIVERGED = 4.0
"""Times the smallest smoothed loss so far."""
SETTLING_STEPS = 5
"""At the beginning, whose mean is of too few losses to judge by."""
MIN_STEPS, MAX_STEPS = 10, 1000


@dataclass(frozen=True, slots=True)
class RateRamp:
    """``steps`` rates from ``lowest`` to ``highest``, each the same factor above the one before."""

    lowest: float
    highest: float
    steps: int

    def rate(self, step: int) -> float:
        share = step / max(1, self.steps - 1)
        return self.lowest * math.exp(share * math.log(self.highest / self.lowest))


def smoothed(losses: Sequence[float]) -> list[float]:
    found, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**number))
    return found


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether there is nothing to be learned from higher rates."""
    if not losses or not math.isfinite(losses[-1]):
        return bool(losses)
    means = smoothed(losses)
    return len(means) > SETTLING_STEPS and means[-1] > DIVERGED * min(means)


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the loss falls fastest, before it is smallest; None if it never falls."""
    means = smoothed([loss for loss in losses if math.isfinite(loss)])
    if len(means) < MIN_STEPS:
        return None
    smallest = min(range(len(means)), key=means.__getitem__)
    slopes = {
        step: (means[step + 1] - means[step - 1]) / math.log(rates[step + 1] / rates[step - 1])
        for step in range(SETTLING_STEPS, min(smallest, len(means) - 2) + 1)
    }
    steepest = min(slopes, key=slopes.__getitem__, default=None)
    return rates[steepest] if steepest is not None and slopes[steepest] < 0 else None


def as_trial(graph: Graph, epochs: int) -> Graph:
    """The graph without schedules, early end and choices by time: every step at the rate that is tried."""
    schedules = {node.id for node in nodes_of(graph, Category.SCHEDULE)}
    links = (link for link in graph.links if not schedules & {link.source_node, link.target_node})
    precision = "float32" if graph.training.precision == "auto" else graph.training.precision
    return replace(
        graph,
        nodes=tuple(node for node in graph.nodes if node.id not in schedules),
        links=tuple(links),
        training=replace(
            graph.training, epochs=epochs, patience=0, keep="last", accumulate=1, precision=precision
        ),
    )
