"""Does one step of a job: asks, pays, fetches, checks, signs. What to do is ``plan``'s decision.

Each step either ends in an event that is on disk, or may be done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import base58
import msgspec
import structlog
import trio

from p2p.chain.errors import PaymentPendingError, PaymentRefusedError
from p2p.errors import RemoteFailureError, SourceRefusedError, TransferError
from p2p.files import fetch
from p2p.identifiers import PeerId
from p2p.jobs import FileRef, JobState
from p2p.pricing import format_tokens
from p2p.protocols import Done
from p2p.protocols.coordinator import (
    CancelJob,
    DeliverVoucher,
    EscrowCreated,
    Lease,
    ReportPeer,
    SubmitJob,
    Submitted,
)
from p2p.session import events, plan
from p2p.session.checks import ExpectedModel
from p2p.session.coordinator_link import NO_COORDINATOR
from p2p.session.engine_parts import Engine
from p2p.session.errors import (
    JobRefusedError,
    ModelRefusedError,
    ModelSilentError,
    SessionError,
    SetupError,
)
from p2p.session.job import Checkpoint, Escrow, Evaluation, Job, lease_ref
from p2p.session.lease import check_lease, earned_by
from p2p.session.live import LiveJob
from p2p.session.news import News, NewsKind
from p2p.session.served import check_served, period_over
from p2p.session.treasury import creation, refund, refund_request
from p2p.vouchers import Voucher, voucher_bytes

log = structlog.get_logger(__name__)

FUNDING_MARGIN_S = 5.0
"""An escrow is not paid when the coordinator would hardly see it before it gives the lease away."""
TAKE_BACK_EVERY_S = 3600.0
REVIVE_PAUSE_S = 1.0
"""Before a job that waits for its user is submitted again, so that the two never race."""
NOT_COUNTED = frozenset({"conflict", "refused", "invalid", "not_found", "unauthorized"})
"""Codes by which a coordinator says that it will not count an escrow or a voucher."""


class Steps:
    """The steps of one job."""

    def __init__(self, engine: Engine, live: LiveJob) -> None:
        self._engine = engine
        self._live = live

    @property
    def _job(self) -> Job:
        return self._live.job

    async def perform(self, step: plan.Step) -> None:
        """Raises SessionError where the job cannot go on, and what passes (see ``until_done``)."""
        match step:
            case plan.Submit():
                await self._submit()
            case plan.SendCancel():
                await self._cancel()
            case plan.TakeLease(lease):
                await self._take_lease(lease)
            case plan.Pay(address):
                await self._pay(self._escrow(address))
            case plan.ReportEscrow(address):
                await self._report_escrow(self._escrow(address))
            case plan.Reclaim(address):
                await self._reclaim(self._escrow(address))
            case plan.ProveSegment(checkpoint):
                await self._prove_segment(checkpoint)
            case plan.ProveResult(result):
                await self._prove_result(result)
            case plan.DeliverVoucher(address, voucher):
                await self._deliver(address, voucher)
            case plan.SendComplaint():
                await self._complain()
            case plan.EvaluatePart():
                await evaluate_part(self._engine, self._live, step)
            case plan.TryModel():
                await self._live.apply(events.ModelTried(await self._engine.data.tried(self._job)))

    def _escrow(self, address: str) -> Escrow:
        return next(escrow for escrow in self._job.escrows if escrow.address == address)

    # -- the coordinator -----------------------------------------------------------------------

    async def _submit(self) -> None:
        if self._job.revive:
            await trio.sleep(REVIVE_PAUSE_S)
        graph = await self._engine.store.graph(self._job.job_id)
        try:
            await self._engine.coordinator.ask(SubmitJob(self._job.spec), Submitted, graph)
        except RemoteFailureError as error:
            if error.code in ("busy", "internal"):
                raise
            raise JobRefusedError(f"the coordinator refuses the job: {error.message}") from error
        await self._live.apply(events.JobAccepted())

    async def _cancel(self) -> None:
        if self._job.accepted:
            try:
                await self._engine.coordinator.ask(CancelJob(self._job.job_id), Done)
            except RemoteFailureError as error:
                if error.code not in ("not_found", "conflict"):
                    raise
                await self._live.tell(News(NewsKind.NOTE, f"not cancelled: {error.message}"))
        await self._live.apply(events.CancelSent())

    async def _complain(self) -> None:
        job = self._job
        if job.complaint is None or job.lease is None:
            return
        lease, (code, text) = lease_ref(job.lease), job.complaint
        try:
            await self._engine.coordinator.ask(ReportPeer(job.job_id, lease, code, text), Done)
        except RemoteFailureError as error:
            if error.code not in NOT_COUNTED:
                raise
            log.info("report of the peer refused", job_id=job.job_id, reason=str(error))
        await self._live.apply(events.PeerReported(lease))

    async def _deliver(self, address: str, voucher: Voucher) -> None:
        call = DeliverVoucher(
            job_id=self._job.job_id,
            escrow=address,
            segments_done=voucher.segments_done,
            earned=voucher.earned,
            final=voucher.final,
            signature=voucher.signature,
        )
        try:
            await self._engine.coordinator.ask(call, Done)
        except RemoteFailureError as error:
            if error.code not in NOT_COUNTED:
                raise
            # The peer has it too and can present it itself.
            await self._live.tell(News(NewsKind.NOTE, f"the coordinator refuses a voucher: {error.message}"))
        await self._live.apply(events.VoucherDelivered(address, voucher))

    # -- money ---------------------------------------------------------------------------------

    async def _take_lease(self, lease: Lease) -> None:
        if self._engine.chain is None:
            raise SetupError(NO_COORDINATOR)
        escrow = check_lease(self._job, lease, self._engine.chain, self._engine.now())
        balance = await self._engine.treasury.balance()
        if balance.tokens < escrow.amount:
            raise JobRefusedError(
                f"wallet {self._engine.treasury.address} holds {format_tokens(balance.tokens)}, "
                f"the escrow needs {format_tokens(escrow.amount)}"
            )
        await self._live.apply(events.LeaseTaken(escrow))

    async def _pay(self, escrow: Escrow) -> None:
        if not escrow.sent:
            reason = self._too_late(escrow)
            if reason is not None:
                await self._live.apply(events.PaymentDropped(escrow.address, reason))
                return
            await self._live.apply(events.PaymentStarted(escrow.address))
        try:
            signature = await self._engine.treasury.pay(*creation(escrow, self._job.job_id))
        except PaymentRefusedError as error:
            await self._live.apply(events.PaymentDropped(escrow.address, str(error)))
            raise JobRefusedError(f"the escrow cannot be created: {error}") from error
        self._live.served_at = trio.current_time()
        await self._live.apply(events.EscrowPaid(escrow.address, signature))

    def _too_late(self, escrow: Escrow) -> str | None:
        job = self._job
        if job.lease is None or job.escrow is None or job.escrow.address != escrow.address:
            return "its lease is over"
        if job.state is not JobState.AWAITING_FUNDS:
            return f"the job is {job.state.value}"
        left_s = job.lease.fund_before - self._engine.now()
        if left_s < FUNDING_MARGIN_S:
            return f"{left_s:.0f} s are left to fund it, {FUNDING_MARGIN_S:.0f} s are needed"
        return "the job is cancelled" if job.cancelling else None

    async def _report_escrow(self, escrow: Escrow) -> None:
        assert escrow.signature is not None
        call = EscrowCreated(
            self._job.job_id, escrow.lease, escrow.address, escrow.deadline, escrow.signature
        )
        try:
            await self._engine.coordinator.ask(call, Done)
        except RemoteFailureError as error:
            if error.code not in NOT_COUNTED:
                raise
            await self._live.apply(events.EscrowRefused(escrow.address, error.message))
        else:
            await self._live.apply(events.EscrowReported(escrow.address))

    async def _reclaim(self, escrow: Escrow) -> None:
        try:
            signature = await take_back(self._engine, escrow)
        except PaymentRefusedError as error:
            # The sweeper looks at the chain, and asks again if anything is left in it.
            raise PaymentPendingError(f"escrow {escrow.address} not refunded yet: {error}") from error
        await self._live.apply(events.EscrowReclaimed(escrow.address, signature))

    # -- proof ---------------------------------------------------------------------------------

    async def _prove_segment(self, checkpoint: Checkpoint) -> None:
        done = checkpoint.segment + 1
        if done >= self._job.spec.segments:
            # It would be paid in full, and the job would be left without a result.
            text = f"announced the last of {done} segments as a checkpoint, allowed is the result"
            escrow = self._job.escrow
            if escrow is not None:
                await self._live.apply(events.PeerAccused(escrow.lease, "protocol", text))
            return
        escrow = await self._fetch_checked(checkpoint.file, done, "corrupt_checkpoint")
        if escrow is None:
            return
        self._engine.files.pin(checkpoint.file.blake3, self._job.job_id)
        voucher = self._sign(escrow, done)
        await self._live.apply(events.SegmentProven(escrow.address, checkpoint, voucher))
        release_old(self._engine, self._job, done)

    async def _prove_result(self, result: FileRef) -> None:
        escrow = await self._fetch_checked(result, self._job.spec.segments, "corrupt_result")
        if escrow is None:
            return
        self._engine.files.pin(result.blake3, self._job.job_id)
        voucher = self._sign(escrow, self._job.spec.segments)
        await self._live.apply(events.ResultProven(escrow.address, result, voucher))

    async def _fetch_checked(self, file: FileRef, done: int, code: str) -> Escrow | None:
        """The escrow that owes for it; None when the peer was caught and will be reported."""
        job = self._job
        escrow = job.escrow
        if escrow is None:
            return None
        fault = plan.out_of_order(job, done)
        if fault is None and escrow.signature is None:
            fault = "work before the escrow was paid"
        if fault is not None:
            await self._live.apply(events.PeerAccused(escrow.lease, "protocol", fault))
            return None
        try:
            if job.spec.serving is not None:
                if not await period_over(self._live, job.spec.serving, escrow):
                    return None
                self._live.served_at = await check_served(self._engine, self._live, file, escrow.peer_id)
            else:
                path = await fetch_model(self._engine, self._live, file, escrow.peer_id, escrow.addresses)
                expected = expected_model(job, done)
                await self._engine.run_blocking(self._engine.checks.check_model, path, expected)
        except SourceRefusedError as error:
            await self._live.apply(events.PeerAccused(escrow.lease, "protocol", str(error)[:4000]))
            return None
        except ModelSilentError as error:
            await self._live.apply(events.PeerAccused(escrow.lease, "unanswered", str(error)[:4000]))
            return None
        except (TransferError, ModelRefusedError) as error:
            self._engine.files.discard(file.blake3)
            await self._live.apply(events.PeerAccused(escrow.lease, code, str(error)[:4000]))
            return None
        current = self._job.escrow
        if current is None or current.address != escrow.address:
            return None  # the lease ended while the file travelled
        return current

    def _sign(self, escrow: Escrow, done: int) -> Voucher:
        earned = earned_by(escrow, done, self._job.spec.segments)
        final = done == self._job.spec.segments
        address, node = base58.b58decode(escrow.address), base58.b58decode(escrow.node)
        signature = self._engine.treasury.sign(voucher_bytes(address, node, earned, final))
        return Voucher(escrow.address, earned, final, signature, segments_done=done)


async def fetch_model(
    engine: Engine, live: LiveJob, file: FileRef, peer_id: str, addresses: Sequence[str]
) -> Path:
    """Not yet checked. Raises what ``fetch`` does."""

    def progress(done: int, total: int) -> None:
        live.mention(News(NewsKind.TRANSFER, "fetching the model", done=done, total=total))

    return await fetch(
        engine.network,
        PeerId(peer_id),
        file,
        engine.files,
        addresses=addresses,
        progress=progress,
        reuse=plan.own_files(live.job).__contains__,
        max_bytes=engine.limits.max_model_bytes,
        timeout_s=engine.limits.chunk_timeout_s,
    )


async def evaluate_part(engine: Engine, live: LiveJob, step: plan.EvaluatePart) -> None:
    """Once: what fails here would fail again, and the model is whole either way."""
    found = Evaluation(step.model, step.part, step.step)
    try:
        score = await engine.data.evaluate(live.job, step.model, step.part)
        found = msgspec.structs.replace(
            found, samples=score.samples, loss=score.loss, accuracy=score.accuracy
        )
    except (SessionError, OSError) as error:
        found = msgspec.structs.replace(found, failure=str(error)[:4000])
    await live.apply(events.PartEvaluated(found))


def expected_model(job: Job, done: int) -> ExpectedModel:
    """What the checkpoint of ``done`` segments, or the result, has to be."""
    return ExpectedModel(
        graph_hash=job.spec.graph_hash,
        samples=job.spec.data.samples,
        sample_shape=job.spec.data.sample_shape,
        segments_done=done,
        segments=job.spec.segments,
        steps=job.steps,
    )


def release_old(engine: Engine, job: Job, done: int) -> None:
    """Two checkpoints are kept: a retry may start before a voucher that the coordinator never got.

    Earlier ones stay while there is room: a coordinator that was away for long knows of none of them.
    """
    if job.spec.serving is not None:
        return  # they are all the model
    for checkpoint in job.checkpoints:
        if checkpoint.segment < done - 2:
            engine.files.unpin(checkpoint.file.blake3, job.job_id)


def release_all(engine: Engine, job: Job) -> None:
    """Of a job that is over the model stays; its data, and what led to the model, may give way."""
    result = job.result.blake3 if job.result is not None else None
    for file in job.spec.brought:
        engine.files.unpin(file.blake3, job.job_id)
    for checkpoint in job.checkpoints:
        if checkpoint.file.blake3 != result:
            engine.files.unpin(checkpoint.file.blake3, job.job_id)
            if result is not None:
                engine.files.discard(checkpoint.file.blake3)


async def take_back(engine: Engine, escrow: Escrow) -> str:
    """The refund's signature. Raises ChainError.

    What was refused is asked anew each hour: a wallet without fees may have some by then.
    """
    attempt = int(engine.now() // TAKE_BACK_EVERY_S)
    await engine.treasury.pay(*refund_request(escrow, attempt))
    return await engine.treasury.pay(*refund(escrow, attempt))
