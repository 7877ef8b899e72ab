"""Hands that know nothing, from a seed: taps, drags, pinches, wheels and keys, over all pages of the window.

What they meet must be refused in words or be done: any other error is a fault.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from backend.errors import BackendError
from engine_app.document.errors import DocumentError
from engine_app.entry import CommandError
from engine_app.ui.keys import BINDINGS
from p2p.errors import P2PError

pytestmark = pytest.mark.e2e

IN_WORDS = (BackendError, CommandError, DocumentError, P2PError, OSError)
STEPS = 60
KEYS = [(each.code, tuple(sorted(each.modifiers))) for each in BINDINGS] + [(9, ("shift",))]
OUTSIDE = ("Start training", "Connect")
"""What starts processes or goes to the network, which other tests are about."""


class Monkey:
    def __init__(self, window: Any, driver: Any, seed: int) -> None:
        self.window, self.driver, self.random = window, driver, random.Random(seed)
        self.told: list[str] = []

    async def act(self) -> None:
        from engine_app.ui.panels.pick_file import FilePicker

        if any(isinstance(each, FilePicker) for each in self.window.host.walk()):
            await self._key(27, ())  # the machine's own files are none of its business
            return
        acts: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (30, self._press),
            (20, self._tap),
            (20, self._drag),
            (8, self._pinch),
            (4, self._wheel),
            (14, self._any_key),
            (4, self._write),
            (4, self._interrupted_drag),
            (3, self._double_tap),
            (4, self._hold),
            (2, self._go),
        ]
        await self.random.choices([each for _, each in acts], [weight for weight, _ in acts])[0]()

    # -- what it does --------------------------------------------------------------------------

    async def _press(self) -> None:
        """Anything on top that can be pressed."""
        from engine_app.ui.widgets.press import Pressable

        sheet = next((each for each in self.window.host.children if hasattr(each, "box")), None)
        around = sheet if sheet is not None else self.window.host
        found = [
            each
            for each in around.walk(restrict=True)
            if isinstance(each, Pressable) and not each.disabled and getattr(each, "text", "") not in OUTSIDE
        ]
        if found:
            widget = self.random.choice(found)
            self.told.append(f"press {type(widget).__name__} {getattr(widget, 'text', '')!r} {widget.tip!r}")
            await self.driver.tap(widget)

    async def _tap(self) -> None:
        place = self._place()
        button = self.random.choice(["", "", "left", "right", "middle"])
        self.told.append(f"tap {place} {button}")
        with self._holding():
            await self.driver.click_at(*place, button)

    async def _double_tap(self) -> None:
        place = self._place()
        self.told.append(f"double tap {place}")
        for _ in range(2):
            finger = self.driver.finger(*place)
            finger.down()
            finger.up()
        await self.driver.frames(1)

    async def _drag(self) -> None:
        start, end = self._place(), self._place()
        self.told.append(f"drag {start} {end}")
        with self._holding():
            await self.driver.drag(start, end, steps=3)

    async def _interrupted_drag(self) -> None:
        """A key while something is dragged."""
        start, end = self._place(), self._place()
        finger = self.driver.finger(*start)
        finger.down()
        finger.move(*end)
        await self.driver.frames(1)
        await self._any_key()
        finger.move(*self._place())
        await self.driver.frames(1)
        finger.up()
        await self.driver.frames(1)

    async def _pinch(self) -> None:
        fingers = [self.driver.finger(*self._place()) for _ in range(self.random.choice((2, 2, 2, 3)))]
        self.told.append("pinch")
        for finger in fingers:
            finger.down()
        for finger in fingers:
            finger.move(*self._place())
        await self.driver.frames(1)
        self.random.shuffle(fingers)
        for finger in fingers:
            finger.up()
        await self.driver.frames(1)

    async def _hold(self) -> None:
        """Until there is a menu, or for as long as a menu would take."""
        from kivy.clock import Clock

        place = self._place()
        self.told.append(f"hold {place}")
        finger = self.driver.finger(*place)
        until = Clock.get_time() + 0.6
        finger.down()
        await self.driver.until(lambda: Clock.get_time() > until)
        finger.move(*self._place())
        finger.up()
        await self.driver.frames(1)

    async def _wheel(self) -> None:
        await self.driver.click_at(*self._place(), self.random.choice(["scrolldown", "scrollup"]))

    async def _any_key(self) -> None:
        await self._key(*self.random.choice(KEYS))

    async def _key(self, code: int, modifiers: tuple[str, ...]) -> None:
        self.told.append(f"key {code} {modifiers}")
        self.driver.key(code, modifiers=modifiers)
        await self.driver.frames(1)

    async def _write(self) -> None:
        text = self.random.choice(["dense", "-1", "1e999", "nan", "x" * 300, "ü\u202e", "12"])
        self.told.append(f"write {text!r}")
        self.driver.write(text)
        await self.driver.frames(1)

    async def _go(self) -> None:
        from engine_app.ui.frame import PAGES

        page = self.random.choice(PAGES)[0]
        self.told.append(f"go {page}")
        self.window.show_page(page)
        await self.driver.frames(1)

    # -- where ---------------------------------------------------------------------------------

    def _place(self) -> tuple[float, float]:
        """On a node or a port of the canvas as often as anywhere."""
        from engine_app.ui.panels.build import BuildPage

        host, content = self.window.host, self.window.content
        if isinstance(content, BuildPage) and self.random.random() < 0.6:
            canvas = content.bench.canvas_widget
            scene = canvas.scene
            spots = [*map(tuple, scene.port_places), *map(tuple, scene.corners + scene.sizes / 2)]
            if spots:
                left, top = canvas.view.to_screen(*map(float, self.random.choice(spots)))
                if 0 < left < canvas.width and 0 < top < canvas.height:
                    return float(canvas.x + left), float(canvas.y + canvas.height - top)
        return self.random.uniform(1, host.width - 2), self.random.uniform(1, host.height - 2)

    def _holding(self) -> Any:
        modifiers = self.random.choice([(), (), (), ("shift",), ("ctrl",), ("alt",)])
        return self.driver.holding(*modifiers)


@pytest.mark.parametrize(("seed", "size"), [(1, (1100, 600)), (2, (600, 700))])
async def test_hands_that_know_nothing_meet_no_error(
    open_window: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, size: tuple[int, int]
) -> None:
    from kivy.core.window import Window

    from engine_app.ui.app import EngineApp
    from engine_app.ui.pictures import resize

    monkeypatch.chdir(tmp_path)
    faults: list[BaseException] = []
    show_error = EngineApp.show_error

    def keep(window: Any, error: BaseException) -> None:
        if not isinstance(error, IN_WORDS):
            faults.append(error)
        show_error(window, error)

    monkeypatch.setattr(EngineApp, "show_error", keep)
    async with open_window() as (window, driver):
        usual = Window.size
        try:
            await resize(*size)
            await driver.until(lambda: tuple(window.host.size) == size)
            window.open_example()
            monkey = Monkey(window, driver, seed)
            for _ in range(STEPS):
                await monkey.act()
                assert not faults, "\n".join(monkey.told[-12:])
        finally:
            await resize(*usual)
