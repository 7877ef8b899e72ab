from __future__ import annotations

from typing import Any

import pytest

from coordinator.errors import IllegalTransitionError, StaleLeaseError
from coordinator.job import (
    CancelRequested,
    EscrowFunded,
    FundingExpired,
    Job,
    JobEvent,
    JobExpired,
    JobRevived,
    LeaseLost,
    NoteEvidence,
    OfferAccepted,
    OfferDeclined,
    OfferExpired,
    PatienceExpired,
    PeerReported,
    ResultReported,
    SendOrder,
    StrayEscrowFound,
    Tell,
    WorkFailed,
    WorkStarted,
)
from coordinator.moves import MAX_PAYMENTS, MAX_RETRIES
from coordinator.payments import (
    OpenClaimWindow,
    PaymentConcluded,
    PaymentState,
    SettleEscrow,
    VoucherTaken,
)
from coordinator.reputation import Evidence, Standing, is_banned, note
from coordinator.state import Policy, next_due, transition
from p2p.jobs import JobState
from p2p.protocols.coordinator import LeaseRef, OfferJob, RevokeLease
from p2p.vouchers import Voucher


def after(job: Job, *events: JobEvent) -> Job:
    for event in events:
        job, _ = transition(job, event)
    return job


def running(make: Any, **changes: Any) -> Job:
    job = make.awaiting_funds(**changes)
    lease = make.lease(job)
    payment = make.payment(fencing=lease.fencing)
    return after(job, EscrowFunded(make.now, lease, payment, "s" * 88), WorkStarted(make.now, lease))


def vouch(make: Any, earned: int, done: int, final: bool = False) -> VoucherTaken:
    return VoucherTaken(make.now, make.escrow, Voucher(make.escrow, earned, final, b"s" * 64, done))


def conclude(job: Job, earned: int, closed: PaymentState | None, requested: bool = False) -> PaymentConcluded:
    pending = job.payments[0].pending
    assert pending is not None
    return PaymentConcluded(2e9, pending.escrow, pending.key, earned, closed, requested, "t" * 88)


def tells(effects: tuple[Any, ...]) -> list[str]:
    return [effect.text for effect in effects if isinstance(effect, Tell)]


def test_a_job_goes_from_submission_to_settlement(make: Any) -> None:
    job = make.submitted()
    assert job.state is JobState.SUBMITTED
    job, effects = transition(job, make.offer())
    assert job.state is JobState.MATCHED
    assert any(isinstance(effect, SendOrder) and isinstance(effect.order, OfferJob) for effect in effects)
    job, effects = transition(job, OfferAccepted(make.now, make.lease(job), make.now + 60))
    assert job.state is JobState.AWAITING_FUNDS
    assert effects[0].lease.amount == 1000
    job = after(job, EscrowFunded(make.now, make.lease(job), make.payment(), "s" * 88))
    assert job.state is JobState.FUNDED
    job = after(job, WorkStarted(make.now, make.lease(job)))
    assert job.state is JobState.RUNNING
    job = after(job, vouch(make, 250, 1), vouch(make, 750, 3))
    assert job.segments_done == 3
    job = after(job, ResultReported(make.now, make.lease(job), make.result, make.metrics))
    assert job.state is JobState.RESULT_READY
    job, effects = transition(job, vouch(make, 1000, 4, final=True))
    assert [type(effect) for effect in effects] == [Tell, SettleEscrow]
    job, effects = transition(job, conclude(job, 1000, PaymentState.SETTLED))
    assert job.state is JobState.SETTLED
    assert job.is_closed
    assert effects[0].signature == "t" * 88
    assert NoteEvidence(make.identity("peer").peer_id, Evidence.TINY_JOB_COMPLETED) in effects


def test_a_late_message_of_an_old_lease_is_refused(make: Any) -> None:
    job = after(running(make), LeaseLost(make.now, LeaseRef("lease-1", 1)))
    job = after(job, make.offer("other", lease_id="lease-2"))
    for event in (
        OfferAccepted(make.now, LeaseRef("lease-1", 1), make.now),
        WorkStarted(make.now, LeaseRef("lease-2", 1)),
        ResultReported(make.now, LeaseRef("lease-1", 2), make.result, make.metrics),
        WorkFailed(make.now, LeaseRef("lease-1", 1), "x", "y", True),
        LeaseLost(make.now, LeaseRef("lease-1", 1)),
    ):
        with pytest.raises(StaleLeaseError):
            transition(job, event)


