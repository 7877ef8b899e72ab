from __future__ import annotations

import pytest

from peer.events import (
    CheckpointFetched,
    DataFetched,
    EngineOpened,
    EscrowChecked,
    Event,
    FailureReported,
    OfferAccepted,
    PauseRequested,
    RateRequested,
    RestReturned,
    ResultReported,
    ResultStored,
    ResumeRequested,
    SegmentAllowed,
    SegmentStored,
    StartReported,
    StartRequested,
    StopRequested,
    VoucherCollected,
    VoucherReceived,
    WorkerPaused,
    WorkerPrepared,
    WorkerRateSet,
    WorkFailed,
)
from peer.job import (
    Job,
    new_job,
    transition,
)
from peer.plan import (
    AllowSegment,
    CheckEscrow,
    CollectVoucher,
    FetchCheckpoint,
    FetchData,
    GiveUp,
    Moment,
    Patience,
    PauseWorker,
    PrepareWorker,
    ReportFailure,
    ReportResult,
    ReportStart,
    ResumeWorker,
    ReturnRest,
    SetWorkerRate,
    Task,
    WatchEscrow,
    gives_up_at,
    plan,
)
from tests.unit.peer.make import METRICS, NOW, make_file, make_offer, make_start, make_voucher

MOMENT = Moment(NOW, Patience(engine_s=900, pause_s=3600))
OPENED = (OfferAccepted(NOW), EngineOpened(b"{}", 900, 20, None, NOW))
PREPARED = (*OPENED, DataFetched(), WorkerPrepared(100, "cpu"))
STARTED = (*PREPARED, StartRequested(make_start()), EscrowChecked(), StartReported())
RUNNING = (*STARTED, SegmentAllowed(0))
ONE_DONE = (*RUNNING, SegmentStored(0, make_file("a"), METRICS, NOW))


def after(*events: Event, job: Job | None = None) -> Job:
    job = new_job(make_offer()) if job is None else job
    for event in events:
        job, _ = transition(job, event)
    return job


def all_tasks(job: Job, moment: Moment = MOMENT) -> list[Task]:
    """What runs side by side: every task that the plan gives while those before are under way."""
    doing: dict[type[Task], Task] = {}
    while (task := plan(job, doing, moment)) is not None:
        doing[type(task)] = task
    return list(doing.values())


@pytest.mark.parametrize(
    ("events", "tasks"),
    [
        ((), []),
        ((OfferAccepted(NOW),), []),
        (OPENED, [FetchData()]),
        ((*OPENED, DataFetched()), [PrepareWorker()]),
        ((*OPENED, StartRequested(make_start())), [FetchData(), CheckEscrow()]),
        (PREPARED, []),
        ((*PREPARED, StartRequested(make_start())), [CheckEscrow()]),
        ((*STARTED[:-1],), [AllowSegment(0), ReportStart(), WatchEscrow()]),
        (RUNNING, [WatchEscrow()]),
        (ONE_DONE, [WatchEscrow()]),
        ((*ONE_DONE, VoucherReceived(make_voucher(1), NOW)), [AllowSegment(1), WatchEscrow()]),
        ((*RUNNING, RateRequested(0.5)), [SetWorkerRate(0.5), WatchEscrow()]),
        ((*RUNNING, RateRequested(0.5), WorkerRateSet(0.5)), [WatchEscrow()]),
        ((*OPENED, RateRequested(0.5)), [FetchData()]),
        (
            (*ONE_DONE, RateRequested(0.5), VoucherReceived(make_voucher(1), NOW)),
            [SetWorkerRate(0.5), WatchEscrow()],
        ),
        ((*RUNNING, PauseRequested(NOW)), [PauseWorker(), WatchEscrow()]),
        ((*RUNNING, PauseRequested(NOW), WorkerPaused(1)), [WatchEscrow()]),
        (
            (*RUNNING, PauseRequested(NOW), WorkerPaused(1), ResumeRequested(NOW)),
            [ResumeWorker(), WatchEscrow()],
        ),
        ((*RUNNING, StopRequested()), [CollectVoucher(leave_time=False)]),
        ((*RUNNING, StopRequested(), VoucherCollected(None)), [ReturnRest()]),
        ((*RUNNING, StopRequested(), VoucherCollected(None), RestReturned()), []),
        ((*RUNNING, WorkFailed("x", "y", True)), [ReportFailure(), CollectVoucher(leave_time=False)]),
        ((*RUNNING, WorkFailed("x", "y", True), FailureReported(), VoucherCollected(None)), [ReturnRest()]),
    ],
)
def test_the_tasks_of_each_state(events: tuple[Event, ...], tasks: list[Task]) -> None:
    assert all_tasks(after(*events)) == tasks


def test_checkpoint_and_data_are_fetched_side_by_side() -> None:
    job = new_job(make_offer(first_segment=1))
    opened = EngineOpened(b"{}", 900, 20, make_file("c"), NOW)
    job = after(OfferAccepted(NOW), opened, job=job)
    assert all_tasks(job) == [FetchData(), FetchCheckpoint()]
    assert all_tasks(after(CheckpointFetched(), job=job)) == [FetchData()]


def test_a_result_is_reported_and_a_completed_job_leaves_the_coordinator_time_to_settle() -> None:
    job = new_job(make_offer(segments=1))
    job = after(*RUNNING, ResultStored(make_file("b"), METRICS, NOW), job=job)
    assert all_tasks(job) == [ReportResult(), WatchEscrow()]
    job = after(ResultReported(), VoucherReceived(make_voucher(1, 1, final=True), NOW), job=job)
    assert all_tasks(job) == [CollectVoucher(leave_time=True)]


def test_a_task_under_way_is_not_started_again() -> None:
    assert plan(after(*OPENED), {FetchData: FetchData()}, MOMENT) is None


@pytest.mark.parametrize(("events", "patience_s"), [(ONE_DONE, 900), ((*RUNNING, PauseRequested(NOW)), 3600)])
def test_the_peer_gives_up_on_a_silent_engine(events: tuple[Event, ...], patience_s: float) -> None:
    job = after(*events)
    assert gives_up_at(job, MOMENT.patience) == NOW + patience_s
    assert GiveUp(patience_s) in all_tasks(job, Moment(NOW + patience_s, MOMENT.patience))
    assert not any(isinstance(task, GiveUp) for task in all_tasks(job, Moment(NOW + patience_s - 1)))


def test_a_running_segment_has_no_patience_to_lose() -> None:
    assert gives_up_at(after(*RUNNING), MOMENT.patience) is None
