from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.job import Cost
from coordinator.matcher import MAX_TRIES, Candidate, Need, due_for_a_try, in_turn, match
from coordinator.reputation import LONGEST_BAN_S, Evidence, Standing, note, score
from p2p.identifiers import JobId, PeerId
from p2p.jobs import Delivery, DeviceKind, Requirements
from p2p.protocols.coordinator import Device

USERS = st.sampled_from([PeerId(name) for name in "abcd"])


@given(st.lists(st.tuples(USERS, st.floats(0, 100)), max_size=40), st.dictionaries(USERS, st.integers(0, 9)))
def test_a_burst_of_one_user_never_starves_another(
    jobs: list[tuple[PeerId, float]], running: dict[PeerId, int]
) -> None:
    waiting = [(JobId(str(number)), user, since) for number, (user, since) in enumerate(jobs)]
    order = in_turn(waiting, running, {})
    assert sorted(order) == sorted(job_id for job_id, _, _ in waiting)
    owner = {job_id: user for job_id, user, _ in waiting}
    left = Counter(user for _, user, _ in waiting)
    served = Counter(running)
    for job_id in order:
        least = min(served[user] for user in left if left[user])
        assert served[owner[job_id]] == least
        served[owner[job_id]] += 1
        left[owner[job_id]] -= 1


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_peer_is_either_offered_or_rejected_with_a_reason(make: Any, data: st.DataObject) -> None:
    candidates = [_candidate(make, data, name) for name in "abcde"]
    need = Need(
        cost=Cost(1, 10**9, data.draw(st.sampled_from([0, 4 << 30]))),
        requirements=Requirements(
            device=data.draw(st.sampled_from([None, DeviceKind.CUDA])),
            price_ceiling=data.draw(st.sampled_from([10**9, 2**63 - 1])),
            deny=data.draw(st.sampled_from([(), (candidates[0].peer_id,)])),
        ),
        affordable=data.draw(st.sampled_from([10**3, 10**15])),
    )
    found = match(need, candidates, make.now)
    offered = [offer.candidate.peer_id for offer in found.offers]
    rejected = [entry.peer_id for entry in found.rejected]
    assert sorted([*offered, *rejected]) == sorted(candidate.peer_id for candidate in candidates)
    assert all(entry.reason for entry in found.rejected)
    assert found.lines
    scores = [offer.score for offer in found.offers]
    assert scores == sorted(scores, reverse=True)
    for offer in found.offers:
        device = offer.candidate.entry.record.devices[offer.device]
        assert offer.device not in offer.candidate.reserved
        assert offer.amount <= need.affordable
        assert device.memory_bytes >= need.cost.memory_bytes
        assert need.requirements.device in (None, device.kind)


@pytest.mark.parametrize("deliveries", [(Delivery.FILE,), (Delivery.FILE, Delivery.STREAM)])
def test_a_streamed_job_goes_to_a_peer_that_streams(make: Any, deliveries: tuple[Delivery, ...]) -> None:
    candidate = make.candidate(deliveries=deliveries)
    need = Need(cost=Cost(1, 10**9, 0), requirements=Requirements(), delivery=Delivery.STREAM)
    found = match(need, [candidate], make.now)
    assert len(found.offers) == (Delivery.STREAM in deliveries)
    reasons = [entry.reason for entry in found.rejected]
    assert reasons == ([] if found.offers else ["takes data as file, the job's comes as stream"])
    plain = match(Need(cost=need.cost, requirements=need.requirements), [candidate], make.now)
    assert len(plain.offers) == 1


def _candidate(make: Any, data: st.DataObject, name: str) -> Candidate:
    kinds = data.draw(st.lists(st.sampled_from([DeviceKind.CPU, DeviceKind.CUDA]), min_size=1, max_size=3))
    memory = data.draw(st.sampled_from([1 << 30, 8 << 30]))
    devices = tuple(Device(kind, kind.value, memory, 10**9) for kind in kinds)
    candidate = make.candidate(
        name, devices=devices, price_per_hour=data.draw(st.sampled_from([10**6, 10**9, 10**12]))
    )
    reserved = data.draw(st.frozensets(st.integers(0, len(kinds) - 1)))
    banned = data.draw(st.sampled_from([0.0, make.now + 10]))
    return replace(
        candidate,
        online=data.draw(st.booleans()),
        reserved=reserved,
        standing=Standing(candidate.peer_id, banned_until=banned),
    )


@given(st.lists(st.tuples(st.sampled_from(Evidence), st.floats(0, 1e6)), max_size=60))
def test_reputation_is_bounded_and_bans_are_too(story: list[tuple[Evidence, float]]) -> None:
    standing, now = Standing(PeerId("peer")), 0.0
    for evidence, wait_s in story:
        now += wait_s
        standing = note(standing, evidence, now)
        assert 0 < score(standing, now) < 1
        assert standing.banned_until <= now + LONGEST_BAN_S
        assert standing.strikes < 3


@given(
    jobs=st.dictionaries(st.integers(0, 200), st.sampled_from("abc"), max_size=120),
    rounds=st.integers(7, 12),
)
def test_every_waiting_job_is_looked_at_in_time_and_no_user_fills_a_pass(
    jobs: dict[int, str], rounds: int
) -> None:
    waiting = [(JobId(f"{number}"), PeerId(user), float(number)) for number, user in jobs.items()]
    tried_at: dict[JobId, float] = {}
    for at in range(1, rounds):
        due = due_for_a_try(waiting, tried_at)
        assert all(count <= MAX_TRIES for count in Counter(user for _, user, _ in due).values())
        tried_at |= {job_id: float(at) for job_id, _, _ in due}
    assert len(tried_at) == len(waiting)
