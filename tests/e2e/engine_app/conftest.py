"""A real window, drawn by SDL's offscreen driver, with fingers that tests move. No display is needed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio

from engine_app.config import Config

os.environ.setdefault("SDL_VIDEODRIVER", "offscreen")

PATIENCE_S = 120
"""For what a window does, on a machine that does much else; nothing waits so long but to fail."""


@pytest.fixture(scope="session", autouse=True)
def kivy_ready() -> None:
    import sys

    from engine_app.ui.kivy_setup import WindowOptions, prepare_kivy

    if "kivy" not in sys.modules:
        prepare_kivy(WindowOptions(home=Path(tempfile.mkdtemp(prefix="kivy-"))))
    from kivy.core.window import Window

    Window.close = lambda *_: None  # one window serves all tests of the process


SIZE = (1280, 800)


def _fresh_window() -> None:
    """Empty, and of its usual size, whatever the test before has left."""
    from kivy.base import EventLoop
    from kivy.core.window import Window

    for child in Window.children[:]:
        Window.remove_widget(child)
    if tuple(Window.size) != SIZE:
        Window.size = SIZE
    Window.mouse_pos = 0, 0
    EventLoop.quit, EventLoop.status = False, "idle"


@cache
def _touch_type() -> Any:
    """Once: Kivy keeps every class of its events for good."""
    from kivy.input.motionevent import MotionEvent

    class Touch(MotionEvent):  # type: ignore[misc]
        def depack(self, args: Any) -> None:
            self.sx, self.sy, button = args
            self.profile = ["pos", "button"] if button else ["pos"]
            if button:
                self.button = button
            super().depack(args)

    return Touch


class Finger:
    """One touch; positions in pixels from the lower left. With a ``button`` it is the mouse's."""

    def __init__(self, x: float, y: float, button: str = "") -> None:
        place = (*self._share(x, y), button)
        self._touch = _touch_type()("test", id(self), place, is_touch=True, type_id="touch")

    def down(self) -> None:
        self._dispatch("begin")

    def move(self, x: float, y: float) -> None:
        from kivy.base import EventLoop

        EventLoop.dispatch_input()  # what waits for the next frame, while the touch is still there
        self._touch.move((*self._share(x, y), getattr(self._touch, "button", "")))
        self._dispatch("update")

    def up(self) -> None:
        self._touch.update_time_end()
        self._dispatch("end")

    def _dispatch(self, kind: str) -> None:
        from kivy.base import EventLoop

        EventLoop._dispatch_input(kind, self._touch)

    @staticmethod
    def _share(x: float, y: float) -> tuple[float, float]:
        from kivy.core.window import Window

        return x / (Window.width - 1.0), y / (Window.height - 1.0)


class Driver:
    """Acts on the window, and waits in frames, never in seconds.

    No frame passes between what would be a long press if that frame took long.
    """

    async def frames(self, count: int = 2) -> None:
        from kivy.clock import Clock

        until = Clock.frames + count
        with trio.fail_after(PATIENCE_S):
            while Clock.frames < until:
                await trio.lowlevel.checkpoint()

    async def until(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE_S):
            while not holds():
                await self.frames(1)

    def finger(self, x: float, y: float, button: str = "") -> Finger:
        return Finger(x, y, button)

    async def click_at(self, x: float, y: float, button: str = "left") -> None:
        finger = Finger(x, y, button)
        finger.down()
        finger.up()
        await self.frames()

    @contextmanager
    def holding(self, *modifiers: str) -> Iterator[None]:
        """Keys that are down meanwhile."""
        from kivy.core.window import Window

        Window._modifiers = list(modifiers)
        try:
            yield
        finally:
            Window._modifiers = []

    async def tap(self, widget: Any) -> None:
        await self.tap_at(*widget.to_window(*widget.center))

    async def tap_at(self, x: float, y: float) -> None:
        finger = Finger(x, y)
        finger.down()
        finger.up()
        await self.frames()

    async def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 6) -> None:
        finger = Finger(*start)
        finger.down()
        for step in range(1, steps + 1):
            share = step / steps
            finger.move(start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share)
            await self.frames(1)
        finger.up()
        await self.frames()

    def key(self, code: int, text: str | None = None, modifiers: tuple[str, ...] = ()) -> None:
        from kivy.core.window import Window

        Window.dispatch("on_key_down", code, 0, text, list(modifiers))
        Window.dispatch("on_key_up", code, 0)

    def write(self, text: str) -> None:
        from kivy.core.window import Window

        Window.dispatch("on_textinput", text)


Show: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Driver]]


@asynccontextmanager
async def _shown(widget: Any) -> AsyncIterator[Driver]:
    from kivy.app import App

    from engine_app.ui.loop import run_app

    app = App()  # no class of its own, which Kivy would keep for good, and the widget with it
    app.build = lambda: widget
    errors: list[BaseException] = []
    _fresh_window()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_app, app, lambda tasks: None, errors.append)
        driver = Driver()
        await driver.frames(4)
        yield driver
        nursery.cancel_scope.cancel()
    assert not errors


@pytest.fixture
def show() -> Show:
    """``async with show(widget) as driver``: the widget fills the window."""
    return _shown


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def open_window(tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``async with open_window(file) as (window, driver)``. What it tells stays until it is read here."""
    monkeypatch.setattr("engine_app.ui.theme.TOAST_S", PATIENCE_S)

    @asynccontextmanager
    async def opened(
        file: Path | None = None, greets: bool = False, config: Config | None = None
    ) -> AsyncIterator[tuple[Any, Any]]:

        from engine_app.ui.app import EngineApp, Opening
        from engine_app.ui.loop import run_app

        _fresh_window()
        window = EngineApp(Opening(config or Config(tmp_path / "engine", None, None, "error"), file, greets))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_app, window, window.begin, window.show_error)
            await driver.frames(4)
            yield window, driver
            nursery.cancel_scope.cancel()

    return opened
