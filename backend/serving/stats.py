"""What a server counts, and how Prometheus reads it. Pure; holds numbers, never a body or a key."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_KEPT = 2048
_TOKEN_WINDOW_S = 30.0


@dataclass(slots=True)
class ModelStats:
    """Of one model since the server started."""

    requests: Counter[str] = field(default_factory=Counter)
    """By outcome: ok, refused, failed, late, busy."""
    batches: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    latency_sum_s: float = 0.0
    _buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _generations: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def note_request(self, outcome: str, latency_s: float) -> None:
        self.requests[outcome] += 1
        self.latency_sum_s += latency_s
        self._latencies.append(latency_s)
        self._buckets[bisect_left(BUCKETS_S, latency_s)] += 1

    def note_batch(self, rows: int) -> None:
        self.batches += 1
        self.rows += rows

    def note_tokens(self, now: float, count: int) -> None:
        self.generated_tokens += count
        self._generations.append((now, count))

    def percentiles_s(self) -> dict[str, float]:
        """Of the newest requests; empty before the first."""
        ordered = sorted(self._latencies)
        if not ordered:
            return {}
        return {
            name: ordered[min(len(ordered) - 1, int(share * len(ordered)))]
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        }

    def tokens_per_s(self, now: float) -> float:
        """Over the last half minute, or since the first token of it."""
        recent = [(at, count) for at, count in self._generations if now - at < _TOKEN_WINDOW_S]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) / max(1.0, now - recent[0][0])

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """Prometheus' buckets: those of a bound hold all that is below it."""
        total = 0
        for bound, count in zip((*BUCKETS_S, None), self._buckets, strict=True):
            total += count
            yield ("+Inf" if bound is None else f"{bound:g}"), total


@dataclass(frozen=True, slots=True)
class ModelReading:
    """A model's stats at one moment, with what is known only then."""

    name: str
    stats: ModelStats
    queue_depth: int
    in_flight: int
    loaded: bool
    size_bytes: int
    tokens_per_s: float


def prometheus(readings: list[ModelReading], refused: Counter[str]) -> str:
    """The text exposition format, version 0.0.4. ``refused``: requests that reached no model, by reason."""
    lines = list(family("cyxwiz_refused_total", "counter", "Requests that were refused, by reason."))
    lines += [
        f'cyxwiz_refused_total{{reason="{reason}"}} {count}' for reason, count in sorted(refused.items())
    ]
    lines += family("cyxwiz_requests_total", "counter", "Requests to a model, by outcome.")
    for reading in readings:
        for outcome, count in sorted(reading.stats.requests.items()):
            labels = f'model="{escaped(reading.name)}",outcome="{outcome}"'
            lines.append(f"cyxwiz_requests_total{{{labels}}} {count}")
    for name, kind, text, values in _simple(readings):
        lines += family(name, kind, text)
        lines += [f'{name}{{model="{escaped(model)}"}} {number(value)}' for model, value in values]
    lines += family("cyxwiz_latency_seconds", "histogram", "From a whole request to its answer.")
    for reading in readings:
        lines += _histogram(reading)
    return "\n".join(lines) + "\n"


def _simple(readings: list[ModelReading]) -> Iterator[tuple[str, str, str, list[tuple[str, float]]]]:
    def each(what: str) -> list[tuple[str, float]]:
        def value(reading: ModelReading) -> float:
            holder: object = reading if hasattr(reading, what) else reading.stats
            return float(getattr(holder, what))

        return [(reading.name, value(reading)) for reading in readings]

    yield "cyxwiz_batches_total", "counter", "Batches that a model ran.", each("batches")
    yield "cyxwiz_rows_total", "counter", "Rows in those batches.", each("rows")
    yield "cyxwiz_prompt_tokens_total", "counter", "Tokens of prompts.", each("prompt_tokens")
    yield "cyxwiz_generated_tokens_total", "counter", "Tokens that were generated.", each("generated_tokens")
    yield "cyxwiz_tokens_per_second", "gauge", "Over the last half minute.", each("tokens_per_s")
    yield "cyxwiz_queue_depth", "gauge", "Requests that wait for a model.", each("queue_depth")
    yield "cyxwiz_in_flight", "gauge", "Requests that use a model.", each("in_flight")
    yield "cyxwiz_model_loaded", "gauge", "1 while a model is in memory.", each("loaded")
    yield "cyxwiz_model_bytes", "gauge", "About what a loaded model holds.", each("size_bytes")


def _histogram(reading: ModelReading) -> Iterator[str]:
    model = f'model="{escaped(reading.name)}"'
    for bound, count in reading.stats.cumulative():
        yield f'cyxwiz_latency_seconds_bucket{{{model},le="{bound}"}} {count}'
    yield f"cyxwiz_latency_seconds_sum{{{model}}} {number(reading.stats.latency_sum_s)}"
    yield f"cyxwiz_latency_seconds_count{{{model}}} {reading.stats.requests.total()}"


def family(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def number(value: float) -> str:
    """Whole ones to the last digit, up to 10^15: a counter that moves in steps is no count."""
    return f"{value:.15g}"


def escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
