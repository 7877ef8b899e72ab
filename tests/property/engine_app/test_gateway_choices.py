"""Whatever endpoints do: who is chosen, who is left out, and what a request may cost."""

from __future__ import annotations

import heapq
from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from backend.serving.asked import Asked
from backend.serving.http import HttpError
from engine_app.gateway.allowed import Allowed, from_json, to_json
from engine_app.gateway.balance import Load, begun, choose, ended, measured
from engine_app.gateway.bodies import BodyBudget, Share
from engine_app.gateway.health import LATE_LIMIT, LONGEST_PAUSE_S, WELL, after_late, after_loss
from engine_app.gateway.retry import MAX_LOST, MAX_TRIES, Outcome, Tries, goes_elsewhere
from engine_app.gateway.wanted import Names, Wanted

NAMES = st.sampled_from("abcde")
A_LOAD = st.builds(
    Load,
    NAMES,
    st.integers(0, 50),
    st.integers(0, 50),
    st.none() | st.floats(1e-4, 10),
    st.floats(0, 100),
    st.integers(0, 100),
)
LOADS = st.lists(A_LOAD, max_size=5, unique_by=lambda load: load.name)


@given(LOADS, st.sets(NAMES), st.floats(0, 200))
def test_none_is_chosen_twice_and_some_while_any_is_left(
    loads: list[Load], tried: set[str], now: float
) -> None:
    chosen = choose(loads, tried, now)
    assert (chosen is None) == ({load.name for load in loads} <= tried)
    assert chosen is None or chosen.name not in tried


@given(LOADS, st.floats(0, 200))
def test_who_has_less_to_do_and_is_faster_is_never_passed_over(loads: list[Load], now: float) -> None:
    chosen = choose(loads, (), now)
    for load in loads:
        assert chosen is not None
        fresh = now - load.measured_at <= 10 and now - chosen.measured_at <= 10
        if fresh and load.latency_s is not None and chosen.latency_s is not None:
            less = max(load.in_flight, load.queue_depth) < max(chosen.in_flight, chosen.queue_depth)
            assert not (less and load.latency_s < chosen.latency_s)


@given(st.integers(1, 5), st.integers(0, 40))
def test_equals_share_evenly(count: int, requests: int) -> None:
    loads = {str(number): Load(str(number)) for number in range(count)}
    for number in range(requests):
        chosen = choose(loads.values(), (), 0)
        assert chosen is not None
        loads[chosen.name] = begun(chosen, number + 1)
    in_flight = [load.in_flight for load in loads.values()]
    assert max(in_flight) - min(in_flight) <= 1


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=4), st.integers(2, 12))
def test_faster_endpoints_get_more_and_nothing_is_lost(service_s: list[float], clients: int) -> None:
    """Closed loop: each client asks again when it has its answer; an endpoint works on one at a time."""
    loads = {str(number): Load(str(number)) for number in range(len(service_s))}
    free_at = dict.fromkeys(loads, 0.0)
    served = dict.fromkeys(loads, 0)
    waiting = [(0.0, client, "") for client in range(clients)]
    began = dict.fromkeys(range(clients), 0.0)
    for number in range(400):
        now, client, finished = heapq.heappop(waiting)
        if finished:
            loads[finished] = ended(measured(loads[finished], now - began[client], now))
            served[finished] += 1
        chosen = choose(loads.values(), (), now)
        assert chosen is not None
        loads[chosen.name] = begun(chosen, number + 1)
        began[client] = now
        free_at[chosen.name] = max(free_at[chosen.name], now) + service_s[int(chosen.name)]
        heapq.heappush(waiting, (free_at[chosen.name], client, chosen.name))
    assert sum(load.in_flight for load in loads.values()) == clients
    fastest, slowest = min(service_s), max(service_s)
    if slowest > 4 * fastest:
        assert served[str(service_s.index(fastest))] > served[str(service_s.index(slowest))]


@given(st.lists(st.sampled_from(Outcome), max_size=10))
def test_no_request_is_tried_without_end(outcomes: list[Outcome]) -> None:
    tries = Tries()
    for outcome in outcomes:
        tries = tries.and_then(outcome)
        if not goes_elsewhere(outcome, tries):
            break
        assert outcome in (Outcome.BUSY, Outcome.LOST)
    assert tries.made <= MAX_TRIES
    assert tries.lost <= MAX_LOST


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100), st.floats(0, 0.999)), max_size=30))
def test_who_is_gone_is_looked_at_again_in_bounded_time(events: list[tuple[bool, float, float]]) -> None:
    health, now = WELL, 0.0
    for lost, later, draw in events:
        now += later
        before = health
        health = (after_loss if lost else after_late)(health, now, draw)
        assert health.is_up == (before.is_up and not lost and before.late + 1 < LATE_LIMIT)
        assert health.is_up or health.look_at - now <= LONGEST_PAUSE_S


PEERS = st.sampled_from(["P", "Q", "R"])
STEP = st.tuples(st.booleans(), PEERS)


@given(st.lists(STEP, max_size=12), PEERS, st.booleans())
def test_a_peer_sees_only_what_its_user_let_it(
    steps: list[tuple[bool, str]], peer: str, is_given: bool
) -> None:
    allowed = Allowed()
    for lets, name in steps:
        allowed = allowed.allowing(name) if lets else allowed.forbidding(name)
    words = [lets for lets, name in steps if name == peer]
    assert allowed.lets(peer, is_given) == (words[-1] if words else is_given)
    assert from_json(to_json(allowed)) == allowed


@given(st.lists(st.tuples(st.integers(0, 300_000), st.none() | st.integers(0, 300_000)), max_size=20))
def test_a_body_budget_is_never_exceeded_and_all_comes_back(bodies: list[tuple[int, int | None]]) -> None:
    budget, held = BodyBudget(500_000), []
    for size, declared in bodies:
        try:
            share = Share(budget, 250_000, declared)
        except HttpError:
            continue
        held.append(share)
        try:
            share.add(size)
        except HttpError:
            held.remove(share)
            share.close()
        assert budget.held_bytes <= 500_000
    for share in held:
        share.close()
    assert budget.held_bytes == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.text(alphabet="abc-.", min_size=1))
def test_another_name_changes_nothing_else_of_a_body(body: dict[str, object], name: str) -> None:
    given_body = body | {"model": "m"}
    asked = Asked("POST", "/v1/completions", body=msgspec.json.encode(given_body))
    wanted = Wanted(asked, "m", Names.BODY, name_is_in_body=True)
    assert msgspec.json.decode(wanted.for_name(name).body) == given_body | {"model": name}
    assert wanted.for_name("m").body is asked.body, "and is not copied where nothing changes"
    assert replace(wanted.for_name(name), body=b"", headers=()) == replace(asked, body=b"")
