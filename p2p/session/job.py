"""What an Engine knows about one of its jobs. Pure.

The record is on disk before anything is done about it. How ``events`` change it is told by ``direct``
and ``paid``; what to do next is ``plan``'s.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2p.codec import Part
from p2p.identifiers import Address, Amount, Count, Hash, Label, PeerIdField, Seconds, Sequence, Text, Wallet
from p2p.jobs import DataPart, FileRef, JobMetrics, JobSpec, JobState
from p2p.protocols.coordinator import Lease, LeaseRef
from p2p.session.trial import Question, Trial
from p2p.vouchers import Voucher

WITH_PEER = frozenset({JobState.AWAITING_FUNDS, JobState.FUNDED, JobState.RUNNING, JobState.RESULT_READY})
"""The states in which the lease holds and there is something to say to the peer."""
ENDED = frozenset({JobState.COMPLETED, JobState.CANCELLED, JobState.FAILED})
"""How a direct job can end: nothing is left to refund when it failed."""


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
    failed: Text = ""
    """Why it did, if so."""
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


def lease_ref(lease: Lease) -> LeaseRef:
    return LeaseRef(lease.lease_id, lease.fencing)


ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(Job)