def test_a_peer_that_declines_is_passed_over_without_blame(make: Any) -> None:
    job = after(make.submitted(), make.offer())
    job, effects = transition(job, OfferDeclined(make.now, make.lease(job), "full"))
    assert job.state is JobState.SUBMITTED
    assert job.excluded[0].peer_id == make.identity("peer").peer_id
    assert not any(isinstance(effect, NoteEvidence) for effect in effects)


def test_a_peer_that_does_not_answer_is_noted(make: Any) -> None:
    job = after(make.submitted(), make.offer())
    due = next_due(job, Policy())
    assert due == (make.now + 5, OfferExpired(make.now + 5, make.lease(job)))
    job, effects = transition(job, due[1])
    assert NoteEvidence(make.identity("peer").peer_id, Evidence.OFFER_IGNORED) in effects


def test_a_user_who_does_not_pay_frees_the_peer_without_blame(make: Any) -> None:
    job = make.awaiting_funds()
    job, effects = transition(job, FundingExpired(make.now + 60, make.lease(job)))
    assert job.state is JobState.WAITING_FOR_USER
    assert any(isinstance(effect, SendOrder) and isinstance(effect.order, RevokeLease) for effect in effects)
    assert not any(isinstance(effect, NoteEvidence) for effect in effects)
    assert after(job, JobRevived(make.now)).state is JobState.SUBMITTED


def test_a_peer_that_started_before_we_saw_the_escrow_runs_at_once(make: Any) -> None:
    job = make.awaiting_funds()
    job = after(job, WorkStarted(make.now, make.lease(job)))
    assert job.state is JobState.AWAITING_FUNDS
    job = after(job, EscrowFunded(make.now, make.lease(job), make.payment(), "s" * 88))
    assert job.state is JobState.RUNNING


def test_a_lost_lease_goes_on_elsewhere_from_what_is_proven(make: Any) -> None:
    job = after(running(make), vouch(make, 500, 2))
    job, effects = transition(job, LeaseLost(make.now, make.lease(job)))
    assert job.state is JobState.RETRYING
    assert job.segments_done == 2
    assert job.excluded[0].last_resort
    assert [type(effect) for effect in effects if isinstance(effect, SettleEscrow)] == [SettleEscrow]
    assert NoteEvidence(make.identity("peer").peer_id, Evidence.LEASE_LOST) in effects
    assert job.waits_for_peer


def test_a_job_that_nobody_takes_over_is_refunded(make: Any) -> None:
    job = running(make)
    job = after(job, LeaseLost(make.now, make.lease(job)))
    at, event = next_due(job, Policy(retry_patience_s=30)) or (0, None)
    assert (at, event) == (make.now + 30, PatienceExpired(make.now + 30))
    job = after(job, PatienceExpired(make.now + 30))
    assert job.state is JobState.FAILED
    job = after(job, conclude(job, 0, None, requested=True))
    assert job.state is JobState.FAILED
    due = next_due(job, Policy())
    assert due is not None
    job = after(job, due[1])
    job, effects = transition(job, conclude(job, 0, PaymentState.REFUNDED))
    assert job.state is JobState.REFUNDED
    assert job.is_closed
    assert effects[-1].signature == "t" * 88


def test_a_failure_that_nobody_can_mend_is_refunded_at_once(make: Any) -> None:
    job = make.awaiting_funds()
    job = after(job, WorkFailed(make.now, make.lease(job), "graph", "does not compile", False))
    assert job.state is JobState.REFUNDED


def test_an_absent_user_is_waited_for_and_nobody_is_blamed(make: Any) -> None:
    job = running(make)
    job, effects = transition(job, WorkFailed(make.now, make.lease(job), "engine_absent", "gone", True))
    assert job.state is JobState.WAITING_FOR_USER
    assert not any(isinstance(effect, NoteEvidence) for effect in effects)
    assert any(isinstance(effect, OpenClaimWindow) for effect in effects)


def test_a_report_by_a_user_without_money_at_stake_harms_nobody(make: Any) -> None:
    job = make.awaiting_funds()
    job, effects = transition(job, PeerReported(make.now, make.lease(job), "corrupt_result", "bad"))
    assert job.state is JobState.RETRYING
    assert not any(isinstance(effect, NoteEvidence) for effect in effects)


