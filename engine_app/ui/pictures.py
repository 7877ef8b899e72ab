"""Pictures of the window, taken once what was asked for is drawn."""

from __future__ import annotations

from pathlib import Path

import trio
from kivy.clock import Clock
from kivy.core.window import Window

SETTLED_FRAMES = 4


async def frames(count: int) -> None:
    """Waits for so many more frames."""
    until = Clock.frames + count
    while Clock.frames < until:
        await trio.lowlevel.checkpoint()


async def resize(width: int, height: int) -> None:
    """In pixels; returns once the layout has followed."""
    Window.size = (width, height)
    await frames(SETTLED_FRAMES)


async def take_picture(path: Path) -> None:
    """As PNG. Raises OSError where it cannot be written."""
    await frames(SETTLED_FRAMES)
    flipped = trio.Event()
    flips = 0

    def on_flip(*_: object) -> None:
        nonlocal flips
        flips += 1
        if flips == 2:
            Window.unbind(on_flip=on_flip)
            flipped.set()
        else:
            Window.canvas.ask_update()

    Window.bind(on_flip=on_flip)
    Window.canvas.ask_update()
    await flipped.wait()
    written = trio.Path(Window.screenshot(name=str(path)))  # beside it, with a number
    await written.replace(path)
