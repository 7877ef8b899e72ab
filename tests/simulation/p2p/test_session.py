"""Whole jobs of one Engine against scripted partners, on a virtual clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.channel import Channel
from p2p.errors import LocalProtocolError, RemoteFailureError
from p2p.grants import open_grant
from p2p.jobs import JobState
from p2p.network import Stream
from p2p.protocols import Failure
from p2p.protocols import coordinator as wire
from p2p.protocols import job as wire_job
from p2p.session.engine import JobEngine
from p2p.session.errors import JobEndedError, JobRefusedError, JobUnknownError
from p2p.session.news import NewsKind
from p2p.session.plan import STRANDED_S
from tests.simulation.p2p.session_world import (
    COORDINATOR,
    ENGINE,
    Killed,
    PeerScript,
    World,
    now,
    open_world,
)

pytestmark = pytest.mark.virtual_clock

GRAPH = b'{"graph": true}'
BUDGET = 100 * 10**9
COST = 12 * 10**9
"""2 s to start and 10^12 operations at 10^11 a second, at one token a second."""
START = 100 * 10**9


async def submit(world: World, engine: JobEngine, segments: int = 3) -> str:
    return await engine.submit(GRAPH, world.data, BUDGET, segments=segments)


async def to_the_end(engine: JobEngine, job: str) -> list[str]:
    with trio.fail_after(3600):
        return [news.text async for news in engine.follow(job)]


async def test_a_job_is_paid_segment_by_segment_and_its_model_kept(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await submit(world, engine)
        story = [news async for news in engine.follow(job)]
        assert engine.job(job).state is JobState.SETTLED
        assert [voucher.earned for voucher in world.peers[0].vouchers] == [COST // 3, 2 * COST // 3, COST]
        assert (world.ledger.paid_out, world.ledger.tokens) == (COST, START - COST)
        assert world.peers[0].data == world.data.read_bytes()
        target = await engine.fetch(job, tmp_path / "out.cyxmodel")
        assert json.loads(target.read_bytes())["segments_done"] == 3
        kept = [news.number for news in story if news.number]
        assert kept == list(range(1, len(kept) + 1))
        assert {NewsKind.STATE, NewsKind.MONEY, NewsKind.CHECKPOINT, NewsKind.RESULT, NewsKind.PROGRESS} <= {
            news.kind for news in story
        }


async def test_a_job_of_one_segment_needs_one_voucher(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await submit(world, engine, segments=1)
        await to_the_end(engine, job)
        assert [voucher.earned for voucher in world.peers[0].vouchers] == [COST]


async def test_another_peer_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    scripts = (PeerScript(dies_at=2), PeerScript())
    async with open_world(tmp_path, scripts) as world, world.engine() as (engine, _):
        job = await submit(world, engine, segments=4)
        await to_the_end(engine, job)
        assert engine.job(job).state is JobState.SETTLED
        assert [complaint.code for complaint in world.coordinator.complaints] == ["unreachable"]
        second = world.peers[1].opened[0]
        assert second.first_segment == 2 and second.checkpoint is not None
        (source,) = second.sources
        assert source.peer_id == world.peers[0].peer_id
        assert source.grant is not None
        grant = open_grant(source.grant, world.peers[1].peer_id, now())
        assert grant.issuer == ENGINE.peer_id
        assert grant.manifests == (second.job.data.file.manifest, second.checkpoint.manifest)
        assert world.peers[0].opened[0].sources == ()
        assert [voucher.segments_done for voucher in world.peers[1].vouchers] == [3, 4]
        assert world.ledger.paid_out == COST // 2 + COST // 2
        assert world.ledger.tokens == START - COST


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (PeerScript(lies_at=1), "corrupt_checkpoint"),
        (PeerScript(skips_to_result=True), "protocol"),
    ],
)
async def test_a_peer_that_cheats_is_reported_and_not_paid_for_it(
    tmp_path: Path, script: PeerScript, code: str
) -> None:
    async with open_world(tmp_path, (script, PeerScript())) as world, world.engine() as (engine, _):
        job = await submit(world, engine)
        await to_the_end(engine, job)
        assert [complaint.code for complaint in world.coordinator.complaints] == [code]
        assert engine.job(job).state is JobState.SETTLED
        assert all(not voucher.final for voucher in world.peers[0].vouchers)
        assert world.ledger.paid_out <= COST + 1


async def test_a_peer_that_names_the_dataset_as_its_checkpoint_does_not_get_it_deleted(
    tmp_path: Path,
) -> None:
    script = PeerScript(names_data=True)
    async with open_world(tmp_path, (script, PeerScript())) as world, world.engine() as (engine, _):
        job = await submit(world, engine)
        await to_the_end(engine, job)
        assert [complaint.code for complaint in world.coordinator.complaints] == ["corrupt_checkpoint"]
        assert engine.job(job).state is JobState.SETTLED
        assert world.peers[1].data == world.data.read_bytes()


async def test_of_a_job_that_is_over_the_model_stays_and_the_rest_may_give_way(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await submit(world, engine)
        await to_the_end(engine, job)
        record, files = engine.job(job), engine.engine.files
        assert record.result is not None
        assert record.checkpoints
        assert all(files.path(checkpoint.file.blake3) is None for checkpoint in record.checkpoints)
        files.discard(record.result.blake3)
        assert files.path(record.result.blake3) is not None
        files.discard(record.spec.data.file.blake3)
        assert files.path(record.spec.data.file.blake3) is None


async def test_a_job_without_any_peer_left_is_over_without_a_model(tmp_path: Path) -> None:
    async with open_world(tmp_path, (PeerScript(dies_at=0),)) as world, world.engine() as (engine, _):
        job = await submit(world, engine)
        await to_the_end(engine, job)
        assert engine.job(job).state is JobState.REFUNDED
        assert engine.job(job).text == "no peer is left; refunded"
        assert world.ledger.tokens == START
        with pytest.raises(JobEndedError, match="has no model"):
            await engine.fetch(job)


async def test_a_wrong_amount_is_never_paid(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        world.coordinator.amount_factor = 2
        job = await submit(world, engine)
        with pytest.raises(JobRefusedError, match=r"asks 24 CYXWIZ, this peer's price .* is 12 CYXWIZ"):
            await to_the_end(engine, job)
        assert world.ledger.escrows == {}


async def test_a_price_over_the_budget_is_never_paid(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await engine.submit(GRAPH, world.data, COST - 1)
        with pytest.raises(JobRefusedError, match=r"would cost 12 CYXWIZ in all, the budget is 11\.9"):
            await to_the_end(engine, job)
        assert world.ledger.escrows == {}


async def test_an_empty_wallet_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        world.ledger.tokens = 0
        with pytest.raises(JobRefusedError, match=r"is empty: holds 0 CYXWIZ, the budget is 100 CYXWIZ"):
            await submit(world, engine)
        assert world.coordinator.submissions == 0 and engine.jobs() == []


async def test_a_wallet_with_too_little_names_both_amounts(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        world.ledger.tokens = 10**9
        job = await submit(world, engine)
        with pytest.raises(JobRefusedError, match="holds 1 CYXWIZ, the escrow needs 12 CYXWIZ"):
            await to_the_end(engine, job)


async def test_a_job_that_the_coordinator_refuses_is_forgotten(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        refusal = RemoteFailureError("refused", "budget 1, the cheapest acceptable quote is 2")
        world.coordinator.refuses[wire.SubmitJob] = refusal
        with pytest.raises(JobRefusedError, match="cheapest acceptable quote is 2"):
            await submit(world, engine)
        assert engine.jobs() == []


async def test_a_cancelled_job_pays_what_is_proven(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await submit(world, engine)
        async for news in engine.follow(job):
            if news.text.startswith("checkpoint of segment 1"):
                break
        await engine.cancel(job)
        await to_the_end(engine, job)
        assert engine.job(job).state is JobState.CANCELLED
        assert world.ledger.tokens >= START - COST // 3
        with pytest.raises(JobEndedError, match="is cancelled"):
            await engine.pause(job)


async def test_pause_and_resume_reach_the_peer(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await submit(world, engine)
        await engine.pause(job)
        async for news in engine.follow(job):
            if news.kind is NewsKind.PROGRESS:
                break
        await engine.resume(job)
        await to_the_end(engine, job)
        relevant = [order for order in world.peers[0].orders if order in ("PauseJob", "ResumeJob")]
        assert relevant[0] == "PauseJob" and relevant[-1] == "ResumeJob"


async def test_a_learning_rate_reaches_the_peer_and_the_one_that_goes_on(tmp_path: Path) -> None:
    scripts = (PeerScript(dies_at=2), PeerScript())
    async with open_world(tmp_path, scripts) as world, world.engine() as (engine, _):
        job = await submit(world, engine)
        with pytest.raises(LocalProtocolError, match="must be from 0 to 100"):
            await engine.set_rate(job, 101.0)
        assert (await engine.set_rate(job, 0.5)).learning_rate == 0.5
        await to_the_end(engine, job)
        assert all(peer.orders.count("ChangeRate") >= 1 for peer in world.peers)
        with pytest.raises(JobEndedError):
            await engine.set_rate(job, 0.25)


async def test_a_job_that_waits_for_its_user_goes_on_once_it_is_followed(tmp_path: Path) -> None:
    async with open_world(tmp_path, (PeerScript(), PeerScript())) as world:
        world.ledger.tokens = 10**9
        async with world.engine() as (engine, _):
            job = await submit(world, engine)
            with pytest.raises(JobRefusedError):
                await to_the_end(engine, job)
        world.coordinator.give_up_lease()
        world.ledger.tokens = START
        async with world.engine() as (engine, _):
            await to_the_end(engine, job)
            assert engine.job(job).state is JobState.SETTLED
        assert world.coordinator.submissions == 2


async def test_money_in_an_escrow_that_nobody_counts_comes_back(tmp_path: Path) -> None:
    async with open_world(tmp_path, (PeerScript(), PeerScript())) as world, world.engine() as (engine, _):
        world.ledger.delay_s = 5.0
        job = await submit(world, engine)
        await trio.sleep(2.0)
        world.coordinator.give_up_lease()  # while the payment is under way
        await to_the_end(engine, job)
        assert engine.job(job).state is JobState.SETTLED
        await trio.sleep(60.0)
        assert len(world.ledger.escrows) == 2
        assert (world.ledger.tokens, world.ledger.open) == (START - COST, {})


async def test_an_escrow_of_a_job_that_ended_unreported_comes_back_at_once(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        world.coordinator.refuses[wire.EscrowCreated] = RemoteFailureError("busy", "not now")
        job = await submit(world, engine)
        async for _ in engine.follow(job):
            if world.ledger.open:
                break
        world.coordinator.retry(refunds=False)  # its peer refused, and no other one is left
        await to_the_end(engine, job)
        await trio.sleep(5)
        assert engine.job(job).state is JobState.REFUNDED
        assert (world.ledger.open, world.ledger.tokens) == ({}, START)


async def test_money_that_the_coordinator_forgets_in_an_escrow_is_taken_back(tmp_path: Path) -> None:
    """It gave the job to another peer and never returned what the first escrow holds."""
    async with open_world(tmp_path, (PeerScript(), PeerScript())) as world, world.engine() as (engine, _):
        job = await submit(world, engine)
        async for news in engine.follow(job):
            if news.kind is NewsKind.PROGRESS:
                world.coordinator.give_up_lease()
                break
        await to_the_end(engine, job)
        assert len(world.ledger.open) == 1 and world.ledger.paid_out == COST
        await trio.sleep(STRANDED_S)
        assert len(world.ledger.open) == 1, "the claim window is the peer's"
        await trio.sleep(200)
        assert (world.ledger.open, world.ledger.tokens) == ({}, START - COST)


async def test_after_the_deadline_nobodys_absence_locks_the_money(tmp_path: Path) -> None:
    async with open_world(tmp_path, (PeerScript(dies_at=0),)) as world:
        async with world.engine() as (engine, _):
            await submit(world, engine)
            await trio.sleep(5)
        assert len(world.ledger.open) == 1
        world.net.crash(world.coordinator.network)
        await trio.sleep(25 * 3600)
        async with world.engine():
            await trio.sleep(5)
        assert (world.ledger.open, world.ledger.tokens) == ({}, START)


async def test_a_result_that_is_announced_as_a_checkpoint_is_not_paid_for(tmp_path: Path) -> None:
    """It would be paid in full and leave the job without a result."""
    async with open_world(tmp_path, (PeerScript(hides_result=True), PeerScript())) as world:
        async with world.engine() as (engine, _):
            job = await submit(world, engine)
            await to_the_end(engine, job)
            assert engine.job(job).result is not None
        assert not any(voucher.final for voucher in world.peers[0].vouchers)
        (complaint,) = world.coordinator.complaints
        assert complaint.code == "protocol" and "allowed is the result" in complaint.text


async def test_engine_and_peer_find_each_other_again_after_a_partition(tmp_path: Path) -> None:
    async with open_world(tmp_path, (PeerScript(segment_s=5.0),)) as world, world.engine() as (engine, _):
        job = await submit(world, engine)
        await trio.sleep(3.0)
        world.net.partition(ENGINE.peer_id, world.peers[0].peer_id)
        world.net.partition(ENGINE.peer_id, COORDINATOR.peer_id)
        await trio.sleep(10.0)
        world.net.heal(ENGINE.peer_id, world.peers[0].peer_id)
        world.net.heal(ENGINE.peer_id, COORDINATOR.peer_id)
        await to_the_end(engine, job)
        assert world.coordinator.complaints == []
        assert world.ledger.paid_out == COST


async def test_a_peers_refusal_is_heard_though_it_closes_while_it_is_told_something(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        (peer,) = world.peers

        async def refuse(stream: Stream) -> None:
            """Closes before what it said is acknowledged."""
            said = wire_job.JobStage(1, "training", "begun")
            channel: Channel[Any, Any] = Channel(
                stream, wire_job.FROM_PEER, wire_job.FROM_ENGINE, wire_job.LIMITS
            )
            await channel.receive()
            peer.log.add(said)
            assert peer.log.take() == said
            peer.network.set_handler(wire_job.PROTOCOL_ID, peer._serve)
            for message in (wire_job.JobOpened(1, 1), said, Failure("unauthorized", "the token is old")):
                await channel.send(message)
            await channel.aclose()

        peer.network.set_handler(wire_job.PROTOCOL_ID, refuse)
        job = await submit(world, engine)
        await to_the_end(engine, job)
        assert engine.job(job).state is JobState.SETTLED
        assert world.coordinator.tokens == 2


async def test_another_engines_job_is_unknown_here(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        with pytest.raises(JobUnknownError, match="begins with 'abc'"):
            await to_the_end(engine, "abc")


@pytest.mark.parametrize("seed", range(5))
async def test_a_lossy_network_costs_time_only(tmp_path: Path, seed: int) -> None:
    async with open_world(tmp_path, seed=seed, latency_s=(0.01, 0.2), loss=0.03) as world:
        world.limits = world.limits.__class__(peer_patience_s=600.0)
        async with world.engine() as (engine, _):
            job = await submit(world, engine)
            await to_the_end(engine, job)
            assert engine.job(job).state is JobState.SETTLED
            assert (world.ledger.paid_out, world.ledger.tokens) == (COST, START - COST)


async def killed_at(world: World, dies_at: int, after: bool) -> bool:
    """Whether the Engine died on its way; the job it leaves is gone on with by the caller."""
    died = False
    try:
        async with world.engine(dies_at=dies_at, after=after) as (engine, _):
            known = engine.jobs()
            job = known[0].job_id if known else await submit(world, engine)
            await to_the_end(engine, job)
    except* Killed:
        died = True
    return died


@pytest.mark.parametrize("after", [False, True])
async def test_an_engine_killed_at_any_write_finishes_the_same_job(tmp_path: Path, after: bool) -> None:
    for dies_at in range(1, 100):
        directory = tmp_path / str(dies_at)
        directory.mkdir()
        async with open_world(directory) as world:
            died = await killed_at(world, dies_at, after)
            if died:
                assert not await killed_at(world, 10_000, after)
            assert world.coordinator.state is JobState.SETTLED
            assert (world.ledger.paid_out, world.ledger.tokens) == (COST, START - COST), dies_at
            assert len(world.ledger.escrows) == 1
        if not died:
            break
    assert 15 < dies_at < 99


async def test_an_engine_killed_again_and_again_finishes(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        kills = 0
        while await killed_at(world, 2, after=True):
            kills += 1
            assert kills < 60
        assert kills > 5
        assert world.coordinator.state is JobState.SETTLED
        assert (world.ledger.paid_out, world.ledger.tokens) == (COST, START - COST)
