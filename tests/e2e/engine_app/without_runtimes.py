"""Run as a program: the window where no runtime is installed, from its start to a job that is submitted.

Arguments: a folder, and a coordinator's address. The last line of the output says what came of it, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import trio

RUNTIMES = ("torch", "onnxruntime", "llama_cpp")
TOKEN = 10**9
PATIENCE_S = 120


class Without(PathFinder):
    """Finds what is installed, but for runtimes."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_runtime = name.partition(".")[0] in RUNTIMES
        return None if is_runtime else super().find_spec(name, path, target)


async def use(window: Any, frames: Callable[[int], Any]) -> dict[str, Any]:
    from engine_app.ui.examples import DIGITS_DATA
    from engine_app.ui.network import JobWish
    from engine_app.ui.panels.train import why_not

    async def until(holds: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE_S):
            while not holds():
                await frames(1)

    window.open_example()
    window.desk.select("relu1")
    window.content.show_palette()
    await frames(3)
    window.host.close()
    window.content.bench.add("Dropout")
    told: dict[str, Any] = {"errors": window.desk.analysis.errors, "nodes": len(window.desk.graph.nodes)}
    window.desk.undo()
    told["undone"] = told["nodes"] - len(window.desk.graph.nodes)
    engine, purse = window.network, window.purse
    purse.create("")
    await until(lambda: not purse.busy and engine.state == "online")
    purse.airdrop(100 * TOKEN)
    await until(lambda: not purse.busy)
    told["units"] = purse.units
    for page in ("train", "deploy", "wallet", "settings", "jobs"):
        window.show_page(page)
        await frames(2)
        if page == "train":
            told["training"] = why_not(window.context, window.trainer)
    engine.submit(window.desk.graph, DIGITS_DATA, JobWish(5 * TOKEN))
    await until(lambda: not engine.busy)
    told["problems"] = [purse.problem, engine.problem]
    await until(lambda: bool(engine.jobs))
    told["state"] = engine.jobs[0]["state"]
    engine.order("cancel", engine.jobs[0]["job_id"])
    await until(lambda: engine.jobs[0]["state"] == "cancelled")
    return told


async def run(folder: Path, coordinator: str) -> dict[str, Any]:
    from kivy.clock import Clock

    from engine_app.config import Config
    from engine_app.ui.app import EngineApp, Opening
    from engine_app.ui.loop import run_app

    window = EngineApp(Opening(Config(folder / "window", coordinator, None, "error"), None, False))

    async def frames(count: int) -> None:
        until = Clock.frames + count
        while Clock.frames < until:
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_app, window, window.begin, window.show_error)
        await frames(4)
        told = await use(window, frames)
        told["message"] = window.host.message
        nursery.cancel_scope.cancel()
    return told


def main() -> None:
    sys.meta_path[sys.meta_path.index(PathFinder)] = Without
    started: list[str] = []

    def audit(event: str, words: Any) -> None:
        if event == "subprocess.Popen":
            started.append(str(words[1]))

    sys.addaudithook(audit)
    from engine_app.ui.kivy_setup import WindowOptions, prepare_kivy

    folder = Path(sys.argv[1])
    prepare_kivy(WindowOptions(home=folder / "kivy"))
    told = trio.run(run, folder, sys.argv[2])
    told["started"] = started
    told["loaded"] = sorted(set(RUNTIMES) & sys.modules.keys())
    print(json.dumps(told))


if __name__ == "__main__":
    main()
