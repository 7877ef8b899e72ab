from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.job import Cost, Exclusion
from coordinator.matcher import LONGEST_S, SMALL_JOB, Candidate, Need, in_turn, match, quotes
from coordinator.reputation import PROVEN_JOBS, TINY_JOB, Evidence, Standing, completion, note, score
from p2p.identifiers import JobId, PeerId
from p2p.jobs import DeviceKind, Requirements
from p2p.protocols import Response
from p2p.protocols.coordinator import RESPONSES, Device, Estimate


def proven(candidate: Candidate) -> Candidate:
    return replace(candidate, standing=Standing(candidate.peer_id, completed=PROVEN_JOBS))


def chosen(make: Any, flops: int, *candidates: Candidate) -> list[str]:
    need = Need(cost=Cost(1, flops, 1), requirements=Requirements())
    return [offer.candidate.peer_id for offer in match(need, candidates, make.now).offers]


def test_a_large_job_goes_to_a_peer_that_has_proven_something(make: Any) -> None:
    """Names cost nothing, so a new one with a good price is not trusted with much."""
    cheap, known = (
        make.candidate("new", price_per_hour=10**9),
        make.candidate("old", price_per_hour=4 * 10**9),
    )
    small, large = 10**12, SMALL_JOB // 10**9 * 3600 * 10**9 * 2
    assert chosen(make, small, cheap, proven(known)) == [cheap.peer_id, known.peer_id]
    assert chosen(make, large, cheap, proven(known)) == [known.peer_id, cheap.peer_id]
    need = Need(cost=Cost(1, large, 1), requirements=Requirements())
    lines = match(need, [cheap, proven(known)], make.now).lines
    assert lines[-1].endswith("new, so small jobs first")


def test_a_large_job_goes_to_a_new_peer_where_there_is_no_other(make: Any) -> None:
    new = make.candidate("new")
    assert chosen(make, 10**15, new) == [new.peer_id]


@pytest.mark.parametrize(
    ("seconds", "is_back", "chosen"), [(29, True, False), (31, True, True), (31, False, False)]
)
def test_a_peer_that_failed_and_is_back_is_taken_once_those_that_are_busy_were_waited_for(
    make: Any, seconds: int, is_back: bool, chosen: bool
) -> None:
    back, busy = make.candidate("back"), make.candidate("busy")
    busy = replace(busy, reserved=frozenset({0}))
    failed_at = back.entry.registered_at + (-1 if is_back else 1)
    entry = Exclusion(back.peer_id, failed_at, make.now + 3600, "it restarted", True, make.now + 30)
    need = Need(cost=Cost(1, 10**12, 1), requirements=Requirements(), excluded=(entry,))
    found = match(need, [back, busy], make.now + seconds)
    assert [offer.candidate.peer_id for offer in found.offers] == [back.peer_id] * chosen
    assert {each.peer_id for each in found.rejected} == {busy.peer_id} | (
        {back.peer_id} if not chosen else set()
    )
    alone = match(need, [back], make.now)
    assert len(alone.offers) == is_back


def test_paying_oneself_next_to_nothing_makes_no_reputation(make: Any) -> None:
    """An owner with an Engine of his own pays the platform's fee and gets the rest back."""
    standing = Standing(make.identity("peer").peer_id)
    for number in range(100):
        standing = note(standing, completion(TINY_JOB - 1), make.now + number)
    assert (standing.completed, score(standing, make.now + 100)) == (0, 0.5)
    assert completion(TINY_JOB) is Evidence.JOB_COMPLETED


def test_a_device_that_would_take_for_ever_hides_no_other_peers_quote(make: Any) -> None:
    """It may be free of charge, and so the cheapest; its time is more than an answer may say."""
    slowest = Device(DeviceKind.CPU, "abacus", 8 << 30, 1)
    slow, other = make.candidate("slow", devices=(slowest,), price_per_hour=0), make.candidate("other")
    found = quotes(Need(cost=Cost(1, 10**15, 1), requirements=Requirements()), [slow, other], make.now)
    estimate = Estimate(1, 10**15, 1, tuple(offer.quote for offer in found.offers), found.rejected)
    assert RESPONSES.decode(RESPONSES.encode(Response(1, estimate))).answer == estimate
    assert [offer.candidate for offer in found.offers] == [replace(other)]
    assert [entry.reason for entry in found.rejected] == [
        "device of 1 FLOP/s: the job would take over 91 days"
    ]
    assert chosen(make, (LONGEST_S - 2) * 10**9, other) == [other.peer_id]
    assert chosen(make, LONGEST_S * 10**9, other) == []


def test_many_waiting_users_are_put_in_order_by_looking_at_each_once() -> None:
    """Names cost nothing: all waiting jobs may be of different users."""

    class Counting(dict[PeerId, float]):
        looks = 0

        def get(self, key: PeerId, default: float = 0.0) -> float:  # type: ignore[override]
            self.looks += 1
            return super().get(key, default)

    waiting = [(JobId(str(number)), PeerId(f"user {number}"), float(number)) for number in range(500)]
    served_at = Counting({PeerId("user 0"): 1.0})
    order = in_turn(waiting, {PeerId("user 1"): 1}, served_at)
    assert order == [str(number) for number in (*range(2, 500), 0, 1)]
    assert served_at.looks <= 2 * len(waiting)
