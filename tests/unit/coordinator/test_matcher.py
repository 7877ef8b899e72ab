from __future__ import annotations

from dataclasses import replace
from typing import Any

from coordinator.job import Cost
from coordinator.matcher import SMALL_JOB, Candidate, Need, match
from coordinator.reputation import PROVEN_JOBS, TINY_JOB, Evidence, Standing, completion, note, score
from p2p.jobs import Requirements


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
    assert chosen(make, 10**17, new) == [new.peer_id]


def test_paying_oneself_next_to_nothing_makes_no_reputation(make: Any) -> None:
    """An owner with an Engine of his own pays the platform's fee and gets the rest back."""
    standing = Standing(make.identity("peer").peer_id)
    for number in range(100):
        standing = note(standing, completion(TINY_JOB - 1), make.now + number)
    assert (standing.completed, score(standing, make.now + 100)) == (0, 0.5)
    assert completion(TINY_JOB) is Evidence.JOB_COMPLETED
