"""Whether a request goes to another endpoint after the first one failed it. Pure.

All that is passed on may be asked twice: a model computes and remembers nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAX_TRIES = 4
MAX_LOST = 2
"""A request that ends workers must not end all of them."""
BUSY = frozenset({429, 502, 503})
"""Answers that say: not here, not now. Another endpoint may have room."""


class Outcome(Enum):
    ANSWERED = "answered"
    BUSY = "busy"
    """An answer of one of the statuses above."""
    LOST = "lost"
    LATE = "late"
    """Nothing within its time."""


@dataclass(frozen=True, slots=True)
class Tries:
    """What one request has been through."""

    made: int = 0
    lost: int = 0

    def and_then(self, outcome: Outcome) -> Tries:
        return Tries(self.made + 1, self.lost + (outcome is Outcome.LOST))


def goes_elsewhere(outcome: Outcome, tries: Tries) -> bool:
    """``tries`` counts this one. To be asked only while the client has seen nothing of an answer."""
    if outcome in (Outcome.ANSWERED, Outcome.LATE) or tries.made >= MAX_TRIES:
        return False
    # Who says that it has no room has done nothing.
    return outcome is Outcome.BUSY or tries.lost < MAX_LOST
