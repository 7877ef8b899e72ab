"""A file on its way into a store: its checked manifest, its checked beginning, and its end.

Knows of no network. What it leaves behind when cut off, at any point, is what the next one for
the same manifest goes on from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from p2p.datadir import write_atomic
from p2p.disk import RunBlocking
from p2p.errors import LocalProtocolError, TransferError
from p2p.jobs import FileRef
from p2p.partial import PartialFile
from p2p.transfer import Manifest, ManifestAssembler

log = structlog.get_logger(__name__)

MANIFEST_SUFFIX = ".manifest"

TakeIn = Callable[[Path, Manifest], Awaitable[FileRef]]
"""Moves a durable file whose content has been checked to its place."""


class Incoming:
    """Made by ``FileStore.receiving``."""

    def __init__(
        self, ref: FileRef, whole: Path | None, directory: Path, take_in: TakeIn, run: RunBlocking
    ) -> None:
        self.whole = whole
        """Where the whole file is, when it is here already."""
        self._ref = ref
        self._take_in = take_in
        self._run = run
        self._manifest: Manifest | None = None
        self._file: PartialFile | None = None
        self._data_path = directory / ref.manifest
        self._manifest_path = directory / (ref.manifest + MANIFEST_SUFFIX)

    @property
    def manifest(self) -> Manifest | None:
        """None until ``begin``, now or before a restart."""
        return self._manifest

    @property
    def length(self) -> int:
        """Bytes that are safely here."""
        return self._file.length if self._file else 0

    async def resume(self) -> None:
        """Finds what an earlier attempt left, and checks it."""
        try:
            await self.begin(await self._run(self._manifest_path.read_bytes))
        except FileNotFoundError:
            return
        except TransferError as error:
            log.warning("partial file discarded", manifest=self._ref.manifest, reason=str(error))
            self._discard()

    async def begin(self, encoded: bytes) -> None:
        """Raises TransferError for a manifest that is not the one asked for."""
        assembler = ManifestAssembler(self._ref.manifest, self._ref.blake3, self._ref.size)
        assembler.add(len(encoded), encoded)
        manifest = assembler.finish()
        await self._run(write_atomic, self._manifest_path, encoded)
        self._file = await self._run(PartialFile, self._data_path, manifest)
        self._manifest = manifest

    async def append(self, pieces: Sequence[bytes]) -> int:
        """As PartialFile.append."""
        return await self._run(self._opened.append, pieces)

    async def finish(self) -> None:
        """Checks the whole and gives it its name.

        Raises TransferError if it is not what the manifest says; nothing of it is kept then.
        """
        file, manifest = self._opened, self._manifest
        assert manifest is not None
        try:
            await self._run(file.finish)
        except TransferError:
            self._discard()
            raise
        await self._take_in(self._data_path, manifest)
        self._manifest_path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def bytes_left(self) -> int | None:
        """Bytes on disk of a file that is not whole, or None."""
        return self._data_path.stat().st_size if self._data_path.exists() else None

    def _discard(self) -> None:
        self.close()
        self._manifest = None
        self._data_path.unlink(missing_ok=True)
        self._manifest_path.unlink(missing_ok=True)

    @property
    def _opened(self) -> PartialFile:
        if self._file is None:
            raise LocalProtocolError(f"file {self._ref.blake3} has no manifest yet")
        return self._file
