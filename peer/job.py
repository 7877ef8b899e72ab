"""One job as its peer sees it: frozen facts, events that add to them, and the phase they amount to. Pure.

``transition`` takes no decision about what to do next; that is ``peer.plan``. What the Engine must
be told of an event is returned beside the new state, numbered later by the progress log.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from p2p.identifiers import JobId, PeerId
from p2p.jobs import Delivery, FileRef, JobMetrics
from p2p.pricing import earned_after, format_tokens
from p2p.progress import Numbered
from p2p.protocols.coordinator import LeaseRef, OfferJob
from p2p.protocols.job import (
    JobClosed,
    JobFailed,
    JobProgress,
    JobStage,
    ResultReady,
    SegmentFinished,
    StartJob,
)
from p2p.protocols.transfer import FileSource
from p2p.vouchers import Voucher
from peer.errors import IllegalTransitionError
from peer.events import (
    CheckpointFetched,
    DataFetched,
    EngineOpened,
    EscrowChecked,
    Event,
    FailureReported,
    LeaseRevoked,
    OfferAccepted,
    PauseRequested,
    Progressed,
    RateRequested,
    RestReturned,
    ResultReported,
    ResultStored,
    ResumeRequested,
    SamplesBack,
    SamplesMissed,
    SegmentAllowed,
    SegmentsConfirmed,
    SegmentStored,
    StartReported,
    StartRequested,
    StopRequested,
    VoucherCollected,
    VoucherReceived,
    WorkerPaused,
    WorkerPrepared,
    WorkerRateSet,
    WorkerResumed,
    WorkFailed,
)
from peer.vouchers import segments_covered

_TEXT_LIMIT = 4000


class Phase(Enum):
    """Where a job stands on this peer; follows from its facts."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    PREFETCHING = "prefetching"
    OPENED = "warming a worker"
    PREPARED = "prepared"
    CHECKING_ESCROW = "checking escrow"
    RUNNING = "running a segment"
    WAITING_FOR_VOUCHER = "waiting for voucher"
    PAUSED = "paused"
    RESULT_HELD = "result held"
    CLOSED = "closed"
    FAILED = "failed"


class LeaseKind(Enum):
    """What a job rests on. It is fixed when the lease begins, and nothing that is said later changes it."""

    PAID = "paid"
    """Given by the coordinator: a token opens it, an escrow and vouchers pay for it."""
    DIRECT = "direct"
    """Given by this peer to an Engine that its owner lets in: nobody pays, nobody else is told."""


class EndingKind(Enum):
    COMPLETED = "completed"
    STOPPED = "stopped"
    REVOKED = "revoked"
    FAILED = "failed"


class Ending(msgspec.Struct, frozen=True):
    """Why the job is over. ``code`` and ``retryable`` matter to FAILED only."""

    kind: EndingKind
    text: str
    code: str = ""
    retryable: bool = False


