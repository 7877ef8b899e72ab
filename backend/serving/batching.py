"""Which waiting requests run together, and when. Pure: no clock, no threads, no arrays.

Requests with the same key (the same tensors, but for the batch) may share a batch. The oldest one
decides which key is next, so none waits behind another kind for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

INLINE_BELOW_S = 0.002
"""A batch that takes less had better run where it is than be handed to another thread and back."""
_WEIGHT = 0.2
_OUTLIER = 4
"""A single slow batch, when the machine was busy, counts as so many times the limit at most."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    items: int = 32
    """Rows of one batch; a single request may have more."""
    waiting: int = 256
    window_s: float = 0.0
    """The latency bound: how long the oldest request waits for company while the model is idle."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that waits. ``payload`` is the caller's own."""

    key: Hashable
    items: int
    arrived: float
    deadline: float
    payload: object = None


class QueueFullError(Exception):
    """As many requests wait as may."""


class BatchQueue:
    """The requests that wait for one model, oldest first."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._tickets: deque[Ticket] = deque()

    def __len__(self) -> int:
        return len(self._tickets)

    def add(self, ticket: Ticket) -> None:
        """Raises QueueFullError."""
        if len(self._tickets) >= self._limits.waiting:
            raise QueueFullError(f"{len(self._tickets)} requests wait, limit {self._limits.waiting}")
        self._tickets.append(ticket)

    def expire(self, now: float) -> list[Ticket]:
        """Takes out those whose deadline has passed."""
        late = [ticket for ticket in self._tickets if ticket.deadline <= now]
        if late:
            self._tickets = deque(ticket for ticket in self._tickets if ticket.deadline > now)
        return late

    def discard(self, ticket: Ticket) -> None:
        """Its caller has gone."""
        if ticket in self._tickets:
            self._tickets.remove(ticket)

    def due_in_s(self, now: float) -> float | None:
        """How long until the next batch may run; 0 for now, None while nobody waits."""
        if not self._tickets:
            return None
        oldest = self._tickets[0]
        if self._limits.window_s <= 0 or self._rows_of(oldest.key) >= self._limits.items:
            return 0.0
        return max(0.0, oldest.arrived + self._limits.window_s - now)

    def take(self) -> list[Ticket]:
        """The oldest request and those that fit into its batch, in the order of their arrival."""
        if not self._tickets:
            return []
        key = self._tickets[0].key
        batch: list[Ticket] = []
        left: deque[Ticket] = deque()
        rows = 0
        for ticket in self._tickets:
            fits = not batch or rows + ticket.items <= self._limits.items
            if ticket.key == key and fits:
                batch.append(ticket)
                rows += ticket.items
            else:
                left.append(ticket)
        self._tickets = left
        return batch

    def _rows_of(self, key: Hashable) -> int:
        return sum(ticket.items for ticket in self._tickets if ticket.key == key)


@dataclass(slots=True)
class Pace:
    """How long batches take, as moving averages; None before the first."""

    batch_s: float | None = None
    _steady_s: float | None = None
    """The same, but for outliers."""

    def note(self, duration_s: float) -> None:
        clipped = min(duration_s, _OUTLIER * INLINE_BELOW_S)
        self.batch_s = _moved(self.batch_s, duration_s)
        self._steady_s = _moved(self._steady_s, clipped)

    def runs_inline(self) -> bool:
        return self._steady_s is not None and self._steady_s < INLINE_BELOW_S

    def retry_after_s(self, waiting: int, items: int) -> int:
        """When a full queue may have room again, in whole seconds."""
        batches = max(1.0, waiting / max(1, items))
        return max(1, min(60, round(batches * (self.batch_s or 0.1))))


def _moved(average: float | None, new: float) -> float:
    return new if average is None else average + _WEIGHT * (new - average)
