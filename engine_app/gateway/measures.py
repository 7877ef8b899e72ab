"""A gateway's counts, by model and endpoint, as Prometheus reads them. Pure; holds numbers, never a body."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from backend.serving.stats import ModelStats, escaped, family, number


@dataclass(frozen=True, slots=True)
class EndpointReading:
    """An endpoint at one moment. Of its stats the outcomes and the latencies are used; a latency is the
    time until an answer began."""

    model: str
    endpoint: str
    stats: ModelStats
    retried: int
    """Requests that went elsewhere after it failed them."""
    in_flight: int
    queue_depth: int
    is_up: bool

    @property
    def labels(self) -> str:
        return f'model="{escaped(self.model)}",endpoint="{escaped(self.endpoint)}"'


@dataclass(frozen=True, slots=True)
class GatewayReading:
    endpoints: Sequence[EndpointReading]
    refused: Counter[str]
    """Requests that reached no endpoint, by reason."""
    connections: int
    body_bytes: int
    """Held in memory now, of all requests together."""


def prometheus(reading: GatewayReading) -> str:
    """The text exposition format, version 0.0.4."""
    return "\n".join(_lines(reading)) + "\n"


def with_workers(own: str, counted: Mapping[str, str]) -> str:
    """The gateway's counts, then those of workers, each by the name of its endpoint, which its lines get."""
    families: dict[str, list[str]] = {}
    for endpoint, text in counted.items():
        samples: list[str] = []
        head = ""
        for line in text.splitlines():
            if line.startswith("# HELP "):
                head = line
            elif line.startswith("# TYPE "):
                samples = families.setdefault(f"{head}\n{line}", [])
            else:
                samples.append(line.replace("{", f'{{endpoint="{escaped(endpoint)}",', 1))
    return own + "".join("\n".join([head, *samples, ""]) for head, samples in families.items())


def _lines(reading: GatewayReading) -> Iterator[str]:
    prefix = "cyxwiz_gateway"
    yield from family(f"{prefix}_refused_total", "counter", "Requests that reached no endpoint, by reason.")
    for reason, count in sorted(reading.refused.items()):
        yield f'{prefix}_refused_total{{reason="{reason}"}} {count}'
    yield from family(f"{prefix}_requests_total", "counter", "Requests to an endpoint, by outcome.")
    for each in reading.endpoints:
        for outcome, count in sorted(each.stats.requests.items()):
            yield f'{prefix}_requests_total{{{each.labels},outcome="{outcome}"}} {count}'
    for name, kind, text, values in _simple(reading.endpoints):
        yield from family(f"{prefix}_{name}", kind, text)
        for each, value in zip(reading.endpoints, values, strict=True):
            yield f"{prefix}_{name}{{{each.labels}}} {value}"
    yield from family(f"{prefix}_first_byte_seconds", "histogram", "From a request to its first byte.")
    for each in reading.endpoints:
        yield from _histogram(f"{prefix}_first_byte_seconds", each)
    yield from family(f"{prefix}_connections", "gauge", "Open connections of clients.")
    yield f"{prefix}_connections {reading.connections}"
    yield from family(f"{prefix}_body_bytes", "gauge", "Bytes of requests held in memory.")
    yield f"{prefix}_body_bytes {reading.body_bytes}"


def _simple(endpoints: Sequence[EndpointReading]) -> Iterator[tuple[str, str, str, list[int]]]:
    yield "retried_total", "counter", "Requests that went elsewhere.", [each.retried for each in endpoints]
    yield "in_flight", "gauge", "Requests at an endpoint.", [each.in_flight for each in endpoints]
    yield "queue_depth", "gauge", "Requests that wait there.", [each.queue_depth for each in endpoints]
    yield "up", "gauge", "1 while an endpoint answers.", [int(each.is_up) for each in endpoints]


def _histogram(name: str, each: EndpointReading) -> Iterator[str]:
    total = 0
    for bound, count in each.stats.cumulative():
        yield f'{name}_bucket{{{each.labels},le="{bound}"}} {count}'
        total = count
    yield f"{name}_sum{{{each.labels}}} {number(each.stats.latency_sum_s)}"
    yield f"{name}_count{{{each.labels}}} {total}"
