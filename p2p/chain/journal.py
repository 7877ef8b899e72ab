"""An append-only file of records that are on disk before ``append`` returns. Knows nothing of payments.

Each record is its length, a CRC-32 and the bytes. A record that a crash cut off at the end is dropped at
the next start: nobody was told that it was written. What is dropped is kept beside the file, in case a
disk's fault and no crash was the cause. Records of concurrent callers share one fsync. A file that has
grown is compacted while it is in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import structlog
import trio

from p2p.chain.errors import JournalError
from p2p.datadir import write_atomic

log = structlog.get_logger(__name__)

_HEADER = struct.Struct("<II")
MAX_RECORD_BYTES = 64 * 1024
MAX_JOURNAL_BYTES = 1 << 30
COMPACT_AT_BYTES = 64 << 20
"""And at twice what was left the last time: a program may run for years."""

Compact = Callable[[list[bytes]], Iterable[bytes]]


class Journal:
    """Use ``open_journal``."""

    def __init__(self, path: Path, compact: Compact, compact_at_bytes: int = COMPACT_AT_BYTES) -> None:
        self._path = path
        self._compact = compact
        self._least_bytes = self._compact_at = compact_at_bytes
        self._file = path.open("ab")
        self._pending: list[bytes] = []
        self._appended = 0
        self._durable = 0
        self._turn = trio.Lock()
        self._broken: OSError | None = None

    async def append(self, record: bytes) -> None:
        """Returns once the record is on disk. Raises JournalError; then nothing may be assumed."""
        if len(record) > MAX_RECORD_BYTES:
            raise JournalError(f"record of {len(record)} bytes, limit {MAX_RECORD_BYTES}")
        self._pending.append(frame(record))
        self._appended += 1
        mine = self._appended
        with trio.CancelScope(shield=True):
            async with self._turn:
                if self._durable < mine:
                    await self._write()

    async def _write(self) -> None:
        if self._broken is not None:
            raise JournalError(f"an earlier write failed: {self._broken.strerror}")
        batch, upto = b"".join(self._pending), self._appended
        self._pending.clear()
        try:
            await trio.to_thread.run_sync(self._store, batch)
        except OSError as error:
            self._broken = error
            raise JournalError(f"cannot write the journal: {error.strerror}") from error
        self._durable = upto

    def _store(self, batch: bytes) -> None:
        self._file.write(batch)
        self._file.flush()
        os.fdatasync(self._file.fileno())
        if self._file.tell() >= self._compact_at:
            self._shrink()

    def _shrink(self) -> None:
        """From what is on disk: memory may be behind it."""
        self._file.close()
        write_atomic(self._path, b"".join(map(frame, self._compact(_load(self._path)))))
        self._file = self._path.open("ab")
        self._compact_at = max(self._least_bytes, 2 * self._file.tell())

    def close(self) -> None:
        self._file.close()


@contextlib.asynccontextmanager
async def open_journal(path: Path, compact: Compact) -> AsyncIterator[tuple[Journal, list[bytes]]]:
    """The journal and its records. ``compact`` chooses what of them is kept from now on.

    Raises JournalError if the file cannot be used or another program uses it.
    """
    lock = _lock(path)
    try:
        kept, journal = await trio.to_thread.run_sync(_open, path, compact)
        with contextlib.closing(journal):
            yield journal, kept
    finally:
        os.close(lock)


def _open(path: Path, compact: Compact) -> tuple[list[bytes], Journal]:
    try:
        kept = list(compact(_load(path)))
        write_atomic(path, b"".join(map(frame, kept)))
        return kept, Journal(path, compact)
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from error


def frame(record: bytes) -> bytes:
    return _HEADER.pack(len(record), zlib.crc32(record)) + record


def parse(data: bytes) -> tuple[list[bytes], int]:
    """Every whole record up to the first that is cut off or damaged, and where that begins."""
    records, at = [], 0
    while at + _HEADER.size <= len(data):
        size, checksum = _HEADER.unpack_from(data, at)
        record = data[at + _HEADER.size : at + _HEADER.size + size]
        if size > MAX_RECORD_BYTES or len(record) < size or zlib.crc32(record) != checksum:
            break
        records.append(record)
        at += _HEADER.size + size
    return records, at


def _lock(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise JournalError(f"{path} is in use by another program") from error
    return descriptor


def _load(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    size = path.stat().st_size
    if size > MAX_JOURNAL_BYTES:
        raise JournalError(f"{path} has {size} bytes, limit {MAX_JOURNAL_BYTES}")
    data = path.read_bytes()
    records, end = parse(data)
    if end < len(data):
        path.with_name(path.name + ".damaged").write_bytes(data[end:])
        log.warning("end of a journal dropped", path=str(path), at=end, dropped_bytes=len(data) - end)
    return records
