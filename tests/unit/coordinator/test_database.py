from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from coordinator.database import KEEP_UNPAID_S, Database, Write
from coordinator.job import CancelRequested, JobEvent, JobSubmitted
from coordinator.payments import OpenClaimWindow
from coordinator.state import transition
from p2p.identifiers import PeerId


def stored(database: Database, make: Any, number: int, *, paid: bool) -> str:
    """A job that was submitted and cancelled."""
    job = make.submitted(number)
    event: JobEvent = CancelRequested(make.now)
    job, _ = transition(job, event)
    effects = (OpenClaimWindow(f"key {number}", "escrow"),) if paid else ()
    database.write([Write(make.now, job=job, event=event, effects=effects)])
    return str(job.job_id)


def test_jobs_that_are_over_and_never_had_money_are_forgotten_after_a_day(tmp_path: Path, make: Any) -> None:
    """Anybody can submit and cancel any number of them."""
    database = Database(tmp_path / "db")
    free, paid = stored(database, make, 1, paid=False), stored(database, make, 2, paid=True)
    database.write([Write(make.now + KEEP_UNPAID_S - 1, forget_jobs=True)])
    assert {job.job_id for job in database.jobs(None, 10)} == {free, paid}
    database.write([Write(make.now + KEEP_UNPAID_S + 1, forget_jobs=True)])
    assert [job.job_id for job in database.jobs(None, 10)] == [paid]
    assert {job_id for job_id, _ in database.events()} == {paid}
    database.close()


def test_a_snapshot_that_cannot_be_read_is_made_anew_from_the_log(tmp_path: Path, make: Any) -> None:
    database = Database(tmp_path / "db")
    event = JobSubmitted(make.now, PeerId("engine"), make.spec(), make.cost)
    job, _ = transition(None, event)
    database.write([Write(make.now, job=job, event=event)])
    database.writes.execute("update jobs set snapshot = ?", (msgspec.msgpack.encode({"old": 1}),))
    assert database.job(job.job_id) == job
    database.close()
