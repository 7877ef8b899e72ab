"""Keeps what is not saved on disk after every change, so that a crash costs the last gesture at most."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from backend.graph import Graph
from engine_app.document.errors import FileError
from engine_app.document.recovery import Recovered, RecoveryFile, recoverable
from engine_app.ui.desk import Desk

FOLDER = "recovery"


class Keeper:
    """Writes in a thread, one write at a time, always the newest.

    What an earlier window left is never written over: not before it is recovered or thrown away.
    """

    def __init__(
        self,
        data_dir: Path,
        desk: Desk,
        path: Callable[[], Path | None],
        tell: Callable[[FileError], None],
    ) -> None:
        """``path``: the file that the document belongs to, if it has one. ``tell``: that nothing is kept."""
        self._folder = data_dir / FOLDER
        self._desk = desk
        self._path = path
        self._tell = tell
        self._key = f"untitled {secrets.token_hex(8)}"
        self._file: RecoveryFile | None = None
        self._recovered: Recovered | None = None
        self._changed = trio.Event()
        self._stop = desk.listen(lambda: self._changed.set())

    async def run(self) -> None:
        """Until it is cancelled."""
        kept: tuple[Graph, bool, Path | None] | None = None
        fails = False
        try:
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                found = (self._desk.graph, self._desk.is_changed, self._path())
                if kept is not None and all(a is b for a, b in zip(found, kept, strict=True)):
                    continue
                kept = found
                recovered, self._recovered = self._recovered, None
                work = partial(self._keep, self._file_of(found[2]), *found[:2], recovered)
                try:
                    await trio.to_thread.run_sync(work)
                    fails = False
                except FileError as error:
                    if not fails:  # once is enough: it is tried again after every change
                        self._tell(error)
                    fails = True
        finally:
            self._stop()

    def _file_of(self, document: Path | None) -> RecoveryFile:
        return RecoveryFile(self._folder, document, self._key)

    def _keep(self, file: RecoveryFile, graph: Graph, is_changed: bool, recovered: Recovered | None) -> None:
        """In a thread. What it takes the place of goes last. Raises FileError."""
        if is_changed:
            file.keep(graph)
        else:
            file.discard()
        before, self._file = self._file, file
        if before is not None and before.path != file.path:
            before.discard()
        if recovered is not None and recovered.file != file.path:
            recovered.discard()

    def discard(self) -> None:
        """The user wants to lose it. Raises FileError."""
        self._file_of(self._path()).discard()

    def take_over(self, recovered: Recovered) -> None:
        """It comes onto the desk: its file goes once that has one of its own."""
        self._recovered = recovered

    async def lost(self) -> Recovered | None:
        """What an earlier window could not save; the newest, if there is any."""
        found = await trio.to_thread.run_sync(recoverable, self._folder)
        return found[0] if found else None

    async def lost_of(self, document: Path) -> Recovered | None:
        """The same of one file; what this window keeps of it is not lost."""
        file = self._file_of(document)
        if self._file is not None and self._file.path == file.path:
            return None
        return await trio.to_thread.run_sync(file.read)
