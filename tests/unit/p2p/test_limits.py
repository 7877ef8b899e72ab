from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import LocalProtocolError
from p2p.limits import Door, HostLimits, Rate, RateLimiter, Turns, parse_limits

FEW = HostLimits(connections=4, connections_per_address=2)


def test_a_burst_is_allowed_and_then_the_rate_holds() -> None:
    limiter = RateLimiter(Rate(per_s=2.0, burst=3.0))
    assert [limiter.allow("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert [limiter.allow("a", 1.0) for _ in range(3)] == [True, True, False]


def test_one_caller_costs_another_nothing() -> None:
    limiter = RateLimiter(Rate(1.0, 1.0))
    assert limiter.allow("a", 0.0) and not limiter.allow("a", 0.0)
    assert limiter.allow("b", 0.0)


def test_whoever_takes_in_advance_waits_in_turn() -> None:
    limiter = RateLimiter(Rate(per_s=10.0, burst=1.0))
    delays = [limiter.delay_s("a", 5.0) for _ in range(3)]
    assert delays == [0.0, pytest.approx(0.1), pytest.approx(0.2)]
    assert limiter.delay_s("a", 5.4) == 0.0


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    limiter = RateLimiter(Rate(1.0, 1.0))
    assert limiter.allow("a", 100.0)
    assert not limiter.allow("a", 50.0)
    assert not limiter.allow("a", 100.5)


def test_a_crowd_of_callers_is_forgotten_oldest_first() -> None:
    limiter = RateLimiter(Rate(0.001, 1.0), callers=3)
    for caller in "abc":
        assert limiter.allow(caller, 0.0)
    assert not limiter.allow("a", 0.0)  # now b is the one that was quiet longest
    assert limiter.allow("d", 0.0)
    assert not limiter.allow("a", 0.0)
    assert limiter.allow("b", 0.0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 5)), max_size=60))
def test_nobody_gets_more_than_burst_and_rate(asked: list[tuple[str, float]]) -> None:
    limiter, now, allowed = RateLimiter(Rate(2.0, 5.0)), 0.0, {"a": 0, "b": 0}
    for caller, pause in asked:
        now += pause
        allowed[caller] += limiter.allow(caller, now)
    assert max(allowed.values()) <= 5.0 + 2.0 * now + 1e-6


def test_one_address_cannot_take_every_place() -> None:
    door = Door(FEW)
    assert door.enter("10.0.0.1", 0.0) is None
    assert door.enter("10.0.0.1", 0.0) is None
    assert door.enter("10.0.0.1", 9.0) == "2 connections from 10.0.0.1, limit 2"
    assert door.enter("10.0.0.2", 9.0) is None
    door.leave("10.0.0.1")
    assert door.enter("10.0.0.1", 9.0) is None
    assert door.enter("10.0.0.2", 9.0) is None
    assert door.enter("10.0.0.3", 9.0) == "4 connections, limit 4"


def test_a_storm_of_attempts_is_refused_even_if_each_is_short() -> None:
    door = Door(HostLimits(connections_per_address=8, attempts_per_s=1.0))
    for _ in range(8):
        assert door.enter("10.0.0.1", 0.0) is None
        door.leave("10.0.0.1")
    assert door.enter("10.0.0.1", 0.0) == "over 1 attempts a second from 10.0.0.1"
    assert door.enter("10.0.0.1", 1.0) is None


def test_a_peer_that_sends_too_fast_waits_and_others_do_not() -> None:
    turns = Turns(HostLimits(messages_per_s=10.0, messages_per_s_per_address=15.0))
    delays = [turns.delay_s("a", "10.0.0.1", 0.0) for _ in range(25)]
    assert delays[:20] == [0.0] * 20
    assert delays[20:] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert turns.delay_s("b", "10.0.0.2", 0.0) == 0.0


def test_many_identities_at_one_address_share_its_rate() -> None:
    turns = Turns(HostLimits(messages_per_s=10.0, messages_per_s_per_address=15.0))
    delays = [turns.delay_s(f"peer {number}", "10.0.0.1", 0.0) for number in range(32)]
    assert delays[:30] == [0.0] * 30
    assert delays[30:] == pytest.approx([1 / 15, 2 / 15])


def test_limits_are_read_by_their_names() -> None:
    found = parse_limits(["connections=9", "messages-per-s=2.5"])
    assert (found.connections, found.messages_per_s) == (9, 2.5)
    assert found.handshakes == HostLimits().handshakes


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("friends=3", "limit 'friends', allowed are connections, connections_per_peer"),
        ("connections=0", "limit connections is '0', expected a whole number above 0"),
        ("connections=many", "limit connections is 'many'"),
        ("connections=2.5", "limit connections is '2.5'"),
        ("messages_per_s=inf", "limit messages_per_s is 'inf', expected a number above 0"),
        ("body=" + "9" * 20, "at most"),
        ("connections", "limit connections is ''"),
    ],
)
def test_a_limit_that_is_none_is_refused(setting: str, text: str) -> None:
    with pytest.raises(LocalProtocolError, match=text):
        parse_limits([setting])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8:0:0:ffff::2"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::2%eth1"),
    ],
)
def test_addresses_of_one_owner_count_together(one: str, other: str) -> None:
    door = Door(HostLimits(connections_per_address=1, attempts_per_s=1.0))
    assert door.enter(one, 0.0) is None
    refused = door.enter(other, 5.0)
    assert refused is not None and "limit 1" in refused
