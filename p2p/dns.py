"""DNS messages as multicast DNS needs them (RFC 1035, RFC 6762): bytes in, records out. Pure.

Everything read here comes from a stranger: every length is checked against the packet, a
compressed name may only point backwards, and a packet holds at most so many records.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from p2p.errors import LocalProtocolError, RemoteProtocolError

MAX_PACKET_BYTES = 9000
"""RFC 6762, section 17."""
MAX_RECORDS = 128
MAX_NAME_BYTES = 255
MAX_LABEL_BYTES = 63
MAX_STRING_BYTES = 255
MAX_POINTERS = 32
"""Of one name: each costs time and two bytes, which many names may share."""

A, PTR, TXT, AAAA, SRV, ANY = 1, 12, 16, 28, 33, 255
_CLASS_IN = 1
_TOP_BIT = 0x8000
"""Of a class: in a question it asks for a unicast answer, in a record it replaces older ones."""
_RESPONSE, _AUTHORITATIVE = 0x8000, 0x0400
_ERROR_OR_OPCODE = 0x7800 | 0x000F
_POINTER = 0xC0


@dataclass(frozen=True, slots=True)
class Question:
    """``name`` is lower case, labels joined by dots."""

    name: str
    type: int
    unicast: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """``data`` as it is on the wire, but for PTR, whose name is in ``target``."""

    name: str
    type: int
    ttl_s: int
    data: bytes = b""
    target: str = ""
    unique: bool = False
    """Nobody else has a record of this name and type."""


@dataclass(frozen=True, slots=True)
class Packet:
    is_response: bool
    questions: tuple[Question, ...] = ()
    answers: tuple[Record, ...] = ()
    additionals: tuple[Record, ...] = ()
    id: int = 0

    @property
    def records(self) -> tuple[Record, ...]:
        return self.answers + self.additionals


# -- writing -----------------------------------------------------------------------------------


def encode(packet: Packet) -> bytes:
    """Raises LocalProtocolError for what does not fit in a packet or a label."""
    flags = _RESPONSE | _AUTHORITATIVE if packet.is_response else 0
    counts = (len(packet.questions), len(packet.answers), 0, len(packet.additionals))
    parts = [struct.pack(">6H", packet.id, flags, *counts)]
    for question in packet.questions:
        class_ = _CLASS_IN | (_TOP_BIT if question.unicast else 0)
        parts.append(name_bytes(question.name) + struct.pack(">2H", question.type, class_))
    parts += map(_record_bytes, packet.records)
    data = b"".join(parts)
    if len(data) > MAX_PACKET_BYTES:
        raise LocalProtocolError(f"DNS packet of {len(data)} bytes, limit {MAX_PACKET_BYTES}")
    return data


def _record_bytes(record: Record) -> bytes:
    data = name_bytes(record.target) if record.type == PTR else record.data
    class_ = _CLASS_IN | (_TOP_BIT if record.unique else 0)
    head = struct.pack(">2HIH", record.type, class_, record.ttl_s, len(data))
    return name_bytes(record.name) + head + data


def name_bytes(name: str) -> bytes:
    """Uncompressed. Raises LocalProtocolError."""
    labels = [label.encode() for label in name.split(".")]
    if not all(0 < len(label) <= MAX_LABEL_BYTES for label in labels):
        raise LocalProtocolError(
            f"DNS name {name[:300]!r}, labels of 1 to {MAX_LABEL_BYTES} bytes are allowed"
        )
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def text_bytes(strings: Sequence[str]) -> bytes:
    """The data of a TXT record. Raises LocalProtocolError."""
    encoded = [string.encode() for string in strings]
    if any(len(string) > MAX_STRING_BYTES for string in encoded):
        raise LocalProtocolError(f"DNS text of over {MAX_STRING_BYTES} bytes")
    return b"".join(bytes([len(string)]) + string for string in encoded) or b"\0"


def service_bytes(port: int, host: str) -> bytes:
    """The data of an SRV record."""
    return struct.pack(">3H", 0, 0, port) + name_bytes(host)


def address_record(name: str, address: str, ttl_s: int) -> Record:
    """A or AAAA."""
    parsed = ipaddress.ip_address(address)
    return Record(name, A if parsed.version == 4 else AAAA, ttl_s, parsed.packed, unique=True)


# -- reading -----------------------------------------------------------------------------------


def decode(data: bytes) -> Packet:
    """Raises RemoteProtocolError for anything that is no well-formed message of mDNS."""
    if len(data) > MAX_PACKET_BYTES:
        raise RemoteProtocolError(f"DNS packet of {len(data)} bytes, limit {MAX_PACKET_BYTES}")
    try:
        return _Reader(data).packet()
    except (IndexError, struct.error) as error:
        raise RemoteProtocolError(f"DNS packet of {len(data)} bytes ends too early") from error


def texts(record: Record) -> list[str]:
    """The strings of a TXT record. Raises RemoteProtocolError."""
    found, at = [], 0
    while at < len(record.data):
        length = record.data[at]
        string = record.data[at + 1 : at + 1 + length]
        if len(string) != length:
            raise RemoteProtocolError("DNS text ends too early")
        found.append(string.decode("utf-8", "replace"))
        at += 1 + length
    return found


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def packet(self) -> Packet:
        id_, flags, questions, answers, authorities, additionals = self._take(">6H")
        if flags & _ERROR_OR_OPCODE:
            raise RemoteProtocolError(f"DNS flags {flags:#06x}, allowed are plain questions and answers")
        if questions + answers + authorities + additionals > MAX_RECORDS:
            total = questions + answers + authorities + additionals
            raise RemoteProtocolError(f"DNS packet of {total} records, limit {MAX_RECORDS}")
        asked = tuple(self._question() for _ in range(questions))
        answered = tuple(self._record() for _ in range(answers))
        for _ in range(authorities):
            self._record()
        more = tuple(self._record() for _ in range(additionals))
        return Packet(bool(flags & _RESPONSE), asked, answered, more, id_)

    def _take(self, form: str) -> tuple[int, ...]:
        values = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return values

    def _question(self) -> Question:
        name = self._name()
        type_, class_ = self._take(">2H")
        return Question(name, type_, bool(class_ & _TOP_BIT))

    def _record(self) -> Record:
        name = self._name()
        type_, class_, ttl_s, length = self._take(">2HIH")
        end = self._at + length
        if end > len(self._data):
            raise RemoteProtocolError(f"DNS record of {length} bytes ends too early")
        target = ""
        if type_ == PTR:
            target = self._name()
        data = self._data[self._at : end] if type_ != PTR else b""
        self._at = end
        return Record(name, type_, ttl_s, data, target, bool(class_ & _TOP_BIT))

    def _name(self) -> str:
        labels: list[bytes] = []
        at, after, length, pointers = self._at, None, 0, 0
        while (size := self._data[at]) != 0:
            if size & _POINTER == _POINTER:
                target = (size & ~_POINTER) << 8 | self._data[at + 1]
                if target >= at:
                    raise RemoteProtocolError(f"DNS name at {at} points forward to {target}")
                pointers += 1
                if pointers > MAX_POINTERS:
                    raise RemoteProtocolError(f"DNS name of over {MAX_POINTERS} pointers")
                after = after if after is not None else at + 2
                at = target
                continue
            if size > MAX_LABEL_BYTES:
                raise RemoteProtocolError(f"DNS label of kind {size:#04x}")
            labels.append(self._data[at + 1 : at + 1 + size])
            at += 1 + size
            length += 1 + size
            if length > MAX_NAME_BYTES:
                raise RemoteProtocolError(f"DNS name of over {MAX_NAME_BYTES} bytes")
        self._at = after if after is not None else at + 1
        return b".".join(labels).decode("utf-8", "replace").lower()
