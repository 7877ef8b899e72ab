"""What a peer says about itself, signed with the key that is its peer id. Pure.

A record proves who wrote it and when it ends; it never proves that what it says is true.
The coordinator hands out the signed bytes unchanged, so every reader checks them again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from p2p.errors import P2PError, RecordRefusedError
from p2p.identifiers import PeerId
from p2p.identity import verify
from p2p.protocols.coordinator import PeerRecord, SignedRecord

RECORD_TAG = b"cyxwiz-peer-record-1"
"""Keeps a record's signature from being taken for anything else that the same key signs."""
MAX_LIFETIME_S = 24 * 3600
CLOCK_SKEW_S = 300

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(PeerRecord)


def sign_record(record: PeerRecord, sign: Callable[[bytes], bytes]) -> SignedRecord:
    """``sign`` is that of the network or identity whose peer id the record names."""
    payload = _ENCODER.encode(record)
    return SignedRecord(payload, sign(RECORD_TAG + payload))


def open_record(signed: SignedRecord, now: float, expected: PeerId | None = None) -> PeerRecord:
    """The record inside, once signature and expiry hold.

    ``expected`` is the peer that it must be about, where the caller knows it.
    Raises RecordRefusedError for a record that is malformed, forged, about somebody else,
    expired, or valid for longer than a day.
    """
    record = _decode(signed.payload)
    peer_id = PeerId(record.peer_id)
    if expected is not None and peer_id != expected:
        raise RecordRefusedError(f"record of {peer_id}, expected one of {expected}")
    if not _is_signed_by(peer_id, signed):
        raise RecordRefusedError(f"record of {peer_id}: the signature is not by that peer")
    _check_lifetime(record, now)
    return record


def _decode(payload: bytes) -> PeerRecord:
    try:
        return _DECODER.decode(payload)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordRefusedError(f"record of {len(payload)} bytes: {error}") from error


def _is_signed_by(peer_id: PeerId, signed: SignedRecord) -> bool:
    try:
        return verify(peer_id, RECORD_TAG + signed.payload, signed.signature)
    except (P2PError, ValueError) as error:
        raise RecordRefusedError(f"record of {peer_id}: {error}") from error


def _check_lifetime(record: PeerRecord, now: float) -> None:
    latest = now + MAX_LIFETIME_S + CLOCK_SKEW_S
    if not now < record.expires_at:  # also refuses NaN
        raise RecordRefusedError(
            f"record of {record.peer_id} expired at {record.expires_at:.0f}, now {now:.0f}"
        )
    if record.expires_at > latest:
        raise RecordRefusedError(
            f"record of {record.peer_id} expires at {record.expires_at:.0f}, {latest:.0f} at most"
        )
    if record.sequence / 1000 > now + CLOCK_SKEW_S:
        raise RecordRefusedError(
            f"record of {record.peer_id} is signed at {record.sequence / 1000:.0f}, now {now:.0f}"
        )
