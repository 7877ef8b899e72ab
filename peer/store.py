"""What the peer must not forget: jobs with their vouchers, whose files they are, and small facts.

SQLite with WAL and full synchronisation; a call returns once its row is on disk. Off the event
loop, one call at a time. Decides nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import trio

from p2p.identifiers import JobId, PeerId
from p2p.jobs import FileRef
from peer.job import Job

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    lease_id TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    escrow TEXT,
    retired INTEGER NOT NULL,
    updated_at REAL NOT NULL,
    job BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS jobs_by_escrow ON jobs (escrow);
CREATE TABLE IF NOT EXISTS results (
    blake3 TEXT NOT NULL,
    job_id TEXT NOT NULL,
    engine_id TEXT NOT NULL,
    manifest TEXT NOT NULL,
    size INTEGER NOT NULL,
    made_at REAL NOT NULL,
    fetched_at REAL,
    PRIMARY KEY (blake3, job_id)
) STRICT;
CREATE TABLE IF NOT EXISTS direct_jobs (job_id TEXT PRIMARY KEY, engine_id TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS brought (
    blake3 TEXT NOT NULL, engine_id TEXT NOT NULL, PRIMARY KEY (blake3, engine_id)
) STRICT;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
PRAGMA user_version = 1;
"""
SCHEMA_VERSION = 1
"""1: jobs, results, facts."""
KEEP_RETIRED = 1000
KEEP_BROUGHT = 10_000


@dataclass(frozen=True, slots=True)
class Result:
    """A trained model that this peer keeps. ``fetched_at``: when its Engine proved that it has it."""

    file: FileRef
    job_id: JobId
    engine_id: PeerId
    made_at: float
    fetched_at: float | None


class Store:
    """Made by ``open_store``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._is_closed = False
        self._turn = trio.CapacityLimiter(1)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Job)

    async def save_job(self, job: Job, now: float) -> None:
        escrow = None if job.start is None else job.start.escrow
        row = (job.lease.lease_id, job.job_id, escrow, job.is_retired, now, self._encoder.encode(job))
        await self._write("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?)", row)

    async def open_jobs(self) -> list[Job]:
        """Those with something left to do, oldest first."""
        rows = await self._read("SELECT job FROM jobs WHERE retired = 0 ORDER BY updated_at", ())
        return [self._decoder.decode(row[0]) for row in rows]

    async def recent_jobs(self, limit: int) -> list[tuple[float, Job]]:
        rows = await self._read("SELECT updated_at, job FROM jobs ORDER BY updated_at DESC LIMIT ?", (limit,))
        return [(row[0], self._decoder.decode(row[1])) for row in rows]

    async def escrow_user(self, escrow: str, lease_id: str) -> str | None:
        """The job of another lease that counts on this escrow account, if there is one."""
        query = "SELECT job_id FROM jobs WHERE escrow = ? AND lease_id <> ? LIMIT 1"
        rows = await self._read(query, (escrow, lease_id))
        return str(rows[0][0]) if rows else None

    async def may_be_direct(self, job_id: str, engine_id: str) -> bool:
        """Whether the job is unknown here, or a direct one of this very Engine."""
        rows = await self._read("SELECT engine_id FROM direct_jobs WHERE job_id = ?", (job_id,))
        if rows:
            return bool(rows[0][0] == engine_id)
        known = "SELECT 1 FROM jobs WHERE job_id = ? UNION SELECT 1 FROM results WHERE job_id = ?"
        return not await self._read(known, (job_id, job_id))

    async def is_direct(self, job_id: str, engine_id: str) -> bool:
        """Whether this peer gave this Engine a lease of that job."""
        query = "SELECT 1 FROM direct_jobs WHERE job_id = ? AND engine_id = ?"
        return bool(await self._read(query, (job_id, engine_id)))

    async def remember_direct(self, job_id: str, engine_id: str) -> None:
        await self._write("INSERT OR IGNORE INTO direct_jobs VALUES (?, ?)", (job_id, engine_id))

    async def brought_by(self, engine_id: str) -> frozenset[str]:
        """BLAKE3 of the files that this Engine gave this peer once, and of those that were made for it."""
        rows = await self._read("SELECT blake3 FROM brought WHERE engine_id = ?", (engine_id,))
        return frozenset(row[0] for row in rows)

    async def note_brought(self, blake3: str, engine_id: str) -> None:
        """The oldest notes go beyond a bound: then the file is asked for again."""
        await self._write("INSERT OR IGNORE INTO brought VALUES (?, ?)", (blake3, engine_id))
        oldest = "SELECT rowid FROM brought ORDER BY rowid DESC LIMIT -1 OFFSET ?"
        await self._write(f"DELETE FROM brought WHERE rowid IN ({oldest})", (KEEP_BROUGHT,))

    async def next_fencing(self) -> int:
        """Higher than every one before, also after a restart."""
        number = int.from_bytes(await self.fact("fencing") or b"", "big") + 1
        await self.remember("fencing", number.to_bytes(8, "big"))
        return number

    async def forget_retired(self) -> None:
        """Keeps the newest KEEP_RETIRED jobs that are over, and whose they were while a model is left."""
        oldest = "SELECT lease_id FROM jobs WHERE retired = 1 ORDER BY updated_at DESC LIMIT -1 OFFSET ?"
        await self._write(f"DELETE FROM jobs WHERE lease_id IN ({oldest})", (KEEP_RETIRED,))
        known = "SELECT job_id FROM jobs UNION SELECT job_id FROM results"
        await self._write(f"DELETE FROM direct_jobs WHERE job_id NOT IN ({known})", ())

    async def save_result(self, job: Job, file: FileRef, now: float) -> None:
        row = (file.blake3, job.job_id, job.engine_id, file.manifest, file.size, now)
        await self._write("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?, ?, NULL)", row)

    async def mark_fetched(self, job_id: str, engine_id: str, now: float) -> None:
        query = "UPDATE results SET fetched_at = ? WHERE job_id = ? AND engine_id = ? AND fetched_at IS NULL"
        await self._write(query, (now, job_id, engine_id))

    async def results(self) -> list[Result]:
        rows = await self._read("SELECT * FROM results ORDER BY made_at", ())
        return [
            Result(FileRef(blake3, manifest, size), JobId(job_id), PeerId(engine_id), made_at, fetched_at)
            for blake3, job_id, engine_id, manifest, size, made_at, fetched_at in rows
        ]

    async def forget_result(self, blake3: str) -> None:
        await self._write("DELETE FROM results WHERE blake3 = ?", (blake3,))

    async def fact(self, name: str) -> bytes | None:
        rows = await self._read("SELECT value FROM facts WHERE name = ?", (name,))
        return bytes(rows[0][0]) if rows else None

    async def remember(self, name: str, value: bytes) -> None:
        await self._write("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    async def _read(self, query: str, values: tuple[object, ...]) -> list[Any]:
        return await self._off_thread(lambda: self._connection.execute(query, values).fetchall())

    async def _write(self, query: str, values: tuple[object, ...]) -> None:
        def write() -> None:
            with self._connection:
                self._connection.execute(query, values)

        await self._off_thread(write)

    async def aclose(self) -> None:
        """After what is under way; later calls raise trio.ClosedResourceError."""
        with trio.CancelScope(shield=True):
            await self._off_thread(self._connection.close)
        self._is_closed = True

    async def _off_thread(self, work: Callable[[], T]) -> T:
        if self._is_closed:
            raise trio.ClosedResourceError("the store is closed")
        return await trio.to_thread.run_sync(work, limiter=self._turn)


@asynccontextmanager
async def open_store(path: Path) -> AsyncIterator[Store]:
    """Opens or makes the database."""
    connection = await trio.to_thread.run_sync(_connect, path)
    store = Store(connection)
    try:
        yield store
    finally:
        await store.aclose()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        connection.close()
        raise sqlite3.DatabaseError(
            f"{path} has schema version {version}, this program knows up to {SCHEMA_VERSION}"
        )
    connection.executescript(_SCHEMA)
    return connection
