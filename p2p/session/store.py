"""Where an Engine keeps its jobs: SQLite, on disk before anything is done about a change.

One connection, used by one thread at a time; each write is one transaction. Decides nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from p2p.disk import RunBlocking, run_in_thread
from p2p.session.errors import SessionError
from p2p.session.job import DECODER, ENCODER, Job
from p2p.session.news import News

T = TypeVar("T")

_MIGRATIONS = (
    """
    CREATE TABLE jobs (job_id TEXT PRIMARY KEY, created_at REAL NOT NULL, record BLOB NOT NULL,
                       graph BLOB NOT NULL) STRICT;
    CREATE TABLE story (job_id TEXT NOT NULL, number INTEGER NOT NULL, news BLOB NOT NULL,
                        PRIMARY KEY (job_id, number)) STRICT, WITHOUT ROWID;
    """,
)
_NEWS_ENCODER = msgspec.msgpack.Encoder()
_NEWS_DECODER = msgspec.msgpack.Decoder(News)


class JobStore:
    """Open it with ``open_store``."""

    def __init__(self, connection: sqlite3.Connection, run_blocking: RunBlocking) -> None:
        self._connection = connection
        self._run_blocking = run_blocking
        self._turn = trio.Lock()

    async def create(self, job: Job, graph: bytes) -> None:
        row = (job.job_id, job.created_at, ENCODER.encode(job), graph)
        await self._write([("INSERT INTO jobs VALUES (?, ?, ?, ?)", row)])

    async def save(self, job: Job, news: Sequence[News] = ()) -> None:
        """The new record, and what is told about the change, in one transaction."""
        record = ("UPDATE jobs SET record = ? WHERE job_id = ?", (ENCODER.encode(job), job.job_id))
        lines = [
            ("INSERT INTO story VALUES (?, ?, ?)", (job.job_id, item.number, _NEWS_ENCODER.encode(item)))
            for item in news
        ]
        await self._write([record, *lines])

    async def remove(self, job_id: str) -> None:
        await self._write(
            [
                ("DELETE FROM jobs WHERE job_id = ?", (job_id,)),
                ("DELETE FROM story WHERE job_id = ?", (job_id,)),
            ]
        )

    async def jobs(self) -> list[Job]:
        """Newest first."""
        rows = await self._read("SELECT record FROM jobs ORDER BY created_at DESC, job_id")
        return [_decoded(DECODER, record) for (record,) in rows]

    async def graph(self, job_id: str) -> bytes:
        rows = await self._read("SELECT graph FROM jobs WHERE job_id = ?", job_id)
        return bytes(rows[0][0])

    async def story(self, job_id: str, after: int = 0) -> list[News]:
        query = "SELECT news FROM story WHERE job_id = ? AND number > ? ORDER BY number"
        return [_decoded(_NEWS_DECODER, news) for (news,) in await self._read(query, job_id, after)]

    async def story_length(self, job_id: str) -> int:
        rows = await self._read("SELECT COALESCE(MAX(number), 0) FROM story WHERE job_id = ?", job_id)
        return int(rows[0][0])

    async def _write(self, statements: Sequence[tuple[str, tuple[object, ...]]]) -> None:
        def write() -> None:
            with self._connection:  # commits, or rolls back
                for statement, values in statements:
                    self._connection.execute(statement, values)

        # A write is never left half waited for: the caller knows whether it happened.
        with trio.CancelScope(shield=True):
            await self._run(write)

    async def _read(self, query: str, *values: object) -> list[tuple[bytes]]:
        return await self._run(lambda: self._connection.execute(query, values).fetchall())

    async def _run(self, work: Callable[[], T]) -> T:
        async with self._turn:
            return await self._run_blocking(work)


@contextmanager
def open_store(path: Path, run_blocking: RunBlocking = run_in_thread) -> Iterator[JobStore]:
    """Raises SessionError for a file of a newer version. The data directory's lock must be held."""
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level="IMMEDIATE")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _migrate(connection, path)
        yield JobStore(connection, run_blocking)
    finally:
        connection.close()


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(_MIGRATIONS):
        raise SessionError(f"{path} has version {version}, this program reads up to {len(_MIGRATIONS)}")
    for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")


def _decoded(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise SessionError(f"a stored record of {len(data)} bytes cannot be read: {error}") from error
