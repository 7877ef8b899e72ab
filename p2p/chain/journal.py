"""An append-only file of records that are on disk before ``append`` returns. Knows nothing of payments.

Each record is its length, a CRC-32 and the bytes. A record that a crash cut off at the end is dropped at
the next start: nobody was told that it was written. Records of concurrent callers share one fsync.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import trio

from p2p.chain.errors import JournalError

_HEADER = struct.Struct("<II")
MAX_RECORD_BYTES = 64 * 1024
MAX_JOURNAL_BYTES = 1 << 30

Compact = Callable[[list[bytes]], Iterable[bytes]]


class Journal:
    """Use ``open_journal``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
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


@contextlib.asynccontextmanager
async def open_journal(path: Path, compact: Compact) -> AsyncIterator[tuple[Journal, list[bytes]]]:
    """The journal and its records. ``compact`` chooses what of them is kept from now on.

    Raises JournalError if the file cannot be used or another program uses it.
    """
    lock = _lock(path)
    try:
        kept, file = await trio.to_thread.run_sync(_open, path, compact)
        with file:
            yield Journal(file), kept
    finally:
        os.close(lock)


def _open(path: Path, compact: Compact) -> tuple[list[bytes], BinaryIO]:
    try:
        kept = list(compact(_load(path)))
        _replace(path, kept)
        return kept, path.open("ab")
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from error


def frame(record: bytes) -> bytes:
    return _HEADER.pack(len(record), zlib.crc32(record)) + record


def parse(data: bytes) -> list[bytes]:
    """Every whole record up to the first that is cut off or damaged."""
    records, at = [], 0
    while at + _HEADER.size <= len(data):
        size, checksum = _HEADER.unpack_from(data, at)
        record = data[at + _HEADER.size : at + _HEADER.size + size]
        if size > MAX_RECORD_BYTES or len(record) < size or zlib.crc32(record) != checksum:
            break
        records.append(record)
        at += _HEADER.size + size
    return records


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
    return parse(path.read_bytes())


def _replace(path: Path, records: list[bytes]) -> None:
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(frame(record) for record in records)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
