"""The caps of a relay, each refused by name."""

from __future__ import annotations

import pytest

from p2p.identifiers import PeerId
from p2p.relay.book import Meter, RelayBook, RelayLimits, RelayRefusalError
from p2p.relay.messages import Status

A, B, C, D = (PeerId(f"peer-{letter}") for letter in "abcd")
HOME, OFFICE = "/ip4/192.0.2.1", "/ip4/192.0.2.2"


def refused(status: Status, reason: str):  # type: ignore[no-untyped-def]
    """The block is refused with this status."""
    return pytest.raises(RelayRefusalError, match=reason, check=lambda error: error.status is status)


def test_reservations_are_capped_in_total_and_behind_one_address() -> None:
    book = RelayBook(RelayLimits(reservations=3, reservations_per_address=2))
    book.reserve(A, HOME, 0.0)
    book.reserve(B, HOME, 0.0)
    with refused(Status.RESERVATION_REFUSED, "2 reservations from /ip4/192.0.2.1, limit 2"):
        book.reserve(C, HOME, 0.0)
    book.reserve(C, OFFICE, 0.0)
    with refused(Status.RESERVATION_REFUSED, "3 reservations are held, limit 3"):
        book.reserve(D, OFFICE, 0.0)
    book.reserve(A, HOME, 1.0)  # renewing one's own takes no more room
    book.drop(B)
    book.reserve(D, OFFICE, 2.0)


def test_a_reservation_ends_unless_it_is_renewed() -> None:
    book = RelayBook(RelayLimits(reservation_s=10.0, reservations=1))
    assert book.reserve(A, HOME, 0.0).expires_at == 10.0
    assert book.reserve(A, HOME, 6.0).expires_at == 16.0
    assert book.holds(A, 15.9)
    assert not book.holds(A, 16.0)
    with refused(Status.NO_RESERVATION, "peer-a holds no reservation"):
        book.open(B, HOME, A, 16.0)
    book.reserve(B, HOME, 16.0)  # what has expired takes no room
    assert book.reserved == (B,)


def test_circuits_are_capped_in_total_and_for_each_end() -> None:
    book = RelayBook(RelayLimits(circuits=3, circuits_per_peer=2))
    for peer in (A, B):
        book.reserve(peer, HOME, 0.0)
    first = book.open(C, HOME, A, 0.0)
    book.open(C, HOME, B, 0.0)
    with refused(Status.RESOURCE_LIMIT_EXCEEDED, "2 circuits of peer-c, limit 2"):
        book.open(C, HOME, A, 0.0)
    book.open(D, HOME, A, 0.0)
    with refused(Status.RESOURCE_LIMIT_EXCEEDED, "3 circuits are open, limit 3"):
        book.open(D, HOME, B, 0.0)
    book.close(first)
    book.close(first)  # once is enough, twice no harm
    book.open(D, HOME, A, 0.0)
    assert [circuit.target for circuit in book.circuits] == [B, A, A]


def test_a_circuit_leads_to_somebody_else_who_wants_it() -> None:
    book = RelayBook(RelayLimits())
    book.reserve(A, HOME, 0.0)
    with refused(Status.PERMISSION_DENIED, "oneself"):
        book.open(A, HOME, A, 0.0)
    with refused(Status.NO_RESERVATION, "peer-b"):
        book.open(A, HOME, B, 0.0)
    assert not book.circuits


def test_a_meter_holds_back_what_is_too_fast_and_refuses_what_is_too_much() -> None:
    meter = Meter(limit_bytes=300, bytes_per_s=100.0, now=0.0)
    assert meter.take(100, 0.0) == 0.0
    assert meter.take(100, 0.0) == 1.0
    assert meter.take(50, 5.0) == 0.0
    assert meter.take(51, 9.0) is None
    assert meter.left_bytes == 50
    assert meter.take(50, 9.0) == 0.0


def test_one_address_does_not_take_all_circuits_however_many_peers_are_behind_it() -> None:
    book = RelayBook(RelayLimits(circuits_per_address=2))
    book.reserve(A, OFFICE, 0.0)
    first = book.open(B, HOME, A, 0.0)
    book.open(C, HOME, A, 0.0)
    with refused(Status.RESOURCE_LIMIT_EXCEEDED, "2 circuits from /ip4/192.0.2.1, limit 2"):
        book.open(D, HOME, A, 0.0)
    book.open(D, OFFICE, A, 0.0)
    book.close(first)
    book.open(D, HOME, A, 0.0)
