"""The job state machine: (job, event) -> (new job, effects). Pure; states are frozen.

SUBMITTED -> MATCHED -> AWAITING_FUNDS -> FUNDED -> RUNNING -> RESULT_READY -> SETTLED, with
WAITING_FOR_USER, RETRYING, CANCELLED, FAILED -> REFUNDED and EXPIRED on the side. What does not fit
raises IllegalTransitionError and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.assignment import answered, offered, submitted
from coordinator.errors import IllegalTransitionError
from coordinator.job import (
    CancelRequested,
    EscrowFunded,
    FundingExpired,
    Grant,
    Job,
    JobEvent,
    JobExpired,
    JobRevived,
    JobSubmitted,
    LeaseLost,
    OfferAccepted,
    OfferDeclined,
    OfferExpired,
    OfferMade,
    PatienceExpired,
    PeerReported,
    ResultReported,
    StrayEscrowFound,
    WorkFailed,
    WorkStarted,
)
from coordinator.moves import (
    Step,
    illegal,
)
from coordinator.payments import (
    PaymentConcluded,
    PaymentDue,
    VoucherTaken,
)
from coordinator.settlement import finish, paid
from coordinator.trouble import broken, directed, stray
from coordinator.work import advanced, vouchered
from p2p.jobs import JobState


@dataclass(frozen=True, slots=True)
class Policy:
    """How long things may take."""

    offer_s: float = 5.0
    fund_s: float = 60.0
    retry_patience_s: float = 120.0
    expiry_s: float = 24 * 3600.0


def transition(job: Job | None, event: JobEvent) -> Step:
    """Raises IllegalTransitionError, and StaleLeaseError for a late message of an old lease."""
    if job is None:
        if not isinstance(event, JobSubmitted):
            raise IllegalTransitionError(f"{type(event).__name__} of a job that does not exist")
        return submitted(event)
    changed, effects = _dispatch(job, event)
    return finish(changed, effects)


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
            return offered(job, event)
        case OfferAccepted() | OfferDeclined() | OfferExpired():
            return answered(job, event)
        case FundingExpired() | EscrowFunded() | WorkStarted() | ResultReported():
            return advanced(job, event)
        case WorkFailed() | LeaseLost() | PeerReported():
            return broken(job, event)
        case StrayEscrowFound():
            return stray(job, event)
        case CancelRequested() | JobRevived() | PatienceExpired() | JobExpired():
            return directed(job, event)
        case VoucherTaken():
            return vouchered(job, event)
        case PaymentConcluded() | PaymentDue():
            return paid(job, event)
        case JobSubmitted():
            raise illegal(job, event)
