from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from solders.message import MessageV0
from solders.transaction import VersionedTransaction

from coordinator.chain import programs
from coordinator.chain.genesis import MINT, new_machine
from coordinator.database import KEEP_UNPAID_S, Database, Write
from coordinator.job import CancelRequested, JobEvent, JobSubmitted
from coordinator.payments import OpenClaimWindow
from coordinator.state import transition
from coordinator.tokens import IssuedToken
from p2p.chain.escrow_codec import create_token_account
from p2p.chain.wallet import Wallet
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


def test_a_token_is_kept_also_after_a_program_of_the_chain_ran_in_this_thread(tmp_path: Path) -> None:
    """Such a program leaves registers as they must not be left, in which SQLite compares some numbers."""
    token = IssuedToken("id", PeerId("engine"), PeerId("peer"), "job", "job", expires_at=1_800_000_900.0)
    database = Database(tmp_path / "db")
    with ThreadPoolExecutor(1) as thread:  # whose registers no other test meets
        thread.submit(run_a_program).result()
        thread.submit(database.write, [Write(1_800_000_000.25, tokens=(token,))]).result()
    assert database.tokens() == (token,)
    database.close()


def run_a_program() -> None:
    machine, wallet = new_machine(), Wallet.generate()
    key = wallet.keypair
    machine.airdrop(key.pubkey(), 10**10)
    opening = create_token_account(wallet.address, wallet.address, MINT)
    message = MessageV0.try_compile(key.pubkey(), [opening], [], machine.latest_blockhash())
    programs.send(machine, VersionedTransaction(message, [key]))


def test_expired_tokens_are_forgotten(tmp_path: Path) -> None:
    old, new = (
        IssuedToken(f"id {end}", PeerId("engine"), PeerId("peer"), "job", "job", float(end))
        for end in (1_800_000_900, 1_800_000_901)
    )
    database = Database(tmp_path / "db")
    database.write([Write(1_800_000_000.25, tokens=(old, new))])
    database.write([Write(1_800_000_900.5, tokens=(new,))])
    assert database.tokens() == (new,)
    database.close()
