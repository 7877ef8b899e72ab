"""The window inside trio: what other tasks get of the time, what errors do, how it ends."""

from __future__ import annotations

from typing import Any

import pytest
import trio

pytestmark = pytest.mark.e2e


async def test_an_error_in_a_callback_or_a_task_is_shown_and_the_window_lives_on() -> None:
    from kivy.app import App
    from kivy.base import EventLoop
    from kivy.clock import Clock

    from engine_app.ui.loop import Tasks, run_app

    EventLoop.quit, EventLoop.status = False, "idle"
    shown: list[str] = []
    ended: list[str] = []
    app = App()

    def fail(_dt: float) -> None:
        raise ValueError("in a callback")

    def stop_when_shown(_dt: float) -> bool:
        if len(shown) == 2:
            app.stop()
        return len(shown) < 2  # False ends it: the clock outlives the app

    async def failing() -> None:
        raise OSError("in a task")

    async def lasting() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("task")

    def begin(tasks: Tasks) -> None:
        tasks.start(failing)
        tasks.start(lasting)
        Clock.schedule_once(fail)
        Clock.schedule_interval(stop_when_shown, 0)

    with trio.fail_after(60):
        await run_app(app, begin, lambda error: shown.append(str(error)))
    assert sorted(shown) == ["in a callback", "in a task"]
    assert ended == ["task"]


async def test_the_window_can_be_cancelled_like_any_other_task() -> None:
    from kivy.app import App
    from kivy.base import EventLoop

    from engine_app.ui.loop import run_app

    EventLoop.quit, EventLoop.status = False, "idle"
    with trio.move_on_after(0.2) as scope:
        await run_app(App(), lambda tasks: None, lambda error: None)
    assert scope.cancelled_caught


async def test_sdl_fingers_reach_the_app_as_touches(show: Any) -> None:
    from kivy.core.window import Window
    from kivy.core.window.window_sdl2 import SDL2MotionEventProvider
    from kivy.uix.widget import Widget

    from engine_app.ui.touch import FingerEvents

    touched: list[tuple[str, float]] = []
    widget = Widget()
    widget.bind(on_touch_down=lambda _widget, touch: touched.append((touch.device, round(touch.sx, 2))))
    async with show(widget) as driver:
        assert isinstance(Window._win, FingerEvents)
        for finger in (1, 2):
            SDL2MotionEventProvider.q.appendleft(("fingerdown", finger, finger / 4, 0.5, 1.0))
        await driver.until(lambda: len(touched) == 2)
        assert touched == [("sdl", 0.25), ("sdl", 0.5)]
        for finger in (1, 2):
            SDL2MotionEventProvider.q.appendleft(("fingerup", finger, finger / 4, 0.5, 1.0))
        await driver.frames()
