"""What a model server counts, read from its /metrics: requests, queue, latencies, tokens. Pure."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

_SAMPLE = re.compile(r"(?P<name>[a-z_]+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
MAX_LINES = 20_000
LARGEST = 1 << 53
"""Of a count; sums of greater ones may be no numbers."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Of all models of a server together."""

    requests: int = 0
    failed: int = 0
    """Of those, what was refused, late or went wrong."""
    queue_depth: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    """Between the bounds that the server counts by; None before the first request."""
    tokens_per_s: float = 0.0
    generated_tokens: int = 0


def read_metrics(text: str) -> Reading:
    """Passes over what it does not know."""
    sums: dict[str, float] = defaultdict(float)
    buckets: dict[float, float] = defaultdict(float)
    outcomes: dict[str, float] = defaultdict(float)
    for line in text.splitlines()[:MAX_LINES]:
        found = _SAMPLE.fullmatch(line)
        value = _number(found["value"]) if found else None
        if found is None or value is None or abs(value) > LARGEST:
            continue
        labels = dict(_LABEL.findall(found["labels"] or ""))
        match found["name"]:
            case "cyxwiz_latency_seconds_bucket":
                bound = _number(labels.get("le", ""))
                if bound is not None:
                    buckets[bound] += value
            case "cyxwiz_requests_total":
                outcomes[labels.get("outcome", "")] += value
            case name:
                sums[name] += value
    return Reading(
        requests=int(sum(outcomes.values())),
        failed=int(sum(count for outcome, count in outcomes.items() if outcome != "ok")),
        queue_depth=int(sums["cyxwiz_queue_depth"]),
        p50_ms=_quantile(buckets, 0.5),
        p95_ms=_quantile(buckets, 0.95),
        tokens_per_s=sums["cyxwiz_tokens_per_second"],
        generated_tokens=int(sums["cyxwiz_generated_tokens_total"]),
    )


def _number(text: str) -> float | None:
    """Infinity is one; NaN is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """In ms; as Prometheus' histogram_quantile: a straight line between two bounds."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0
    if total <= 0:
        return None
    below, low = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= share * total:
            if math.isinf(bound):
                return low * 1000
            inside = buckets[bound] - below
            part = (share * total - below) / inside if inside > 0 else 1.0
            return (low + (bound - low) * part) * 1000
        below, low = buckets[bound], bound
    return low * 1000
