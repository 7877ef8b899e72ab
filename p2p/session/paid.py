"""How events change a job that is paid for, of which the coordinator decides where it stands. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from p2p.jobs import JobMetrics, JobState
from p2p.protocols.coordinator import JobUpdate
from p2p.session.events import (
    CancelAsked,
    CancelSent,
    CountRestarted,
    EscrowClosed,
    EscrowPaid,
    EscrowReclaimed,
    EscrowRefused,
    EscrowReported,
    Event,
    JobAccepted,
    JobUpdated,
    LeaseTaken,
    ModelTried,
    PartEvaluated,
    PauseChanged,
    PaymentDropped,
    PaymentStarted,
    PeerAccused,
    PeerReported,
    PeerSaid,
    RateChanged,
    ResultAnnounced,
    ResultProven,
    SegmentAnnounced,
    SegmentProven,
    VoucherDelivered,
)
from p2p.session.job import Job, lease_ref
from p2p.vouchers import Voucher

LEASE_OVER = frozenset({JobState.SUBMITTED, JobState.RETRYING, JobState.WAITING_FOR_USER, JobState.FAILED})


def advance(job: Job, event: Event) -> Job:
    """The job after the event; of a direct job only what is as with a paid one: see ``direct.advance``.

    Late and repeated events change nothing.
    """
    match event:
        case JobAccepted():
            return replace(job, accepted=True, revive=False)
        case JobUpdated(update):
            return _updated(job, update)
        case LeaseTaken(escrow):
            kept = tuple(c for c in job.checkpoints if c.segment < escrow.first_segment)
            # Questions of an earlier lease may have been asked: their answers may be known.
            trial = None if job.escrows else job.trial
            return replace(job, escrows=(*job.escrows, escrow), checkpoints=kept, trial=trial)
        case SegmentAnnounced() | ResultAnnounced() | PeerSaid():
            return _heard(job, event)
        case CountRestarted(lease):
            current = job.lease is not None and lease == lease_ref(job.lease)
            return replace(job, messages=0) if current else job
        case SegmentProven() | ResultProven():
            return _proven(job, event)
        case PeerAccused(lease, code, text):
            if job.lease is None or lease.lease_id != job.lease.lease_id or job.complained == lease:
                return job
            return replace(job, complaint=(code, text), announced=None, announced_result=None)
        case PeerReported(lease):
            return replace(job, complained=lease, complaint=None)
        case PartEvaluated(evaluation):
            return replace(job, evaluations=(*job.evaluations, evaluation))
        case ModelTried(trial):
            # Few questions, once they are known, may all be of periods that were served meanwhile.
            return replace(job, trial=trial) if trial.covers(job.segments_done) else job
        case PauseChanged(paused):
            return replace(job, paused=paused)
        case RateChanged(rate):
            return replace(job, learning_rate=rate)
        case CancelAsked():
            return replace(job, cancelling=True)
        case CancelSent():
            return replace(job, cancel_sent=True)
        case _:
            return _paid(job, event)


def _updated(job: Job, update: JobUpdate) -> Job:
    if update.sequence <= job.updates:
        return job
    lease, messages = job.lease, job.messages
    if update.lease is not None and (lease is None or update.lease.fencing > lease.fencing):
        lease, messages = update.lease, 0
    elif update.state in LEASE_OVER:
        lease = None
    text, failed = update.text, job.failed
    if update.state is JobState.FAILED:
        failed = failed or text
    elif update.state is JobState.REFUNDED and failed:
        text = f"{failed}; {text}"[:4000]
    after = replace(
        job,
        updates=update.sequence,
        state=update.state,
        text=text,
        failed=failed,
        lease=lease,
        messages=messages,
        revive=update.state is JobState.WAITING_FOR_USER,
        metrics=_newer(job.metrics, update.metrics),
        settlement=job.settlement or (update.signature if update.state is JobState.SETTLED else None),
    )
    if lease is job.lease:
        return after
    return replace(after, announced=None, announced_result=None, complaint=None)


def _newer(known: JobMetrics | None, told: JobMetrics | None) -> JobMetrics | None:
    """The coordinator tells the curve late: it never replaces what the peer said after that point."""
    if known is None or told is None:
        return told or known
    return max(known, told, key=lambda point: (point.step, point.test_accuracy is not None))


def _heard(job: Job, event: SegmentAnnounced | ResultAnnounced | PeerSaid) -> Job:
    current = job.lease is not None and event.lease == lease_ref(job.lease)
    if not current or event.sequence <= job.messages:
        return job
    match event:
        case SegmentAnnounced(_, sequence, checkpoint, metrics):
            if job.hold is not None and checkpoint.segment < job.hold.segments_done:  # told again
                return replace(job, messages=sequence)
            return replace(job, messages=sequence, announced=checkpoint, metrics=metrics)
        case ResultAnnounced(_, sequence, result, metrics):
            announced = result if job.result is None else None
            return replace(job, messages=sequence, announced_result=announced, metrics=metrics)
        case PeerSaid(_, sequence):
            return replace(job, messages=sequence)


def _proven(job: Job, event: SegmentProven | ResultProven) -> Job:
    job = _with_voucher(job, event.address, event.voucher)
    if isinstance(event, ResultProven):
        return replace(job, result=event.result, announced_result=None)
    others = tuple(c for c in job.checkpoints if c.segment != event.checkpoint.segment)
    announced = None if job.announced == event.checkpoint else job.announced
    return replace(job, checkpoints=(*others, event.checkpoint), announced=announced)


def _with_voucher(job: Job, address: str, voucher: Voucher) -> Job:
    escrow = next(e for e in job.escrows if e.address == address)
    if not voucher.supersedes(escrow.voucher):
        return job
    return _change(job, address, voucher=voucher, delivered=False)


def _paid(job: Job, event: Event) -> Job:
    match event:
        case PaymentStarted(address):
            return _change(job, address, sent=True)
        case PaymentDropped(address, _):
            return _change(job, address, dropped=True)
        case EscrowPaid(address, signature):
            return _change(job, address, signature=signature)
        case EscrowReported(address):
            return _change(job, address, reported=True)
        case EscrowRefused(address, reason):
            return _change(job, address, refused=reason)
        case EscrowReclaimed(address, _) | EscrowClosed(address):
            return _change(job, address, reclaimed=True)
        case VoucherDelivered(address, voucher):
            current = next(e for e in job.escrows if e.address == address).voucher
            return _change(job, address, delivered=True) if current == voucher else job
        case _:
            raise TypeError(f"{type(event).__name__} is no event of a job")


def _change(job: Job, address: str, **fields: object) -> Job:
    escrows = tuple(replace(e, **fields) if e.address == address else e for e in job.escrows)
    return replace(job, escrows=escrows)
