"""A guaranteed slice for the rest of the program after every frame, however heavy the frame was.

Kivy's clock yields once a frame when frames take longer than they should; what waits for the network
then moves one step a frame. Here it yields for a time instead.
"""

from __future__ import annotations

from typing import Any

import trio

MIN_SLICE_S = 0.004
SHARE = 0.25
"""Of a heavy frame's time, for the others."""
_LONGEST_S = 0.2


def slice_after(busy_s: float, idle_s: float) -> float:
    """Seconds to sleep before the clock's own idling; 0 if that leaves enough.

    ``busy_s``: what the frame took; ``idle_s``: what is left of its time, below 0 if it was late.
    """
    needed = max(MIN_SLICE_S, SHARE * min(max(busy_s, 0.0), _LONGEST_S))
    return needed if idle_s < needed else 0.0


def install() -> None:
    """For Kivy's one clock; a second call changes nothing."""
    from kivy.clock import ClockBase

    original = ClockBase.async_idle
    if getattr(original, "is_fair", False):
        return

    async def async_idle(self: Any) -> Any:
        busy = self.time() - self._last_tick
        idle = 1 / self._max_fps - busy if self._max_fps > 0 else 0.0
        wait = slice_after(busy, idle)
        if wait:
            await trio.sleep(wait)
        return await original(self)

    async_idle.is_fair = True  # type: ignore[attr-defined]
    ClockBase.async_idle = async_idle
