"""A job as the coordinator knows it, what can happen to it, and what must follow. Data only.

Events are stored as they are here, so a field is only ever added, with a default.
"""

from __future__ import annotations

import msgspec

from coordinator.payments import (
    Payment,
    PaymentConcluded,
    PaymentDue,
    PaymentEffect,
    VoucherTaken,
)
from coordinator.reputation import Evidence
from p2p.identifiers import JobId, PeerId
from p2p.jobs import FileRef, JobMetrics, JobSpec, JobState
from p2p.protocols.coordinator import Lease, LeaseRef, OfferJob, RejectedPeer, RevokeLease, SignedRecord


class Cost(msgspec.Struct, frozen=True):
    """What the graph needs, as ``backend.estimate`` figured it out at submission."""

    parameters: int
    training_flops: int
    memory_bytes: int
    served_ms: int = 0
    """Of a deployment: for how long, whatever the device's speed."""


class Grant(msgspec.Struct, frozen=True):
    """A peer reserved for a job: first offered, then accepted."""

    lease_id: str
    fencing: int
    peer_id: PeerId
    device: int
    amount: int
    first_segment: int
    record: SignedRecord
    node_wallet: str
    payout_wallet: str
    granted_at: float
    answer_before: float
    fund_before: float = 0.0
    accepted: bool = False
    started: bool = False
    escrow: str = ""

    @property
    def ref(self) -> LeaseRef:
        return LeaseRef(self.lease_id, self.fencing)


class Exclusion(msgspec.Struct, frozen=True):
    """A peer that this job does not go to again before ``until``.

    After that, and where ``last_resort`` is set at any time, only if it registered after ``since`` and
    nobody else is left: until ``waits_until`` those are waited for that are merely busy.
    """

    peer_id: PeerId
    since: float
    until: float
    reason: str
    last_resort: bool = False
    waits_until: float = 0.0


class Job(msgspec.Struct, frozen=True):
    job_id: JobId
    engine_id: PeerId
    spec: JobSpec
    cost: Cost
    submitted_at: float
    state: JobState
    waiting_since: float
    text: str = ""
    fencing: int = 0
    retries: int = 0
    grant: Grant | None = None
    payments: tuple[Payment, ...] = ()
    segments_done: int = 0
    """Segments that vouchers prove, counted over all escrows."""
    excluded: tuple[Exclusion, ...] = ()
    lines: tuple[str, ...] = ()
    """Why the present peer was chosen."""
    rejected: tuple[RejectedPeer, ...] = ()
    result: FileRef | None = None
    served_by: PeerId | None = None
    metrics: JobMetrics | None = None

    @property
    def waits_for_peer(self) -> bool:
        if any(payment.is_paid_up and payment.closed is None for payment in self.payments):
            return False  # the chain is about to say that all is done
        return self.state in (JobState.SUBMITTED, JobState.RETRYING)

    @property
    def live_grant(self) -> Grant | None:
        """The grant while it reserves its peer."""
        return self.grant if self.state in RESERVING else None

    @property
    def promised(self) -> int:
        """Units vouched for or paid, over all escrows."""
        return sum(payment.promised for payment in self.payments)

    @property
    def is_closed(self) -> bool:
        """Nothing will happen any more."""
        return self.state.is_final and all(payment.closed for payment in self.payments)

    def payment(self, escrow: str) -> Payment | None:
        return next((payment for payment in self.payments if payment.escrow == escrow), None)


WORKING = frozenset({JobState.FUNDED, JobState.RUNNING, JobState.RESULT_READY})
TALKING = WORKING | {JobState.AWAITING_FUNDS, JobState.SETTLED}
"""The states in which Engine and peer have something to say to each other."""
RESERVING = WORKING | {JobState.MATCHED, JobState.AWAITING_FUNDS}


# -- events ------------------------------------------------------------------------------------


class JobSubmitted(msgspec.Struct, frozen=True, tag=True):
    at: float
    engine_id: PeerId
    spec: JobSpec
    cost: Cost


class OfferMade(msgspec.Struct, frozen=True, tag=True):
    at: float
    lease_id: str
    peer_id: PeerId
    device: int
    amount: int
    first_segment: int
    record: SignedRecord
    node_wallet: str
    payout_wallet: str
    answer_before: float
    lines: tuple[str, ...] = ()
    rejected: tuple[RejectedPeer, ...] = ()


class OfferAccepted(msgspec.Struct, frozen=True, tag=True):
    at: float
    lease: LeaseRef
    fund_before: float


class OfferDeclined(msgspec.Struct, frozen=True, tag=True):
    at: float
    lease: LeaseRef
    reason: str


class OfferExpired(msgspec.Struct, frozen=True, tag=True):
    at: float
    lease: LeaseRef


class FundingExpired(msgspec.Struct, frozen=True, tag=True):
    at: float
    lease: LeaseRef


class EscrowFunded(msgspec.Struct, frozen=True, tag=True):
    """The chain holds the escrow, confirmed, and every field is as the lease says."""

    at: float
    lease: LeaseRef
    payment: Payment
    signature: str


class StrayEscrowFound(msgspec.Struct, frozen=True, tag=True):
    """Money was locked for this job where it cannot be used: it goes back."""

    at: float
    payment: Payment
    reason: str


class WorkStarted(msgspec.Struct, frozen=True, tag=True):
    at: float
    lease: LeaseRef


class ResultReported(msgspec.Struct, frozen=True, tag=True):
    at: float
    lease: LeaseRef
    result: FileRef
    metrics: JobMetrics


class WorkFailed(msgspec.Struct, frozen=True, tag=True):
    at: float
    lease: LeaseRef
    code: str
    text: str
    retryable: bool


class LeaseLost(msgspec.Struct, frozen=True, tag=True):
    """No heartbeat renewed the lease in time."""

    at: float
    lease: LeaseRef


class PeerReported(msgspec.Struct, frozen=True, tag=True):
    at: float
    lease: LeaseRef
    code: str
    text: str


class CancelRequested(msgspec.Struct, frozen=True, tag=True):
    at: float


class JobRevived(msgspec.Struct, frozen=True, tag=True):
    """Its user is back."""

    at: float


class PatienceExpired(msgspec.Struct, frozen=True, tag=True):
    at: float


class JobExpired(msgspec.Struct, frozen=True, tag=True):
    at: float


JobEvent = (
    JobSubmitted
    | OfferMade
    | OfferAccepted
    | OfferDeclined
    | OfferExpired
    | FundingExpired
    | EscrowFunded
    | StrayEscrowFound
    | WorkStarted
    | ResultReported
    | WorkFailed
    | LeaseLost
    | PeerReported
    | CancelRequested
    | JobRevived
    | PatienceExpired
    | JobExpired
    | VoucherTaken
    | PaymentConcluded
    | PaymentDue
)


# -- effects -----------------------------------------------------------------------------------


class Tell(msgspec.Struct, frozen=True, tag=True):
    """One line for whoever follows the job."""

    state: JobState
    text: str
    lease: Lease | None = None
    metrics: JobMetrics | None = None
    result: FileRef | None = None
    signature: str | None = None


class SendOrder(msgspec.Struct, frozen=True, tag=True):
    peer_id: PeerId
    order: OfferJob | RevokeLease


class NoteEvidence(msgspec.Struct, frozen=True, tag=True):
    peer_id: PeerId
    evidence: Evidence


Effect = Tell | SendOrder | NoteEvidence | PaymentEffect
