"""A curve as lines of text: losses over learning rates, on a logarithmic axis. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH, HEIGHT = 64, 14
CURVE, MARK = "•", "│"


def plot(rates: Sequence[float], losses: Sequence[float], marked: float | None) -> list[str]:
    """Needs one point or more; ``marked`` is a rate at which a line stands."""
    top, bottom = max(losses), min(losses)
    rows = [[" "] * WIDTH for _ in range(HEIGHT)]
    if marked is not None:
        column = _column(marked, rates)
        for row in rows:
            row[column] = MARK
    for rate, loss in zip(rates, losses, strict=True):
        share = (top - loss) / (top - bottom) if top > bottom else 0.5
        rows[round(share * (HEIGHT - 1))][_column(rate, rates)] = CURVE
    labels = [f"{top:.4g}", *[""] * (HEIGHT - 2), f"{bottom:.4g}"]
    lines = [f"{label:>9} ┤{''.join(row)}" for label, row in zip(labels, rows, strict=True)]
    ends = f"{rates[0]:.1e}", f"{rates[-1]:.1e}"
    axis = " " * 11 + ends[0] + " " * (WIDTH - len(ends[0]) - len(ends[1])) + ends[1]
    return [*lines, " " * 10 + "└" + "─" * WIDTH, axis]


def _column(rate: float, rates: Sequence[float]) -> int:
    whole = math.log(rates[-1] / rates[0])
    share = math.log(rate / rates[0]) / whole if whole else 0.5
    return min(WIDTH - 1, max(0, round(share * (WIDTH - 1))))
