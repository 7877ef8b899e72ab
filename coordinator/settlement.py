"""What an escrow's end means for its job. Pure; called by ``coordinator.state``."""

from __future__ import annotations

import msgspec

from coordinator.job import (
    WORKING,
    Effect,
    Job,
    NoteEvidence,
)
from coordinator.moves import (
    Step,
    payment_of,
    release,
    revocation,
    with_line,
    with_payment,
)
from coordinator.payments import (
    Payment,
    PaymentConcluded,
    PaymentDue,
    PaymentReleased,
    PaymentState,
)
from coordinator.reputation import completion
from p2p.jobs import JobState
from p2p.pricing import format_tokens

_replace = msgspec.structs.replace


def paid(job: Job, event: PaymentConcluded | PaymentDue) -> Step:
    payment = payment_of(job, event)
    changed, effects = with_payment(job, payment, event)
    if isinstance(event, PaymentDue):
        return changed, effects
    after = changed.payment(event.escrow)
    assert after is not None
    if event.refusal and after.closed is None:
        told, lines = with_line(
            changed, f"the chain refused a payment, tried again later: {event.refusal[:300]}"
        )
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
        return with_line(job, text, signature=signature)
    if payment.earned == payment.amount and payment.closed is PaymentState.SETTLED:
        return _all_settled(job, payment, at, text)
    if job.grant is not None and job.grant.escrow == payment.escrow and job.state in WORKING:
        revoke = revocation(job, job.grant, "the escrow is closed")
        return release(_replace(job, state=JobState.CANCELLED), at, f"stopped before its end; {text}", revoke)
    return with_line(job, text, signature=signature)


def _all_settled(job: Job, payment: Payment, at: float, text: str) -> Step:
    """The work is paid in full, be it by a peer whose lease was given up too soon."""
    effects: list[Effect] = [NoteEvidence(payment.peer_id, completion(payment.amount))]
    grant = job.live_grant
    if grant is not None and grant.escrow != payment.escrow:
        effects.append(revocation(job, grant, "the job is settled"))
    settled = _replace(
        job, state=JobState.SETTLED, segments_done=job.spec.segments, served_by=payment.peer_id
    )
    told, lines = with_line(settled, text, *effects, result=job.result, signature=payment.signature or None)
    for other in settled.payments:
        told, more = with_payment(told, other, PaymentReleased(at, other.escrow))
        lines += more
    return told, lines


def finish(job: Job, effects: tuple[Effect, ...]) -> Step:
    if job.state is not JobState.FAILED or any(payment.closed is None for payment in job.payments):
        return job, effects
    returned = sum(payment.returned for payment in job.payments)
    last = next((payment.signature for payment in reversed(job.payments) if payment.signature), None)
    text = f"{format_tokens(returned)} refunded" if job.payments else "nothing had been paid"
    told, lines = with_line(_replace(job, state=JobState.REFUNDED), text, signature=last)
    return told, effects + lines
