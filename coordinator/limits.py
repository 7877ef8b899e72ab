"""How often a caller may call. Pure: a token bucket for each caller, forgotten when it is full again."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class RateLimiter:
    """``rate`` calls a second in the long run, ``burst`` at once; at most ``callers`` are remembered."""

    def __init__(self, rate: float, burst: float, callers: int = 10_000) -> None:
        self._rate = rate
        self._burst = burst
        self._callers = callers
        self._buckets: dict[Hashable, _Bucket] = {}

    def allow(self, caller: Hashable, now: float, cost: float = 1.0) -> bool:
        bucket = self._buckets.get(caller)
        if bucket is None:
            self._make_room(now)
            bucket = self._buckets[caller] = _Bucket(self._burst, now)
        bucket.level = min(self._burst, bucket.level + max(0.0, now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.level < cost:
            return False
        bucket.level -= cost
        return True

    def _make_room(self, now: float) -> None:
        if len(self._buckets) < self._callers:
            return
        full = [
            caller
            for caller, bucket in self._buckets.items()
            if bucket.level + (now - bucket.at) * self._rate >= self._burst
        ]
        for caller in full or list(self._buckets)[:1]:
            del self._buckets[caller]
