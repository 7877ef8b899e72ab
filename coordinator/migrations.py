"""The database's tables, as named steps. A step that was released is never changed, only followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coordinator.errors import StoreError

Migration = Callable[[Any], None]
"""Takes a sqlite_utils.Database with an open transaction."""


def first_tables(db: Any) -> None:
    db.execute(
        "create table events (sequence integer primary key autoincrement, job_id text not null,"
        " at real not null, kind text not null, body blob not null)"
    )
    db.execute("create index events_of_job on events (job_id, sequence)")
    db.execute(
        "create table jobs (job_id text primary key, engine_id text not null, state text not null,"
        " submitted_at real not null, closed integer not null, event integer not null,"
        " snapshot blob not null) without rowid"
    )
    db.execute("create index jobs_of_engine on jobs (engine_id, submitted_at)")
    db.execute("create index open_jobs on jobs (closed) where closed = 0")
    db.execute(
        "create table updates (job_id text not null, sequence integer not null, body blob not null,"
        " primary key (job_id, sequence)) without rowid"
    )
    db.execute(
        "create table effects (key text primary key, job_id text not null, created_at real not null,"
        " done_at real, body blob not null) without rowid"
    )
    db.execute("create index unfinished_effects on effects (created_at) where done_at is null")
    db.execute(
        "create table orders (sequence integer primary key autoincrement, peer_id text not null,"
        " at real not null, body blob not null)"
    )
    db.execute("create index orders_of_peer on orders (peer_id, sequence)")
    db.execute("create table standings (peer_id text primary key, body blob not null) without rowid")


def effects_by_job(db: Any) -> None:
    db.execute("create index effects_of_job on effects (job_id)")


def tokens(db: Any) -> None:
    db.execute(
        "create table tokens (jti text primary key, expires_at real not null,"
        " body blob not null) without rowid"
    )
    db.execute("create index tokens_by_end on tokens (expires_at)")


MIGRATIONS: tuple[tuple[str, Migration], ...] = (
    ("0001 first tables", first_tables),
    ("0002 effects by job", effects_by_job),
    ("0003 tokens", tokens),
)


def migrate(db: Any, migrations: tuple[tuple[str, Migration], ...] = MIGRATIONS) -> None:
    """Applies what is missing, each step in one transaction. Raises StoreError for a newer database."""
    db.execute("create table if not exists migrations (name text primary key, applied_at text not null)")
    applied = {name for (name,) in db.execute("select name from migrations")}
    unknown = applied - {name for name, _ in migrations}
    if unknown:
        raise StoreError(f"the database is from a newer version: it has {', '.join(sorted(unknown))}")
    for name, step in migrations:
        if name not in applied:
            _apply(db, name, step)


def _apply(db: Any, name: str, step: Migration) -> None:
    db.execute("begin immediate")
    try:
        step(db)
        db.execute("insert into migrations values (?, datetime('now'))", (name,))
    except BaseException:
        db.execute("rollback")
        raise
    db.execute("commit")
