"""Carries out the tasks that ``peer.plan`` asks for, one function for each kind.

Each reports what came of it as an event. What it cannot do ends the job (JobError), or is tried
again where it concerns the coordinator or the chain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from backend.errors import DatasetError
from backend.facts import read_facts
from backend.reports import ChangeLearningRate, Pause, Resume
from p2p.chain.errors import PaymentRefusedError
from p2p.errors import (
    ConnectionFailedError,
    DeadlineError,
    RemoteFailureError,
    RemoteProtocolError,
    StreamResetError,
    TransferError,
)
from p2p.files import fetch
from p2p.jobs import DataSummary, Delivery, FileRef, ServingSpec
from p2p.protocols import Done
from p2p.protocols.coordinator import (
    CoordinatorCall,
    DeliverVoucher,
    ReportFailed,
    ReportResult,
    ReportStarted,
)
from p2p.store import Reuse
from p2p.vouchers import Voucher
from peer.errors import JobError
from peer.escrow import EscrowTerms, look_again_s, withdrawal
from peer.events import (
    CheckpointFetched,
    DataFetched,
    EscrowChecked,
    Event,
    FailureReported,
    LeaseRevoked,
    RestReturned,
    ResultReported,
    SegmentAllowed,
    StartReported,
    VoucherCollected,
    WorkerPaused,
    WorkerPrepared,
    WorkerRateSet,
    WorkerResumed,
    WorkFailed,
)
from peer.job import (
    Ending,
    EndingKind,
    Job,
)
from peer.money import Money
from peer.plan import (
    AllowSegment,
    CheckEscrow,
    CollectVoucher,
    FetchCheckpoint,
    FetchData,
    GiveUp,
    PauseWorker,
    PrepareWorker,
    ReportFailure,
    ReportStart,
    ResumeWorker,
    ReturnRest,
    SetWorkerRate,
    Task,
    WatchEscrow,
)
from peer.plan import (
    ReportResult as ReportResultTask,
)
from peer.services import Services
from peer.serving import Serving, check_model
from peer.training import Training

log = structlog.get_logger(__name__)

FETCH_PAUSE_S = 0.5
MAX_CHECKPOINT_BYTES = 8 << 30
REPORT_ATTEMPTS = 12
"""Refusals of one report before it counts as the end of the lease: the coordinator may be behind."""
REPORT_PAUSE_S = 0.2
LONGEST_REPORT_PAUSE_S = 3.0
SETTLED_POLL_S = 0.5
SETTLE_PAUSE_S = 1.0
LONGEST_SETTLE_PAUSE_S = 300.0

Feed = Callable[[Event], Awaitable[None]]


class JobWork:
    """Does the tasks of one job."""

    def __init__(self, services: Services, feed: Feed, token: Callable[[], str]) -> None:
        """``token`` is the newest that the Engine gave for the job."""
        self._services = services
        self._feed = feed
        self._training = Training(services, feed, token)
        self._serving = Serving(services, feed)

    def end(self, job: Job) -> None:
        """Nothing of the job runs any more; only what was made of it may."""
        self._training.end()
        self._serving.end(job)

    async def perform(self, job: Job, task: Task) -> None:
        """Raises JobError, WorkerError; ChainError for what is to be tried again."""
        match task:
            case FetchData():
                await self._fetch_data(job)
            case FetchCheckpoint():
                await self._fetch_checkpoint(job)
            case PrepareWorker():
                await self._prepare(job)
            case CheckEscrow():
                await self._check_escrow(job)
            case WatchEscrow():
                await self._watch_escrow(job)
            case AllowSegment(segment):
                await self._feed(SegmentAllowed(segment))
                if job.is_deployment:
                    await self._serving.serve(job, segment)
                else:
                    await self._training.allow(segment)
            case PauseWorker() | ResumeWorker() | SetWorkerRate():
                await self._steer(job, task)
            case GiveUp(waited_s):
                text = f"nothing from the Engine for {waited_s:.0f} s"
                await self._feed(WorkFailed("engine_absent", text, retryable=True))
            case _:
                await self._perform_aftermath(job, task)

    async def _perform_aftermath(self, job: Job, task: Task) -> None:
        match task:
            case ReportStart():
                await self._report(ReportStarted(job.lease), StartReported())
            case ReportResultTask() if job.result is not None and job.metrics is not None:
                await self._report(ReportResult(job.lease, job.result, job.metrics), ResultReported())
            case ReportFailure() if job.ending is not None:
                await self._report_failure(job, job.ending)
            case CollectVoucher(leave_time):
                await self._collect(job, leave_time)
            case ReturnRest():
                await self._return_rest(job)

    async def _prepare(self, job: Job) -> None:
        if job.is_deployment:
            await self._feed(WorkerPrepared(0, await self._serving.prepare(job)))
            return
        await self._services.served.clear(job.offer.device)
        prepared = await self._training.prepare(job)
        await self._feed(WorkerPrepared(prepared.total_steps, prepared.device, prepared.notes))

    async def _steer(self, job: Job, task: PauseWorker | ResumeWorker | SetWorkerRate) -> None:
        match task:
            case PauseWorker():
                await self._training.send(Pause())
                await self._feed(WorkerPaused(0))
            case ResumeWorker():
                await self._training.send(Resume())
                await self._feed(WorkerResumed(0))
            case SetWorkerRate(rate):
                if not job.is_deployment:  # which learns nothing
                    await self._training.send(ChangeLearningRate(rate=rate))
                await self._feed(WorkerRateSet(rate))

    # -- before the work -------------------------------------------------------------------------

    async def _fetch_data(self, job: Job) -> None:
        data, serving = job.offer.job.data, job.offer.job.serving
        if serving is not None:
            await self._fetch_model(job, serving)
            return
        if data.delivery is Delivery.STREAM:
            await self._training.open_samples(job)
            await self._feed(DataFetched())
            return
        path = await self._fetch(job, data.file, self._services.terms.max_data_bytes)
        await trio.to_thread.run_sync(check_data, path, data)
        await self._feed(DataFetched())

    async def _fetch_model(self, job: Job, serving: ServingSpec) -> None:
        """With its tokenizer; the smaller file first."""
        for file in sorted(job.offer.job.files, key=lambda file: file.size):
            path = await self._fetch(job, file, self._services.terms.max_data_bytes)
            if file == job.offer.job.data.file:
                await trio.to_thread.run_sync(check_model, path, serving)
        await self._feed(DataFetched())

    async def _fetch_checkpoint(self, job: Job) -> None:
        assert job.checkpoint is not None
        await self._fetch(job, job.checkpoint, MAX_CHECKPOINT_BYTES)
        await self._feed(CheckpointFetched())

    async def _fetch(self, job: Job, file: FileRef, max_bytes: int) -> Path:
        """From the job's Engine and whom it names, for as long as it takes; patience ends elsewhere."""

        async def fetch_using(reuse: Reuse) -> Path:
            return await fetch(
                self._services.network,
                job.engine_id,
                file,
                self._services.artifacts.files,
                sources=job.sources,
                reuse=reuse,
                owner=job.engine_id,
                max_bytes=max_bytes,
            )

        while True:
            try:
                return await self._services.artifacts.receive(
                    file, job.engine_id, fetch_using, job.lease.lease_id
                )
            except TransferError as error:
                raise JobError("transfer", str(error), retryable=False) from error
            except OSError as error:
                raise JobError(
                    "disk", f"the peer's disk refuses: {error.strerror}", retryable=True
                ) from error
            except (ConnectionFailedError, DeadlineError, StreamResetError) as error:
                log.info("engine not reached for a file", job_id=job.job_id, reason=str(error))
                await trio.sleep(FETCH_PAUSE_S)

    async def _check_escrow(self, job: Job) -> None:
        assert job.start is not None
        money = await self._services.money()
        address = money.escrow_address(job.offer.job.user_wallet, job.job_id, job.start.deadline)
        if address != job.start.escrow:
            text = f"escrow address: found {job.start.escrow}, allowed {address}"
            raise JobError("escrow", text, retryable=False)
        used_by = await self._services.store.escrow_user(address, job.lease.lease_id)
        await money.check_escrow(address, self._terms(job, money), self._services.now, used_by)
        await self._feed(EscrowChecked())

    async def _watch_escrow(self, job: Job) -> None:
        """Returns when the escrow is being taken back; the job ends and its vouchers are settled."""
        assert job.start is not None
        window_s = 0
        while True:
            money = await self._services.money()
            account = await money.chain.escrow(job.start.escrow)
            if account is not None:  # else a node that lags
                window_s = account.claim_window_s
                reason = withdrawal(account, self._services.now())
                if reason is not None:
                    await self._feed(WorkFailed("escrow_withdrawn", reason, retryable=False))
                    return
            await trio.sleep(look_again_s(window_s))

    def _terms(self, job: Job, money: Money) -> EscrowTerms:
        return EscrowTerms(
            job_id=job.job_id,
            user=job.offer.job.user_wallet,
            node=self._services.terms.node_wallet,
            payout=self._services.terms.payout_wallet,
            arbiter=money.info.arbiter,
            mint=money.info.mint,
            platform=money.info.platform_account,
            quote=job.quote,
            offered=job.offer.amount,
            claim_window_s=max(money.info.claim_window_s, self._services.terms.min_claim_window_s),
            duration_s=job.duration_s,
        )

    # -- reports to the coordinator ----------------------------------------------------------------

    async def _report(self, call: CoordinatorCall, reported: Event) -> None:
        """Until the coordinator takes it. One that keeps refusing has given the lease up."""
        pause_s = REPORT_PAUSE_S
        for _ in range(REPORT_ATTEMPTS):
            try:
                await self._services.link.call(call, Done)
            except RemoteFailureError as error:
                log.info("report refused", call=type(call).__name__, reason=str(error))
                refusal = str(error)
                await trio.sleep(pause_s)
                pause_s = min(LONGEST_REPORT_PAUSE_S, pause_s * 2)
            else:
                await self._feed(reported)
                return
        await self._feed(LeaseRevoked(f"{type(call).__name__} was refused: {refusal}"))
        await self._feed(reported)

    async def _report_failure(self, job: Job, ending: Ending) -> None:
        call = ReportFailed(job.lease, ending.code, ending.text, ending.retryable)
        try:
            await self._services.link.call(call, Done)
        except (RemoteFailureError, RemoteProtocolError) as error:
            log.info("failure report refused", job_id=job.job_id, reason=str(error))
        await self._feed(FailureReported())

    # -- money after the work ------------------------------------------------------------------------

    async def _collect(self, job: Job, leave_time: bool) -> None:
        voucher = job.voucher
        if voucher is not None and job.start is not None:
            money = await self._services.money()
            if leave_time:
                await self._await_settlement(job, voucher, money)
            await self._settle(voucher, job.start.deadline, money)
        await self._feed(VoucherCollected(voucher))

    async def _settle(self, voucher: Voucher, deadline: int, money: Money) -> None:
        """Until the chain has paid it or never can.

        A refusal alone proves neither: a wallet without fees or a frozen account passes.
        """
        attempt, pause_s = 0, SETTLE_PAUSE_S
        while not await money.is_settled(voucher, self._services.now() > deadline):
            try:
                signature = await money.settle(voucher, attempt)
            except PaymentRefusedError as error:
                log.error("voucher not paid yet", escrow=voucher.escrow, reason=str(error), pause_s=pause_s)
                attempt += 1
                await trio.sleep(pause_s)
                pause_s = min(LONGEST_SETTLE_PAUSE_S, pause_s * 2)
            else:
                log.info("voucher settled", escrow=voucher.escrow, earned=voucher.earned, signature=signature)
                return

    async def _await_settlement(self, job: Job, voucher: Voucher, money: Money) -> None:
        """Gives the coordinator the voucher, in case the Engine did not, and the time to use it."""
        with trio.move_on_after(self._services.terms.settle_grace_s):
            call = DeliverVoucher(
                job.job_id,
                voucher.escrow,
                voucher.segments_done,
                voucher.earned,
                voucher.final,
                voucher.signature,
            )
            try:
                await self._services.link.call(call, Done)
            except (RemoteFailureError, RemoteProtocolError) as error:
                log.info("coordinator refuses the voucher", job_id=job.job_id, reason=str(error))
            while True:
                if await money.is_settled(voucher, is_over=False):
                    return
                await trio.sleep(SETTLED_POLL_S)

    async def _return_rest(self, job: Job) -> None:
        """At once where this peer failed or the user stopped; a revoked lease is the coordinator's to end."""
        ours = job.ending is not None and job.ending.kind in (EndingKind.FAILED, EndingKind.STOPPED)
        if ours and job.start is not None:
            money = await self._services.money()
            try:
                signature = await money.refund(job.start.escrow)
            except PaymentRefusedError as error:
                log.info("refund not possible", job_id=job.job_id, reason=str(error))
            else:
                log.info("rest returned to the user", job_id=job.job_id, signature=signature)
        await self._feed(RestReturned())


def check_data(path: Path, promised: DataSummary) -> None:
    """The price was computed from ``promised``. Raises JobError if the file holds something else."""
    try:
        facts = read_facts(path)
    except DatasetError as error:
        raise JobError("dataset", str(error), retryable=False) from error
    found = (facts.samples, tuple(facts.sample_shape), facts.dtype, facts.classes)
    allowed = (promised.samples, promised.sample_shape, promised.dtype, promised.classes)
    if found != allowed:
        text = f"dataset of (samples, shape, type, classes) {found}, allowed {allowed} as submitted"
        raise JobError("dataset", text, retryable=False)
