"""The bytes of circuit relay v2 and DCUtR: as py-libp2p's generated code has them, and hostile ones."""

from __future__ import annotations

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.relay.circuit_v2.pb import circuit_pb2, dcutr_pb2
from multiaddr import Multiaddr

from p2p.errors import MessageInvalidError
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.relay.messages import (
    HopMessage,
    HopType,
    Limit,
    PunchMessage,
    PunchType,
    Reservation,
    Status,
    StopMessage,
    StopType,
    decode_endpoint,
    encode_endpoint,
    status_text,
)
from p2p.relay.protobuf import Fields

PEER = Identity.generate().peer_id
ADDRESS = Multiaddr("/ip4/192.0.2.7/tcp/4400").to_bytes()


def body(encoded: bytes) -> bytes:
    """Without the length, which must be right."""
    assert encoded[0] < 128
    assert encoded[0] == len(encoded) - 1
    return encoded[1:]


def test_a_granted_reservation_is_what_the_generated_code_reads() -> None:
    message = HopMessage(
        HopType.STATUS, PEER, Reservation(1_800_000_000, (ADDRESS, ADDRESS)), Limit(600, 1 << 26), Status.OK
    )
    theirs = circuit_pb2.HopMessage.FromString(body(message.encode()))
    assert (theirs.type, theirs.status) == (circuit_pb2.HopMessage.STATUS, 100)
    assert base58.b58encode(theirs.peer.id).decode() == PEER
    assert (theirs.reservation.expire, list(theirs.reservation.addrs)) == (1_800_000_000, [ADDRESS] * 2)
    assert (theirs.limit.duration, theirs.limit.data) == (600, 1 << 26)
    assert HopMessage.decode(theirs.SerializeToString()) == message


def test_a_request_for_a_circuit_is_what_the_generated_code_reads() -> None:
    message = StopMessage(StopType.CONNECT, PEER, Limit(1, 2))
    theirs = circuit_pb2.StopMessage.FromString(body(message.encode()))
    assert (theirs.type, theirs.limit.duration, theirs.limit.data) == (0, 1, 2)
    assert base58.b58encode(theirs.peer.id).decode() == PEER
    assert StopMessage.decode(theirs.SerializeToString()) == message


@pytest.mark.parametrize("kind", list(PunchType))
def test_a_punch_is_what_the_generated_code_reads(kind: PunchType) -> None:
    message = PunchMessage(kind, (ADDRESS,))
    theirs = dcutr_pb2.HolePunch.FromString(body(message.encode()))
    assert (theirs.type, list(theirs.ObsAddrs)) == (kind, [ADDRESS])
    assert PunchMessage.decode(theirs.SerializeToString()) == message


def test_fields_of_a_later_version_are_skipped() -> None:
    later = bytes.fromhex("4a016150015d010203046100000000000000ff")
    assert HopMessage.decode(body(HopMessage(HopType.RESERVE).encode()) + later) == HopMessage(
        HopType.RESERVE
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("0809", "HopType 9, allowed 0, 1, 2"),
        ("08", "does not end"),
        ("08ffffffffffffffffffffff01", "does not end"),
        ("12ff01", "field of 255 bytes, 0 are left"),
        ("0b", "wire type 3, allowed 0, 1, 2, 5"),
        ("1205", "field of 5 bytes"),
        ("08001200", "peer id of 0 bytes, allowed 1 to 64"),
        ("08001001", "field 2 holds the number 1, expected bytes"),
        ("0a0131", "field 1 holds 1 bytes, expected a number"),
    ],
)
def test_a_malformed_message_is_refused_by_what_is_wrong(data: str, reason: str) -> None:
    with pytest.raises(MessageInvalidError, match=reason):
        HopMessage.decode(bytes.fromhex(data))


def test_too_many_addresses_are_refused() -> None:
    with pytest.raises(MessageInvalidError, match="comes 33 times, limit 32"):
        PunchMessage.decode(bytes.fromhex("0864") + 33 * (b"\x12\x08" + ADDRESS))


@given(st.binary(max_size=200))
def test_no_bytes_end_in_another_error(data: bytes) -> None:
    for decode in (HopMessage.decode, StopMessage.decode, PunchMessage.decode, Fields):
        try:
            decode(data)  # type: ignore[operator]
        except MessageInvalidError as error:
            assert str(error)


@given(st.sampled_from(HopType), st.binary(min_size=1, max_size=64), st.integers(0, 2**40))
def test_a_message_comes_back_as_it_was(kind: HopType, peer: bytes, number: int) -> None:
    peer_id = PeerId(base58.b58encode(peer).decode())
    limit = Limit(number % 2**32, number)
    message = HopMessage(kind, peer_id, Reservation(number, (peer,)), limit, number % 500)
    encoded = message.encode()
    assert HopMessage.decode(encoded[2 if encoded[0] > 127 else 1 :]) == message


def test_endpoints_are_binary_multiaddresses_of_tcp() -> None:
    for text, host in (
        ("/ip4/192.0.2.7/tcp/4400", "192.0.2.7"),
        ("/ip6/2001:db8::1/tcp/4400", "2001:db8::1"),
    ):
        encoded = Multiaddr(text).to_bytes()
        assert encode_endpoint(host, 4400) == encoded
        assert decode_endpoint(encoded) == (host, 4400)


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/224.0.0.1/tcp/1",
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/169.254.1.1/tcp/80",
        "/ip6/::1/tcp/1",
        "/ip4/192.0.2.7/tcp/0",
        "/ip4/192.0.2.7/udp/1",
        "/ip4/192.0.2.7",
        "/dns4/example.com/tcp/1",
    ],
)
def test_an_endpoint_that_nobody_should_dial_is_none(text: str) -> None:
    assert decode_endpoint(Multiaddr(text).to_bytes()) is None
    assert decode_endpoint(b"") is None


def test_a_status_is_told_in_words() -> None:
    assert status_text(Status.NO_RESERVATION) == "no reservation"
    assert status_text(777) == "status 777"
    assert status_text(None) == "status None"
