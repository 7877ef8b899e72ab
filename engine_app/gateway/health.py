"""When an endpoint is taken out, when it is looked at again, and when it is back. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LATE_LIMIT = 3
"""Answers in a row that did not come in time, after which an endpoint counts as gone."""


@dataclass(frozen=True, slots=True)
class Health:
    """``late``: answers in a row that did not come in time. ``look_at``: when to ask whether it is back."""

    is_up: bool = True
    late: int = 0
    pause_s: float = 0.0
    look_at: float = 0.0


WELL = Health()
"""What an answer of whatever status makes of any other: something is there."""


def after_loss(health: Health, now: float, draw: float) -> Health:
    """``draw``: from 0 up to 1, so that not all look again in one instant."""
    if not health.is_up and now < health.look_at:
        return health  # one of many requests that were lost together
    pause_s = min(LONGEST_PAUSE_S, 2 * health.pause_s) if health.pause_s else FIRST_PAUSE_S
    return Health(False, 0, pause_s, now + pause_s * (0.5 + 0.5 * draw))


def after_late(health: Health, now: float, draw: float) -> Health:
    late = health.late + 1
    return after_loss(health, now, draw) if late >= LATE_LIMIT else replace(health, late=late)
