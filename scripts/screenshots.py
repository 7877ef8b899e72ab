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
LAPTOP, TABLET = (1280, 800), (800, 1280)
DEADLINE_S = 300


async def take_all(window: Any, directory: Path) -> None:
    from engine_app.ui.pictures import frames, resize, take_picture

    await resize(*LAPTOP)
    window.open_example()
    window.desk.select("conv1")
    while window.trainer.is_reading:
        await frames(1)
    await take_picture(directory / "window_build.png")
    window.show_page("train")
    window.trainer.start(window.desk.graph)
    while not window.trainer.history:
        await frames(1)
    if window.trainer.run.outcome != "done":
        raise RuntimeError(window.trainer.run.text)
    await take_picture(directory / "window_train.png")
    window.show_page("build")
    await resize(*TABLET)
    window.content.tap("dropout")
    await trio.sleep(0.5)  # the sheet fades in
    await take_picture(directory / "window_tablet.png")


def main() -> None:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "examples")
    directory.mkdir(parents=True, exist_ok=True)
    from engine_app.config import Config
    from engine_app.ui.kivy_setup import WindowOptions, prepare_kivy
    from p2p.logs import configure_logging

    configure_logging("error")
    with tempfile.TemporaryDirectory() as place:
        prepare_kivy(WindowOptions(home=Path(place) / "kivy", width=LAPTOP[0], height=TABLET[1]))
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
