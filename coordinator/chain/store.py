"""The embedded chain on disk: accounts, transactions and where the time stands, in SQLite.

One thread writes; many transactions share one commit; nobody hears of a transaction, nor of anything that
depends on it, before its commit is on the disk.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import trio
from solders.account import Account
from solders.pubkey import Pubkey

from coordinator.chain.ledger import Landed, TokenBalance

SCHEMA = """
create table if not exists meta (name text primary key, value blob not null) without rowid;
create table if not exists accounts (
    address text primary key, lamports integer not null, owner text not null,
    executable integer not null, data blob not null
) without rowid;
create table if not exists transactions (
    number integer primary key, signature text not null unique, slot integer not null, record blob not null
);
create table if not exists mentions (
    address text not null, number integer not null references transactions, primary key (address, number)
) without rowid;
"""


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """A landed transaction as it is stored, without the accounts it changed."""

    signature: str
    slot: int
    time: int
    error: Any
    raw: bytes
    logs: tuple[str, ...]
    units: int
    fee: int
    keys: tuple[str, ...]
    lamports: tuple[tuple[int, int], ...]
    tokens_before: tuple[TokenBalance, ...]
    tokens_after: tuple[TokenBalance, ...]


_FIELDS = _Record.__struct_fields__
_decoder = msgspec.msgpack.Decoder(_Record)


class ChainStore:
    """Reads are immediate and see what is committed and, before that, what waits to be."""

    def __init__(self, path: Path) -> None:
        self._writer = self._connect(path)
        self._writer.executescript(SCHEMA)
        self._reader = self._connect(path)
        self._waiting: dict[str, Landed] = {}
        self._meta: dict[str, bytes] = {}
        self._enqueued = 0
        self._durable = 0
        self._turn = trio.Lock()

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        return connection

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    # -- at the start

    def meta(self, name: str) -> bytes | None:
        row = self._reader.execute("select value from meta where name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def accounts(self) -> dict[str, Account]:
        rows = self._reader.execute("select address, lamports, owner, executable, data from accounts")
        return {
            address: Account(lamports, data, Pubkey.from_string(owner), bool(executable))
            for address, lamports, owner, executable, data in rows
        }

    def begin(self, meta: dict[str, bytes], accounts: dict[str, Account]) -> None:
        """Stores a new chain's genesis, all or nothing."""
        self._commit([], meta, dict(accounts))

    # -- while it runs

    def put(self, landed: Landed) -> None:
        self._waiting[landed.signature] = landed
        self._enqueued += 1

    def put_meta(self, name: str, value: bytes) -> None:
        self._meta[name] = value
        self._enqueued += 1

    async def flush(self) -> None:
        """Returns when everything put so far is on the disk. Raises sqlite3.Error: then stop."""
        target = self._enqueued
        if self._durable >= target:
            return
        with trio.CancelScope(shield=True):
            async with self._turn:
                if self._durable >= target:
                    return
                upto, batch, meta = self._enqueued, list(self._waiting.values()), dict(self._meta)
                changed: dict[str, Account | None] = {}
                for landed in batch:
                    changed.update(landed.changed)
                await trio.to_thread.run_sync(self._commit, batch, meta, changed)
                self._durable = upto
                for landed in batch:
                    del self._waiting[landed.signature]
                for name, value in meta.items():
                    if self._meta.get(name) == value:
                        del self._meta[name]

    def _commit(self, batch: list[Landed], meta: dict[str, bytes], changed: dict[str, Any]) -> None:
        database = self._writer
        database.execute("begin immediate")
        try:
            database.executemany("insert or replace into meta values (?, ?)", meta.items())
            for landed in batch:
                self._insert(landed)
            gone = [(address,) for address, account in changed.items() if account is None]
            database.executemany("delete from accounts where address = ?", gone)
            database.executemany(
                "insert or replace into accounts values (?, ?, ?, ?, ?)",
                (
                    (address, account.lamports, str(account.owner), account.executable, bytes(account.data))
                    for address, account in changed.items()
                    if account is not None
                ),
            )
        except BaseException:
            database.execute("rollback")
            raise
        database.execute("commit")

    def _insert(self, landed: Landed) -> None:
        record = msgspec.msgpack.encode(_Record(*(getattr(landed, name) for name in _FIELDS)))
        cursor = self._writer.execute(
            "insert into transactions (signature, slot, record) values (?, ?, ?)",
            (landed.signature, landed.slot, record),
        )
        rows = ((key, cursor.lastrowid) for key in set(landed.keys))
        self._writer.executemany("insert into mentions values (?, ?)", rows)

    def find(self, signature: str) -> Landed | None:
        if (waiting := self._waiting.get(signature)) is not None:
            return waiting
        query = "select record from transactions where signature = ?"
        row = self._reader.execute(query, (signature,)).fetchone()
        return None if row is None else _landed(row[0])

    def mentioning(self, address: str, limit: int, before: str | None, until: str | None) -> list[Landed]:
        """Newest first, committed ones only: the caller flushes first."""
        query = """
            select t.record from mentions m join transactions t on t.number = m.number
            where m.address = :address
            and t.number < coalesce((select number from transactions where signature = :before), 1 << 62)
            and t.number > coalesce((select number from transactions where signature = :until), 0)
            order by m.number desc limit :limit
        """
        values = {"address": address, "before": before, "until": until, "limit": limit}
        return [_landed(row[0]) for row in self._reader.execute(query, values)]

    def count(self) -> int:
        row = self._reader.execute("select coalesce(max(number), 0) from transactions").fetchone()
        return int(row[0])


def _landed(record: bytes) -> Landed:
    stored = _decoder.decode(record)
    values: dict[str, Any] = {name: getattr(stored, name) for name in _FIELDS}
    return Landed(**values, changed={})
