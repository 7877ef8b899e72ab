"""What an Engine knows about one of its jobs, and how each event changes that. Pure.

The record is on disk before anything is done about it. It never decides what to do: that is ``plan``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from p2p.codec import Part
from p2p.identifiers import Address, Amount, Count, Hash, Label, PeerIdField, Seconds, Sequence, Text, Wallet
from p2p.jobs import DataPart, FileRef, JobMetrics, JobSpec, JobState
from p2p.protocols.coordinator import JobUpdate, Lease, LeaseRef
from p2p.session.trial import Question, Trial
from p2p.vouchers import Voucher

WITH_PEER = frozenset({JobState.AWAITING_FUNDS, JobState.FUNDED, JobState.RUNNING, JobState.RESULT_READY})
"""The states in which the lease holds and there is something to say to the peer."""
ENDED = frozenset({JobState.COMPLETED, JobState.CANCELLED, JobState.FAILED})
"""How a direct job can end: nothing is left to refund when it failed."""
LEASE_OVER = frozenset({JobState.SUBMITTED, JobState.RETRYING, JobState.WAITING_FOR_USER, JobState.FAILED})


class Checkpoint(Part, frozen=True):
    """``segment`` counts from 0."""

    segment: Count
    file: FileRef


class Escrow(Part, frozen=True):
    """One escrow of the job: fixed, and on disk, before the chain hears of it."""

    lease: LeaseRef
    peer_id: PeerIdField
    addresses: Annotated[tuple[Address, ...], Meta(max_length=32)]
    """Of the peer, by its signed record."""
    node: Wallet
    payout: Wallet
    arbiter: Wallet
    amount: Amount
    first_segment: Count
    claim_window_s: Count
    deadline: Count
    address: Wallet
    sent: bool = False
    """Handed to the payment outbox: from then on it may exist."""
    signature: str | None = None
    """Confirmed on chain."""
    reported: bool = False
    refused: str | None = None
    """Why the coordinator does not count it, if so: then the money is asked back."""
    dropped: bool = False
    """Never sent, and never to be sent."""
    reclaimed: bool = False
    voucher: Voucher | None = None
    """The newest. Its segments are counted from the start of the job, its units within the escrow."""
    delivered: bool = True
    """The coordinator has ``voucher``."""

    @property
    def segments_done(self) -> int:
        """Of the whole job, vouchered."""
        return self.voucher.segments_done if self.voucher is not None else self.first_segment

    @property
    def earned(self) -> int:
        return self.voucher.earned if self.voucher is not None else 0


class Grant(Part, frozen=True):
    """A lease that a peer gave by itself, unpaid: what an Escrow is to a paid one."""

    lease: LeaseRef
    peer_id: PeerIdField
    addresses: Annotated[tuple[Address, ...], Meta(max_length=32)]
    first_segment: Count
    segments_done: Count
    """Of the whole job, fetched and checked."""


class Direct(Part, frozen=True):
    """The terms of a job that is done unpaid by a peer of the own network."""

    wanted: str = ""
    """The one peer that may do it; empty: any that lets this Engine in."""
    addresses: tuple[Address, ...] = ()
    """Of that peer, where the user named one."""
    grants: tuple[Grant, ...] = ()
    failures: Count = 0
    """In a row, without a segment in between."""
    avoided: tuple[PeerIdField, ...] = ()
    """Peers that gave what does not hold."""


class Evaluation(Part, frozen=True):
    """What a model is worth on private samples, by their owner's own measurement."""

    model: Hash
    part: DataPart
    step: Count
    """Of the training, at which the model was taken."""
    samples: Count = 0
    loss: float | None = None
    accuracy: float | None = None
    failure: Text = ""
    """Why there is nothing to tell, if so."""


