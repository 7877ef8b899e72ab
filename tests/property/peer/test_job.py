from __future__ import annotations

import itertools
from typing import get_args

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import IllegalTransitionError
from peer.events import (
    DataFetched,
    EngineOpened,
    EscrowChecked,
    Event,
    FailureReported,
    LeaseRevoked,
    OfferAccepted,
    PauseRequested,
    RateRequested,
    RestReturned,
    ResultReported,
    ResultStored,
    ResumeRequested,
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
from peer.job import (
    Job,
    LeaseKind,
    new_job,
    recovered,
    transition,
)
from peer.plan import AllowSegment, Moment, Task, Work, plan
from tests.unit.peer.make import AMOUNT, METRICS, NOW, make_file, make_offer, make_start, make_voucher

SEGMENTS = 3
segment = st.integers(0, SEGMENTS - 1)
vouchers = st.builds(make_voucher, st.just(0), earned=st.integers(1, AMOUNT), final=st.booleans())
events: st.SearchStrategy[Event] = st.one_of(
    st.sampled_from(
        [
            OfferAccepted(NOW),
            EngineOpened(b"{}", 900, 20, None, NOW),
            DataFetched(),
            WorkerPrepared(10, "cpu"),
            StartRequested(make_start()),
            EscrowChecked(),
            StartReported(),
            ResultStored(make_file("b"), METRICS, NOW),
            ResultReported(),
            PauseRequested(NOW),
            ResumeRequested(NOW),
            RateRequested(0.5),
            WorkerRateSet(0.5),
            WorkerPaused(1),
            WorkerResumed(1),
        ]
    ),
    st.sampled_from(
        [
            StopRequested(),
            LeaseRevoked("over"),
            WorkFailed("code", "text", True),
            FailureReported(),
            VoucherCollected(None),
            RestReturned(),
        ]
    ),
    st.builds(SegmentAllowed, segment),
    st.builds(SegmentStored, segment, st.just(make_file("a")), st.just(METRICS), st.just(NOW)),
    st.builds(VoucherReceived, vouchers, st.just(NOW)),
    st.builds(VoucherCollected, vouchers),
    st.builds(SegmentsConfirmed, st.integers(0, SEGMENTS)),
)
PROLOGUE: tuple[Event, ...] = (
    OfferAccepted(NOW),
    EngineOpened(b"{}", 900, 20, None, NOW),
    DataFetched(),
    WorkerPrepared(10, "cpu"),
    StartRequested(make_start()),
    EscrowChecked(),
)


def run(story: list[Event], prologue: bool, kind: LeaseKind = LeaseKind.PAID) -> list[Job]:
    """Every state on the way; an event that a state cannot have changes nothing."""
    job = new_job(make_offer(SEGMENTS), kind)
    states = [job]
    for event in [*(PROLOGUE if prologue else ()), *story]:
        try:
            job, _ = transition(job, event)
        except IllegalTransitionError:
            continue
        states.append(job)
    return states


@given(st.lists(events, max_size=40), st.booleans())
def test_whatever_happens_at_most_one_segment_is_unvouchered(story: list[Event], prologue: bool) -> None:
    for job in run(story, prologue):
        assert job.covered <= job.done <= job.allowed <= job.covered + 1
        assert job.allowed == 0 or job.escrow_checked
        paid = 0 if job.voucher is None else job.voucher.earned
        assert job.done < job.allowed or job.owed - paid <= -(-AMOUNT // SEGMENTS)


@given(st.lists(events, max_size=40), st.booleans())
def test_no_job_ends_twice_and_a_voucher_never_shrinks(story: list[Event], prologue: bool) -> None:
    states = run(story, prologue)
    for before, after in itertools.pairwise(states):
        assert before.ending is None or after.ending == before.ending
        if before.voucher is not None:
            assert after.voucher is not None and after.voucher.earned >= before.voucher.earned


@given(st.lists(events, max_size=40), st.booleans())
def test_the_plan_never_asks_for_work_that_the_job_refuses(story: list[Event], prologue: bool) -> None:
    for job in run(story, prologue):
        doing: dict[type[Task], Task] = {}
        while (task := plan(job, doing, Moment(NOW))) is not None:
            doing[type(task)] = task
            if isinstance(task, AllowSegment):
                assert transition(job, SegmentAllowed(task.segment))[0].allowed == task.segment + 1


@given(st.lists(events, max_size=40), st.booleans())
def test_every_state_survives_a_restart_with_its_money(story: list[Event], prologue: bool) -> None:
    job = run(story, prologue)[-1]
    restored = recovered(msgspec.msgpack.decode(msgspec.msgpack.encode(job), type=Job))
    assert (restored.voucher, restored.start, restored.result) == (job.voucher, job.start, job.result)
    assert restored.ending is not None or restored.result is not None


@given(st.lists(events, max_size=40), st.booleans())
def test_a_direct_job_touches_no_money_and_no_coordinator(story: list[Event], prologue: bool) -> None:
    for job in run(story, prologue, LeaseKind.DIRECT):
        assert (job.kind, job.start, job.voucher, job.escrow_checked) == (LeaseKind.DIRECT, None, None, False)
        assert not job.holds_lease
        assert job.is_retired == (job.ending is not None)
        doing: dict[type[Task], Task] = {}
        while (task := plan(job, doing, Moment(NOW))) is not None:
            doing[type(task)] = task
            assert isinstance(task, get_args(Work))


@given(st.lists(events, max_size=40), st.booleans())
def test_what_a_job_rests_on_never_changes(story: list[Event], prologue: bool) -> None:
    assert {job.kind for job in run(story, prologue)} == {LeaseKind.PAID}
