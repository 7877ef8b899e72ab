"""Who may hold how many connections, and who goes when there is no room."""

from __future__ import annotations

import pytest

from backend.serving.seats import PATIENCE_S, Seats


class Room:
    """Connections are names; ``waits``: since when each of them waits for its client."""

    def __init__(self, limit: int) -> None:
        self.waits: dict[str, float | None] = {}
        self.left: list[str] = []
        self.now = 100.0
        self.seats: Seats[str] = Seats(limit, lambda name: self.waits[name])

    def take(self, name: str, address: str, since: float | None = None) -> bool:
        self.waits[name] = since
        return self.seats.take(name, address, self.now, lambda: self.left.append(name))


def test_an_address_beyond_this_machine_holds_a_quarter_at_most() -> None:
    room = Room(8)
    assert [room.take(name, "10.0.0.1") for name in "abc"] == [True, True, False]
    assert room.take("d", "10.0.0.2")
    room.seats.give_back("a")
    assert room.take("e", "10.0.0.1")
    assert len(room.seats) == 3
    assert room.left == []


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "", True),
    ],
)
def test_a_network_counts_as_one_address(first: str, second: str, is_one: bool) -> None:
    room = Room(4)
    assert room.take("a", first)
    assert room.take("b", second) is not is_one


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_programs_of_this_machine_may_hold_all(address: str) -> None:
    room = Room(4)
    assert all(room.take(name, address) for name in "abcd")
    assert not room.take("e", address), "all of them are being answered"


def test_who_waited_longest_for_its_client_makes_room() -> None:
    room = Room(3)
    room.take("old", "127.0.0.1", since=2.0)
    room.take("busy", "127.0.0.1")
    room.take("older", "127.0.0.1", since=1.0)
    assert room.take("new", "127.0.0.1", since=3.0)
    assert room.left == ["older"]
    assert not room.seats.give_back("older")  # as its end does, later
    assert len(room.seats) == 3


def test_a_client_that_has_only_just_come_is_waited_for() -> None:
    room = Room(1)
    room.take("a", "127.0.0.1", since=room.now)
    assert not room.take("b", "127.0.0.1", since=room.now)
    room.now += PATIENCE_S
    assert room.take("c", "127.0.0.1", since=room.now)
    assert room.left == ["a"]


def test_the_address_that_holds_most_makes_room_for_others() -> None:
    room = Room(8)
    for number in range(6):
        room.take(f"many-{number}", "127.0.0.1", since=10.0 + number)
    room.take("few-1", "10.0.0.1", since=1.0)
    room.take("few-2", "10.0.0.2", since=1.0)
    assert room.take("new", "10.0.0.3", since=20.0)
    assert room.left == ["many-0"]


def test_an_address_at_its_limit_makes_room_with_its_own() -> None:
    room = Room(4)
    room.take("other", "10.0.0.2", since=0.0)
    room.take("first", "10.0.0.1", since=5.0)
    assert room.take("second", "10.0.0.1")
    assert room.left == ["first"]
    assert not room.take("third", "10.0.0.1"), "the second is being answered"


def test_nobody_is_thrown_out_for_an_address_that_holds_more_than_others() -> None:
    room = Room(4)
    assert all(room.take(name, "127.0.0.1") for name in "abc")
    room.take("far", "10.0.0.1", since=0.0)
    assert not room.take("d", "127.0.0.1")
    assert room.left == []
