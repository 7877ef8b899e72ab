"""Until when the run that goes on may take, for those of its parts that can look between two of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from backend.errors import DeadlineError

_DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def running_until(deadline: float | None) -> Iterator[None]:
    """On the monotonic clock; None: as long as it takes."""
    token = _DEADLINE.set(deadline)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def deadline_of_run() -> float | None:
    """On the monotonic clock; None: as long as it takes."""
    return _DEADLINE.get()


def check_deadline() -> None:
    """Raises DeadlineError once it has passed."""
    deadline = _DEADLINE.get()
    if deadline is not None and time.monotonic() > deadline:
        raise DeadlineError("the run reached its deadline and was stopped")
