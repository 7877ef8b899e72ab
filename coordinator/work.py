"""A job at a peer: funded, started, proven segment by segment. Pure; called by ``coordinator.state``."""

from __future__ import annotations

import msgspec

from coordinator.job import (
    EscrowFunded,
    FundingExpired,
    Grant,
    Job,
    NoteEvidence,
    ResultReported,
    WorkStarted,
)
from coordinator.moves import (
    Step,
    grant_of,
    illegal,
    payment_of,
    revocation,
    with_line,
    with_payment,
)
from coordinator.payments import (
    Payment,
    VoucherTaken,
)
from coordinator.reputation import TINY_JOB, Evidence
from p2p.jobs import JobState
from p2p.pricing import earned_after, format_tokens
from p2p.vouchers import Voucher

_replace = msgspec.structs.replace


def advanced(job: Job, event: FundingExpired | EscrowFunded | WorkStarted | ResultReported) -> Step:
    grant = grant_of(job, event.lease)
    match job.state, event:
        case JobState.AWAITING_FUNDS, FundingExpired(at):
            waiting = _replace(job, state=JobState.WAITING_FOR_USER, waiting_since=at, grant=None)
            text = f"no escrow within the time for it; {grant.peer_id} is free again. Submit again to go on"
            return with_line(waiting, text, revocation(job, grant, "the escrow was not funded in time"))
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
            return with_line(ready, text, result=result, metrics=metrics)
        case JobState.SETTLED, ResultReported() if job.result is None:
            return with_line(_with_result(job, event), "result known", result=event.result)
        case ((JobState.RESULT_READY | JobState.SETTLED), ResultReported()) if job.result == event.result:
            return job, ()
        case _:
            raise illegal(job, event)


def _funded(job: Job, grant: Grant, event: EscrowFunded) -> Step:
    payment = event.payment
    funded = _replace(
        job,
        state=JobState.FUNDED,
        grant=_replace(grant, escrow=payment.escrow),
        payments=(*job.payments, payment),
    )
    text = f"{format_tokens(payment.amount)} in escrow {payment.escrow}"
    told, effects = with_line(funded, text, signature=event.signature)
    if not grant.started or told.grant is None:
        return told, effects
    started, more = _started(told, told.grant)
    return started, effects + more


def _started(job: Job, grant: Grant) -> Step:
    running = _replace(job, state=JobState.RUNNING, grant=_replace(grant, started=True))
    return with_line(running, f"{grant.peer_id} works from {job.spec.part_name} {grant.first_segment + 1}")


def _with_result(job: Job, event: ResultReported) -> Job:
    assert job.grant is not None
    return _replace(job, result=event.result, metrics=event.metrics, served_by=job.grant.peer_id)


def vouchered(job: Job, event: VoucherTaken) -> Step:
    payment, voucher = payment_of(job, event), event.voucher
    changed, effects = with_payment(job, payment, event)
    if voucher.final:
        return with_line(changed, f"final voucher: {format_tokens(voucher.earned)} earned", *effects)
    done = max(job.segments_done, segments_proven(payment, voucher, job.spec.segments))
    if done == job.segments_done:
        return changed, effects
    text = (
        f"{job.spec.part_name} {done} of {job.spec.segments} proven; {format_tokens(voucher.earned)} earned"
    )
    proof = [NoteEvidence(payment.peer_id, Evidence.SEGMENT_PROVEN)] if payment.amount >= TINY_JOB else []
    return with_line(_replace(changed, segments_done=done), text, *proof, *effects)


def segments_proven(payment: Payment, voucher: Voucher, segments: int) -> int:
    """How many segments of the whole job a voucher pays for, and its signer says are done.

    The last one is proven by the result alone, which only a settled job has.
    """
    left = segments - payment.first_segment
    claimed = min(voucher.segments_done, segments - 1) - payment.first_segment
    while claimed > 0 and earned_after(payment.amount, claimed, left) > voucher.earned:
        claimed -= 1
    return payment.first_segment + max(0, claimed)
