"""What is read for the window, and is not wanted any more in the moment in which it comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import trio

from engine_app.config import Config
from engine_app.ui.trainer import Trainer


class Tasks:
    """As the window's, which need Kivy."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start(self, work: Callable[[], Awaitable[None]]) -> trio.CancelScope:
        scope = trio.CancelScope()
        self._nursery.start_soon(self._run, work, scope)
        return scope

    async def _run(self, work: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        with scope:
            await work()


class AsItComes(trio.abc.Instrument):
    """Does something once the task has its answer, and has not run yet."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act, self.has_acted = act, False

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if task.coro.cr_code.co_name == "_run" and not self.has_acted:  # type: ignore[union-attr]
            self.has_acted = True
            self._act()


def stop(trainer: Trainer) -> None:
    trainer.stop_reading()


def choose_another(trainer: Trainer) -> None:
    trainer.propose("other.csv")


@pytest.mark.parametrize("act", [stop, choose_another])
@pytest.mark.parametrize("text", ["a,b\n1,2\n3,4\n5,6\n", ""])
async def test_data_that_comes_as_it_is_called_off_is_not_shown(
    act: Callable[[Trainer], None], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend import readers

    begun, go, open_source = Event(), Event(), readers.open_source

    def opened(path: Path, *words: object) -> object:
        begun.set()
        go.wait()
        return open_source(path, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(readers, "open_source", opened)
    (tmp_path / "data.csv").write_text(text)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            tasks: Any = Tasks(nursery)
            trainer = Trainer(Config(tmp_path, None, None, "info"), tasks)
            acting = AsItComes(lambda: act(trainer))
            trainer.choose(str(tmp_path / "data.csv"))
            await trio.to_thread.run_sync(begun.wait)
            trio.lowlevel.add_instrument(acting)
            go.set()
        trio.lowlevel.remove_instrument(acting)
    assert acting.has_acted and trainer.preview is None and not trainer.is_reading
    assert trainer.problem == "" or trainer.problem.startswith("Reading: called off")
