from __future__ import annotations

import msgspec
import pytest

from p2p.protocols.job import JobClosed, JobFailed, JobStage, ResultReady, SegmentFinished
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
    RestReturned,
    ResultStored,
    ResumeRequested,
    SegmentAllowed,
    SegmentStored,
    StartRequested,
    StopRequested,
    VoucherCollected,
    VoucherReceived,
    WorkerPaused,
    WorkerPrepared,
    WorkFailed,
)
from peer.job import (
    EndingKind,
    Job,
    Phase,
    ending_announcement,
    new_job,
    recovered,
    transition,
)
from tests.unit.peer.make import METRICS, NOW, make_file, make_offer, make_start, make_voucher

OPENED = EngineOpened(b"{}", 900, 20, None, NOW)
RUNNING = (
    OfferAccepted(NOW),
    OPENED,
    DataFetched(),
    WorkerPrepared(100, "cpu"),
    StartRequested(make_start()),
    EscrowChecked(),
    SegmentAllowed(0),
)


def after(*events: Event, job: Job | None = None) -> Job:
    job = new_job(make_offer()) if job is None else job
    for event in events:
        job, _ = transition(job, event)
    return job


def stored(segment: int) -> SegmentStored:
    return SegmentStored(segment, make_file("a"), METRICS, NOW)


def vouchered(done: int, *, final: bool = False) -> VoucherReceived:
    return VoucherReceived(make_voucher(done, final=final), NOW)


def finished() -> Job:
    job = after(*RUNNING)
    for segment in range(3):
        job = after(stored(segment), vouchered(segment + 1), SegmentAllowed(segment + 1), job=job)
    return after(ResultStored(make_file("b"), METRICS, NOW), job=job)


def test_the_phases_of_a_job_from_offer_to_first_segment() -> None:
    job = new_job(make_offer())
    phases = [job.phase]
    for event in RUNNING[:-1]:
        job = after(event, job=job)
        phases.append(job.phase)
    assert phases == [
        Phase.OFFERED,
        Phase.ACCEPTED,
        Phase.PREFETCHING,
        Phase.OPENED,
        Phase.PREPARED,
        Phase.CHECKING_ESCROW,
        Phase.RUNNING,
    ]


def test_the_start_may_come_before_the_worker_is_prepared() -> None:
    job = after(OfferAccepted(NOW), OPENED, StartRequested(make_start()), EscrowChecked(), DataFetched())
    assert job.phase is Phase.OPENED
    assert after(WorkerPrepared(1, "cpu"), job=job).phase is Phase.RUNNING


def test_the_engine_is_told_how_the_worker_will_train() -> None:
    job = after(*RUNNING[:3])
    _, (stage,) = transition(job, WorkerPrepared(44, "cpu", ("float32", "6 tensors taken: dense1")))
    assert stage == JobStage(0, "prepared", "ready: 44 steps on cpu; float32; 6 tensors taken: dense1")
    _, (stage,) = transition(job, WorkerPrepared(44, "cpu", ("a" * 5000,)))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(stage), type=JobStage) == stage


def test_a_finished_segment_waits_for_its_voucher_and_tells_the_engine() -> None:
    job, messages = transition(after(*RUNNING), stored(0))
    assert job.phase is Phase.WAITING_FOR_VOUCHER
    assert [type(message) for message in messages] == [SegmentFinished, JobStage]
    assert job.waiting_since == NOW


def test_no_second_segment_is_allowed_without_a_voucher() -> None:
    with pytest.raises(IllegalTransitionError, match="SegmentAllowed while waiting for voucher"):
        after(*RUNNING, stored(0), SegmentAllowed(1))


def test_a_voucher_allows_the_next_segment() -> None:
    job = after(*RUNNING, stored(0), vouchered(1))
    assert (job.phase, job.covered, job.waiting_since) == (Phase.RUNNING, 1, None)
    assert after(SegmentAllowed(1), job=job).allowed == 2


def test_an_older_voucher_changes_nothing() -> None:
    job = after(*RUNNING, stored(0), vouchered(1))
    assert after(VoucherReceived(make_voucher(0, earned=10), NOW), job=job) == job


def test_a_worker_cannot_finish_a_segment_that_was_not_allowed() -> None:
    with pytest.raises(IllegalTransitionError, match="SegmentStored while running"):
        after(*RUNNING, stored(1))


def test_the_last_segment_is_the_result_and_the_final_voucher_closes_the_job() -> None:
    job = finished()
    assert job.phase is Phase.RESULT_HELD
    closed, messages = transition(job, vouchered(4, final=True))
    assert closed.ending is not None and closed.ending.kind is EndingKind.COMPLETED
    assert isinstance(messages[-1], JobClosed)


