"""A file on its way into a store: its checked manifest, its checked chunks, and its end.

Knows of no network. What it leaves behind when cut off, at any point, is what the next one for
the same manifest goes on from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import structlog

from p2p.datadir import write_atomic
from p2p.disk import RunBlocking, allocated_bytes
from p2p.errors import LocalProtocolError, TransferError
from p2p.jobs import FileRef
from p2p.partial import Arrival, BadChunk, PartialFile
from p2p.transfer import Manifest, ManifestAssembler

log = structlog.get_logger(__name__)

MANIFEST_SUFFIX = ".manifest"
_BATCH_BYTES = 64 << 20

TakeIn = Callable[[Path, Manifest], Awaitable[FileRef]]
"""Moves a durable file whose content has been checked to its place."""
Copies = dict[int, tuple[Path, int]]
"""Files, and offsets in them, that should hold chunks."""
FindCopies = Callable[[Manifest, Sequence[int]], Copies]
"""Where files that are here should hold these chunks. Blocking."""


class Incoming:
    """Made by ``FileStore.receiving``."""

    def __init__(
        self,
        ref: FileRef,
        whole: Path | None,
        data_path: Path,
        take_in: TakeIn,
        find_copies: FindCopies,
        run: RunBlocking,
    ) -> None:
        self.whole = whole
        """Where the whole file is, when it is here already."""
        self._ref = ref
        self._take_in = take_in
        self._find_copies = find_copies
        self._run = run
        self._manifest: Manifest | None = None
        self._file: PartialFile | None = None
        self._data_path = data_path
        self._manifest_path = data_path.with_name(data_path.name + MANIFEST_SUFFIX)

    @property
    def manifest(self) -> Manifest | None:
        """None until ``begin``, now or before a restart."""
        return self._manifest

    @property
    def stored(self) -> int:
        """Bytes that are safely here."""
        return self._file.stored if self._file else 0

    def missing(self) -> list[int]:
        """As PartialFile.missing."""
        return self._opened.missing()

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
        """Takes what files that are here have in common with this one.

        Raises TransferError for a manifest that is not the one asked for.
        """
        assembler = ManifestAssembler(self._ref.manifest, self._ref.blake3, self._ref.size)
        assembler.add(len(encoded), encoded)
        manifest = assembler.finish()
        await self._run(write_atomic, self._manifest_path, encoded)
        self._file = await self._run(PartialFile, self._data_path, manifest)
        copies = await self._run(self._find_copies, manifest, self._file.missing())
        for some in _batches(copies, manifest):  # so that a cancellation need not wait for all of them
            await self._run(self._file.copy, some)
        self._manifest = manifest

    async def write(self, arrivals: Sequence[Arrival]) -> list[list[BadChunk]]:
        """As PartialFile.write."""
        return await self._run(self._opened.write, arrivals)

    async def flush(self) -> None:
        """As PartialFile.flush; may go on beside ``write``."""
        await self._run(self._opened.flush)

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
        return allocated_bytes(self._data_path) if self._data_path.exists() else None

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


def _batches(
    copies: dict[int, tuple[Path, int]], manifest: Manifest
) -> Iterator[dict[int, tuple[Path, int]]]:
    batch: dict[int, tuple[Path, int]] = {}
    size = 0
    for index, place in copies.items():
        batch[index] = place
        size += manifest.sizes[index]
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch
