"""The coordinator's SQLite file: event log, snapshots, updates, outbox, orders, standings. Synchronous.

WAL with synchronous FULL: what a transaction wrote survives the machine's loss of power. Knows how
things are stored, not what they mean; ``coordinator.store`` runs it off the event loop.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlite_utils

from coordinator.errors import StoreError
from coordinator.job import Job, JobEvent
from coordinator.migrations import migrate
from coordinator.payments import PaymentEffect
from coordinator.reputation import Standing
from coordinator.state import replay
from coordinator.tokens import IssuedToken
from p2p.identifiers import JobId, PeerId
from p2p.protocols.coordinator import JobUpdate, OfferJob, Order, RevokeLease

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode
_events: msgspec.msgpack.Decoder[JobEvent] = msgspec.msgpack.Decoder(JobEvent)
_jobs = msgspec.msgpack.Decoder(Job)
_updates = msgspec.msgpack.Decoder(JobUpdate)
_effects: msgspec.msgpack.Decoder[PaymentEffect] = msgspec.msgpack.Decoder(PaymentEffect)
_orders: msgspec.msgpack.Decoder[OfferJob | RevokeLease] = msgspec.msgpack.Decoder(OfferJob | RevokeLease)
_standings = msgspec.msgpack.Decoder(Standing)
_tokens = msgspec.msgpack.Decoder(IssuedToken)

KEEP_ORDERS_S = 3600.0
KEEP_UNPAID_S = 24 * 3600.0
MAX_FORGOTTEN = 1_000
"""Jobs at once: the writer has other things to do."""


@dataclass(frozen=True, slots=True)
class Write:
    """One event and everything that follows from it: written together or not at all."""

    at: float
    job: Job | None = None
    event: JobEvent | None = None
    updates: tuple[JobUpdate, ...] = ()
    effects: tuple[PaymentEffect, ...] = ()
    effect_done: str | None = None
    orders: tuple[tuple[PeerId, OfferJob | RevokeLease], ...] = ()
    orders_seen: tuple[PeerId, int] | None = None
    standings: tuple[Standing, ...] = ()
    tokens: tuple[IssuedToken, ...] = ()
    """Issued or revoked."""
    forget_orders: bool = False
    """Those that nobody fetched for an hour."""
    forget_jobs: bool = False
    """Those that are over since a day and never had an escrow: anybody can make any number of them."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a coordinator finds when it starts."""

    jobs: tuple[Job, ...]
    latest: dict[JobId, int]
    effects: tuple[tuple[JobId, PaymentEffect], ...]
    standings: tuple[Standing, ...]
    tokens: tuple[IssuedToken, ...] = ()
    """Also such as have expired since."""


class Database:
    """One writing connection, used by one thread at a time, and one for reading."""

    def __init__(self, path: Path) -> None:
        try:
            self._writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._writer.execute("pragma journal_mode = wal")
            self._writer.execute("pragma synchronous = full")
            self._writer.execute("pragma busy_timeout = 10000")
            path.chmod(0o600)
            migrate(sqlite_utils.Database(self._writer))
            self._reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._reader.execute("pragma query_only = on")
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}") from error
        self.writes = sqlite_utils.Database(self._writer)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    # -- writing -------------------------------------------------------------------------------

    def write(self, batch: Sequence[Write]) -> None:
        """All of the batch in one transaction. Raises StoreError; then none of it is there."""
        try:
            self.writes.execute("begin immediate")
            try:
                for write in batch:
                    self._write(write)
            except BaseException:
                self.writes.execute("rollback")
                raise
            self.writes.execute("commit")
        except sqlite3.Error as error:
            raise StoreError(f"cannot write: {error}") from error

    def _write(self, write: Write) -> None:
        job = write.job
        if job is not None:
            self._write_job(job, write)
            self._many(
                "insert into updates values (?, ?, ?)",
                ((job.job_id, update.sequence, _encode(update)) for update in write.updates),
            )
            self._many(
                "insert into effects values (?, ?, ?, null, ?)",
                ((effect.key, job.job_id, write.at, _encode(effect)) for effect in write.effects),
            )
        if write.effect_done is not None:
            self.writes.execute("update effects set done_at = ? where key = ?", (write.at, write.effect_done))
        self._many(
            "insert into orders (peer_id, at, body) values (?, ?, ?)",
            ((peer_id, write.at, _encode(order)) for peer_id, order in write.orders),
        )
        if write.orders_seen is not None:
            self.writes.execute("delete from orders where peer_id = ? and sequence <= ?", write.orders_seen)
        if write.forget_orders:
            self.writes.execute("delete from orders where at < ?", (write.at - KEEP_ORDERS_S,))
        if write.forget_jobs:
            self._forget_unpaid(write.at)
        self._many(
            "insert or replace into tokens values (?, ?, ?)",
            ((token.jti, token.expires_at, _encode(token)) for token in write.tokens),
        )
        if write.tokens:
            # Whole seconds, as tokens expire: SQLite compares a whole number with a fraction in the x87
            # registers, which code that runs in the same thread may leave unusable (a chain's programs do),
            # and then takes the two for equal.
            self.writes.execute("delete from tokens where expires_at <= ?", (math.floor(write.at),))
        self._many(
            "insert or replace into standings values (?, ?)",
            ((standing.peer_id, _encode(standing)) for standing in write.standings),
        )

    def _write_job(self, job: Job, write: Write) -> None:
        if write.event is None:
            return
        kind = type(write.event).__name__
        row = (job.job_id, write.at, kind, _encode(write.event))
        cursor = self.writes.execute("insert into events (job_id, at, kind, body) values (?, ?, ?, ?)", row)
        self.writes.execute(
            "insert or replace into jobs values (?, ?, ?, ?, ?, ?, ?)",
            (
                job.job_id,
                job.engine_id,
                job.state.value,
                job.submitted_at,
                job.is_closed,
                cursor.lastrowid,
                _encode(job),
            ),
        )

    def _forget_unpaid(self, now: float) -> None:
        """Every escrow that ended, ended by an effect."""
        over = (
            "select job_id from jobs where closed = 1 and submitted_at < ? and not exists"
            " (select 1 from effects where effects.job_id = jobs.job_id) limit ?"
        )
        rows = self.writes.execute(over, (now - KEEP_UNPAID_S, MAX_FORGOTTEN)).fetchall()
        for table in ("events", "updates", "jobs"):
            self._many(f"delete from {table} where job_id = ?", rows)

    def _many(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        listed = list(rows)
        if listed:
            self.writes.conn.executemany(sql, listed)

    # -- reading -------------------------------------------------------------------------------

    def _read(self, sql: str, values: Sequence[object] | dict[str, object] = ()) -> list[dict[str, Any]]:
        """All rows at once: half-read answers keep the connection at what the database was then."""
        cursor = self._reader.execute(sql, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def load(self) -> Kept:
        """Everything that is not over."""
        rows = self._read("select job_id, snapshot from jobs where closed = 0")
        jobs = tuple(self._job(row) for row in rows)
        unfinished = "select job_id, body from effects where done_at is null order by created_at, key"
        effects = tuple(
            (JobId(row["job_id"]), _decoded(_effects, row["body"], "effect"))
            for row in self._read(unfinished)
        )
        latest = {job.job_id: self.latest(job.job_id) for job in jobs}
        return Kept(jobs, latest, effects, self.standings(), self.tokens())

    def job(self, job_id: JobId) -> Job | None:
        rows = self._read("select job_id, snapshot from jobs where job_id = ?", (job_id,))
        return self._job(rows[0]) if rows else None

    def jobs(self, engine_id: PeerId | None, limit: int) -> list[Job]:
        """Newest first; of everybody with None."""
        where = "" if engine_id is None else "where engine_id = :engine"
        sql = f"select job_id, snapshot from jobs {where} order by submitted_at desc limit :limit"
        rows = self._read(sql, {"engine": engine_id, "limit": limit})
        return [self._job(row) for row in rows]

    def _job(self, row: dict[str, Any]) -> Job:
        """From its snapshot; where a newer version cannot read that, from its log."""
        try:
            return _jobs.decode(row["snapshot"])
        except msgspec.MsgspecError:
            job = replay(event for _, event in self.events(JobId(row["job_id"])))
        if job is None:
            raise StoreError(f"job {row['job_id']} has a snapshot that cannot be read, and no log")
        return job

    def events(self, job_id: JobId | None = None) -> list[tuple[JobId, JobEvent]]:
        """The log, oldest first."""
        where = "" if job_id is None else "where job_id = :job"
        rows = self._read(f"select job_id, body from events {where} order by sequence", {"job": job_id})
        return [(JobId(row["job_id"]), _decoded(_events, row["body"], "event")) for row in rows]

    def latest(self, job_id: JobId) -> int:
        """The number of the job's newest update; 0 without any."""
        sql = "select max(sequence) as newest from updates where job_id = ?"
        [row] = self._read(sql, (job_id,))
        return int(row["newest"] or 0)

    def updates(self, job_id: JobId, after: int, limit: int) -> tuple[JobUpdate, ...]:
        sql = "select body from updates where job_id = ? and sequence > ? order by sequence limit ?"
        rows = self._read(sql, (job_id, after, limit))
        return tuple(_decoded(_updates, row["body"], "update") for row in rows)

    def orders(self, peer_id: PeerId, after: int, limit: int) -> tuple[Order, ...]:
        sql = "select sequence, body from orders where peer_id = ? and sequence > ? order by sequence limit ?"
        rows = self._read(sql, (peer_id, after, limit))
        return tuple(Order(row["sequence"], _decoded(_orders, row["body"], "order")) for row in rows)

    def newest_order(self) -> int:
        """The highest number that any order has had."""
        rows = self._read("select seq from sqlite_sequence where name = 'orders'")
        return int(rows[0]["seq"]) if rows else 0

    def standings(self) -> tuple[Standing, ...]:
        rows = self._read("select body from standings order by peer_id")
        return tuple(_decoded(_standings, row["body"], "standing") for row in rows)

    def tokens(self) -> tuple[IssuedToken, ...]:
        return tuple(_decoded(_tokens, row["body"], "token") for row in self._read("select body from tokens"))

    def effects(self, limit: int) -> list[dict[str, Any]]:
        """The outbox for people: key, job, when it began and ended."""
        sql = "select key, job_id, created_at, done_at from effects order by created_at desc limit ?"
        return self._read(sql, (limit,))


def _decoded(decoder: msgspec.msgpack.Decoder[T], body: bytes, what: str) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise StoreError(f"stored {what} of {len(body)} bytes cannot be read: {error}") from error