def test_a_report_strikes_only_where_its_user_has_paid_the_peer(make: Any) -> None:
    """What is in an escrow comes back: otherwise anyone could ban any peer for nothing."""
    funded = running(make)
    report = PeerReported(make.now, make.lease(funded), "corrupt_result", "bad")
    _, effects = transition(funded, report)
    assert NoteEvidence(make.identity("peer").peer_id, Evidence.ACCUSED) in effects
    _, effects = transition(after(funded, vouch(make, 250, 1)), report)
    assert NoteEvidence(make.identity("peer").peer_id, Evidence.CORRUPT_WORK) in effects
    standing = Standing(make.identity("peer").peer_id)
    for number in range(100):
        standing = note(standing, Evidence.ACCUSED, float(number))
    assert not is_banned(standing, 100.0)


def test_a_job_keeps_track_of_so_many_escrows_only(make: Any) -> None:
    """Each that cannot be used costs the arbiter fees to return."""
    job = make.submitted()
    for number in range(MAX_PAYMENTS):
        job = after(job, StrayEscrowFound(make.now, make.payment(escrow=f"escrow {number}"), "no lease"))
    with pytest.raises(IllegalTransitionError, match="32 escrows; its user has to ask this one back"):
        transition(job, StrayEscrowFound(make.now, make.payment(escrow="one more"), "no lease"))


def test_a_cancelled_job_pays_what_is_vouched_for(make: Any) -> None:
    job = after(running(make), vouch(make, 500, 2))
    job, effects = transition(job, CancelRequested(make.now))
    assert job.state is JobState.CANCELLED
    assert not job.is_closed
    assert any(isinstance(effect, SettleEscrow) for effect in effects)
    assert any(isinstance(effect, SendOrder) and isinstance(effect.order, RevokeLease) for effect in effects)
    assert transition(job, CancelRequested(make.now)) == (job, ())


def test_a_job_that_is_paid_for_cannot_be_cancelled_or_lost(make: Any) -> None:
    job = after(running(make), vouch(make, 1000, 4, final=True))
    with pytest.raises(IllegalTransitionError, match="final voucher"):
        transition(job, CancelRequested(make.now))
    assert transition(job, LeaseLost(make.now, make.lease(job))) == (job, ())


def test_a_final_voucher_after_the_lease_was_lost_still_settles_the_job(make: Any) -> None:
    job = running(make)
    job = after(job, LeaseLost(make.now, make.lease(job)), vouch(make, 1000, 4, final=True))
    assert not job.waits_for_peer
    job = after(job, conclude(job, 0, None, requested=True))
    job = after(job, conclude(job, 1000, PaymentState.SETTLED))
    assert job.state is JobState.SETTLED


def test_a_stray_escrow_goes_back_whatever_became_of_the_job(make: Any) -> None:
    job = after(make.submitted(), CancelRequested(make.now))
    assert job.is_closed
    job, effects = transition(job, StrayEscrowFound(make.now, make.payment(), "lease is over"))
    assert any(isinstance(effect, OpenClaimWindow) for effect in effects)
    assert not job.is_closed
    assert job.state is JobState.CANCELLED


def test_retries_have_an_end(make: Any) -> None:
    job = make.submitted()
    for number in range(MAX_RETRIES + 1):
        job = after(job, make.offer(f"peer {number}", lease_id=f"lease-{number}"))
        job = after(job, OfferAccepted(make.now, make.lease(job), make.now + 60))
        job = after(job, LeaseLost(make.now, make.lease(job)))
    assert job.state is JobState.REFUNDED


def test_a_job_that_waits_for_too_long_expires(make: Any) -> None:
    job = make.submitted()
    assert next_due(job, Policy(expiry_s=100)) == (make.now + 100, JobExpired(make.now + 100))
    assert after(job, JobExpired(make.now + 100)).state is JobState.EXPIRED


@pytest.mark.parametrize(
    "event",
    [
        JobRevived(1.0),
        PatienceExpired(1.0),
        VoucherTaken(1.0, "e" * 40, Voucher("e" * 40, 1, False, b"s" * 64)),
        PaymentConcluded(1.0, "e" * 40, "key", 0, None, False),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, event: JobEvent) -> None:
    with pytest.raises(IllegalTransitionError):
        transition(make.submitted(), event)


def test_a_voucher_proves_no_more_segments_than_it_pays_for(make: Any) -> None:
    job = after(running(make), vouch(make, 250, 3))
    assert job.segments_done == 1


def test_texts_from_strangers_are_cut(make: Any) -> None:
    job = running(make)
    _, effects = transition(job, WorkFailed(make.now, make.lease(job), "x", "y" * 4096, True))
    assert all(len(text) <= 1000 for text in tells(effects))
