"""The job state machine: (job, event) -> (new job, effects). Pure; states are frozen.

SUBMITTED -> MATCHED -> AWAITING_FUNDS -> FUNDED -> RUNNING -> RESULT_READY -> SETTLED, with
WAITING_FOR_USER, RETRYING, CANCELLED, FAILED -> REFUNDED and EXPIRED on the side. What does not fit
raises IllegalTransitionError and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from coordinator import payments
from coordinator.errors import IllegalTransitionError, StaleLeaseError
from coordinator.job import (
    WORKING,
    CancelRequested,
    Effect,
    EscrowFunded,
    Exclusion,
    FundingExpired,
    Grant,
    Job,
    JobEvent,
    JobExpired,
    JobRevived,
    JobSubmitted,
    LeaseLost,
    NoteEvidence,
    OfferAccepted,
    OfferDeclined,
    OfferExpired,
    OfferMade,
    PatienceExpired,
    PeerReported,
    ResultReported,
    SendOrder,
    StrayEscrowFound,
    Tell,
    WorkFailed,
    WorkStarted,
)
from coordinator.payments import (
    Payment,
    PaymentConcluded,
    PaymentDue,
    PaymentEvent,
    PaymentReleased,
    PaymentState,
    VoucherTaken,
)
from coordinator.reputation import TINY_JOB, Evidence, completion
from p2p.identifiers import JobId
from p2p.jobs import JobState
from p2p.pricing import earned_after, format_tokens
from p2p.protocols.coordinator import Lease, LeaseRef, OfferJob, RevokeLease
from p2p.vouchers import Voucher

DECLINED_PAUSE_S = 30.0
FAILED_PAUSE_S = 3600.0
MAX_RETRIES = 16
MAX_PAYMENTS = 2 * MAX_RETRIES
"""Escrows that a job keeps track of: each costs the arbiter fees to return."""
MAX_TEXT = 1000
CORRUPT_CODES = frozenset({"corrupt_checkpoint", "corrupt_result", "protocol"})
ENGINE_ABSENT = "engine_absent"


@dataclass(frozen=True, slots=True)
class Policy:
    """How long things may take."""

    offer_s: float = 5.0
    fund_s: float = 60.0
    retry_patience_s: float = 120.0
    expiry_s: float = 24 * 3600.0


Step = tuple[Job, tuple[Effect, ...]]
_replace = msgspec.structs.replace


def transition(job: Job | None, event: JobEvent) -> Step:
    """Raises IllegalTransitionError, and StaleLeaseError for a late message of an old lease."""
    if job is None:
        if not isinstance(event, JobSubmitted):
            raise IllegalTransitionError(f"{type(event).__name__} of a job that does not exist")
        return _submitted(event)
    changed, effects = _dispatch(job, event)
    return _finished(changed, effects)


def replay(events: Iterable[JobEvent]) -> Job | None:
    """The job that its log amounts to."""
    job: Job | None = None
    for event in events:
        job, _ = transition(job, event)
    return job


def next_due(job: Job, policy: Policy) -> tuple[float, JobEvent] | None:
    """The next thing that time alone makes happen, with the event to apply then."""
    moments: list[tuple[float, JobEvent]] = [
        (payment.due, PaymentDue(payment.due, payment.escrow))
        for payment in job.payments
        if payment.due is not None
    ]
    match job.state, job.grant:
        case JobState.MATCHED, Grant() as grant:
            moments.append((grant.answer_before, OfferExpired(grant.answer_before, grant.ref)))
        case JobState.AWAITING_FUNDS, Grant() as grant:
            moments.append((grant.fund_before, FundingExpired(grant.fund_before, grant.ref)))
        case JobState.RETRYING, _:
            moments.append(_after(job, policy.retry_patience_s, PatienceExpired))
        case ((JobState.SUBMITTED | JobState.WAITING_FOR_USER), _):
            moments.append(_after(job, policy.expiry_s, JobExpired))
    return min(moments, key=lambda moment: moment[0], default=None)


def _after(
    job: Job, wait_s: float, event: type[PatienceExpired] | type[JobExpired]
) -> tuple[float, JobEvent]:
    at = job.waiting_since + wait_s
    return at, event(at)


def _dispatch(job: Job, event: JobEvent) -> Step:
    match event:
        case OfferMade():
            return _offered(job, event)
        case OfferAccepted() | OfferDeclined() | OfferExpired():
            return _answered(job, event)
        case FundingExpired() | EscrowFunded() | WorkStarted() | ResultReported():
            return _advanced(job, event)
        case WorkFailed() | LeaseLost() | PeerReported():
            return _broken(job, event)
        case StrayEscrowFound():
            return _stray(job, event)
        case CancelRequested() | JobRevived() | PatienceExpired() | JobExpired():
            return _directed(job, event)
        case VoucherTaken():
            return _vouchered(job, event)
        case PaymentConcluded() | PaymentDue():
            return _paid(job, event)
        case JobSubmitted():
            raise _illegal(job, event)


# -- finding a peer ----------------------------------------------------------------------------


def _submitted(event: JobSubmitted) -> Step:
    spec = event.spec
    job = Job(
        job_id=JobId(spec.job_id),
        engine_id=event.engine_id,
        spec=spec,
        cost=event.cost,
        submitted_at=event.at,
        state=JobState.SUBMITTED,
        waiting_since=event.at,
    )
    return _told(
        job,
        f"submitted: {event.cost.parameters} parameters, {spec.segments} segments, "
        f"budget {format_tokens(spec.budget)}; looking for a peer",
    )


def _offered(job: Job, event: OfferMade) -> Step:
    if not job.waits_for_peer:
        raise _illegal(job, event)
    grant = Grant(
        lease_id=event.lease_id,
        fencing=job.fencing + 1,
        peer_id=event.peer_id,
        device=event.device,
        amount=event.amount,
        first_segment=event.first_segment,
        record=event.record,
        node_wallet=event.node_wallet,
        payout_wallet=event.payout_wallet,
        granted_at=event.at,
        answer_before=event.answer_before,
    )
    matched = _replace(
        job,
        state=JobState.MATCHED,
        fencing=grant.fencing,
        grant=grant,
        lines=event.lines,
        rejected=event.rejected,
    )
    offer = OfferJob(
        lease=grant.ref,
        job=job.spec,
        engine_id=job.engine_id,
        device=grant.device,
        amount=grant.amount,
        first_segment=grant.first_segment,
    )
    return _told(
        matched,
        f"offered to {grant.peer_id} for {format_tokens(grant.amount)}",
        SendOrder(grant.peer_id, offer),
    )


def _answered(job: Job, event: OfferAccepted | OfferDeclined | OfferExpired) -> Step:
    grant = _current(job, event.lease)
    match job.state, event:
        case JobState.MATCHED, OfferAccepted(_, _, fund_before):
            accepted = _replace(grant, accepted=True, fund_before=fund_before)
            waiting = _replace(job, state=JobState.AWAITING_FUNDS, grant=accepted)
            text = f"{grant.peer_id} accepted; waiting for {format_tokens(grant.amount)} in escrow"
            return _told(waiting, text, lease=lease_of(accepted))
        case JobState.MATCHED, OfferDeclined(at, _, reason):
            text = f"{grant.peer_id} declined: {reason[:200] or 'no reason given'}"
            return _told(_back_in_line(job, text, at, DECLINED_PAUSE_S), text)
        case JobState.MATCHED, OfferExpired(at):
            text = f"{grant.peer_id} did not answer the offer in time"
            blame = NoteEvidence(grant.peer_id, Evidence.OFFER_IGNORED)
            revoke = _revoke(job, grant, "the offer was not answered in time")
            return _told(_back_in_line(job, text, at, DECLINED_PAUSE_S), text, revoke, blame)
        case _, OfferAccepted() if grant.accepted and job.live_grant is not None:
            return job, ()  # the answer was lost, and given again
        case _:
            raise _illegal(job, event)


def _back_in_line(job: Job, reason: str, at: float, pause_s: float, *, last_resort: bool = False) -> Job:
    """Waits for another peer; the one it had is passed over for ``pause_s``."""
    state = JobState.RETRYING if job.retries else JobState.SUBMITTED
    excluded = job.excluded
    if job.grant is not None:
        entry = Exclusion(job.grant.peer_id, job.grant.granted_at, at + pause_s, reason[:300], last_resort)
        excluded = (*(old for old in excluded if old.peer_id != entry.peer_id), entry)[-64:]
    return _replace(job, state=state, grant=None, excluded=excluded, lines=(), rejected=())


# -- work --------------------------------------------------------------------------------------


def _advanced(job: Job, event: FundingExpired | EscrowFunded | WorkStarted | ResultReported) -> Step:
    grant = _current(job, event.lease)
    match job.state, event:
        case JobState.AWAITING_FUNDS, FundingExpired(at):
            waiting = _replace(job, state=JobState.WAITING_FOR_USER, waiting_since=at, grant=None)
            text = f"no escrow within the time for it; {grant.peer_id} is free again. Submit again to go on"
            return _told(waiting, text, _revoke(job, grant, "the escrow was not funded in time"))
        case JobState.AWAITING_FUNDS, EscrowFunded():
            return _funded(job, grant, event)
        case JobState.AWAITING_FUNDS, WorkStarted():
            return _replace(job, grant=_replace(grant, started=True)), ()
        case JobState.FUNDED, WorkStarted():
            return _started(job, grant)
        case ((JobState.RUNNING | JobState.RESULT_READY | JobState.SETTLED), WorkStarted()):
            return job, ()
        case ((JobState.FUNDED | JobState.RUNNING), ResultReported(_, _, result, metrics)):
            ready = _with_result(_replace(job, state=JobState.RESULT_READY), event)
            text = f"result of {result.size} bytes at {grant.peer_id}"
            return _told(ready, text, result=result, metrics=metrics)
        case JobState.SETTLED, ResultReported() if job.result is None:
            return _told(_with_result(job, event), "result known", result=event.result)
        case ((JobState.RESULT_READY | JobState.SETTLED), ResultReported()) if job.result == event.result:
            return job, ()
        case _:
            raise _illegal(job, event)


def _funded(job: Job, grant: Grant, event: EscrowFunded) -> Step:
    payment = event.payment
    funded = _replace(
        job,
        state=JobState.FUNDED,
        grant=_replace(grant, escrow=payment.escrow),
        payments=(*job.payments, payment),
    )
    text = f"{format_tokens(payment.amount)} in escrow {payment.escrow}"
    told, effects = _told(funded, text, signature=event.signature)
    if not grant.started or told.grant is None:
        return told, effects
    started, more = _started(told, told.grant)
    return started, effects + more


def _started(job: Job, grant: Grant) -> Step:
    running = _replace(job, state=JobState.RUNNING, grant=_replace(grant, started=True))
    return _told(running, f"{grant.peer_id} works from segment {grant.first_segment + 1}")


def _with_result(job: Job, event: ResultReported) -> Job:
    assert job.grant is not None
    return _replace(job, result=event.result, metrics=event.metrics, served_by=job.grant.peer_id)


def _vouchered(job: Job, event: VoucherTaken) -> Step:
    payment, voucher = _payment(job, event), event.voucher
    changed, effects = _pay(job, payment, event)
    if voucher.final:
        return _told(changed, f"final voucher: {format_tokens(voucher.earned)} earned", *effects)
    done = max(job.segments_done, segments_proven(payment, voucher, job.spec.segments))
    if done == job.segments_done:
        return changed, effects
    text = f"segment {done} of {job.spec.segments} proven; {format_tokens(voucher.earned)} earned"
    proof = [NoteEvidence(payment.peer_id, Evidence.SEGMENT_PROVEN)] if payment.amount >= TINY_JOB else []
    return _told(_replace(changed, segments_done=done), text, *proof, *effects)


def segments_proven(payment: Payment, voucher: Voucher, segments: int) -> int:
    """How many segments of the whole job a voucher pays for, and its signer says are done.

    The last one is proven by the result alone, which only a settled job has.
    """
    left = segments - payment.first_segment
    claimed = min(voucher.segments_done, segments - 1) - payment.first_segment
    while claimed > 0 and earned_after(payment.amount, claimed, left) > voucher.earned:
        claimed -= 1
    return payment.first_segment + max(0, claimed)


# -- trouble -----------------------------------------------------------------------------------


def _broken(job: Job, event: WorkFailed | LeaseLost | PeerReported) -> Step:
    grant = _current(job, event.lease)
    if job.state is not JobState.AWAITING_FUNDS and job.state not in WORKING:
        raise _illegal(job, event)
    if _is_paid_for(job, grant):
        return job, ()  # what is left to happen is on chain
    match event:
        case WorkFailed(at, _, code, text) if code == ENGINE_ABSENT:
            away = _replace(job, state=JobState.WAITING_FOR_USER, waiting_since=at, grant=None)
            line = f"paused: {text[:300] or 'the user cannot be reached'}. Submit again to go on"
            return _released(away, at, line)
        case WorkFailed(at, _, code, text, False):
            failed = _replace(job, state=JobState.FAILED, waiting_since=at, grant=None)
            return _released(failed, at, f"failed on {grant.peer_id}: {code}: {text}")
        case WorkFailed(at, _, code, text):
            blame = NoteEvidence(grant.peer_id, Evidence.WORK_FAILED)
            return _retry(job, at, f"{grant.peer_id} failed: {code}: {text}", blame)
        case LeaseLost(at):
            reason = f"{grant.peer_id} sent no heartbeat in time"
            revoke = _revoke(job, grant, "no heartbeat renewed the lease in time")
            return _retry(job, at, reason, revoke, NoteEvidence(grant.peer_id, Evidence.LEASE_LOST))
        case PeerReported(at, _, code, text):
            reason = f"the user reports {grant.peer_id}: {code}: {text}"
            revoke = _revoke(job, grant, f"reported by its user: {code}")
            return _retry(job, at, reason, revoke, *_report_evidence(job, grant, code))


def _report_evidence(job: Job, grant: Grant, code: str) -> tuple[NoteEvidence, ...]:
    """A user's word counts only while the user has money at stake, and bans only where some is spent.

    What is in the escrow comes back, so anyone could have any peer banned for nothing.
    """
    if job.state not in WORKING:
        return ()
    payment = job.payment(grant.escrow)
    spent = payment is not None and payment.promised > 0
    if code not in CORRUPT_CODES:
        evidence = Evidence.UNREACHABLE
    else:
        evidence = Evidence.CORRUPT_WORK if spent else Evidence.ACCUSED
    return (NoteEvidence(grant.peer_id, evidence),)


def _retry(job: Job, at: float, reason: str, *effects: Effect) -> Step:
    counted = _replace(job, retries=job.retries + 1, waiting_since=at)
    if counted.retries > MAX_RETRIES:
        failed = _replace(counted, state=JobState.FAILED, grant=None)
        return _released(failed, at, f"{reason}; {MAX_RETRIES} retries were enough", *effects)
    waiting = _back_in_line(counted, reason, at, FAILED_PAUSE_S, last_resort=True)
    text = f"{reason}; goes on elsewhere from segment {job.segments_done + 1}"
    return _released(waiting, at, text, *effects)


def _released(job: Job, at: float, text: str, *effects: Effect) -> Step:
    """Every open escrow pays what is vouched for and returns the rest."""
    told, lines = _told(job, text, *effects)
    for payment in job.payments:
        told, more = _pay(told, payment, PaymentReleased(at, payment.escrow))
        lines += more
    return told, lines


def _stray(job: Job, event: StrayEscrowFound) -> Step:
    if job.payment(event.payment.escrow) is not None:
        raise IllegalTransitionError(f"escrow {event.payment.escrow} is known already")
    if len(job.payments) >= MAX_PAYMENTS:
        raise IllegalTransitionError(f"the job has {MAX_PAYMENTS} escrows; its user has to ask this one back")
    known = _replace(job, payments=(*job.payments, event.payment))
    text = f"escrow {event.payment.escrow} cannot be used ({event.reason}); it is being returned"
    told, effects = _told(known, text)
    paid, more = _pay(told, event.payment, PaymentReleased(event.at, event.payment.escrow))
    return paid, effects + more


def _directed(job: Job, event: CancelRequested | JobRevived | PatienceExpired | JobExpired) -> Step:
    match job.state, event:
        case JobState.CANCELLED, CancelRequested():
            return job, ()
        case JobState.WAITING_FOR_USER, JobRevived(at):
            state = JobState.RETRYING if job.retries else JobState.SUBMITTED
            return _told(_replace(job, state=state, waiting_since=at), "the user is back; looking for a peer")
        case JobState.RETRYING, PatienceExpired(at):
            failed = _replace(job, state=JobState.FAILED, waiting_since=at)
            return _released(failed, at, "no peer could take it over in time")
        case ((JobState.SUBMITTED | JobState.WAITING_FOR_USER), JobExpired(at)):
            return _released(_replace(job, state=JobState.EXPIRED), at, "nothing happened for too long")
        case state, CancelRequested(at) if not state.is_final and state is not JobState.FAILED:
            return _cancelled(job, at)
        case _:
            raise _illegal(job, event)


def _cancelled(job: Job, at: float) -> Step:
    grant = job.live_grant
    if grant is not None and _is_paid_for(job, grant):
        raise IllegalTransitionError("cannot cancel: the final voucher was given")
    revoke = () if grant is None else (_revoke(job, grant, "cancelled by the user"),)
    return _released(_replace(job, state=JobState.CANCELLED), at, "cancelled by the user", *revoke)


# -- money -------------------------------------------------------------------------------------


def _paid(job: Job, event: PaymentConcluded | PaymentDue) -> Step:
    payment = _payment(job, event)
    changed, effects = _pay(job, payment, event)
    if isinstance(event, PaymentDue):
        return changed, effects
    after = changed.payment(event.escrow)
    assert after is not None
    if event.refusal and after.closed is None:
        told, lines = _told(changed, f"the chain refused a payment, tried again later: {event.refusal[:300]}")
        return told, lines + effects
    if payment.closed is not None or after.closed is None:
        return changed, effects
    closed, lines = _escrow_closed(changed, after, event.at)
    return closed, lines + effects


def _escrow_closed(job: Job, payment: Payment, at: float) -> Step:
    """An escrow came to its end; that may be the end of the job."""
    text = (
        f"escrow {payment.escrow} is {payment.state.value}: {format_tokens(payment.earned)} earned, "
        f"a tenth of it for the platform; {format_tokens(payment.returned)} back to the user"
    )
    signature = payment.signature or None
    if job.state.is_final or job.state is JobState.FAILED:
        return _told(job, text, signature=signature)
    if payment.earned == payment.amount and payment.closed is PaymentState.SETTLED:
        return _all_settled(job, payment, at, text)
    if job.grant is not None and job.grant.escrow == payment.escrow and job.state in WORKING:
        revoke = _revoke(job, job.grant, "the escrow is closed")
        return _released(
            _replace(job, state=JobState.CANCELLED), at, f"stopped before its end; {text}", revoke
        )
    return _told(job, text, signature=signature)


def _all_settled(job: Job, payment: Payment, at: float, text: str) -> Step:
    """The work is paid in full, be it by a peer whose lease was given up too soon."""
    effects: list[Effect] = [NoteEvidence(payment.peer_id, completion(payment.amount))]
    grant = job.live_grant
    if grant is not None and grant.escrow != payment.escrow:
        effects.append(_revoke(job, grant, "the job is settled"))
    settled = _replace(
        job, state=JobState.SETTLED, segments_done=job.spec.segments, served_by=payment.peer_id
    )
    told, lines = _told(settled, text, *effects, result=job.result, signature=payment.signature or None)
    for other in settled.payments:
        told, more = _pay(told, other, PaymentReleased(at, other.escrow))
        lines += more
    return told, lines


def _pay(job: Job, payment: Payment, event: PaymentEvent) -> Step:
    changed, effects = payments.transition(payment, event)
    if changed is payment:
        return job, effects
    all_of_them = tuple(changed if known.escrow == payment.escrow else known for known in job.payments)
    return _replace(job, payments=all_of_them), effects


def _finished(job: Job, effects: tuple[Effect, ...]) -> Step:
    if job.state is not JobState.FAILED or any(payment.closed is None for payment in job.payments):
        return job, effects
    returned = sum(payment.returned for payment in job.payments)
    last = next((payment.signature for payment in reversed(job.payments) if payment.signature), None)
    text = f"{format_tokens(returned)} refunded" if job.payments else "nothing had been paid"
    told, lines = _told(_replace(job, state=JobState.REFUNDED), text, signature=last)
    return told, effects + lines


# -- small things ------------------------------------------------------------------------------


def lease_of(grant: Grant) -> Lease:
    """The grant as its user sees it."""
    return Lease(
        lease_id=grant.lease_id,
        fencing=grant.fencing,
        peer_id=grant.peer_id,
        device=grant.device,
        amount=grant.amount,
        first_segment=grant.first_segment,
        record=grant.record,
        fund_before=grant.fund_before,
    )


def _told(job: Job, text: str, *effects: Effect, **fields: object) -> Step:
    line = text[:MAX_TEXT]
    told = Tell(job.state, line, **fields)  # type: ignore[arg-type]
    return _replace(job, text=line), (told, *effects)


def _revoke(job: Job, grant: Grant, reason: str) -> SendOrder:
    return SendOrder(grant.peer_id, RevokeLease(grant.ref, job.job_id, reason))


def _current(job: Job, lease: LeaseRef) -> Grant:
    grant = job.grant
    if grant is None or grant.ref != lease:
        present = "none" if grant is None else f"{grant.lease_id}, fencing {grant.fencing}"
        raise StaleLeaseError(f"lease {lease.lease_id}, fencing {lease.fencing} is over; present: {present}")
    return grant


def _payment(job: Job, event: PaymentEvent) -> Payment:
    payment = job.payment(event.escrow)
    if payment is None:
        raise IllegalTransitionError(f"job {job.job_id} has no escrow {event.escrow}")
    return payment


def _is_paid_for(job: Job, grant: Grant) -> bool:
    payment = job.payment(grant.escrow)
    return payment is not None and payment.voucher is not None and payment.voucher.final


def _illegal(job: Job, event: JobEvent) -> IllegalTransitionError:
    return IllegalTransitionError(f"{type(event).__name__} while the job is {job.state.value}")
