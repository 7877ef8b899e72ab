"""What can happen to a job of an Engine: facts, each on disk with the job that it changed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.jobs import FileRef, JobMetrics
from p2p.protocols.coordinator import JobUpdate, Lease, LeaseRef
from p2p.session.job import Checkpoint, Escrow, Evaluation
from p2p.session.trial import Trial
from p2p.vouchers import Voucher


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