def test_a_result_before_its_segment_is_refused() -> None:
    with pytest.raises(IllegalTransitionError):
        after(*RUNNING, ResultStored(make_file("b"), METRICS, NOW))


def test_a_retry_waits_for_checkpoint_and_data_and_counts_from_its_first_segment() -> None:
    job = new_job(make_offer(first_segment=2))
    opened = EngineOpened(b"{}", 450, 10, make_file("c"), NOW)
    job = after(OfferAccepted(NOW), opened, DataFetched(), job=job)
    assert job.phase is Phase.PREFETCHING
    job = after(CheckpointFetched(), job=job)
    assert (job.phase, job.done, job.covered) == (Phase.OPENED, 2, 2)
    job = after(WorkerPrepared(1, "cpu"), StartRequested(make_start()), EscrowChecked(), job=job)
    job = after(SegmentAllowed(2), stored(2), job=job)
    assert job.owed == 500
    assert after(VoucherReceived(make_voucher(1, 2), NOW), job=job).covered == 3


def test_a_pause_keeps_the_worker_and_a_resume_goes_on() -> None:
    paused = after(*RUNNING, PauseRequested(NOW), WorkerPaused(5))
    assert (paused.phase, paused.waiting_since) == (Phase.PAUSED, NOW)
    resumed = after(ResumeRequested(NOW), job=paused)
    assert (resumed.phase, resumed.worker_paused, resumed.waiting_since) == (Phase.RUNNING, True, None)


@pytest.mark.parametrize(
    ("event", "kind", "word"),
    [
        (StopRequested(), EndingKind.STOPPED, JobClosed),
        (LeaseRevoked("expired"), EndingKind.REVOKED, JobClosed),
        (WorkFailed("worker_died", "killed", True), EndingKind.FAILED, JobFailed),
    ],
)
def test_every_end_has_a_last_word(event: Event, kind: EndingKind, word: type) -> None:
    job, messages = transition(after(*RUNNING), event)
    assert job.ending is not None and job.ending.kind is kind
    assert isinstance(messages[-1], word)


def test_late_events_of_a_job_that_is_over_change_nothing() -> None:
    job = after(*RUNNING, StopRequested())
    assert after(stored(0), WorkFailed("x", "y", True), LeaseRevoked("late"), job=job) == job


def test_a_late_voucher_of_a_failed_job_is_still_collected() -> None:
    job = after(*RUNNING, stored(0), WorkFailed("x", "y", True), VoucherCollected(None))
    late = after(vouchered(1), job=job)
    assert late.voucher is not None and not late.collected


def test_a_voucher_that_comes_while_the_one_before_is_collected_is_collected_too() -> None:
    job = after(*RUNNING, stored(0), vouchered(1), LeaseRevoked("no heartbeat"))
    first, job = job.voucher, after(vouchered(2), job=job)
    job = after(VoucherCollected(first), RestReturned(), job=job)
    assert not job.collected and not job.is_retired
    assert after(VoucherCollected(job.voucher), job=job).is_retired


def test_a_failed_job_retires_once_it_is_reported_collected_and_returned() -> None:
    job = after(*RUNNING, WorkFailed("x", "y", True), VoucherCollected(None), RestReturned())
    assert not job.is_retired
    assert after(FailureReported(), job=job).is_retired


def test_a_restart_fails_what_ran_and_may_be_tried_elsewhere() -> None:
    job = recovered(after(*RUNNING, stored(0), vouchered(1)))
    assert job.ending is not None
    assert (job.ending.code, job.ending.retryable, job.phase) == ("restarted", True, Phase.FAILED)
    assert isinstance(ending_announcement(job), JobFailed)


def test_a_restart_keeps_a_finished_result_for_its_engine() -> None:
    job = recovered(finished())
    assert job.phase is Phase.RESULT_HELD
    assert isinstance(ending_announcement(job), ResultReady)
    assert after(vouchered(4, final=True), job=job).phase is Phase.CLOSED


def test_a_job_survives_being_stored() -> None:
    job = finished()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(job), type=Job) == job


def test_the_lease_is_renewed_until_the_final_voucher_is_collected() -> None:
    closed = after(vouchered(4, final=True), job=finished())
    assert closed.holds_lease
    assert not after(VoucherCollected(closed.voucher), job=closed).holds_lease
    assert not after(*RUNNING, StopRequested()).holds_lease
