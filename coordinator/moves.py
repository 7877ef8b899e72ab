"""What the moves of a job's machine have in common: lines, escrows, leases, refusals. Pure."""

from __future__ import annotations

import msgspec

from coordinator import payments
from coordinator.errors import IllegalTransitionError, StaleLeaseError
from coordinator.job import (
    Effect,
    Exclusion,
    Grant,
    Job,
    JobEvent,
    SendOrder,
    Tell,
)
from coordinator.payments import (
    Payment,
    PaymentEvent,
    PaymentReleased,
)
from p2p.jobs import JobState
from p2p.protocols.coordinator import Lease, LeaseRef, RevokeLease

DECLINED_PAUSE_S = 30.0
FAILED_PAUSE_S = 3600.0
BUSY_PATIENCE_S = 30.0
"""How long peers are waited for that are merely busy, where the one that failed is back."""
MAX_RETRIES = 16
MAX_PAYMENTS = 2 * MAX_RETRIES
"""Escrows that a job keeps track of: each costs the arbiter fees to return."""
MAX_TEXT = 1000

Step = tuple[Job, tuple[Effect, ...]]
_replace = msgspec.structs.replace


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


def with_line(job: Job, text: str, *effects: Effect, **fields: object) -> Step:
    line = text[:MAX_TEXT]
    told = Tell(job.state, line, **fields)  # type: ignore[arg-type]
    return _replace(job, text=line), (told, *effects)


def revocation(job: Job, grant: Grant, reason: str) -> SendOrder:
    return SendOrder(grant.peer_id, RevokeLease(grant.ref, job.job_id, reason))


def grant_of(job: Job, lease: LeaseRef) -> Grant:
    grant = job.grant
    if grant is None or grant.ref != lease:
        present = "none" if grant is None else f"{grant.lease_id}, fencing {grant.fencing}"
        raise StaleLeaseError(f"lease {lease.lease_id}, fencing {lease.fencing} is over; present: {present}")
    return grant


def payment_of(job: Job, event: PaymentEvent) -> Payment:
    payment = job.payment(event.escrow)
    if payment is None:
        raise IllegalTransitionError(f"job {job.job_id} has no escrow {event.escrow}")
    return payment


def is_paid_for(job: Job, grant: Grant) -> bool:
    payment = job.payment(grant.escrow)
    return payment is not None and payment.voucher is not None and payment.voucher.final


def illegal(job: Job, event: JobEvent) -> IllegalTransitionError:
    return IllegalTransitionError(f"{type(event).__name__} while the job is {job.state.value}")


def with_payment(job: Job, payment: Payment, event: PaymentEvent) -> Step:
    changed, effects = payments.transition(payment, event)
    if changed is payment:
        return job, effects
    all_of_them = tuple(changed if known.escrow == payment.escrow else known for known in job.payments)
    return _replace(job, payments=all_of_them), effects


def release(job: Job, at: float, text: str, *effects: Effect) -> Step:
    """Every open escrow pays what is vouched for and returns the rest."""
    told, lines = with_line(job, text, *effects)
    for payment in job.payments:
        told, more = with_payment(told, payment, PaymentReleased(at, payment.escrow))
        lines += more
    return told, lines


def back_in_line(job: Job, reason: str, at: float, pause_s: float, *, last_resort: bool = False) -> Job:
    """Waits for another peer; the one it had is passed over for ``pause_s``."""
    state = JobState.RETRYING if job.retries else JobState.SUBMITTED
    excluded = job.excluded
    if job.grant is not None:
        grant = job.grant
        ends = at + pause_s, reason[:300], last_resort, at + BUSY_PATIENCE_S
        entry = Exclusion(grant.peer_id, grant.granted_at, *ends)
        excluded = (*(old for old in excluded if old.peer_id != entry.peer_id), entry)[-64:]
    return _replace(job, state=state, grant=None, excluded=excluded, lines=(), rejected=())
