"""Whole jobs of one peer against scripted partners."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from p2p.chain.escrow_codec import EscrowStatus
from p2p.chain.outbox import Refund, Settle
from p2p.errors import P2PError, SourceRefusedError
from p2p.files import FileSource, FileStore, fetch, serve_transfers
from p2p.grants import sign_grant
from p2p.identity import Identity
from p2p.protocols import Failure
from p2p.protocols.coordinator import (
    AnswerOffer,
    DeliverVoucher,
    Heartbeat,
    LeaseRef,
    OfferJob,
    RegisterPeer,
    ReportFailed,
    ReportMetrics,
    ReportResult,
    ReportStarted,
    RevokeLease,
)
from p2p.protocols.job import (
    ChangeRate,
    JobClosed,
    JobFailed,
    JobOpened,
    JobProgress,
    PauseJob,
    ResultReady,
    ResumeJob,
    SegmentFinished,
    StopJob,
)
from p2p.protocols.transfer import FileGrant
from p2p.records import open_record
from p2p.testing import MemoryNetwork
from peer.job import Phase
from peer.plan import Patience
from tests.simulation.peer.world import (
    AMOUNT,
    JobLine,
    RunningPeer,
    World,
    dataset,
    open_world,
    replace_struct,
    until,
)


async def start(world: World, line: JobLine, **escrow: object) -> None:
    address, deadline = world.chain.create(
        line.offer.job.user_wallet, line.offer.job.job_id, line.offer.amount, **escrow
    )
    await line.start(address, deadline)


async def run_to_result(world: World, peer: RunningPeer, line: JobLine) -> ResultReady:
    await line.hear(JobOpened)
    await start(world, line)
    for segment in range(line.offer.first_segment, line.offer.job.segments - 1):
        finished = await line.hear(SegmentFinished)
        assert finished.segment == segment
        await line.pay(segment + 1)
    result = await line.hear(ResultReady)
    assert isinstance(result, ResultReady)
    return result


async def test_a_job_from_offer_to_payment(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            result = await run_to_result(world, peer, line)
            path = await fetch(
                world.engine.network,
                peer.network.peer_id,
                result.result,
                world.engine.files,
                max_bytes=1 << 20,
            )
            assert b"segment 2" in path.read_bytes()
            await line.pay(3, final=True)
            await line.hear(JobClosed)
        coordinator = world.coordinator
        assert len(coordinator.heard(ReportStarted)) == 1
        assert coordinator.heard(ReportResult)[0].result == result.result
        # The coordinator of this world never settles: the peer does, after it gave it the voucher.
        await until(lambda: world.chain.payments, "the settlement")
        assert coordinator.heard(DeliverVoucher)[0].earned == AMOUNT
        ((_, payment),) = world.chain.payments
        assert isinstance(payment, Settle) and payment.voucher.earned == AMOUNT and payment.voucher.final
        await until(lambda: peer.table.jobs()[0].is_retired, "the end")
        assert peer.table.devices.running == 0


async def test_the_record_is_signed_and_names_price_and_speed(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        (call, *_) = await until(lambda: world.coordinator.heard(RegisterPeer), "the registration")
        record = open_record(call.record, peer.services.now(), peer.network.peer_id)
        assert (record.price_per_hour, record.devices[0].flops_per_s) == (3600 * 10**6, 10**12)


async def test_the_peer_stops_after_one_unvouchered_segment(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line)
            await line.hear(SegmentFinished)
            with trio.move_on_after(0.3):
                await line.hear(SegmentFinished)
                pytest.fail("worked on without a voucher")
            job = peer.table.jobs()[0]
            assert (job.phase, job.done, job.allowed) == (Phase.WAITING_FOR_VOUCHER, 1, 1)
            await line.pay(1)
            assert (await line.hear(SegmentFinished)).segment == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"amount": 5}, f"amount: found 5, allowed {AMOUNT}"),
        ({"node": "11111111111111111111111111111111"}, "node: found"),
        ({"status": EscrowStatus.SETTLED}, "status: found settled, allowed open"),
        ({"refund_requested_at": 7}, "refund requested: found 7, allowed never"),
    ],
)
async def test_a_wrong_escrow_fails_the_job_before_any_work(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line, **change)
            failed = await line.hear(JobFailed)
        assert words in failed.text and not failed.retryable
        assert not any(isinstance(message, JobProgress) for message in line.said)
        (report,) = await until(lambda: world.coordinator.heard(ReportFailed), "the report")
        assert report.code == "escrow"


async def test_a_claim_window_that_the_coordinator_made_too_short_is_not_worked_for(tmp_path: Path) -> None:
    """In league with a user it would leave no time to settle what is vouchered."""
    async with open_world(tmp_path) as world:
        world.terms = replace(world.terms, min_claim_window_s=30)
        async with world.peer() as peer:
            offer = world.make_offer()
            await world.accepted(offer)
            async with world.line(peer, offer) as line:
                await start(world, line)
                failed = await line.hear(JobFailed)
            assert "claim window: found 2 s, allowed 30 s or more" in failed.text


async def test_an_offer_below_the_own_quote_is_not_worked_for(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer(amount=1)
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line)
            failed = await line.hear(JobFailed)
        assert "own quote" in failed.text


async def test_a_worker_that_dies_fails_the_job_pays_what_is_earned_and_the_peer_takes_the_next(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        world.script.dies_in = 1
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line)
            await line.hear(SegmentFinished)
            await line.pay(1)
            failed = await line.hear(JobFailed)
            assert (failed.code, failed.retryable) == ("worker_died", True)
            assert "SIGKILL" in failed.text
        (report,) = await until(lambda: world.coordinator.heard(ReportFailed), "the report")
        assert report.retryable
        await until(lambda: peer.table.jobs()[0].is_retired, "the payments")
        settle, refund = (payment for _, payment in world.chain.payments)
        assert isinstance(settle, Settle) and settle.voucher.earned == AMOUNT // 3
        assert isinstance(refund, Refund)
        world.script.dies_in = None
        second = world.make_offer()
        await world.accepted(second)
        async with world.line(peer, second) as line:
            await run_to_result(world, peer, line)


async def test_a_retry_goes_on_from_the_engines_checkpoint(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        checkpoint = await world.engine.files.add_bytes(b"a checkpoint")
        offer = world.make_offer(first_segment=2)
        await world.accepted(offer)
        async with world.line(peer, offer, checkpoint=checkpoint) as line:
            await run_to_result(world, peer, line)
            await line.pay(3, final=True)
            await line.hear(JobClosed)


async def test_a_reconnect_gets_what_it_missed(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line)
            finished = await line.hear(SegmentFinished)
        async with world.line(peer, offer, after=finished.sequence - 1) as again:
            again.escrow = line.escrow
            assert await again.hear(SegmentFinished) == finished
            await again.pay(1)
            assert (await again.hear(SegmentFinished)).segment == 1


async def test_a_second_stream_replaces_the_first(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as first, world.line(peer, offer) as second:
            await second.hear(JobOpened)
            await start(world, second)
            await second.hear(SegmentFinished)
            assert not any(isinstance(message, SegmentFinished) for message in first.said)


async def test_pause_and_resume_keep_the_job(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await line.hear(JobOpened)
            await line.channel.send(PauseJob())
            await until(lambda: peer.table.jobs()[0].phase is Phase.PAUSED, "the pause")
            await start(world, line)
            await until(lambda: peer.table.jobs()[0].escrow_checked, "the escrow")
            await line.channel.send(ResumeJob())
            await line.hear(SegmentFinished)


async def test_a_learning_rate_holds_before_the_next_segment_is_allowed(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await line.hear(JobOpened)
            await line.channel.send(ChangeRate(0.25))
            await start(world, line)
            await line.hear(SegmentFinished)
            assert world.script.rates == [(0, 0.25)]
            await line.channel.send(ChangeRate(0.125))
            await line.channel.send(ChangeRate(0.125))
            await until(lambda: len(world.script.rates) > 1, "the second rate")
            assert world.script.rates == [(0, 0.25), (1, 0.125)]


async def test_a_stop_closes_the_job_and_returns_the_rest(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line)
            await line.hear(SegmentFinished)
            await line.channel.send(StopJob())
            await line.hear(JobClosed)
        await until(lambda: peer.table.jobs()[0].is_retired, "the refund")
        assert [type(payment) for _, payment in world.chain.payments] == [Refund]
        assert not world.script.alive


async def test_a_revoked_lease_ends_the_job_and_frees_the_device(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        world.coordinator.order(RevokeLease(offer.lease, offer.job.job_id, "not funded in time"))
        await until(lambda: peer.table.devices.running == 0, "the device")
        await world.accepted(world.make_offer())


async def test_a_revocation_with_an_older_fencing_is_not_acted_on(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        old = LeaseRef(offer.lease.lease_id, offer.lease.fencing - 1)
        await peer.table.revoke(old, "late")
        assert peer.table.jobs()[0].ending is None


async def test_a_lease_that_the_coordinator_does_not_know_any_more_is_dropped(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        await until(lambda: world.coordinator.heard(Heartbeat, leases=(offer.lease,)), "a renewal")
        world.coordinator.ended.add(offer.lease.lease_id)
        await until(lambda: peer.table.devices.running == 0, "the device")


async def test_a_second_job_is_refused_while_the_device_is_held(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer():
        await world.accepted(world.make_offer())
        second = world.make_offer()
        world.coordinator.order(second)
        (answer,) = await until(
            lambda: world.coordinator.heard(AnswerOffer, lease=second.lease), "the refusal"
        )
        assert not answer.accepted and "device 0 is held by job" in answer.reason


async def test_metrics_reach_the_coordinator(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line)
            await line.hear(SegmentFinished)
            (report, *_) = await until(lambda: world.coordinator.heard(ReportMetrics), "the metrics")
            assert report.metrics[0].step == 1


async def test_a_refund_that_is_requested_in_silence_costs_the_peer_nothing_that_is_vouchered(
    tmp_path: Path,
) -> None:
    """The user goes on vouching off chain while the claim window runs out on chain."""
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line)
            await line.hear(SegmentFinished)
            await line.pay(1)
            await line.hear(SegmentFinished)
            escrow = world.chain.accounts[line.escrow]
            world.chain.accounts[line.escrow] = replace(escrow, refund_requested_at=1_700_000_000)
            failed = await line.hear(JobFailed)
            assert failed.code == "escrow_withdrawn" and "1700000000" in failed.text
        await until(lambda: peer.table.jobs()[0].is_retired, "the payments")
        settle, _ = (payment for _, payment in world.chain.payments)
        assert isinstance(settle, Settle) and settle.voucher.earned == AMOUNT // 3


async def test_a_voucher_is_not_forgotten_while_the_wallet_lacks_fees(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await run_to_result(world, peer, line)
            world.chain.refuses = 1
            await line.pay(3, final=True)
            await line.hear(JobClosed)
        await until(lambda: peer.table.jobs()[0].is_retired, "the end")
        assert len(world.chain.refusals) == 1
        assert world.chain.accounts[line.escrow].earned == AMOUNT


async def test_a_chain_that_does_not_show_the_escrow_settles_no_voucher_by_that(tmp_path: Path) -> None:
    """A node that lags, or that the coordinator swapped for another."""
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await run_to_result(world, peer, line)
            account = world.chain.accounts.pop(line.escrow)
            world.chain.refuses = 1
            await line.pay(3, final=True)
            await line.hear(JobClosed)
        await until(lambda: world.chain.refusals, "an attempt")
        assert not peer.table.jobs()[0].collected
        world.chain.accounts[line.escrow] = account
        await until(lambda: peer.table.jobs()[0].is_retired, "the end")
        assert world.chain.accounts[line.escrow].earned == AMOUNT


async def test_a_silent_engine_costs_the_peer_its_patience_and_nothing_more(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        world.terms = _impatient(world)
        async with world.peer():
            offer = world.make_offer()
            await world.accepted(offer)
            (report,) = await until(lambda: world.coordinator.heard(ReportFailed), "the report")
            assert (report.code, report.retryable) == ("engine_absent", True)


def _impatient(world: World):  # type: ignore[no-untyped-def]
    return replace(world.terms, patience=Patience(engine_s=0.2))


# -- restart -----------------------------------------------------------------------------------


async def test_a_restarted_peer_reports_what_ran_settles_and_refunds(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        offer = world.make_offer()
        async with world.peer() as peer:
            await world.accepted(offer)
            async with world.line(peer, offer) as line:
                await start(world, line)
                await line.hear(SegmentFinished)
                await line.pay(1)
                await line.hear(SegmentFinished)
        assert world.chain.payments == []
        async with world.peer() as peer:
            (report,) = await until(lambda: world.coordinator.heard(ReportFailed), "the report")
            assert (report.lease, report.code, report.retryable) == (offer.lease, "restarted", True)
            await until(lambda: peer.table.jobs()[0].is_retired, "the payments")
            assert [type(payment) for _, payment in world.chain.payments] == [Settle, Refund]
            async with world.line(peer, offer, after=line.said[-1].sequence) as again:
                failed = await again.hear(JobFailed)
                assert failed.sequence > line.said[-1].sequence


async def test_a_restarted_peer_still_hands_over_a_finished_result(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        offer = world.make_offer()
        async with world.peer() as peer:
            await world.accepted(offer)
            async with world.line(peer, offer) as line:
                before = await run_to_result(world, peer, line)
        async with world.peer() as peer, world.line(peer, offer, after=before.sequence) as again:
            again.escrow = line.escrow
            result = await again.hear(ResultReady)
            assert result.result == before.result and result.sequence > before.sequence
            await fetch(
                world.engine.network,
                peer.network.peer_id,
                result.result,
                world.engine.files,
                max_bytes=1 << 20,
            )
            await again.pay(3, final=True)
            await again.hear(JobClosed)


async def test_a_restarted_peer_settles_the_final_voucher_that_it_holds(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        offer = world.make_offer()
        async with world.peer() as peer:
            await world.accepted(offer)
            async with world.line(peer, offer) as line:
                await run_to_result(world, peer, line)
                await line.pay(3, final=True)
                await line.hear(JobClosed)
        world.chain.payments.clear()
        if world.chain.accounts[line.escrow].status is EscrowStatus.OPEN:
            async with world.peer():
                await until(lambda: world.chain.payments, "the settlement")
        assert world.chain.accounts[line.escrow].earned == AMOUNT


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lease": LeaseRef("lease-9", 1)}, "no lease lease-9 here"),
        ({"lease": LeaseRef("lease-1", 7)}, "fencing is 7, allowed 1"),
        ({"first_segment": 1}, "first segment is 1, allowed 0"),
        ({"token": "not.a.token"}, "token"),
    ],
)
async def test_an_open_that_does_not_fit_the_offer_is_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer, **change) as line:
            failure = await line.hear(Failure)
            assert words in failure.message
        assert peer.table.jobs()[0].phase is Phase.ACCEPTED


@pytest.mark.parametrize("fault", ["stolen", "expired", "scope", "job", "audience", "forged"])
async def test_a_token_that_does_not_hold_here_opens_nothing(tmp_path: Path, fault: str) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        engine, there, job_id = world.engine.network.peer_id, peer.network.peer_id, offer.job.job_id
        other = Identity.from_seed(b"9" * 32)
        issuer = world.coordinator
        token = {
            "stolen": lambda: issuer.token(other.peer_id, there, job_id, "job"),
            "expired": lambda: issuer.token(engine, there, job_id, "job", now=1e9),
            "scope": lambda: issuer.token(engine, there, job_id, "infer"),
            "job": lambda: issuer.token(engine, there, "f" * 64, "job"),
            "audience": lambda: issuer.token(engine, other.peer_id, job_id, "job"),
            "forged": lambda: _forged(issuer.token(engine, there, job_id, "job")),
        }[fault]()
        async with world.line(peer, offer, token=token) as line:
            assert (await line.hear(Failure)).code == "unauthorized"


async def test_a_token_that_was_taken_back_opens_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        world.coordinator.revoked.add("token-id-1")
        await until(lambda: peer.services.access.is_revoked("token-id-1"), "the heartbeat")
        async with world.line(peer, offer) as line:
            failure = await line.hear(Failure)
            assert failure.code == "unauthorized" and "token-id-1 is revoked" in failure.message
        engine, there = world.engine.network.peer_id, peer.network.peer_id
        fresh = world.coordinator.token(engine, there, offer.job.job_id, "job", jti="token-id-2")
        async with world.line(peer, offer, token=fresh) as line:
            await line.hear(JobOpened)


def _forged(token: str) -> str:
    head, claims, signature = token.split(".")
    return f"{head}.{claims}.{'A' * len(signature)}"


async def test_another_graph_than_the_submitted_fails_the_job(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer, graph=b"{}") as line:
            failed = await line.hear(JobFailed)
            assert "graph hash: found" in failed.text and not failed.retryable


async def test_a_dataset_that_is_not_what_was_submitted_fails_the_job(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        spec = world.engine.spec("f" * 64, 3)
        lying = replace_struct(spec, data=replace_struct(spec.data, samples=7))
        offer = world.make_offer(spec=lying)
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            failed = await line.hear(JobFailed)
            assert failed.code == "dataset" and "allowed (7," in failed.text


async def test_a_voucher_that_is_worth_nothing_is_refused_and_names_why(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line)
            await line.hear(SegmentFinished)
            await line.pay(1, earned=AMOUNT * 2)
            failure = await line.hear(Failure)
            assert f"found {2 * AMOUNT}, allowed 1 to {AMOUNT}" in failure.message
        assert peer.table.jobs()[0].covered == 0


async def test_nobody_but_the_engine_of_the_job_may_fetch_its_files(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            result = await run_to_result(world, peer, line)
        stranger = world.net.join(Identity.from_seed(b"8" * 32))
        store = FileStore(tmp_path / "stranger", 1 << 20)
        with pytest.raises(SourceRefusedError, match="unauthorized"):
            await fetch(
                stranger,
                peer.network.peer_id,
                result.result,
                store,
                addresses=peer.network.addresses(),
                max_bytes=1 << 20,
            )


async def test_an_engines_word_opens_its_dataset_to_another_peer_and_no_other_word_does(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await run_to_result(world, peer, line)
        other = world.net.join(Identity.from_seed(b"8" * 32))
        data, here = offer.job.data.file, peer.network

        async def fetch_it(signer: MemoryNetwork) -> Path:
            grant = FileGrant(signer.peer_id, other.peer_id, (data.manifest,), time.time() + 60)
            source = FileSource(here.peer_id, tuple(here.addresses()), sign_grant(grant, signer.sign))
            store = FileStore(tmp_path / "other", 1 << 20)
            return await fetch(other, signer.peer_id, data, store, sources=[source], max_bytes=1 << 20)

        with pytest.raises(P2PError):
            await fetch_it(world.coordinator.network)
        assert (await fetch_it(world.engine.network)).read_bytes() == dataset()


async def test_a_peer_takes_the_dataset_from_whom_its_engine_names(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        helper = world.net.join(Identity.from_seed(b"8" * 32))
        held = FileStore(tmp_path / "helper", 1 << 20)
        data = await held.add_bytes(dataset())
        serve_transfers(helper, held, lambda caller, manifest: caller == peer.network.peer_id)
        world.engine.files.remove(data.blake3)
        offer = world.make_offer()
        await world.accepted(offer)
        source = FileSource(helper.peer_id, tuple(helper.addresses()))
        async with world.line(peer, offer, sources=(source,)) as line:
            await run_to_result(world, peer, line)
        assert held.bytes_sent > data.size


async def test_two_jobs_cannot_count_on_one_escrow(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line)
            await line.hear(SegmentFinished)
            world.coordinator.order(RevokeLease(offer.lease, offer.job.job_id, "test"))
            await line.hear(JobClosed)
        await until(lambda: peer.table.devices.running == 0, "the device")
        again: OfferJob = world.make_offer(spec=offer.job)
        await world.accepted(again)
        async with world.line(peer, again) as second:
            await second.start(line.escrow, world.chain.accounts[line.escrow].deadline)
            failed = await second.hear(JobFailed)
            assert "in use by job" in failed.text


async def test_a_voucher_that_comes_after_the_end_is_settled_all_the_same(tmp_path: Path) -> None:
    """The Engine checks a segment while its lease is taken back: the peer has earned it."""
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line)
            await line.hear(SegmentFinished)
            world.coordinator.order(RevokeLease(offer.lease, offer.job.job_id, "no heartbeat"))
            await until(lambda: peer.table.jobs()[0].is_retired, "the end of all that is left to do")
            await line.pay(1)
            await until(lambda: world.chain.payments, "the settlement")
        ((_, payment),) = world.chain.payments
        assert isinstance(payment, Settle) and payment.voucher.segments_done == 1
        await until(lambda: peer.table.jobs()[0].is_retired, "the end once more")


async def test_a_voucher_that_comes_while_another_is_settled_is_settled_too(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await start(world, line)
            await line.hear(SegmentFinished)
            await line.pay(1)
            await line.hear(SegmentFinished)
            world.chain.pays = trio.Event()
            world.coordinator.order(RevokeLease(offer.lease, offer.job.job_id, "no heartbeat"))
            await until(lambda: peer.table.jobs()[0].ending is not None, "the end")
            await line.pay(2)
            await until(lambda: _paid_segments(peer) == 2, "the later voucher")
            world.chain.pays.set()
            await until(lambda: peer.table.jobs()[0].is_retired, "the settlements")
        last = world.chain.payments[-1][1]
        assert isinstance(last, Settle) and last.voucher.segments_done == 2


def _paid_segments(peer: RunningPeer) -> int:
    voucher = peer.table.jobs()[0].voucher
    return 0 if voucher is None else voucher.segments_done


async def test_a_coordinator_that_answers_nonsense_keeps_no_voucher_from_the_chain(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await run_to_result(world, peer, line)
            world.coordinator.nonsense = (DeliverVoucher,)
            await line.pay(3, final=True)
            await line.hear(JobClosed)
        await until(lambda: world.chain.payments, "the settlement")
        await until(lambda: peer.table.jobs()[0].is_retired, "the end")
