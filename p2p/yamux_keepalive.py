"""When to ask a silent side for a sign of life, and when to give it up; reads no clock."""

from __future__ import annotations

from p2p.errors import StreamResetError
from p2p.yamux_stream import YamuxLimits


class KeepAlive:
    """Of one connection. It is checked every so often, and told of everything that arrives."""

    def __init__(self, limits: YamuxLimits, now_s: float) -> None:
        self._limits = limits
        self._heard_s = now_s
        self._asked_s: float | None = None

    def heard(self, now_s: float) -> None:
        self._heard_s = now_s
        self._asked_s = None

    def must_ask(self, now_s: float, *, somebody_waits: bool, was_held_up: bool) -> bool:
        """Whether to send a ping now. Raises StreamResetError when the last was not answered in time.

        ``was_held_up``: the check itself comes late, so that the answer may wait unread.
        """
        limits = self._limits
        silence_s = limits.keep_alive_s if somebody_waits else limits.idle_keep_alive_s
        patience_s = limits.keep_alive_timeout_s if somebody_waits else limits.idle_keep_alive_timeout_s
        if self._asked_s is None or was_held_up:
            if now_s - self._heard_s < silence_s:
                return False
            self._asked_s = now_s
            return True
        if now_s - self._asked_s >= patience_s:
            raise StreamResetError(f"no sign of life for {now_s - self._heard_s:.1f} s")
        return False
