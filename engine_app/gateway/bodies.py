"""How many bytes of requests may be in memory at once, over all connections. Pure."""

from __future__ import annotations

from backend.serving.http import HttpError, busy

SMALL_BYTES = 64 << 10
"""Bodies up to here are never refused for the sake of others: connections, which are counted, bound them."""
_COME_BACK_S = 2.0


class BodyBudget:
    """Counts what has come, not what is announced: else whoever announces much would keep others out."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Raises HttpError 503."""
        if self.held_bytes + size_bytes > self._limit_bytes:
            raise busy("the bodies of other requests take all the room for such", _COME_BACK_S)
        self.held_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes


class Share:
    """What one request holds of the budget. ``declared``: how long its body is said to be, None if that is
    not known.

    Raises HttpError 413, 503.
    """

    def __init__(self, budget: BodyBudget, limit_bytes: int, declared: int | None) -> None:
        self._budget = budget
        self._limit_bytes = limit_bytes
        self._taken = 0
        self._came = 0
        self._check(declared or 0)

    def add(self, size_bytes: int) -> None:
        """So many more have come. Raises as the constructor."""
        self._came += size_bytes
        self._check(self._came)
        if self._came > SMALL_BYTES:
            self._budget.take(self._came - self._taken)
            self._taken = self._came

    def close(self) -> None:
        self._budget.give_back(self._taken)
        self._taken = 0

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._limit_bytes:
            raise HttpError(413, "too_large", f"body of {size_bytes} bytes, limit {self._limit_bytes}")
