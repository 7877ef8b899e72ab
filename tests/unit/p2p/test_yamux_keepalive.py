"""A frozen side is noticed soon, an idle one costs little, a busy one is left alone."""

from __future__ import annotations

import pytest

from p2p.errors import StreamResetError
from p2p.yamux_keepalive import KeepAlive
from p2p.yamux_stream import YamuxLimits

LIMITS = YamuxLimits()
STEP_S = 0.1


def must_ask(
    keeper: KeepAlive, at_s: float, *, waits: bool = True, late: bool = False, delivered: int = 0
) -> bool:
    return keeper.must_ask(at_s, somebody_waits=waits, was_held_up=late, delivered_bytes=lambda: delivered)


def alive(
    keeper: KeepAlive, until_s: float, *, waits: bool, answer_s: float | None, at_s: float = 0.0
) -> float:
    """Runs checks; each question is answered after ``answer_s`` (None: never). Returns the time."""
    due: float | None = None
    while at_s < until_s:
        at_s += STEP_S
        if due is not None and at_s >= due:
            keeper.heard(at_s)
            due = None
        if must_ask(keeper, at_s, waits=waits):
            due = at_s + answer_s
    if due is not None:
        keeper.heard(at_s := max(at_s, due))
    return at_s


def given_up_after(keeper: KeepAlive, at_s: float, *, waits: bool) -> float:
    began = at_s
    while True:
        at_s += STEP_S
        try:
            must_ask(keeper, at_s, waits=waits)
        except StreamResetError:
            return at_s - began


def test_a_side_that_freezes_while_somebody_waits_is_noticed_in_three_seconds() -> None:
    keeper = KeepAlive(LIMITS, 0.0)
    at_s = alive(keeper, 20.0, waits=True, answer_s=0.1)
    assert given_up_after(keeper, at_s, waits=True) <= 3.0


def test_a_side_that_freezes_in_idleness_is_noticed_in_half_a_minute() -> None:
    keeper = KeepAlive(LIMITS, 0.0)
    assert 20.0 < given_up_after(keeper, 0.0, waits=False) <= 30.5


def test_a_side_that_grows_slow_is_busy_and_not_frozen() -> None:
    keeper, at_s = KeepAlive(LIMITS, 0.0), 0.0
    for answer_s in (0.1, 0.5, 1.2, 2.5):
        at_s = alive(keeper, at_s + 8.0, waits=True, answer_s=answer_s, at_s=at_s)


def test_a_busy_side_that_freezes_is_given_ten_seconds_at_most() -> None:
    keeper, at_s = KeepAlive(LIMITS, 0.0), 0.0
    for answer_s in (1.2, 4.0, 8.0):
        at_s = alive(keeper, at_s + 20.0, waits=True, answer_s=answer_s, at_s=at_s)
    keeper.heard(at_s)
    assert given_up_after(keeper, at_s, waits=True) <= 11.5


def test_slowness_is_forgotten() -> None:
    keeper = KeepAlive(LIMITS, 0.0)
    at_s = alive(keeper, 10.0, waits=True, answer_s=1.2)
    at_s = alive(keeper, at_s + 60.0, waits=True, answer_s=0.1, at_s=at_s)
    keeper.heard(at_s)
    assert given_up_after(keeper, at_s, waits=True) <= 3.0


def test_when_the_check_itself_comes_late_the_question_is_asked_again() -> None:
    keeper = KeepAlive(LIMITS, 0.0)
    assert must_ask(keeper, 1.1)
    assert must_ask(keeper, 9.0, late=True)
    assert not must_ask(keeper, 9.2)


def test_a_slow_line_that_still_delivers_is_waited_for() -> None:
    keeper = KeepAlive(LIMITS, 0.0)
    assert must_ask(keeper, 1.0)
    for second in range(100):
        assert not must_ask(keeper, 1.2 + second, delivered=1000 * second)
    with pytest.raises(StreamResetError, match="no sign of life"):
        must_ask(keeper, 102.0, delivered=99_000)


def test_anything_heard_counts() -> None:
    keeper = KeepAlive(LIMITS, 0.0)
    for number in range(1, 500):
        keeper.heard(0.9 * number)
        assert not must_ask(keeper, 0.9 * number + 0.5)