class Job(msgspec.Struct, frozen=True):
    """All facts. Everything here survives a restart; a worker and a stream do not: see ``recovered``."""

    offer: OfferJob
    kind: LeaseKind = LeaseKind.PAID
    waiting_since: float | None = None
    """Since when the peer can do nothing without its Engine."""
    accepted: bool = False
    graph: bytes | None = None
    quote: int = 0
    duration_s: int = 0
    checkpoint: FileRef | None = None
    sources: tuple[FileSource, ...] = ()
    """Other peers that should have the job's files."""
    data_held: bool = False
    checkpoint_held: bool = False
    prepared: bool = False
    start: StartJob | None = None
    escrow_checked: bool = False
    start_reported: bool = False
    allowed: int = 0
    """Segments below this may run or have run."""
    done: int = 0
    """Segments below this are finished, by this peer or the one before it."""
    voucher: Voucher | None = None
    pause_wanted: bool = False
    worker_paused: bool = False
    rate_wanted: float | None = None
    """The learning rate that the user set; None: none."""
    worker_rate: float | None = None
    """The one that the worker was told."""
    samples_missed: bool = False
    """The training stands still for want of samples."""
    result: FileRef | None = None
    metrics: JobMetrics | None = None
    """The newest that came with a segment or the result."""
    result_reported: bool = False
    ending: Ending | None = None
    failure_reported: bool = False
    collected: bool = False
    """The newest voucher is paid, or there is none."""
    returned: bool = False
    """What was not earned is on its way back, as far as it is this peer's to send."""

    @property
    def job_id(self) -> JobId:
        return JobId(self.offer.job.job_id)

    @property
    def lease(self) -> LeaseRef:
        return self.offer.lease

    @property
    def engine_id(self) -> PeerId:
        return PeerId(self.offer.engine_id)

    @property
    def segments(self) -> int:
        return self.offer.job.segments

    @property
    def is_direct(self) -> bool:
        return self.kind is LeaseKind.DIRECT

    @property
    def is_deployment(self) -> bool:
        """It serves a model for a time, and trains nothing."""
        return self.offer.job.serving is not None

    @property
    def part_name(self) -> str:
        return self.offer.job.part_name

    @property
    def work_name(self) -> str:
        return "serving" if self.is_deployment else "training"

    @property
    def may_work(self) -> bool:
        """A paid job once its escrow was seen, a direct one always."""
        return self.is_direct or self.escrow_checked

    @property
    def occupies_device(self) -> bool:
        """A direct job's result is kept for its Engine without one: nobody is paid for holding it.

        A deployment's model answers until its Engine has seen that it does.
        """
        kept = self.is_direct and self.result is not None and not self.is_deployment
        return self.ending is None and not kept

    @property
    def covered(self) -> int:
        """Segments below this are finished and vouchered for; of a direct job, finished."""
        first = self.offer.first_segment
        if self.is_direct:
            return self.done
        if self.voucher is None:
            return first
        remaining = self.segments - first
        return first + segments_covered(
            self.voucher.earned, self.offer.amount, remaining, max(0, self.done - first)
        )

    @property
    def owed(self) -> int:
        """Units that all finished segments are worth."""
        first = self.offer.first_segment
        return earned_after(self.offer.amount, max(0, self.done - first), self.segments - first)

    @property
    def is_retired(self) -> bool:
        """Nothing is left to do."""
        if self.is_direct:
            return self.ending is not None
        if self.ending is None or not (self.collected and self.returned):
            return False
        return self.ending.kind is not EndingKind.FAILED or self.failure_reported

    @property
    def holds_lease(self) -> bool:
        """True while heartbeats to the coordinator must renew the lease."""
        if not self.accepted or self.is_direct:
            return False
        return self.ending is None or (self.ending.kind is EndingKind.COMPLETED and not self.collected)

    @property
    def phase(self) -> Phase:
        if self.ending is not None:
            return Phase.FAILED if self.ending.kind is EndingKind.FAILED else Phase.CLOSED
        if self.result is not None:
            return Phase.RESULT_HELD
        if self.graph is None:
            return Phase.ACCEPTED if self.accepted else Phase.OFFERED
        if self.pause_wanted:
            return Phase.PAUSED
        return self._working_phase()

    def _working_phase(self) -> Phase:
        if not self.prepared:
            return Phase.OPENED if self.has_files else Phase.PREFETCHING
        if not self.may_work:
            return Phase.PREPARED if self.start is None else Phase.CHECKING_ESCROW
        return Phase.RUNNING if self.covered >= self.done else Phase.WAITING_FOR_VOUCHER

    @property
    def has_files(self) -> bool:
        return self.data_held and (self.checkpoint is None or self.checkpoint_held)


Step = tuple[Job, tuple[Numbered, ...]]
_replace = msgspec.structs.replace


def new_job(offer: OfferJob, kind: LeaseKind = LeaseKind.PAID) -> Job:
    """A job of which nothing is known but the offer."""
    return Job(offer, kind, done=offer.first_segment, allowed=offer.first_segment)


def transition(job: Job, event: Event) -> Step:
    """The job after the event, and what the Engine is to be told.

    A late event of a job that is over changes nothing. Raises IllegalTransitionError.
    """
    if job.ending is not None:
        return _after_the_end(job, event)
    match event:
        case OfferAccepted() | EngineOpened() | DataFetched() | CheckpointFetched() | WorkerPrepared():
            return _before_work(job, event)
        case StartRequested() | EscrowChecked() | SegmentAllowed() | SegmentStored() | ResultStored():
            return _at_work(job, event)
        case VoucherReceived(voucher, at) if not job.is_direct:
            return _vouchered(job, voucher, at)
        case SegmentsConfirmed(done) if job.is_direct and done <= job.done:
            return _confirmed(job, done)
        case VoucherReceived() | SegmentsConfirmed():
            raise _illegal(job, event)
        case PauseRequested() | ResumeRequested() | WorkerPaused() | WorkerResumed():
            return _paused(job, event)
        case RateRequested(rate):
            return _replace(job, rate_wanted=rate), ()
        case WorkerRateSet(rate):
            return _replace(job, worker_rate=rate), ()
        case Progressed(metrics):
            return job, (JobProgress(0, metrics),)
        case SamplesMissed() | SamplesBack():
            return _fed(job, event)
        case StopRequested():
            return _ended(job, Ending(EndingKind.STOPPED, _paid_text("stopped by the user", job)))
        case LeaseRevoked(reason):
            return _ended(job, Ending(EndingKind.REVOKED, _paid_text(f"lease over: {reason}", job)))
        case WorkFailed(code, text, retryable):
            return _ended(job, Ending(EndingKind.FAILED, text[:_TEXT_LIMIT], code, retryable))
        case StartReported():
            return _replace(job, start_reported=True), ()
        case ResultReported():
            return _replace(job, result_reported=True), ()
        case FailureReported() | VoucherCollected() | RestReturned():
            raise _illegal(job, event)


