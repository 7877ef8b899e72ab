"""Keeps what is not saved on disk after every change, so that a crash costs the last gesture at most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from engine_app.document.recovery import Recovered, RecoveryFile, recoverable
from engine_app.ui.desk import Desk

FOLDER = "recovery"


class Keeper:
    """Writes in a thread, one write at a time, always the newest."""

    def __init__(self, data_dir: Path, desk: Desk, path: Callable[[], Path | None]) -> None:
        """``path``: the file that the document belongs to, if it has one."""
        self._folder = data_dir / FOLDER
        self._desk = desk
        self._path = path
        self._file: RecoveryFile | None = None
        self._changed = trio.Event()
        self._stop = desk.listen(lambda: self._changed.set())

    async def run(self) -> None:
        """Until it is cancelled. Raises FileError where nothing can be kept."""
        kept = None
        try:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                found = (self._desk.graph, self._desk.is_changed, self._path())
                if kept is None or any(a is not b for a, b in zip(found, kept, strict=True)):
                    kept = found
                    await self._keep()
        finally:
            self._stop()

    async def _keep(self) -> None:
        file = RecoveryFile(self._folder, self._path())
        if self._file is not None and self._file.path != file.path:
            await trio.to_thread.run_sync(self._file.discard)
        self._file = file
        if self._desk.is_changed:
            await trio.to_thread.run_sync(file.keep, self._desk.graph)
        else:
            await trio.to_thread.run_sync(file.discard)

    def discard(self) -> None:
        """The user wants to lose it."""
        RecoveryFile(self._folder, self._path()).discard()

    async def lost(self) -> Recovered | None:
        """What the last window could not save; the newest, if there is any."""
        found = await trio.to_thread.run_sync(recoverable, self._folder)
        return found[0] if found else None
