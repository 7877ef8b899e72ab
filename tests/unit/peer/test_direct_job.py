"""An unpaid job of an Engine that is let in, and that neither kind of job can become the other."""

from __future__ import annotations

import msgspec
import pytest

from p2p.protocols.job import JobClosed, ResultReady, SegmentFinished
from peer.errors import IllegalTransitionError
from peer.events import (
    DataFetched,
    EngineOpened,
    EscrowChecked,
    Event,
    LeaseRevoked,
    OfferAccepted,
    PauseRequested,
    ResultStored,
    ResumeRequested,
    SegmentAllowed,
    SegmentsConfirmed,
    SegmentStored,
    StartRequested,
    StopRequested,
    VoucherReceived,
    WorkerPrepared,
    WorkFailed,
)
from peer.job import EndingKind, Job, LeaseKind, Phase, new_job, recovered, transition
from peer.plan import AllowSegment, GiveUp, Moment, Patience, gives_up_at, plan
from tests.unit.peer.make import METRICS, NOW, make_file, make_offer, make_start, make_voucher

PREPARED: tuple[Event, ...] = (
    OfferAccepted(NOW),
    EngineOpened(b"{}", 900, 20, None, NOW),
    DataFetched(),
    WorkerPrepared(100, "cpu"),
)
SEGMENTS = 2
FIRST_DONE = (*PREPARED, SegmentAllowed(0), SegmentStored(0, make_file("a"), METRICS, NOW))
HELD = (*FIRST_DONE, SegmentAllowed(1), ResultStored(make_file("b"), METRICS, NOW + 5))


def direct(*events: Event) -> Job:
    job = new_job(make_offer(SEGMENTS), LeaseKind.DIRECT)
    for event in events:
        job, _ = transition(job, event)
    return job


def paid(*events: Event) -> Job:
    job = new_job(make_offer(SEGMENTS))
    for event in events:
        job, _ = transition(job, event)
    return job


def test_it_works_as_soon_as_it_is_prepared_and_waits_for_nobody() -> None:
    job = direct(*PREPARED)
    assert (job.phase, job.waiting_since) == (Phase.RUNNING, None)
    assert plan(job, (), Moment(NOW)) == AllowSegment(0)
    after, said = transition(direct(*PREPARED, SegmentAllowed(0)), FIRST_DONE[-1])
    assert isinstance(said[0], SegmentFinished)
    assert plan(after, (), Moment(NOW + 1e6)) == AllowSegment(1)


def test_its_result_waits_for_its_engine_without_a_device() -> None:
    assert direct(*FIRST_DONE).occupies_device
    job = direct(*HELD)
    assert (job.phase, job.occupies_device, job.is_retired) == (Phase.RESULT_HELD, False, False)
    patience = Patience()
    assert gives_up_at(job, patience) == NOW + 5 + patience.fetch_s
    assert plan(job, (), Moment(NOW + 6 + patience.fetch_s)) == GiveUp(patience.fetch_s + 1)


def test_the_engines_word_that_it_holds_the_model_ends_it() -> None:
    job, said = transition(direct(*HELD), SegmentsConfirmed(SEGMENTS))
    assert job.ending is not None and job.ending.kind is EndingKind.COMPLETED
    assert isinstance(said[0], JobClosed)
    assert job.is_retired
    assert plan(job, (), Moment(NOW)) is None


def test_less_than_all_segments_ends_nothing_and_more_than_are_done_is_refused() -> None:
    assert transition(direct(*HELD), SegmentsConfirmed(1)) == (direct(*HELD), ())
    with pytest.raises(IllegalTransitionError):
        transition(direct(*FIRST_DONE), SegmentsConfirmed(SEGMENTS))


@pytest.mark.parametrize(
    "end", [StopRequested(), LeaseRevoked("not let in"), WorkFailed("code", "text", True)]
)
def test_however_it_ends_nothing_is_left_to_do(end: Event) -> None:
    job, _ = transition(direct(*FIRST_DONE), end)
    assert job.is_retired and not job.occupies_device
    assert plan(job, (), Moment(NOW)) is None
    assert job.ending is not None and "paid" not in job.ending.text


@pytest.mark.parametrize(
    "event", [StartRequested(make_start()), EscrowChecked(), VoucherReceived(make_voucher(1, 2), NOW)]
)
def test_it_has_no_escrow_and_takes_no_voucher(event: Event) -> None:
    with pytest.raises(IllegalTransitionError):
        transition(direct(*FIRST_DONE), event)


@pytest.mark.parametrize("confirmed", [0, 1, SEGMENTS])
def test_a_paid_job_is_paid_whatever_its_engine_confirms(confirmed: int) -> None:
    waiting = paid(*PREPARED, StartRequested(make_start()), EscrowChecked(), *FIRST_DONE[-2:])
    assert waiting.phase is Phase.WAITING_FOR_VOUCHER
    for job in (paid(*PREPARED), waiting):
        with pytest.raises(IllegalTransitionError):
            transition(job, SegmentsConfirmed(confirmed))


def test_a_paid_job_without_escrow_never_works() -> None:
    job = paid(*PREPARED)
    assert job.phase is Phase.PREPARED and not job.may_work
    with pytest.raises(IllegalTransitionError):
        transition(job, SegmentAllowed(0))


def test_a_stored_job_of_an_earlier_version_is_paid() -> None:
    stored = msgspec.to_builtins(paid(*PREPARED))
    del stored["kind"]
    assert msgspec.convert(stored, Job).kind is LeaseKind.PAID


def test_no_heartbeat_tells_a_coordinator_of_it() -> None:
    assert not direct(*PREPARED).holds_lease
    assert paid(*PREPARED).holds_lease


def test_a_pause_stops_it_and_its_engine_is_waited_for() -> None:
    job = direct(*PREPARED, PauseRequested(NOW))
    assert (job.phase, job.waiting_since) == (Phase.PAUSED, NOW)
    resumed, _ = transition(job, ResumeRequested(NOW + 1))
    assert (resumed.phase, resumed.waiting_since) == (Phase.RUNNING, None)
    early = direct(*PREPARED[:3], PauseRequested(NOW), ResumeRequested(NOW + 1))
    assert early.waiting_since == NOW + 1
    assert transition(early, PREPARED[3])[0].waiting_since is None


def test_after_a_restart_a_result_still_waits_and_work_may_be_tried_again() -> None:
    assert recovered(direct(*HELD)).phase is Phase.RESULT_HELD
    lost = recovered(direct(*FIRST_DONE))
    assert lost.ending is not None and lost.ending.retryable and lost.is_retired


def test_a_result_is_announced() -> None:
    _, said = transition(direct(*FIRST_DONE, SegmentAllowed(1)), HELD[-1])
    assert isinstance(said[0], ResultReady)