def recovered(job: Job) -> Job:
    """The job after a restart of the peer, from its stored facts.

    A finished result still waits for its Engine; anything else that ran is lost here and may be
    tried again elsewhere. So is a deployment whose last period nobody can see any more.
    """
    lost = _replace(
        job,
        prepared=False,
        worker_paused=False,
        worker_rate=None,
        pause_wanted=False,
        samples_missed=False,
    )
    if job.ending is not None or (job.result is not None and not job.is_deployment):
        return lost
    text = f"the peer restarted; {job.done} of {job.segments} {job.part_name}s were finished"
    return _replace(lost, ending=Ending(EndingKind.FAILED, text, "restarted", True))


def ending_announcement(job: Job) -> Numbered | None:
    """What a follower must hear who comes after a restart: the last word about the job."""
    if job.ending is not None:
        return _last_word(job.ending)
    if job.result is not None and job.metrics is not None:
        return ResultReady(0, job.result, job.metrics)
    return None


def _before_work(job: Job, event: Event) -> Step:
    match job.phase, event:
        case Phase.OFFERED, OfferAccepted(at):
            return _replace(job, accepted=True, waiting_since=at), ()
        case Phase.ACCEPTED, EngineOpened(graph, quote, duration_s, checkpoint, at, sources):
            opened = _replace(
                job,
                graph=graph,
                quote=quote,
                duration_s=duration_s,
                checkpoint=checkpoint,
                sources=sources,
                waiting_since=at,
            )
            return opened, (JobStage(0, "fetching data", _where_data_is(job)),)
        case Phase.PREFETCHING | Phase.PAUSED, DataFetched():
            return _files_changed(_replace(job, data_held=True))
        case Phase.PREFETCHING | Phase.PAUSED, CheckpointFetched():
            return _files_changed(_replace(job, checkpoint_held=True))
        case Phase.OPENED | Phase.PAUSED, WorkerPrepared(total_steps, device, notes):
            what = "the model answers" if job.is_deployment else f"{total_steps} steps"
            text = "; ".join((f"ready: {what} on {device}", *notes))
            return _prepared(job, text[:_TEXT_LIMIT])
        case _:
            raise _illegal(job, event)


def _prepared(job: Job, text: str) -> Step:
    """A direct job waits for nobody any more."""
    if job.is_direct and not job.pause_wanted:
        return _replace(job, prepared=True, waiting_since=None), (JobStage(0, job.work_name, text),)
    return _replace(job, prepared=True), (JobStage(0, "prepared", text),)


def _where_data_is(job: Job) -> str:
    data = job.offer.job.data
    if data.delivery is Delivery.STREAM:
        return "samples stay with the Engine and come as they are used"
    return f"{data.file.size} bytes from the Engine"


def _files_changed(job: Job) -> Step:
    text = "the model is here, loading it" if job.is_deployment else "data is here, building the model"
    return job, (JobStage(0, "warming", text),) if job.has_files else ()


def _at_work(job: Job, event: Event) -> Step:
    match event:
        case StartRequested(start) if (
            job.graph is not None and job.start in (None, start) and not job.is_direct
        ):
            if job.start == start:
                return job, ()
            return _replace(job, start=start), (JobStage(0, "checking escrow", f"escrow {start.escrow}"),)
        case EscrowChecked() if job.start is not None and not job.escrow_checked:
            text = "the escrow holds what was promised"
            return _replace(job, escrow_checked=True, waiting_since=None), (JobStage(0, job.work_name, text),)
        case SegmentAllowed(segment) if job.may_work and segment == job.done == job.covered:
            return _replace(job, allowed=segment + 1), ()
        case SegmentStored(segment, checkpoint, metrics, at) if segment == job.done < job.allowed:
            return _segment_done(job, SegmentFinished(0, segment, checkpoint, metrics), at)
        case ResultStored(result, metrics, at) if job.done == job.segments - 1 < job.allowed:
            held = _replace(job, done=job.segments, result=result, metrics=metrics, waiting_since=at)
            return held, (ResultReady(0, result, metrics),)
        case _:
            raise _illegal(job, event)


