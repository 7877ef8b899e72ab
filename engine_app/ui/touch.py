"""Fingers on a desktop's touchscreen, several at once.

Kivy 2.3 reads SDL's finger events from the window only on phones; on a desktop it drops them. The
window's event source is wrapped here so that they reach the provider which Kivy has for them.
"""

from __future__ import annotations

from typing import Any

_FINGER_EVENTS = frozenset({"fingerdown", "fingermotion", "fingerup"})


class FingerEvents:
    """SDL's window, as Kivy asks it, with the fingers led to ``queue``."""

    def __init__(self, window: Any, queue: Any) -> None:
        object.__setattr__(self, "_window", window)
        object.__setattr__(self, "_queue", queue)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._window, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._window, name, value)

    def poll(self) -> Any:
        """The next event that is no finger's, as the window gives it: False for none."""
        while True:
            event = self._window.poll()
            if not event or event[0] not in _FINGER_EVENTS:
                return event
            self._queue.appendleft(event)


def enable_touch() -> None:
    """Once the window exists. On phones, where Kivy does it itself, it changes nothing."""
    from kivy.base import EventLoop
    from kivy.core.window import Window
    from kivy.utils import platform

    if platform not in ("linux", "win", "macosx"):
        return
    from kivy.core.window.window_sdl2 import SDL2MotionEventProvider

    if not isinstance(Window._win, FingerEvents):
        Window._win = FingerEvents(Window._win, SDL2MotionEventProvider.q)
    if not any(isinstance(each, SDL2MotionEventProvider) for each in EventLoop.input_providers):
        EventLoop.add_input_provider(SDL2MotionEventProvider("sdl", ""))  # a loop that ended forgot it
