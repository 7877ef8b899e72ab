"""Makes the README's pictures of the window: builds, trains for real, and takes them as it goes.

usage: screenshots.py [DIR]     default: scripts/examples
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio

os.environ["SDL_VIDEODRIVER"] = "offscreen"
HERE = Path(__file__).parent
DESKTOP, LAPTOP = (1920, 1080), (1280, 800)
DEADLINE_S = 300
EPOCHS = 40
FLAT = 128
"""Colours of a picture that are kept to the bit: grounds, lines, words."""
POINTS_SEEN = 12
"""Of a node's activations, before the graph is taken while it trains."""


async def take_all(window: Any, directory: Path) -> None:
    from engine_app.ui.pictures import frames, resize

    await resize(*DESKTOP)
    window.open_example()
    while window.trainer.is_reading:
        await frames(1)
    window.desk.set_training(epochs=EPOCHS)
    window.desk.select("optimizer")
    window.trainer.start(window.desk.graph)
    while not _is_alive(window.trainer):
        await frames(1)
    await _take(directory / "window_build.png")
    await resize(*LAPTOP)
    window.show_page("train")
    while not window.trainer.history:
        await frames(1)
    if window.trainer.run.outcome != "done":
        raise RuntimeError(window.trainer.run.text)
    _button(window.content, "Log").press()
    await _take(directory / "window_train.png")
    await _try_it(window)
    await _take(directory / "window_try.png")


def _button(page: Any, text: str) -> Any:
    from engine_app.ui.widgets.buttons import PushButton

    return next(each for each in page.walk() if isinstance(each, PushButton) and each.text == text)


def _is_alive(trainer: Any) -> bool:
    traces = trainer.activity.traces if trainer.activity is not None else {}
    if trainer.run.outcome == "failed":
        raise RuntimeError(trainer.run.text)
    return bool(trainer.history) or any(len(trace.spread) >= POINTS_SEEN for trace in traces.values())


async def _try_it(window: Any) -> None:
    """Deploys what was trained, and draws a digit for it."""
    from engine_app.ui.pictures import frames
    from engine_app.ui.self_check_models import THREE
    from engine_app.ui.servers import ServeWish, free_port

    model = Path(window.trainer.run.output)
    window.servers.start(ServeWish(model, "127.0.0.1", free_port("127.0.0.1"), 0, 0, 1, "cpu"))
    window.show_page("deploy")
    page = window.content
    while page.try_it is None or page.try_it.pad is None:
        await frames(1)
    page.try_it.pad.draw(THREE)
    while not page.try_it.tryout.answers:
        await frames(1)
    while not window.servers.all[0].reading.requests:
        await frames(1)


async def _take(path: Path) -> None:
    from PIL import Image

    from engine_app.ui.pictures import take_picture

    await take_picture(path)
    _fewer_colours(Image.open(path).convert("RGB")).save(path, optimize=True)


def _fewer_colours(seen: Any) -> Any:
    """256: those that are there most often, to the bit, and others that are near all the rest."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(seen).reshape(-1, 3)
    colours, places, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    spread = seen.quantize(256 - FLAT, Image.Quantize.MAXCOVERAGE).getpalette()
    kept = np.concatenate([colours[np.argsort(-counts)[:FLAT]], np.reshape(spread, (-1, 3))])
    apart = np.abs(colours[:, None].astype(np.int16) - kept[None].astype(np.int16)).max(-1)
    found = Image.fromarray(apart.argmin(1).astype(np.uint8)[places].reshape(seen.size[::-1]), "P")
    found.putpalette(kept.astype(np.uint8).tobytes())
    return found


def main() -> None:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "examples")
    directory.mkdir(parents=True, exist_ok=True)
    from engine_app.config import Config
    from engine_app.ui.kivy_setup import WindowOptions, prepare_kivy
    from p2p.logs import configure_logging

    configure_logging("error")
    with tempfile.TemporaryDirectory() as place:
        prepare_kivy(WindowOptions(home=Path(place) / "kivy", width=DESKTOP[0], height=DESKTOP[1]))
        from engine_app.ui.app import EngineApp, Opening
        from engine_app.ui.loop import Tasks, run_app

        window = EngineApp(Opening(Config(Path(place) / "engine", None, None, "error"), greets=False))
        errors: list[BaseException] = []

        async def work() -> None:
            try:
                with trio.fail_after(DEADLINE_S):
                    await take_all(window, directory)
            finally:
                window.stop()

        def begin(tasks: Tasks) -> None:
            window.begin(tasks)
            tasks.start(work)

        async def run() -> None:
            await run_app(window, begin, errors.append)

        trio.run(run)
        if errors:
            raise errors[0]


if __name__ == "__main__":
    main()
