"""What ends a lease or a job before its time: failures, reports, cancellation, time. Pure; called by
``coordinator.state``.
"""

from __future__ import annotations

import msgspec

from coordinator.errors import IllegalTransitionError
from coordinator.job import (
    WORKING,
    CancelRequested,
    Effect,
    Grant,
    Job,
    JobExpired,
    JobRevived,
    LeaseLost,
    NoteEvidence,
    PatienceExpired,
    PeerReported,
    StrayEscrowFound,
    WorkFailed,
)
from coordinator.moves import (
    FAILED_PAUSE_S,
    MAX_PAYMENTS,
    MAX_RETRIES,
    Step,
    back_in_line,
    grant_of,
    illegal,
    is_paid_for,
    release,
    revocation,
    with_line,
    with_payment,
)
from coordinator.payments import (
    PaymentReleased,
)
from coordinator.reputation import Evidence
from p2p.jobs import JobState

CORRUPT_CODES = frozenset({"corrupt_checkpoint", "corrupt_result", "protocol"})
ENGINE_ABSENT = "engine_absent"
_replace = msgspec.structs.replace


def broken(job: Job, event: WorkFailed | LeaseLost | PeerReported) -> Step:
    grant = grant_of(job, event.lease)
    if job.state is not JobState.AWAITING_FUNDS and job.state not in WORKING:
        raise illegal(job, event)
    if is_paid_for(job, grant):
        return job, ()  # what is left to happen is on chain
    match event:
        case WorkFailed(at, _, code, text) if code == ENGINE_ABSENT:
            away = _replace(job, state=JobState.WAITING_FOR_USER, waiting_since=at, grant=None)
            line = f"paused: {text[:300] or 'the user cannot be reached'}. Submit again to go on"
            return release(away, at, line)
        case WorkFailed(at, _, code, text, False):
            failed = _replace(job, state=JobState.FAILED, waiting_since=at, grant=None)
            return release(failed, at, f"failed on {grant.peer_id}: {code}: {text}")
        case WorkFailed(at, _, code, text):
            blame = NoteEvidence(grant.peer_id, Evidence.WORK_FAILED)
            return _retry(job, at, f"{grant.peer_id} failed: {code}: {text}", blame)
        case LeaseLost(at):
            reason = f"{grant.peer_id} sent no heartbeat in time"
            revoke = revocation(job, grant, "no heartbeat renewed the lease in time")
            return _retry(job, at, reason, revoke, NoteEvidence(grant.peer_id, Evidence.LEASE_LOST))
        case PeerReported(at, _, code, text):
            reason = f"the user reports {grant.peer_id}: {code}: {text}"
            revoke = revocation(job, grant, f"reported by its user: {code}")
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
        return release(failed, at, f"{reason}; {MAX_RETRIES} retries were enough", *effects)
    waiting = back_in_line(counted, reason, at, FAILED_PAUSE_S, last_resort=True)
    text = f"{reason}; goes on elsewhere from {job.spec.part_name} {job.segments_done + 1}"
    return release(waiting, at, text, *effects)


def stray(job: Job, event: StrayEscrowFound) -> Step:
    if job.payment(event.payment.escrow) is not None:
        raise IllegalTransitionError(f"escrow {event.payment.escrow} is known already")
    if len(job.payments) >= MAX_PAYMENTS:
        raise IllegalTransitionError(f"the job has {MAX_PAYMENTS} escrows; its user has to ask this one back")
    known = _replace(job, payments=(*job.payments, event.payment))
    text = f"escrow {event.payment.escrow} cannot be used ({event.reason}); it is being returned"
    told, effects = with_line(known, text)
    paid, more = with_payment(told, event.payment, PaymentReleased(event.at, event.payment.escrow))
    return paid, effects + more


def directed(job: Job, event: CancelRequested | JobRevived | PatienceExpired | JobExpired) -> Step:
    match job.state, event:
        case JobState.CANCELLED, CancelRequested():
            return job, ()
        case JobState.WAITING_FOR_USER, JobRevived(at):
            state = JobState.RETRYING if job.retries else JobState.SUBMITTED
            return with_line(
                _replace(job, state=state, waiting_since=at), "the user is back; looking for a peer"
            )
        case JobState.RETRYING, PatienceExpired(at):
            failed = _replace(job, state=JobState.FAILED, waiting_since=at)
            return release(failed, at, "no peer could take it over in time")
        case ((JobState.SUBMITTED | JobState.WAITING_FOR_USER), JobExpired(at)):
            return release(_replace(job, state=JobState.EXPIRED), at, "nothing happened for too long")
        case state, CancelRequested(at) if not state.is_final and state is not JobState.FAILED:
            return _cancelled(job, at)
        case _:
            raise illegal(job, event)


def _cancelled(job: Job, at: float) -> Step:
    grant = job.live_grant
    if grant is not None and is_paid_for(job, grant):
        raise IllegalTransitionError("cannot cancel: the final voucher was given")
    revoke = () if grant is None else (revocation(job, grant, "cancelled by the user"),)
    return release(_replace(job, state=JobState.CANCELLED), at, "cancelled by the user", *revoke)
