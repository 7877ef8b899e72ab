"""Models of other programs on their way into the window: in a worker, with progress, taken back at will."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from backend.errors import BackendError
from backend.formats.sniff import ModelFormat, sniff
from engine_app.config import Config
from engine_app.entry import CommandError
from engine_app.importing import Import, import_model
from engine_app.serving import model_name
from engine_app.ui.observed import OneAtATime

if TYPE_CHECKING:
    from engine_app.ui.loop import Tasks

SERVED = (ModelFormat.ONNX, ModelFormat.GGUF)


class Importer(OneAtATime):
    """At most one import at a time. Listeners are told of every change, and ask for what they need."""

    def __init__(self, config: Config, tasks: Tasks) -> None:
        super().__init__(tasks)
        self._config = config
        self.source: Path | None = None
        self.can_serve = False
        """What could not be opened is a model all the same."""

    def start(self, source: Path, done: Callable[[Path, Import], None]) -> None:
        """``done`` gets the .cyxmodel that came of it. Nothing while one runs."""
        if not self.is_busy:
            self.source, self.can_serve = source, False
            self._begin(partial(self._import, source, done))

    async def _import(self, source: Path, done: Callable[[Path, Import], None]) -> None:
        found: tuple[Path, Import] | None = None
        try:
            target = await trio.to_thread.run_sync(self._target, source)
            found = target, await import_model(self._config, source, target, None, self._on_stage)
        except (BackendError, CommandError, OSError) as error:
            self.problem = str(error)
            self.can_serve = await trio.to_thread.run_sync(sniff, source) in SERVED
        finally:
            self._end()
        if found is not None:
            done(*found)

    def _target(self, source: Path) -> Path:
        """A name that nothing has yet. Raises OSError."""
        folder = self._config.data_dir / "models"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = model_name(source.stem)
        names = (name, *(f"{name}-{number}" for number in range(2, 10_000)))
        return next(path for each in names if not (path := folder / f"{each}.cyxmodel").exists())