class Job(Part, frozen=True):
    spec: JobSpec
    name: Label
    coordinator: Label
    """Empty for a direct job, which has none."""
    training_flops: Annotated[int, Meta(ge=0)]
    steps: Annotated[int, Meta(ge=1)]
    """Of the whole training."""
    created_at: Seconds
    accepted: bool = False
    """The coordinator has it."""
    revive: bool = False
    """To be submitted again: the coordinator waits for its user."""
    state: JobState = JobState.SUBMITTED
    text: Text = ""
    updates: Sequence = 0
    """Newest number of the coordinator's."""
    lease: Lease | None = None
    messages: Sequence = 0
    """Newest durable number of the peer's, under this lease."""
    escrows: tuple[Escrow, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    """Fetched and checked."""
    announced: Checkpoint | None = None
    """Finished by the peer, not yet fetched and checked."""
    announced_result: FileRef | None = None
    result: FileRef | None = None
    """Fetched and checked."""
    metrics: JobMetrics | None = None
    complained: LeaseRef | None = None
    """The lease whose peer was reported."""
    complaint: tuple[Label, Text] | None = None
    """Code and text to report about the peer of the current lease."""
    paused: bool = False
    learning_rate: float | None = None
    """That the user set in place of the graph's; None: none."""
    cancelling: bool = False
    cancel_sent: bool = False
    settlement: str | None = None
    direct: Direct | None = None
    """The terms of an unpaid job; None: a paid one. Fixed when the job is made."""
    evaluations: tuple[Evaluation, ...] = ()
    trial: Trial | None = None
    """Of a deployment: what its model answers here in this period and the next ones."""

    @property
    def job_id(self) -> str:
        return self.spec.job_id

    @property
    def escrow(self) -> Escrow | None:
        """The one of the current lease."""
        if self.lease is None:
            return None
        return next((e for e in reversed(self.escrows) if e.lease.lease_id == self.lease.lease_id), None)

    @property
    def hold(self) -> Escrow | Grant | None:
        """What the current lease rests on."""
        if self.direct is None:
            return self.escrow
        return next((g for g in self.holds if self.lease and g.lease.lease_id == self.lease.lease_id), None)

    @property
    def holds(self) -> tuple[Escrow | Grant, ...]:
        """What all leases so far rested on, newest first."""
        held: tuple[Escrow | Grant, ...] = self.escrows if self.direct is None else self.direct.grants
        return held[::-1]

    @property
    def is_over(self) -> bool:
        """Nobody has any more to do for it; its money may still be on its way back."""
        return self.state.is_final or (self.direct is not None and self.state in ENDED)

    @property
    def segments_done(self) -> int:
        """Proven, and vouchered if paid, wherever."""
        return max((hold.segments_done for hold in self.holds), default=0)

    @property
    def question(self) -> Question | None:
        """That proves the period which is served now; None where its answer is not known here."""
        return self.trial.question_for(self.segments_done) if self.trial is not None else None

    @property
    def spent(self) -> int:
        """Units promised by vouchers so far."""
        return sum(escrow.earned for escrow in self.escrows)

    @property
    def peer_id(self) -> str | None:
        """Of the current lease, or the last that was paid."""
        if self.lease is not None:
            return self.lease.peer_id
        return self.holds[0].peer_id if self.holds else None

    @property
    def owner_metrics(self) -> dict[DataPart, Evaluation]:
        """The result on each private part, as far as it was evaluated."""
        model = self.result.blake3 if self.result is not None else None
        return {item.part: item for item in self.evaluations if item.model == model and not item.failure}

    def begins_from(self, segment: int) -> FileRef | None:
        """What brings the weights that ``segment`` begins with: a checkpoint, or first the user's model."""
        if segment == 0:
            return self.spec.start
        found = self.checkpoint_before(segment)
        return found.file if found is not None else None

    def checkpoint_before(self, segment: int) -> Checkpoint | None:
        """The one from which ``segment`` goes on."""
        return next((c for c in self.checkpoints if c.segment == segment - 1), None)


# -- events ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobAccepted:
    """The coordinator took the job, or took it up again."""


@dataclass(frozen=True, slots=True)
class JobUpdated:
    update: JobUpdate


@dataclass(frozen=True, slots=True)
class LeaseTaken:
    """The lease was checked; ``escrow`` is what will pay for it."""

    escrow: Escrow


@dataclass(frozen=True, slots=True)
class PaymentStarted:
    address: str


@dataclass(frozen=True, slots=True)
class PaymentDropped:
    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class EscrowPaid:
    address: str
    signature: str


@dataclass(frozen=True, slots=True)
class EscrowReported:
    address: str


@dataclass(frozen=True, slots=True)
class EscrowRefused:
    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class EscrowReclaimed:
    address: str
    signature: str


@dataclass(frozen=True, slots=True)
class EscrowClosed:
    """Settled or refunded by somebody else: nothing is left in it."""

    address: str


@dataclass(frozen=True, slots=True)
class SegmentAnnounced:
    lease: LeaseRef
    sequence: int
    checkpoint: Checkpoint
    metrics: JobMetrics


@dataclass(frozen=True, slots=True)
class ResultAnnounced:
    lease: LeaseRef
    sequence: int
    result: FileRef
    metrics: JobMetrics


@dataclass(frozen=True, slots=True)
class PeerSaid:
    """A line for people that must not get lost: failed, closed."""

    lease: LeaseRef
    sequence: int
    text: str
    retryable: bool = True
    """Whether the peer says that another try may succeed."""


@dataclass(frozen=True, slots=True)
class JobQueued:
    """A direct job waits for a device."""

    text: str


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """A peer takes a direct job."""

    lease: Lease
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SegmentKept:
    """The checkpoint of a direct job is here and checked."""

    lease: LeaseRef
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class SegmentMissed:
    """The peer of a direct job does not have this checkpoint any more."""

    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class ResultKept:
    """The model of a direct job is here and checked."""

    lease: LeaseRef
    result: FileRef


@dataclass(frozen=True, slots=True)
class CountRestarted:
    """The peer lost its count, in a restart: its next messages have small numbers."""

    lease: LeaseRef


@dataclass(frozen=True, slots=True)
class SegmentProven:
    address: str
    checkpoint: Checkpoint
    voucher: Voucher


@dataclass(frozen=True, slots=True)
class ResultProven:
    address: str
    result: FileRef
    voucher: Voucher


@dataclass(frozen=True, slots=True)
class VoucherDelivered:
    address: str
    voucher: Voucher


@dataclass(frozen=True, slots=True)
class PeerAccused:
    """The peer of ``lease`` is to be reported."""

    lease: LeaseRef
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class PeerReported:
    lease: LeaseRef


@dataclass(frozen=True, slots=True)
class PartEvaluated:
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class ModelTried:
    trial: Trial


@dataclass(frozen=True, slots=True)
class PauseChanged:
    paused: bool


@dataclass(frozen=True, slots=True)
class RateChanged:
    rate: float


@dataclass(frozen=True, slots=True)
class CancelAsked:
    pass


@dataclass(frozen=True, slots=True)
class CancelSent:
    pass


Event = (
    JobAccepted
    | JobUpdated
    | LeaseTaken
    | PaymentStarted
    | PaymentDropped
    | EscrowPaid
    | EscrowReported
    | EscrowRefused
    | EscrowReclaimed
    | EscrowClosed
    | SegmentAnnounced
    | ResultAnnounced
    | PeerSaid
    | JobQueued
    | LeaseGranted
    | SegmentKept
    | SegmentMissed
    | ResultKept
    | CountRestarted
    | SegmentProven
    | ResultProven
    | VoucherDelivered
    | PeerAccused
    | PeerReported
    | PartEvaluated
    | ModelTried
    | PauseChanged
    | RateChanged
    | CancelAsked
    | CancelSent
)


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
            return replace(job, escrows=(*job.escrows, escrow), checkpoints=kept)
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
            return replace(job, trial=trial)
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
    after = replace(
        job,
        updates=update.sequence,
        state=update.state,
        text=update.text,
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


def lease_ref(lease: Lease) -> LeaseRef:
    return LeaseRef(lease.lease_id, lease.fencing)


ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(Job)
