"""How long to wait before a model server that died is started again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_S = 30.0
_GOOD_RUN_S = 60.0


@dataclass(slots=True)
class Restarts:
    """The first one comes at once; each that follows a short run waits twice as long."""

    has_served: bool = False
    _next_s: float = 0.0

    def pause_s(self, ran_s: float) -> float:
        if ran_s >= _GOOD_RUN_S:
            self._next_s = 0.0
        pause_s = self._next_s
        self._next_s = min(LONGEST_S, max(1.0, 2 * pause_s))
        return pause_s
