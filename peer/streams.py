"""/cyxwiz/job/1 on the peer: the conversation with the Engine of one job.

The first message must be an OpenJob whose token holds on this very connection and whose job is the
one that this peer accepted. A stream may be lost and opened again at any time; the job goes on.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from p2p.auth import SCOPE_JOB
from p2p.channel import Channel
from p2p.errors import P2PError, RemoteFailureError, StreamClosedError
from p2p.network import Stream
from p2p.protocols import Failure
from p2p.protocols.job import (
    FROM_ENGINE,
    FROM_PEER,
    LIMITS,
    Acknowledge,
    ChangeRate,
    ConfirmSegments,
    FromEngine,
    FromPeer,
    GiveVoucher,
    JobClosed,
    JobFailed,
    JobOpened,
    OpenJob,
    PauseJob,
    RefreshToken,
    ResumeJob,
    StartJob,
    StopJob,
)
from p2p.vouchers import Voucher
from peer.admission import check_checkpoint, judge_graph
from peer.errors import IllegalTransitionError, JobError
from peer.events import (
    EngineOpened,
    PauseRequested,
    RateRequested,
    ResumeRequested,
    SegmentsConfirmed,
    StartRequested,
    StopRequested,
    VoucherReceived,
    WorkFailed,
)
from peer.job import Job, LeaseKind
from peer.runner import JobRunner
from peer.services import Services
from peer.table import JobTable
from peer.vouchers import VoucherTerms, check_voucher

log = structlog.get_logger(__name__)

OPEN_TIMEOUT_S = 15.0
LAST_WORD_TIMEOUT_S = 10.0

JobChannel = Channel[FromPeer, FromEngine]
TokenCheck = Callable[[JobChannel, str, str], None]
"""Channel, token, job id; raises RemoteFailureError."""


class JobStreams:
    """Handler of the job protocol."""

    def __init__(self, services: Services, table: JobTable) -> None:
        self._services = services
        self._table = table
        self._followers: dict[str, trio.CancelScope] = {}
        """By lease: the newest stream replaces the one before."""

    async def handle(self, stream: Stream) -> None:
        """Ends with the stream; a fault of the Engine is answered with a Failure where it can be."""
        channel: JobChannel = Channel(stream, FROM_PEER, FROM_ENGINE, LIMITS)
        try:
            await self._serve(channel)
        except RemoteFailureError as refusal:
            log.info("engine refused", engine_id=channel.remote_peer_id, reason=str(refusal))
            await channel.send(Failure(refusal.code, refusal.message[:4096]))
            await channel.aclose()

    async def _serve(self, channel: JobChannel) -> None:
        message, graph = await channel.receive(OPEN_TIMEOUT_S)
        if not isinstance(message, OpenJob):
            raise RemoteFailureError("invalid", f"{type(message).__name__} first, allowed is OpenJob")
        runner = self._admit(channel, message)
        scope = trio.CancelScope()
        lease_id = message.lease.lease_id
        if (earlier := self._followers.pop(lease_id, None)) is not None:
            earlier.cancel()
        self._followers[lease_id] = scope
        try:
            with scope:
                await self._open(runner, message, graph)
                await _Conversation(self._services, runner, channel, message.after, self._check_token).run()
        finally:
            if self._followers.get(lease_id) is scope:
                del self._followers[lease_id]
        if scope.cancelled_caught:
            await channel.reset()

    def _admit(self, channel: JobChannel, message: OpenJob) -> JobRunner:
        """Raises RemoteFailureError."""
        kind = LeaseKind.PAID if message.token else LeaseKind.DIRECT
        if kind is LeaseKind.PAID:
            self._check_token(channel, message.token, message.job.job_id)
        else:
            self._services.access.check_allowed(channel.remote_peer_id)
        runner = self._table.find(message.lease.lease_id)
        # Of another's direct lease nobody learns even that it is here.
        strange = (
            runner is not None and runner.job.is_direct and runner.job.engine_id != channel.remote_peer_id
        )
        if runner is None or runner.job.kind is not kind or strange:
            raise RemoteFailureError("not_found", f"no lease {message.lease.lease_id} here")
        offer = runner.job.offer
        for what, found, allowed in (
            ("fencing", message.lease.fencing, offer.lease.fencing),
            ("Engine", channel.remote_peer_id, offer.engine_id),
            ("first segment", message.first_segment, offer.first_segment),
        ):
            if found != allowed:
                raise RemoteFailureError("conflict", f"{what} is {found}, allowed {allowed}")
        if message.job != offer.job:
            raise RemoteFailureError("conflict", "the job differs from the one that the coordinator offered")
        runner.token = message.token
        return runner

    def _check_token(self, channel: JobChannel, token: str, job_id: str) -> None:
        self._services.access.check_token(channel.remote_peer_id, token, SCOPE_JOB, job_id)

    async def _open(self, runner: JobRunner, message: OpenJob, graph: bytes) -> None:
        """The first time, the graph is checked and priced; a job that cannot be done fails at once."""
        if runner.job.graph is not None or runner.job.ending is not None:
            return
        offer, terms = runner.job.offer, self._services.terms
        try:
            check_checkpoint(offer, message.checkpoint)
            speed = terms.flops_per_s[offer.device]
            price = terms.price_per_hour
            verdict = await trio.to_thread.run_sync(judge_graph, graph, offer, speed, price)
        except JobError as error:
            await runner.feed(WorkFailed(error.code, error.text, error.retryable))
            return
        at = self._services.now()
        opened = EngineOpened(
            graph, verdict.quote, verdict.duration_s, message.checkpoint, at, message.sources
        )
        try:
            await runner.feed(opened)
        except IllegalTransitionError:
            if runner.job.graph is None:  # else another stream of the same Engine was quicker
                raise


class _Conversation:
    """One opened stream, until either side ends it."""

    def __init__(
        self, services: Services, runner: JobRunner, channel: JobChannel, after: int, check_token: TokenCheck
    ) -> None:
        self._services = services
        self._runner = runner
        self._channel = channel
        self._after = after
        self._check_token = check_token
        self._refusal: RemoteFailureError | None = None

    async def run(self) -> None:
        """Raises P2PError when the stream is lost, RemoteFailureError when the Engine is at fault."""
        if self._after > self._runner.log.latest and not self._runner.rebase_log(self._after):
            text = f"after {self._after}, the newest number is {self._runner.log.latest}"
            raise RemoteFailureError("invalid", text)
        log_ = self._runner.log
        log_.replay(self._after)
        await self._channel.send(JobOpened(log_.oldest, log_.latest))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, nursery.cancel_scope)
                try:
                    await self._receive()
                except RemoteFailureError as refusal:
                    # What is half sent goes first: cut short, it would take the stream along, and this.
                    self._refusal = refusal
                    self._runner.wake()
                    nursery.cancel_scope.deadline = trio.current_time() + LAST_WORD_TIMEOUT_S
        except* StreamClosedError:
            await self._channel.aclose()
        except* P2PError as losses:
            reason = str(_first(losses))
            log.info("engine's stream lost", engine_id=self._channel.remote_peer_id, reason=reason)
            await self._channel.reset()
        if self._refusal is not None:
            raise self._refusal

    async def _send(self, scope: trio.CancelScope) -> None:
        """What is logged, until the Engine is refused; after the last word the end of the stream."""
        while self._refusal is None:
            message = self._runner.log.take()
            if message is None:
                await self._runner.wait_changed()
                continue
            await self._channel.send(message)
            if isinstance(message, JobClosed | JobFailed):
                break
        with trio.move_on_after(LAST_WORD_TIMEOUT_S):
            while self._refusal is None and not self._runner.log.is_drained:
                await self._runner.wait_changed()
        if self._refusal is None:
            await self._channel.aclose()
            scope.cancel()

    async def _receive(self) -> None:
        while True:
            message, _ = await self._channel.receive()
            try:
                await self._take(message)
            except IllegalTransitionError as error:
                raise RemoteFailureError("conflict", str(error)) from error

    async def _take(self, message: FromEngine) -> None:
        runner, at = self._runner, self._services.now()
        match message:
            case Acknowledge(sequence):
                runner.log.acknowledge(sequence)
                runner.wake()
            case StartJob():
                await runner.feed(StartRequested(message))
            case GiveVoucher():
                await self._take_voucher(message)
            case ConfirmSegments(segments_done):
                await runner.feed(SegmentsConfirmed(segments_done))
            case PauseJob():
                await runner.feed(PauseRequested(at))
            case ResumeJob():
                await runner.feed(ResumeRequested(at))
            case ChangeRate(rate):
                await runner.feed(RateRequested(rate))
            case StopJob():
                await runner.feed(StopRequested())
            case RefreshToken(token):
                self._check_token(self._channel, token, runner.job.job_id)
                runner.token = token
            case OpenJob():
                raise RemoteFailureError("invalid", "OpenJob on a stream that is open already")

    async def _take_voucher(self, message: GiveVoucher) -> None:
        job = self._runner.job
        voucher = Voucher(
            message.escrow, message.earned, message.final, message.signature, message.segments_done
        )
        faults = check_voucher(voucher, _voucher_terms(job, self._services.terms.node_wallet))
        if faults:
            raise RemoteFailureError("invalid", f"voucher: {'; '.join(faults)}")
        await self._runner.feed(VoucherReceived(voucher, self._services.now()))


def _voucher_terms(job: Job, node_wallet: str) -> VoucherTerms:
    """Raises RemoteFailureError before an escrow is checked."""
    if job.start is None or not job.escrow_checked:
        raise RemoteFailureError("conflict", "a voucher before the escrow was checked")
    first = job.offer.first_segment
    return VoucherTerms(
        escrow=job.start.escrow,
        user=job.offer.job.user_wallet,
        node=node_wallet,
        amount=job.offer.amount,
        segments=job.segments - first,
        done=max(0, job.done - first),
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
