from __future__ import annotations

import msgspec
import pytest

from p2p.errors import RecordRefusedError
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.jobs import DeviceKind
from p2p.protocols.coordinator import Device, PeerRecord, SignedRecord
from p2p.records import RECORD_TAG, open_record, sign_record

NOW = 1_800_000_000.0
PEER = Identity.from_seed(b"\x01" * 32)
OTHER = Identity.from_seed(b"\x02" * 32)
RECORD = PeerRecord(
    peer_id=PEER.peer_id,
    sequence=int(NOW * 1000),
    expires_at=NOW + 60,
    addresses=("/ip4/127.0.0.1/tcp/4001",),
    devices=(Device(DeviceKind.CPU, "cpu", 1 << 30, 10**10),),
    ram_bytes=1 << 30,
    formats=("cyxmodel",),
    price_per_hour=10**9,
    node_wallet="1" * 32,
    payout_wallet="1" * 32,
    version="0.1.0",
)


def test_a_signed_record_opens_to_what_was_signed() -> None:
    signed = sign_record(RECORD, PEER.sign)
    assert open_record(signed, NOW) == RECORD
    assert open_record(signed, NOW, expected=PEER.peer_id) == RECORD


def test_a_signature_is_bound_to_the_purpose() -> None:
    signed = sign_record(RECORD, PEER.sign)
    untagged = SignedRecord(signed.payload, PEER.sign(signed.payload))
    assert RECORD_TAG == b"cyxwiz-peer-record-1"
    with pytest.raises(RecordRefusedError, match="not by that peer"):
        open_record(untagged, NOW)


def test_a_record_signed_by_another_peer_is_refused() -> None:
    with pytest.raises(RecordRefusedError, match=f"{PEER.peer_id}.*not by that peer"):
        open_record(sign_record(RECORD, OTHER.sign), NOW)


def test_a_record_changed_after_signing_is_refused() -> None:
    signed = sign_record(RECORD, PEER.sign)
    cheaper = msgspec.msgpack.encode(msgspec.structs.replace(RECORD, price_per_hour=1))
    with pytest.raises(RecordRefusedError, match="not by that peer"):
        open_record(SignedRecord(cheaper, signed.signature), NOW)


def test_a_record_of_another_peer_than_expected_is_refused() -> None:
    with pytest.raises(RecordRefusedError, match=f"{PEER.peer_id}, expected one of {OTHER.peer_id}"):
        open_record(sign_record(RECORD, PEER.sign), NOW, expected=OTHER.peer_id)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"expires_at": NOW}, "expired at 1800000000, now 1800000000"),
        ({"expires_at": float("nan")}, "expired|Expected"),
        ({"expires_at": NOW + 2 * 86400}, "expires at 1800172800, 1800086700 at most"),
        ({"sequence": int((NOW + 3600) * 1000)}, "signed at 1800003600, now 1800000000"),
        ({"peer_id": PeerId("2NoPeerAtASing" * 2)}, "no peer id"),
        ({"devices": ()}, "Expected `array` of length >= 1"),
        ({"price_per_hour": -1}, "Expected `int` >= 0"),
    ],
)
def test_a_record_that_does_not_hold_says_why(change: dict[str, object], text: str) -> None:
    signed = sign_record(msgspec.structs.replace(RECORD, **change), PEER.sign)
    with pytest.raises(RecordRefusedError, match=text):
        open_record(signed, NOW)


def test_text_that_is_no_utf8_is_refused() -> None:
    payload = msgspec.msgpack.encode(RECORD).replace(b"0.1.0", b"0.1.\xff")
    with pytest.raises(RecordRefusedError, match="utf-8"):
        open_record(SignedRecord(payload, PEER.sign(RECORD_TAG + payload)), NOW)


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x80", b"\x91" * 5000, msgspec.msgpack.encode({"peer_id": 1})]
)
def test_bytes_that_are_no_record_are_refused(payload: bytes) -> None:
    with pytest.raises(RecordRefusedError, match=f"record of {len(payload)} bytes"):
        open_record(SignedRecord(payload, PEER.sign(RECORD_TAG + payload)), NOW)
