"""Pauses between attempts: growing, bounded, apart."""

from __future__ import annotations

from random import Random

from p2p.backoff import FIRST_S, LONGEST_S, Backoff


def test_pauses_double_up_to_a_bound_and_begin_anew_after_a_success() -> None:
    backoff = Backoff(lambda: 1.0, first_s=0.5, longest_s=3.0)
    assert [backoff.pause_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.pause_s() == 0.5


def test_no_pause_is_shorter_than_half_of_its_bound_or_longer_than_the_longest() -> None:
    backoff = Backoff(Random(4).random)
    pauses = [backoff.pause_s() for _ in range(200)]
    assert FIRST_S / 2 <= pauses[0] <= FIRST_S
    assert all(LONGEST_S / 2 <= pause <= LONGEST_S for pause in pauses[10:])


def test_programs_that_fail_together_do_not_come_back_together() -> None:
    programs = [Backoff(Random(seed).random) for seed in range(50)]
    assert len({round(program.pause_s(), 6) for program in programs}) == 50
    assert [Backoff(Random(7).random).pause_s() for _ in range(2)] == [programs_first(7)] * 2


def programs_first(seed: int) -> float:
    return Backoff(Random(seed).random).pause_s()
