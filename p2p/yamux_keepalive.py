"""When to ask a silent side for a sign of life, and when to give it up; reads no clock.

A side that answers ever more slowly is busy, not frozen: it is given time in proportion to its
slowest recent answer. Cutting it off would add a crowd of reconnections to its load.

As long as bytes are being delivered, however slowly, the question may be on its way behind them:
patience is counted from when nothing moves in either direction.
"""

from __future__ import annotations

from collections.abc import Callable

from p2p.errors import StreamResetError
from p2p.yamux_stream import YamuxLimits

_PATIENCE = 4.0
"""Times the slowest recent answer."""
_FORGETTING = 0.9
"""Of that slowest answer, with each one since."""


class KeepAlive:
    """Of one connection. It is checked every so often, and told of everything that arrives."""

    def __init__(self, limits: YamuxLimits, now_s: float) -> None:
        self._limits = limits
        self._heard_s = now_s
        self._asked_s: float | None = None
        self._slowest_s = 0.0
        self._delivered_bytes = 0

    def heard(self, now_s: float) -> None:
        if self._asked_s is not None:
            self._slowest_s = max(now_s - self._asked_s, _FORGETTING * self._slowest_s)
            self._asked_s = None
        self._heard_s = now_s

    def must_ask(
        self, now_s: float, *, somebody_waits: bool, was_held_up: bool, delivered_bytes: Callable[[], int]
    ) -> bool:
        """Whether to send a ping now. Raises StreamResetError when the last was not answered in time.

        ``was_held_up``: the check itself comes late, so that the answer may wait unread.
        ``delivered_bytes``: how many bytes of this side have arrived, as far as is known.
        """
        limits = self._limits
        silence_s = limits.keep_alive_s if somebody_waits else limits.idle_keep_alive_s
        longest_s = limits.idle_keep_alive_timeout_s
        patience_s = longest_s
        if somebody_waits:
            patience_s = max(limits.keep_alive_timeout_s, min(longest_s, _PATIENCE * self._slowest_s))
        if self._asked_s is None or was_held_up:
            if now_s - self._heard_s < silence_s:
                return False
            self._asked_s = now_s
            return True
        if (delivered := delivered_bytes()) != self._delivered_bytes:
            self._delivered_bytes = delivered
            self._asked_s = now_s
        if now_s - self._asked_s >= patience_s:
            raise StreamResetError(f"no sign of life for {now_s - self._heard_s:.1f} s")
        return False
