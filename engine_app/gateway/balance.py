"""Which of a model's endpoints gets the next request. Pure.

The one that is expected to answer first: as many requests as are before ours, times how long one takes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

_NEWEST_COUNTS = 0.25
STALE_S = 10.0
"""A measurement older than that says nothing: an endpoint that was slow once must be tried again."""
_LEAST_S = 1e-4
"""Below it differences are noise."""


@dataclass(frozen=True, slots=True)
class Load:
    """``in_flight``: requests through this gateway. ``queue_depth``: those that waited there when it was
    last asked, of whomever. ``latency_s``: until an answer begins; None before the first."""

    name: str
    in_flight: int = 0
    queue_depth: int = 0
    latency_s: float | None = None
    measured_at: float = 0.0
    chosen_at: int = 0
    """A count of choices, not a time: equals take turns."""


def choose(loads: Iterable[Load], tried: Collection[str], now: float) -> Load | None:
    """None if all have been tried. Those that are down or not allowed must not be among ``loads``."""
    left = [load for load in loads if load.name not in tried]
    if not left:
        return None
    known = [load.latency_s for load in left if load.latency_s is not None and not _is_stale(load, now)]
    guess_s = min(known, default=_LEAST_S)
    return min(left, key=lambda load: (_expected_s(load, guess_s, now), load.chosen_at))


def _expected_s(load: Load, guess_s: float, now: float) -> float:
    latency_s = guess_s if load.latency_s is None or _is_stale(load, now) else load.latency_s
    # Ours that wait there are among those it tells of: the larger of both, not their sum.
    return (1 + max(load.in_flight, load.queue_depth)) * max(_LEAST_S, latency_s)


def _is_stale(load: Load, now: float) -> bool:
    return now - load.measured_at > STALE_S


def begun(load: Load, choice: int) -> Load:
    return replace(load, in_flight=load.in_flight + 1, chosen_at=choice)


def measured(load: Load, latency_s: float, now: float) -> Load:
    """Its answer has begun."""
    if load.latency_s is not None and not _is_stale(load, now):
        latency_s = load.latency_s + _NEWEST_COUNTS * (latency_s - load.latency_s)
    return replace(load, latency_s=latency_s, measured_at=now)


def ended(load: Load) -> Load:
    return replace(load, in_flight=load.in_flight - 1)
