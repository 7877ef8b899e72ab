"""/cyxwiz/coordinator/1: what Engines and peers ask of the coordinator. Request and response.

Nothing is pushed: peers poll for orders and Engines for job updates, both numbered, both
answered as soon as there is one (long polls), so a reconnect misses nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from msgspec import Meta

from p2p.codec import Codec, Message, Part
from p2p.framing import FrameLimits
from p2p.identifiers import (
    Address,
    Amount,
    Count,
    JobIdField,
    Label,
    PeerIdField,
    Seconds,
    Sequence,
    Signature64,
    Text,
    Token,
    TransactionSignature,
    Wallet,
)
from p2p.jobs import (
    MAX_GRAPH_BYTES,
    Delivery,
    DeviceKind,
    FileRef,
    JobMetrics,
    JobSpec,
    JobState,
    Requirements,
)
from p2p.protocols import Done, Failure, Request, Response

PROTOCOL_ID = "/cyxwiz/coordinator/1"
LIMITS = FrameLimits(message_bytes=4 << 20, body_bytes=MAX_GRAPH_BYTES)
MAX_WAIT_MS = 20_000
"""The longest that a long poll may hold its answer."""

WaitMs = Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)]
TokenId = Annotated[str, Meta(min_length=8, max_length=128)]
LeaseIdField = Annotated[str, Meta(min_length=1, max_length=64)]


class Role(Enum):
    ENGINE = "engine"
    PEER = "peer"


# -- parts -----------------------------------------------------------------------------------


class ChainInfo(Part, frozen=True):
    """Which chain pays, and every account that an escrow must name."""

    rpc_url: Text
    program_id: Wallet
    mint: Wallet
    platform_account: Wallet
    """The platform's token account."""
    arbiter: Wallet
    embedded: bool
    """True when the chain is the coordinator's own (airdrops exist)."""
    claim_window_s: Count


class Device(Part, frozen=True):
    kind: DeviceKind
    name: Label
    memory_bytes: Count
    flops_per_s: Annotated[int, Meta(ge=1, le=2**62)]
    """Measured by the peer at start-up on a small training step."""


class PeerRecord(Part, frozen=True, omit_defaults=True):
    """What a peer says about itself. Signed; see ``p2p.records``."""

    peer_id: PeerIdField
    sequence: Sequence
    """Milliseconds since the epoch at signing: a newer record replaces an older one."""
    expires_at: Seconds
    addresses: Annotated[tuple[Address, ...], Meta(max_length=32)]
    devices: Annotated[tuple[Device, ...], Meta(min_length=1, max_length=64)]
    ram_bytes: Count
    """That one job may count on."""
    formats: Annotated[tuple[Label, ...], Meta(max_length=16)]
    price_per_hour: Amount
    """Units per device-hour."""
    node_wallet: Wallet
    """Signs refunds and pays the node's fees."""
    payout_wallet: Wallet
    """Owner of the token account that is paid."""
    version: Label
    deliveries: Annotated[tuple[Delivery, ...], Meta(max_length=8)] = (Delivery.FILE,)
    """How data may reach this peer."""
    serves: Annotated[tuple[Label, ...], Meta(max_length=8)] = ()
    """Formats of models that it takes as deployments."""


class SignedRecord(Part, frozen=True):
    payload: Annotated[bytes, Meta(max_length=65536)]
    """msgpack of a PeerRecord: signed as these bytes, so never re-encoded."""
    signature: Signature64


class LeaseRef(Part, frozen=True):
    lease_id: LeaseIdField
    fencing: Sequence


class Lease(Part, frozen=True):
    """A peer reserved for a job. A late message with an older ``fencing`` is refused."""

    lease_id: LeaseIdField
    fencing: Sequence
    peer_id: PeerIdField
    device: Count
    """Index into the record's devices."""
    amount: Amount
    """The quote for the remaining segments; the Engine computes it again before it pays."""
    first_segment: Count
    record: SignedRecord
    fund_before: Seconds


class JobUpdate(Part, frozen=True):
    """One numbered line of a job's story."""

    sequence: Sequence
    at: Seconds
    state: JobState
    text: Text
    lease: Lease | None = None
    metrics: JobMetrics | None = None
    result: FileRef | None = None
    signature: TransactionSignature | None = None
    """Of the settlement or refund."""


class OfferJob(Part, frozen=True, tag=True):
    """Asks a peer to take a job; answered by AnswerOffer."""

    lease: LeaseRef
    job: JobSpec
    engine_id: PeerIdField
    device: Count
    amount: Amount
    first_segment: Count


class RevokeLease(Part, frozen=True, tag=True):
    """The lease is over: stop the job, keep what is earned."""

    lease: LeaseRef
    job_id: JobIdField
    reason: Text


class Order(Part, frozen=True):
    sequence: Sequence
    order: OfferJob | RevokeLease


class PeerSummary(Part, frozen=True):
    peer_id: PeerIdField
    record: SignedRecord
    reputation: float
    """0 to 1."""
    tier: Label
    running: Count
    online: bool
    banned_until: Seconds = 0.0


class PeerQuote(Part, frozen=True):
    peer_id: PeerIdField
    amount: Amount
    duration_ms: Count
    price_per_hour: Amount
    reputation: float


class RejectedPeer(Part, frozen=True):
    peer_id: PeerIdField
    reason: Text


class JobSummary(Part, frozen=True):
    job_id: JobIdField
    engine_id: PeerIdField
    state: JobState
    submitted_at: Seconds
    budget: Amount
    peer_id: PeerIdField | None = None
    text: Text = ""


# -- requests --------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    role: Role
    protocol_version: Count
    software: Label


