from __future__ import annotations

from pathlib import Path

import pytest

from p2p.errors import RemoteFailureError
from p2p.identity import Identity
from peer.access import Access, read_allowed
from peer.allowed import MAX_ALLOWED, AllowList, from_bytes, to_bytes
from peer.errors import ConfigError, OfferRefusedError
from peer.queue import MAX_TICKETS, MAX_TICKETS_OF_ENGINE, TICKET_LIFE_S, LeaseQueue

ONE, TWO = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2))


def test_an_engine_is_let_in_and_out() -> None:
    allowed = AllowList().allow(ONE)
    assert allowed.has(ONE) and not allowed.has(TWO)
    assert from_bytes(to_bytes(allowed.kept)) == {ONE}
    assert allowed.deny(ONE).ids() == ()


def test_what_a_flag_names_holds_but_is_not_kept() -> None:
    allowed = AllowList(flagged=frozenset({TWO})).allow(ONE)
    assert allowed.ids() == tuple(sorted((ONE, TWO)))
    assert from_bytes(to_bytes(allowed.kept)) == {ONE}
    assert not allowed.deny(TWO).has(TWO)


@pytest.mark.parametrize("text", ["", "me", "12D3KooW", "Qm" + "a" * 44, "*"])
def test_what_is_no_engines_id_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"no peer id.*cyxwiz id"):
        AllowList().allow(text)


def test_the_list_is_bounded() -> None:
    seeds = (number.to_bytes(32, "big") for number in range(1, MAX_ALLOWED + 1))
    kept = frozenset(Identity.from_seed(seed).peer_id for seed in seeds)
    with pytest.raises(ConfigError, match=f"{MAX_ALLOWED + 1} allowed Engines, limit {MAX_ALLOWED}"):
        AllowList(kept).allow(Identity.generate().peer_id)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"allowed": ["me"]}', b'{"allowed": 1}', b"\xff"])
def test_a_damaged_list_lets_nobody_in(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "allowed.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        read_allowed(path)


def test_a_change_is_kept_before_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "allowed.json"
    access = Access(TWO, None, lambda: 0.0, read_allowed(path), path)
    with pytest.raises(RemoteFailureError, match=f"Engine {ONE} is not on the list.*cyxpeer allow {ONE}"):
        access.check_allowed(ONE)
    access.allow(ONE)
    access.check_allowed(ONE)
    assert read_allowed(path).has(ONE)
    access.deny(ONE)
    assert not read_allowed(path).has(ONE)


def test_without_a_coordinator_no_token_is_worth_anything() -> None:
    with pytest.raises(RemoteFailureError, match="unauthorized: this peer has no coordinator"):
        Access(TWO, None, lambda: 0.0).check_token(ONE, "a.b.c", "job")


def test_who_asked_first_is_first() -> None:
    queue, first = LeaseQueue().ask(ONE, "a", 0.0)
    queue, second = queue.ask(TWO, "b", 1.0)
    queue, again = queue.ask(ONE, "a", 2.0)
    assert (first, second, again) == (0, 1, 0)
    assert queue.leave("a").ask(TWO, "b", 3.0)[1] == 0


def test_a_place_is_lost_by_who_does_not_ask_again() -> None:
    queue, _ = LeaseQueue().ask(ONE, "a", 0.0)
    queue, position = queue.ask(TWO, "b", TICKET_LIFE_S)
    assert position == 0
    assert queue.ask(ONE, "a", TICKET_LIFE_S)[1] == 1


def test_the_same_job_id_of_another_engine_has_a_place_of_its_own() -> None:
    queue, _ = LeaseQueue().ask(ONE, "a", 0.0)
    assert queue.ask(TWO, "a", 0.0)[1] == 1


def test_the_queue_is_bounded_for_each_engine_and_for_all() -> None:
    queue = LeaseQueue()
    for number in range(MAX_TICKETS_OF_ENGINE):
        queue, _ = queue.ask(ONE, f"job {number}", 0.0)
    with pytest.raises(OfferRefusedError, match=f"limit {MAX_TICKETS_OF_ENGINE}"):
        queue.ask(ONE, "one more", 0.0)
    for number in range(MAX_TICKETS - MAX_TICKETS_OF_ENGINE):
        queue, _ = queue.ask(Identity.from_seed((number + 9).to_bytes(32, "big")).peer_id, "job", 0.0)
    with pytest.raises(OfferRefusedError, match=f"limit {MAX_TICKETS}"):
        queue.ask(TWO, "job", 0.0)