def _segment_done(job: Job, finished: SegmentFinished, at: float) -> Step:
    """A paid job waits for its voucher, a direct one works on."""
    done = _replace(job, done=finished.segment + 1, metrics=finished.metrics)
    text = f"{job.part_name} {done.done} of {job.segments} is finished"
    if job.is_direct:
        return done, (finished, JobStage(0, job.work_name, text))
    return _replace(done, waiting_since=at), (finished, JobStage(0, "waiting for voucher", text))


def _confirmed(job: Job, segments_done: int) -> Step:
    if segments_done == job.segments and job.result is not None:
        return _ended(job, Ending(EndingKind.COMPLETED, "the Engine holds the model"))
    return job, ()


def _vouchered(job: Job, voucher: Voucher, at: float) -> Step:
    if not voucher.supersedes(job.voucher):
        return job, ()
    paid = _replace(job, voucher=voucher, waiting_since=at)
    if voucher.final:
        return _ended(paid, Ending(EndingKind.COMPLETED, f"paid in full: {format_tokens(voucher.earned)}"))
    if paid.covered < paid.done or paid.result is not None:
        return paid, ()
    return _replace(paid, waiting_since=None), (
        JobStage(0, job.work_name, f"{job.part_name} {paid.done + 1} of {paid.segments}"),
    )


def _paused(job: Job, event: Event) -> Step:
    match event:
        case PauseRequested(at) if job.graph is not None and job.result is None and not job.is_deployment:
            return _replace(job, pause_wanted=True, waiting_since=at), (JobStage(0, "paused", "by the user"),)
        case ResumeRequested(at) if job.pause_wanted:
            starting = not job.may_work or (job.is_direct and not job.prepared)
            waits = job.covered < job.done or starting or job.samples_missed
            waiting_since = at if waits else None
            resumed = _replace(job, pause_wanted=False, waiting_since=waiting_since)
            return resumed, (JobStage(0, job.work_name, "resumed by the user"),)
        case WorkerPaused():
            return _replace(job, worker_paused=True), ()
        case WorkerResumed():
            return _replace(job, worker_paused=False), ()
        case _:
            return job, ()  # a pause of what cannot pause, or not any more


def _fed(job: Job, event: SamplesMissed | SamplesBack) -> Step:
    """Only a training that runs waits for its Engine here; what else it waits for has its own clock."""
    running = job.phase is Phase.RUNNING
    match event:
        case SamplesMissed(reason, at) if running:
            stage = JobStage(0, "waiting for samples", reason[:_TEXT_LIMIT])
            waiting_since = at if job.waiting_since is None else job.waiting_since
            missed = _replace(job, samples_missed=True, waiting_since=waiting_since)
            return missed, () if job.samples_missed else (stage,)
        case SamplesBack() if job.samples_missed:
            back = _replace(job, samples_missed=False)
            if not running:
                return back, ()
            return _replace(back, waiting_since=None), (JobStage(0, job.work_name, "samples come again"),)
        case _:
            return job, ()


def _after_the_end(job: Job, event: Event) -> Step:
    match event:
        case VoucherReceived(voucher) if not job.is_direct:
            if not voucher.supersedes(job.voucher):
                return job, ()
            return _replace(job, voucher=voucher, collected=False), ()
        case FailureReported():
            return _replace(job, failure_reported=True), ()
        case VoucherCollected(voucher):  # another may have come while this one was on its way
            return _replace(job, collected=voucher == job.voucher), ()
        case RestReturned():
            return _replace(job, returned=True), ()
        case StartReported():
            return _replace(job, start_reported=True), ()
        case ResultReported():
            return _replace(job, result_reported=True), ()
        case LeaseRevoked() if job.ending is not None and job.ending.kind is EndingKind.FAILED:
            return _replace(job, failure_reported=True), ()  # nobody is left who wants the report
        case _:
            return job, ()


def _ended(job: Job, ending: Ending) -> Step:
    return _replace(job, ending=ending, waiting_since=None), (_last_word(ending),)


def _last_word(ending: Ending) -> Numbered:
    if ending.kind is EndingKind.FAILED:
        return JobFailed(0, ending.code, ending.text, ending.retryable)
    return JobClosed(0, ending.text)


def _paid_text(reason: str, job: Job) -> str:
    paid = "" if job.is_direct else f"; {job.covered - job.offer.first_segment} {job.part_name}s are paid"
    text = f"{reason}{paid}"
    return text[:_TEXT_LIMIT]


def _illegal(job: Job, event: Event) -> IllegalTransitionError:
    return IllegalTransitionError(f"{type(event).__name__} while {job.phase.value}")