class RegisterPeer(Message, frozen=True):
    record: SignedRecord


class Heartbeat(Message, frozen=True):
    """Soft state: renews the named leases. Not stored as an event."""

    running: Count
    capacity: Count
    leases: Annotated[tuple[LeaseRef, ...], Meta(max_length=256)]


class PollOrders(Message, frozen=True):
    after: Sequence
    wait_ms: WaitMs


class AnswerOffer(Message, frozen=True):
    lease: LeaseRef
    accepted: bool
    reason: Text = ""


class ReportStarted(Message, frozen=True):
    """The peer saw the escrow on chain and began to work."""

    lease: LeaseRef


class ReportMetrics(Message, frozen=True):
    lease: LeaseRef
    metrics: Annotated[tuple[JobMetrics, ...], Meta(max_length=1000)]


class ReportResult(Message, frozen=True):
    lease: LeaseRef
    result: FileRef
    metrics: JobMetrics


class ReportFailed(Message, frozen=True):
    """``retryable``: another peer might succeed (a crash here, not a bad graph)."""

    lease: LeaseRef
    code: Label
    text: Text
    retryable: bool


class FindPeers(Message, frozen=True):
    requirements: Requirements


class EstimateJob(Message, frozen=True):
    """The graph is the body."""

    job: JobSpec


class SubmitJob(Message, frozen=True):
    """The graph is the body. Submitting the same job again answers the same."""

    job: JobSpec


class PollJob(Message, frozen=True):
    job_id: JobIdField
    after: Sequence
    wait_ms: WaitMs


class ListJobs(Message, frozen=True):
    """The caller's own jobs, newest first."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class EscrowCreated(Message, frozen=True):
    """The coordinator looks at the chain before it believes this."""

    job_id: JobIdField
    lease: LeaseRef
    escrow: Wallet
    deadline: Count
    signature: TransactionSignature


class DeliverVoucher(Message, frozen=True):
    """The newest voucher of an escrow; also accepted from the peer."""

    job_id: JobIdField
    escrow: Wallet
    segments_done: Count
    earned: Amount
    final: bool
    signature: Signature64


class ReportPeer(Message, frozen=True):
    """The Engine lost its peer, or caught it: evidence for reputation, and a retry."""

    job_id: JobIdField
    lease: LeaseRef
    code: Label
    """unreachable, unanswered, overdue, corrupt_checkpoint, corrupt_result, protocol"""
    text: Text


class CancelJob(Message, frozen=True):
    job_id: JobIdField


class RequestToken(Message, frozen=True):
    job_id: JobIdField
    scope: Label
    """job or infer"""


class ExplainJob(Message, frozen=True):
    job_id: JobIdField


CoordinatorCall = (
    Hello
    | RegisterPeer
    | Heartbeat
    | PollOrders
    | AnswerOffer
    | ReportStarted
    | ReportMetrics
    | ReportResult
    | ReportFailed
    | FindPeers
    | EstimateJob
    | SubmitJob
    | PollJob
    | ListJobs
    | EscrowCreated
    | DeliverVoucher
    | ReportPeer
    | CancelJob
    | RequestToken
    | ExplainJob
)


# -- answers ---------------------------------------------------------------------------------


class Welcome(Message, frozen=True):
    protocol_version: Count
    software: Label
    chain: ChainInfo
    heartbeat_s: Seconds
    lease_s: Seconds
    now: Seconds


class HeartbeatAnswer(Message, frozen=True):
    """``unknown``: leases that are over; stop working on them."""

    unknown: Annotated[tuple[LeaseRef, ...], Meta(max_length=256)]
    registered: bool
    """False asks for a new RegisterPeer (the coordinator lost or expired the record)."""
    revoked: Annotated[tuple[TokenId, ...], Meta(max_length=256)] = ()
    """All tokens for this peer that were taken back before their end."""


class Orders(Message, frozen=True):
    orders: Annotated[tuple[Order, ...], Meta(max_length=256)]
    latest: Sequence


class Peers(Message, frozen=True):
    peers: Annotated[tuple[PeerSummary, ...], Meta(max_length=1000)]


class Estimate(Message, frozen=True):
    """Quotes, cheapest acceptable first; empty with the reasons when nobody fits."""

    parameters: Count
    training_flops: Count
    memory_bytes: Count
    quotes: Annotated[tuple[PeerQuote, ...], Meta(max_length=1000)]
    rejected: Annotated[tuple[RejectedPeer, ...], Meta(max_length=1000)]


class Submitted(Message, frozen=True):
    job_id: JobIdField
    latest: Sequence


class JobUpdates(Message, frozen=True):
    state: JobState
    updates: Annotated[tuple[JobUpdate, ...], Meta(max_length=1000)]
    latest: Sequence


class JobList(Message, frozen=True):
    jobs: Annotated[tuple[JobSummary, ...], Meta(max_length=1000)]


class AccessToken(Message, frozen=True):
    token: Token
    expires_at: Seconds


class Explanation(Message, frozen=True):
    """Why this peer, or why still waiting: sentences, and each peer that was not chosen."""

    lines: Annotated[tuple[Text, ...], Meta(max_length=1000)]
    rejected: Annotated[tuple[RejectedPeer, ...], Meta(max_length=1000)]


CoordinatorAnswer = (
    Welcome
    | Done
    | HeartbeatAnswer
    | Orders
    | Peers
    | Estimate
    | Submitted
    | JobUpdates
    | JobList
    | AccessToken
    | Explanation
    | Failure
)

REQUESTS: Codec[Request[CoordinatorCall]] = Codec(Request[CoordinatorCall])
RESPONSES: Codec[Response[CoordinatorAnswer]] = Codec(Response[CoordinatorAnswer])
