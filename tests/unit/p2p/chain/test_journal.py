"""The outbox file over crashes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import trio

from p2p.chain.errors import JournalError
from p2p.chain.journal import MAX_RECORD_BYTES, Journal, frame, open_journal, parse


def keep(records: list[bytes]) -> list[bytes]:
    return records


async def test_what_was_appended_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with open_journal(path, keep) as (journal, records):
        assert records == []
        await journal.append(b"one")
        await journal.append(b"")
    async with open_journal(path, keep) as (journal, records):
        assert records == [b"one", b""]
        await journal.append(b"three")
    assert parse(path.read_bytes())[0] == [b"one", b"", b"three"]


async def test_many_appends_at_once_are_all_kept_and_share_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []
    store = Journal._store

    def counting(self: Journal, batch: bytes) -> None:
        writes.append(batch)
        store(self, batch)

    monkeypatch.setattr(Journal, "_store", counting)
    path = tmp_path / "journal"
    async with open_journal(path, keep) as (journal, _), trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(journal.append, b"%d" % number)
    assert sorted(parse(path.read_bytes())[0], key=int) == [b"%d" % number for number in range(200)]
    assert len(writes) < 20


def test_a_record_cut_off_anywhere_is_dropped_and_nothing_before_it() -> None:
    data = frame(b"first") + frame(b"second")
    for cut in range(len(frame(b"first")), len(data)):
        assert parse(data[:cut])[0] == [b"first"]


def test_a_damaged_record_is_not_believed() -> None:
    data = bytearray(frame(b"first") + frame(b"second"))
    data[-1] ^= 1
    assert parse(bytes(data))[0] == [b"first"]


async def test_a_cut_record_does_not_hide_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(frame(b"first") + frame(b"second")[:-3])
    async with open_journal(path, keep) as (journal, _):
        await journal.append(b"third")
    assert parse(path.read_bytes())[0] == [b"first", b"third"]


async def test_two_programs_cannot_share_a_journal(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "journal", keep):
        with pytest.raises(JournalError, match="in use by another program"):
            async with open_journal(tmp_path / "journal", keep):
                raise AssertionError("opened twice")


async def test_only_what_compacting_keeps_stays(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with open_journal(path, keep) as (journal, _):
        for number in range(3):
            await journal.append(b"%d" % number)
    async with open_journal(path, lambda records: records[1:]) as (_, records):
        assert records == [b"1", b"2"]
    assert parse(path.read_bytes())[0] == [b"1", b"2"]


async def test_a_record_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "journal", keep) as (journal, _):
        with pytest.raises(JournalError, match="limit 65536"):
            await journal.append(bytes(MAX_RECORD_BYTES + 1))


async def test_an_append_whose_caller_gave_up_is_still_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with open_journal(path, keep) as (journal, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.append(b"given up")
        await journal.append(b"next")
    assert parse(path.read_bytes())[0] == [b"given up", b"next"]


async def test_a_journal_that_grows_is_compacted_while_it_is_used(tmp_path: Path) -> None:
    """A program may run for years, and a file over the limit could not be read at its next start."""
    path = tmp_path / "journal"

    def newest_ten(records: list[bytes]) -> list[bytes]:
        return records[-10:]

    journal = Journal(path, newest_ten, compact_at_bytes=1000)
    with contextlib.closing(journal):
        for number in range(1000):
            await journal.append(b"%d" % number)
            assert path.stat().st_size < 1100
    records, _ = parse(path.read_bytes())
    assert records[-10:] == [b"%d" % number for number in range(990, 1000)]


async def test_what_is_dropped_is_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    damaged = bytearray(frame(b"second"))
    damaged[-1] ^= 1
    path.write_bytes(frame(b"first") + bytes(damaged) + frame(b"third"))
    async with open_journal(path, keep) as (_, records):
        assert records == [b"first"]
    assert path.with_name("journal.damaged").read_bytes() == bytes(damaged) + frame(b"third")
