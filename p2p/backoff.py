"""Pauses between attempts that grow, stay bounded, and differ between programs. Pure.

After a cut that everybody suffers at once, not everybody must come back in the same instant.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 0.2
LONGEST_S = 3.0
"""Short, since it bounds how long after the end of a cut a program is still away."""


class Backoff:
    """``draw`` gives numbers from 0 up to 1, such as ``random.Random(seed).random``."""

    def __init__(
        self, draw: Callable[[], float], first_s: float = FIRST_S, longest_s: float = LONGEST_S
    ) -> None:
        self._draw = draw
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def pause_s(self) -> float:
        """The next pause: from half of the present bound up to all of it; the bound doubles."""
        bound_s = self._next_s
        self._next_s = min(self._longest_s, 2 * bound_s)
        return bound_s * (0.5 + 0.5 * self._draw())

    def reset(self) -> None:
        """After a success."""
        self._next_s = self._first_s
