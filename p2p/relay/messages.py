"""The messages of circuit relay v2 and DCUtR, as libp2p's specifications define them. Pure.

Each travels behind its length as a varint. Unknown fields are skipped, as protobuf asks.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import base58

from p2p.errors import MessageInvalidError
from p2p.identifiers import PeerId
from p2p.relay.protobuf import Field, Fields, encode_fields, encode_varint

HOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/hop"
STOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/stop"
PUNCH_PROTOCOL = "/libp2p/dcutr"
MAX_MESSAGE_BYTES = 4096
"""As in go-libp2p."""
MAX_ADDRESSES = 32
_MAX_PEER_ID_BYTES = 64
T = TypeVar("T", bound=IntEnum)


class HopType(IntEnum):
    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopType(IntEnum):
    CONNECT = 0
    STATUS = 1


class PunchType(IntEnum):
    CONNECT = 100
    SYNC = 300


class Status(IntEnum):
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class Limit:
    """What a relay grants one circuit; 0 means no limit. ``data_bytes`` counts each direction alone."""

    duration_s: int = 0
    data_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    expires_at: int
    """Seconds since the epoch, by the relay's clock."""
    addresses: tuple[bytes, ...] = ()
    """The relay's, in binary."""


@dataclass(frozen=True, slots=True)
class HopMessage:
    """Between a peer and its relay."""

    type: HopType
    peer: PeerId | None = None
    reservation: Reservation | None = None
    limit: Limit | None = None
    status: int | None = None

    def encode(self) -> bytes:
        fields: list[Field] = [(1, int(self.type))]
        if self.peer is not None:
            fields.append((2, _encode_peer(self.peer)))
        if self.reservation is not None:
            fields.append((3, _encode_reservation(self.reservation)))
        return _encode(fields, self.limit, self.status, 4)

    @staticmethod
    def decode(data: bytes) -> HopMessage:
        """Raises MessageInvalidError."""
        fields = Fields(data)
        reservation = fields.bytes_at(3)
        return HopMessage(
            _member(HopType, fields.number_at(1)),
            _decode_peer(fields.bytes_at(2)),
            None if reservation is None else _decode_reservation(reservation),
            _decode_limit(fields.bytes_at(4)),
            fields.number_at(5),
        )


@dataclass(frozen=True, slots=True)
class StopMessage:
    """Between a relay and the peer that a circuit leads to."""

    type: StopType
    peer: PeerId | None = None
    limit: Limit | None = None
    status: int | None = None

    def encode(self) -> bytes:
        fields: list[Field] = [(1, int(self.type))]
        if self.peer is not None:
            fields.append((2, _encode_peer(self.peer)))
        return _encode(fields, self.limit, self.status, 3)

    @staticmethod
    def decode(data: bytes) -> StopMessage:
        """Raises MessageInvalidError."""
        fields = Fields(data)
        return StopMessage(
            _member(StopType, fields.number_at(1)),
            _decode_peer(fields.bytes_at(2)),
            _decode_limit(fields.bytes_at(3)),
            fields.number_at(4),
        )


@dataclass(frozen=True, slots=True)
class PunchMessage:
    """Between two peers that are about to dial each other at the same moment."""

    type: PunchType
    addresses: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        fields: list[Field] = [(1, int(self.type))]
        return _delimited(fields + [(2, address) for address in self.addresses])

    @staticmethod
    def decode(data: bytes) -> PunchMessage:
        """Raises MessageInvalidError."""
        fields = Fields(data)
        return PunchMessage(_member(PunchType, fields.number_at(1)), fields.all_bytes_at(2, MAX_ADDRESSES))


def peer_id_bytes(peer_id: PeerId) -> bytes:
    return base58.b58decode(peer_id)


def status_text(status: int | None) -> str:
    """As a reason in an error."""
    known = {int(member): member.name.lower().replace("_", " ") for member in Status}
    return known.get(status or 0, f"status {status}")


def _encode(fields: list[Field], limit: Limit | None, status: int | None, limit_field: int) -> bytes:
    if limit is not None:
        fields.append((limit_field, encode_fields([(1, limit.duration_s), (2, limit.data_bytes)])))
    if status is not None:
        fields.append((limit_field + 1, int(status)))
    return _delimited(fields)


def _delimited(fields: list[Field]) -> bytes:
    data = encode_fields(fields)
    return encode_varint(len(data)) + data


def _member(kind: type[T], value: int | None) -> T:
    try:
        return kind(value if value is not None else 0)
    except ValueError:
        allowed = ", ".join(str(member.value) for member in kind)
        raise MessageInvalidError(f"{kind.__name__} {value}, allowed {allowed}") from None


def _encode_peer(peer_id: PeerId) -> bytes:
    return encode_fields([(1, peer_id_bytes(peer_id))])


def _decode_peer(data: bytes | None) -> PeerId | None:
    if data is None:
        return None
    peer_id = Fields(data).bytes_at(1) or b""
    if not 0 < len(peer_id) <= _MAX_PEER_ID_BYTES:
        raise MessageInvalidError(f"peer id of {len(peer_id)} bytes, allowed 1 to {_MAX_PEER_ID_BYTES}")
    return PeerId(base58.b58encode(peer_id).decode())


def _encode_reservation(reservation: Reservation) -> bytes:
    addresses: list[Field] = [(2, address) for address in reservation.addresses]
    return encode_fields([(1, reservation.expires_at), *addresses])


def _decode_reservation(data: bytes) -> Reservation:
    fields = Fields(data)
    return Reservation(fields.number_at(1) or 0, fields.all_bytes_at(2, MAX_ADDRESSES))


def _decode_limit(data: bytes | None) -> Limit | None:
    if data is None:
        return None
    fields = Fields(data)
    return Limit(fields.number_at(1) or 0, fields.number_at(2) or 0)


# -- endpoints: binary multiaddresses of TCP ----------------------------------------------------

_IP4, _IP6, _TCP = 4, 41, 6


def encode_endpoint(host: str, port: int) -> bytes:
    ip = ipaddress.ip_address(host)
    return bytes((_IP6 if ip.version == 6 else _IP4,)) + ip.packed + bytes((_TCP,)) + port.to_bytes(2, "big")


def decode_endpoint(encoded: bytes) -> tuple[str, int] | None:
    """Host and port of a public-looking TCP address; None for any other."""
    size = {_IP4: 4, _IP6: 16}.get(encoded[0] if encoded else -1)
    if size is None or len(encoded) != size + 4 or encoded[size + 1] != _TCP:
        return None
    ip, port = ipaddress.ip_address(encoded[1 : size + 1]), int.from_bytes(encoded[size + 2 :], "big")
    unfit = ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_link_local
    return None if unfit or not port else (str(ip), port)
