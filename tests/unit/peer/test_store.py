from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from peer.events import (
    EngineOpened,
    OfferAccepted,
    StartRequested,
    StopRequested,
)
from peer.job import (
    Job,
    new_job,
    transition,
)
from peer.store import open_store
from tests.unit.peer.make import ESCROW, NOW, make_file, make_offer, make_start


def accepted(lease_id: str = "lease-1") -> Job:
    return transition(new_job(make_offer(lease_id=lease_id)), OfferAccepted(NOW))[0]


def started(lease_id: str) -> Job:
    job, _ = transition(accepted(lease_id), EngineOpened(b"{}", 1, 1, None, NOW))
    return transition(job, StartRequested(make_start()))[0]


async def test_a_job_is_there_after_the_store_was_closed(tmp_path: Path) -> None:
    job = started("lease-1")
    async with open_store(tmp_path / "db") as store:
        await store.save_job(job, NOW)
    async with open_store(tmp_path / "db") as store:
        assert await store.open_jobs() == [job]


async def test_a_retired_job_is_not_taken_up_again(tmp_path: Path) -> None:
    import msgspec

    job, _ = transition(accepted(), StopRequested())
    async with open_store(tmp_path / "db") as store:
        await store.save_job(msgspec.structs.replace(job, collected=True, returned=True), NOW)
        assert await store.open_jobs() == []
        assert len(await store.recent_jobs(5)) == 1


async def test_an_escrow_belongs_to_one_lease(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db") as store:
        await store.save_job(started("lease-1"), NOW)
        assert await store.escrow_user(ESCROW, "lease-1") is None
        assert await store.escrow_user(ESCROW, "lease-2") == started("lease-1").job_id


async def test_results_remember_when_they_were_fetched(tmp_path: Path) -> None:
    job = accepted()
    async with open_store(tmp_path / "db") as store:
        await store.save_result(job, make_file("b"), NOW)
        await store.mark_fetched(job.job_id, job.engine_id, NOW + 5)
        await store.mark_fetched(job.job_id, job.engine_id, NOW + 9)
        (result,) = await store.results()
        assert (result.file, result.made_at, result.fetched_at) == (make_file("b"), NOW, NOW + 5)
        await store.forget_result(result.file.blake3)
        assert await store.results() == []


async def test_facts_are_replaced(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db") as store:
        assert await store.fact("speed") is None
        await store.remember("speed", b"1")
        await store.remember("speed", b"2")
        assert await store.fact("speed") == b"2"


async def test_a_database_of_a_later_version_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(sqlite3.DatabaseError, match="version 99, this program knows up to 1"):
        async with open_store(tmp_path / "db"):
            pass
