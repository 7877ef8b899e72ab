"""What to do next for a job: ``plan`` gives the next task or None. Pure, one small rule per line.

Tasks of different kinds run side by side (the dataset travels while the escrow is confirmed); one
kind runs once at a time. A task reports what came of it as an event of ``peer.job``.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from peer.job import (
    EndingKind,
    Job,
    LeaseKind,
    Phase,
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long, in seconds, the peer waits for its Engine."""

    engine_s: float = 900.0
    """For one that says nothing."""
    pause_s: float = 3600.0
    """For one that paused."""
    fetch_s: float = 7 * 24 * 3600.0
    """For that of a direct job to come for its result."""


@dataclass(frozen=True, slots=True)
class Moment:
    now: float
    patience: Patience = Patience()


# -- tasks: orders, in the imperative ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FetchData:
    pass


@dataclass(frozen=True, slots=True)
class FetchCheckpoint:
    pass


@dataclass(frozen=True, slots=True)
class PrepareWorker:
    pass


@dataclass(frozen=True, slots=True)
class CheckEscrow:
    pass


@dataclass(frozen=True, slots=True)
class WatchEscrow:
    """For as long as vouchers of it are held or earned."""


@dataclass(frozen=True, slots=True)
class ReportStart:
    pass


@dataclass(frozen=True, slots=True)
class AllowSegment:
    segment: int


@dataclass(frozen=True, slots=True)
class PauseWorker:
    pass


@dataclass(frozen=True, slots=True)
class ResumeWorker:
    pass


@dataclass(frozen=True, slots=True)
class SetWorkerRate:
    rate: float


@dataclass(frozen=True, slots=True)
class ReportResult:
    pass


@dataclass(frozen=True, slots=True)
class GiveUp:
    waited_s: float


@dataclass(frozen=True, slots=True)
class ReportFailure:
    pass


@dataclass(frozen=True, slots=True)
class CollectVoucher:
    """``leave_time``: the coordinator settles a completed job itself; step in if it does not."""

    leave_time: bool


@dataclass(frozen=True, slots=True)
class ReturnRest:
    pass


Work = (
    FetchData
    | FetchCheckpoint
    | PrepareWorker
    | CheckEscrow
    | WatchEscrow
    | AllowSegment
    | PauseWorker
    | ResumeWorker
    | SetWorkerRate
    | GiveUp
)
"""Ended with the job."""
Aftermath = ReportStart | ReportResult | ReportFailure | CollectVoucher | ReturnRest
"""Goes on after the job, until it is done."""
Task = Work | Aftermath
Rule = Callable[[Job, Moment], Task | None]


def plan(job: Job, doing: Container[type[Task]], moment: Moment) -> Task | None:
    """The first task that a rule wants and that is not under way."""
    wanted = (rule(job, moment) for rule in RULES[job.kind])
    return next((task for task in wanted if task is not None and type(task) not in doing), None)


def _fetch_data(job: Job, _: Moment) -> Task | None:
    return FetchData() if _is_opened(job) and not job.data_held else None


def _fetch_checkpoint(job: Job, _: Moment) -> Task | None:
    missing = job.checkpoint is not None and not job.checkpoint_held
    return FetchCheckpoint() if _is_opened(job) and missing else None


def _prepare_worker(job: Job, _: Moment) -> Task | None:
    return PrepareWorker() if _is_opened(job) and job.has_files and not job.prepared else None


def _check_escrow(job: Job, _: Moment) -> Task | None:
    return CheckEscrow() if _is_opened(job) and job.start is not None and not job.escrow_checked else None


def _watch_escrow(job: Job, _: Moment) -> Task | None:
    return WatchEscrow() if job.escrow_checked and job.ending is None else None


def _report_start(job: Job, _: Moment) -> Task | None:
    return ReportStart() if job.escrow_checked and not job.start_reported and job.ending is None else None


def _allow_segment(job: Job, _: Moment) -> Task | None:
    ready = job.phase is Phase.RUNNING and not job.worker_paused and not _lacks_rate(job)
    return AllowSegment(job.done) if ready and job.allowed == job.done < job.segments else None


def _pause_worker(job: Job, _: Moment) -> Task | None:
    return PauseWorker() if job.phase is Phase.PAUSED and job.prepared and not job.worker_paused else None


def _resume_worker(job: Job, _: Moment) -> Task | None:
    return ResumeWorker() if _is_opened(job) and job.worker_paused and not job.pause_wanted else None


def _lacks_rate(job: Job) -> bool:
    return job.rate_wanted is not None and job.rate_wanted != job.worker_rate


def _set_rate(job: Job, _: Moment) -> Task | None:
    """Before a segment is allowed, so that it holds from a worker's first step on."""
    if job.rate_wanted is None or not _lacks_rate(job) or not job.prepared or not _is_opened(job):
        return None
    return SetWorkerRate(job.rate_wanted)


def _report_result(job: Job, _: Moment) -> Task | None:
    over = job.ending is not None and job.ending.kind is not EndingKind.COMPLETED
    return ReportResult() if job.result is not None and not job.result_reported and not over else None


def _give_up(job: Job, moment: Moment) -> Task | None:
    due = gives_up_at(job, moment.patience)
    if due is None or moment.now < due or job.waiting_since is None:
        return None
    return GiveUp(moment.now - job.waiting_since)


def _report_failure(job: Job, _: Moment) -> Task | None:
    failed = job.ending is not None and job.ending.kind is EndingKind.FAILED
    return ReportFailure() if failed and not job.failure_reported else None


def _collect_voucher(job: Job, _: Moment) -> Task | None:
    if job.ending is None or job.collected:
        return None
    return CollectVoucher(leave_time=job.ending.kind is EndingKind.COMPLETED)


def _return_rest(job: Job, _: Moment) -> Task | None:
    return ReturnRest() if job.ending is not None and job.collected and not job.returned else None


COMMON_RULES: tuple[Rule, ...] = (
    _fetch_data,
    _fetch_checkpoint,
    _prepare_worker,
    _set_rate,
    _allow_segment,
    _pause_worker,
    _resume_worker,
    _give_up,
)
PAID_RULES: tuple[Rule, ...] = (
    _check_escrow,
    _report_start,
    _report_result,
    _report_failure,
    _collect_voucher,
    _return_rest,
    _watch_escrow,
)
"""What concerns the coordinator and the chain, of which a direct job knows nothing."""
RULES: dict[LeaseKind, tuple[Rule, ...]] = {
    LeaseKind.PAID: COMMON_RULES + PAID_RULES,
    LeaseKind.DIRECT: COMMON_RULES,
}


def gives_up_at(job: Job, patience: Patience) -> float | None:
    """When the peer stops waiting for its Engine, or None while it waits for nobody."""
    if job.ending is not None or job.waiting_since is None:
        return None
    if job.is_direct and job.result is not None and not job.is_deployment:
        return job.waiting_since + patience.fetch_s
    return job.waiting_since + (patience.pause_s if job.pause_wanted else patience.engine_s)


def _is_opened(job: Job) -> bool:
    return job.graph is not None and job.ending is None and job.result is None
