"""Which requests run together, on a clock that the test sets."""

from __future__ import annotations

import pytest

from backend.serving.batching import BatchLimits, BatchQueue, Pace, QueueFullError, Ticket
from backend.serving.residency import Residency
from backend.serving.restarts import LONGEST_S, Restarts


def ticket(key: str = "a", items: int = 1, arrived: float = 0.0, deadline: float = 10.0) -> Ticket:
    return Ticket(key, items, arrived, deadline)


def filled(queue: BatchQueue, *tickets: Ticket) -> list[Ticket]:
    for each in tickets:
        queue.add(each)
    return list(tickets)


def test_a_batch_takes_those_of_one_kind_in_the_order_of_their_arrival() -> None:
    queue = BatchQueue(BatchLimits())
    a1, b1, a2, b2 = filled(queue, ticket("a"), ticket("b"), ticket("a"), ticket("b"))
    assert queue.take() == [a1, a2]
    assert queue.take() == [b1, b2]
    assert queue.take() == []


def test_a_batch_holds_no_more_rows_than_allowed_but_for_one_request_that_is_larger() -> None:
    queue = BatchQueue(BatchLimits(items=4))
    large, small, medium, last = filled(queue, ticket(items=9), ticket(items=1), ticket(items=3), ticket())
    assert queue.take() == [large]
    assert queue.take() == [small, medium]
    assert queue.take() == [last]


def test_an_idle_model_waits_for_company_no_longer_than_the_window() -> None:
    queue = BatchQueue(BatchLimits(items=3, window_s=0.005))
    assert queue.due_in_s(1.0) is None
    filled(queue, ticket(arrived=1.0))
    assert queue.due_in_s(1.002) == pytest.approx(0.003)
    assert queue.due_in_s(1.006) == 0.0
    filled(queue, ticket(arrived=1.001), ticket(arrived=1.001))
    assert queue.due_in_s(1.002) == 0.0, "a full batch does not wait"


def test_without_a_window_a_request_is_due_at_once() -> None:
    queue = BatchQueue(BatchLimits())
    filled(queue, ticket(arrived=5.0))
    assert queue.due_in_s(5.0) == 0.0


def test_one_more_than_may_wait_is_refused() -> None:
    queue = BatchQueue(BatchLimits(waiting=2))
    filled(queue, ticket(), ticket())
    with pytest.raises(QueueFullError, match="2 requests wait, limit 2"):
        queue.add(ticket())
    queue.take()
    queue.add(ticket())


def test_those_whose_time_is_over_leave_and_the_others_stay() -> None:
    queue = BatchQueue(BatchLimits())
    late, early, gone = filled(queue, ticket(deadline=1.0), ticket(deadline=3.0), ticket(deadline=3.0))
    assert queue.expire(2.0) == [late]
    queue.discard(gone)
    assert queue.take() == [early]


def test_a_quick_model_runs_inline_but_for_when_it_is_slow_more_than_once() -> None:
    pace = Pace()
    assert not pace.runs_inline(), "nothing is known yet"
    pace.note(0.0001)
    assert pace.runs_inline()
    pace.note(5.0)
    assert pace.runs_inline(), "the machine was busy once"
    pace.note(5.0)
    assert not pace.runs_inline()
    for _ in range(10):
        pace.note(0.0001)
    assert pace.runs_inline()


def test_a_full_queue_says_when_it_may_have_room() -> None:
    pace = Pace(batch_s=0.5)
    assert pace.retry_after_s(waiting=256, items=32) == 4
    assert pace.retry_after_s(waiting=100_000, items=1) == 60
    assert Pace().retry_after_s(0, 1) == 1


def test_the_model_used_longest_ago_gives_way() -> None:
    residency = Residency(100)
    for name in "abc":
        residency.add(name, 30)
    residency.enter("a")
    residency.leave("a")
    assert residency.room_for(10) == []
    assert residency.room_for(30) == ["b"]
    assert residency.room_for(60) == ["b", "c"]


def test_a_model_in_use_never_gives_way() -> None:
    residency = Residency(100)
    residency.add("a", 60)
    residency.add("b", 40)
    residency.enter("a")
    assert residency.room_for(40) == ["b"]
    assert residency.room_for(50) is None
    residency.leave("a")
    assert residency.room_for(50) == ["b", "a"]


def test_a_model_above_the_whole_budget_may_come_in_alone() -> None:
    residency = Residency(100)
    residency.add("a", 60)
    assert residency.room_for(500) == ["a"]
    residency.remove("a")
    assert residency.room_for(500) == []


def test_a_server_that_dies_again_and_again_is_restarted_ever_later() -> None:
    restarts = Restarts()
    pauses = [restarts.pause_s(ran_s=1) for _ in range(9)]
    assert pauses[:4] == [0, 1, 2, 4]
    assert pauses[-1] == LONGEST_S
    assert restarts.pause_s(ran_s=3600) == 0
