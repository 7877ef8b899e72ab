"""/cyxwiz/job/1: one stream from the Engine to the peer for each job, messages both ways.

The Engine opens it with OpenJob. Everything that the peer says is numbered; after a reconnect the
Engine names the last number it has and gets the rest. Order of a job:

    Engine                        peer
    OpenJob (graph as body)   ->
                              <-  JobOpened
                                  (the peer fetches the dataset from the Engine, warms a worker)
    StartJob(escrow)          ->  looks at the chain, then works
                              <-  JobProgress ...
                              <-  SegmentFinished(checkpoint)
    (fetches and checks the checkpoint)
    GiveVoucher               ->  works on
                              <-  ResultReady(model)
    (fetches and checks the model)
    GiveVoucher(final)        ->
                              <-  JobClosed

A direct job, whose lease the peer gave by itself (``p2p.protocols.peer``), has no StartJob and no
vouchers: the peer works on without waiting, and ConfirmSegments says what the Engine holds.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from p2p.codec import Codec, Message
from p2p.framing import FrameLimits
from p2p.identifiers import (
    Amount,
    Count,
    Label,
    Sequence,
    Signature64,
    Text,
    Token,
    TransactionSignature,
    Wallet,
)
from p2p.jobs import MAX_GRAPH_BYTES, FileRef, JobMetrics, JobSpec
from p2p.protocols import Failure
from p2p.protocols.coordinator import LeaseRef
from p2p.protocols.transfer import MAX_SOURCES, FileSource

MAX_LEARNING_RATE = 100.0
LearningRate = Annotated[float, Meta(ge=0, le=MAX_LEARNING_RATE)]
PROTOCOL_ID = "/cyxwiz/job/1"
LIMITS = FrameLimits(message_bytes=1 << 20, body_bytes=MAX_GRAPH_BYTES)
CREDIT = 256
"""Numbered messages that the peer may send beyond the last acknowledged one; beyond that it keeps
the newest progress only. Segments, results and ends are never dropped."""


# -- Engine to peer ----------------------------------------------------------------------------


class OpenJob(Message, frozen=True):
    """First message; the graph is the body. Repeated after a reconnect, with ``after``."""

    token: Token
    """Of the coordinator. Empty for a direct lease, whose right is the connection's identity."""
    job: JobSpec
    lease: LeaseRef
    first_segment: Annotated[int, Meta(ge=0)]
    checkpoint: FileRef | None
    """Where to go on from; the peer fetches it from the Engine."""
    after: Sequence
    sources: Annotated[tuple[FileSource, ...], Meta(max_length=MAX_SOURCES)] = ()
    """Peers that should have data or checkpoint too, with the Engine's word that this one may have them."""


class StartJob(Message, frozen=True):
    escrow: Wallet
    deadline: Count
    """Part of the escrow's address."""
    signature: TransactionSignature


class GiveVoucher(Message, frozen=True):
    """Cumulative. Signed by the user's wallet over ``p2p.vouchers.voucher_bytes``."""

    escrow: Wallet
    segments_done: Count
    earned: Amount
    final: bool
    signature: Signature64


class ConfirmSegments(Message, frozen=True):
    """Of a direct job: the Engine holds, checked, what these segments made; all of them: the model.

    It says of an unpaid job what a voucher says of a paid one, and is refused for a paid one.
    """

    segments_done: Count


class PauseJob(Message, frozen=True):
    """Keeps the lease and the worker; training stops at the next step."""


class ResumeJob(Message, frozen=True):
    pass


class ChangeRate(Message, frozen=True):
    """Another learning rate from the next step on; schedules go on multiplying it. Checkpoints hold it."""

    rate: LearningRate


class StopJob(Message, frozen=True):
    """The user cancels. What is vouchered stays earned."""


class Acknowledge(Message, frozen=True):
    """Everything up to ``sequence`` has been received: credit for as many more."""

    sequence: Sequence


class RefreshToken(Message, frozen=True):
    token: Token


FromEngine = (
    OpenJob
    | StartJob
    | GiveVoucher
    | ConfirmSegments
    | PauseJob
    | ResumeJob
    | ChangeRate
    | StopJob
    | Acknowledge
    | RefreshToken
)


# -- peer to Engine ----------------------------------------------------------------------------


class JobOpened(Message, frozen=True):
    """Not numbered. The lowest number that can still be asked for, and the newest."""

    oldest: Sequence
    latest: Sequence


class JobStage(Message, frozen=True):
    """What the peer does or waits for: one line for a person."""

    sequence: Sequence
    stage: Label
    """fetching data, warming, checking escrow, training, waiting for voucher, paused"""
    text: Text


class JobProgress(Message, frozen=True):
    sequence: Sequence
    metrics: JobMetrics


class SegmentFinished(Message, frozen=True):
    """``segment`` counts from 0; the checkpoint is a .cyxmodel that training can go on from."""

    sequence: Sequence
    segment: Count
    checkpoint: FileRef
    metrics: JobMetrics


class ResultReady(Message, frozen=True):
    sequence: Sequence
    result: FileRef
    metrics: JobMetrics


class JobFailed(Message, frozen=True):
    sequence: Sequence
    code: Label
    text: Text
    retryable: bool


class JobClosed(Message, frozen=True):
    """The peer has the final voucher, or the job was stopped. Last message."""

    sequence: Sequence
    text: Text


FromPeer = (
    JobOpened | JobStage | JobProgress | SegmentFinished | ResultReady | JobFailed | JobClosed | Failure
)

FROM_ENGINE: Codec[FromEngine] = Codec(FromEngine)
FROM_PEER: Codec[FromPeer] = Codec(FromPeer)
