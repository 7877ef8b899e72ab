from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect
from msgspec.structs import replace

from p2p.auth import verify_token
from p2p.codec import Codec
from p2p.errors import MessageInvalidError, RecordRefusedError, TokenRefusedError, TransferError
from p2p.identity import Identity
from p2p.jobs import DataPart, DataSummary, Delivery, JobSpec
from p2p.protocols import coordinator, inference, job, peer, reach, transfer
from p2p.protocols import data as samples
from p2p.protocols.coordinator import PeerRecord, SignedRecord
from p2p.records import RECORD_TAG, open_record
from p2p.transfer import decode_manifest, encode_manifest

CODECS: dict[str, Codec[Any]] = {
    "coordinator calls": coordinator.REQUESTS,
    "coordinator answers": coordinator.RESPONSES,
    "job from the Engine": job.FROM_ENGINE,
    "job from the peer": job.FROM_PEER,
    "transfer calls": transfer.REQUESTS,
    "transfer answers": transfer.RESPONSES,
    "inference calls": inference.REQUESTS,
    "inference answers": inference.RESPONSES,
    "data calls": samples.REQUESTS,
    "data answers": samples.RESPONSES,
    "peer calls": peer.REQUESTS,
    "peer answers": peer.RESPONSES,
    "reach calls": reach.REQUESTS,
    "reach answers": reach.RESPONSES,
}
PEER = Identity.from_seed(b"\x01" * 32)
PRIVATE = st.lists(st.sampled_from([DataPart.VALIDATION, DataPart.TEST]), unique=True).map(tuple)
"""The one field whose values depend on another's."""


def values_of(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Every value that a type of our messages allows, bounds included."""
    match kind:
        case inspect.IntType(ge=low, le=high):
            return st.integers(low if low is not None else -(2**63), high if high is not None else 2**64 - 1)
        case inspect.FloatType(ge=low, le=high):
            return st.floats(low, high, allow_nan=False)
        case inspect.StrType(pattern="^[0-9a-f]{64}$"):
            return st.binary(min_size=32, max_size=32).map(bytes.hex)
        case inspect.StrType(pattern=str(pattern), max_length=high):
            return st.from_regex(pattern, fullmatch=True).filter(lambda text: len(text) <= (high or 20))
        case inspect.StrType(min_length=low, max_length=high):
            return st.text(min_size=low or 0, max_size=min(high or 20, (low or 0) + 20))
        case inspect.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=min(high or 64, 64))
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.EnumType(cls=choices):
            return st.sampled_from([*choices])
        case inspect.LiteralType(values=choices):
            return st.sampled_from(choices)
        case inspect.UnionType(types=types):
            return st.one_of([values_of(one) for one in types])
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            return st.lists(values_of(item), min_size=low or 0, max_size=min(high or 3, 3)).map(tuple)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(values_of, items))
        case inspect.StructType(cls=cls, fields=fields) if cls is JobSpec:
            parts = {field.name: values_of(field.type) for field in fields}
            of_file = parts["data"].map(lambda data: replace(data, delivery=Delivery.FILE, private=()))
            deployment = st.builds(cls, **parts | {"data": of_file})
            training = st.builds(cls, **parts | {"served": st.just(msgspec.UNSET)})
            return st.one_of(training, deployment)
        case inspect.StructType(cls=cls, fields=fields) if cls is DataSummary:
            parts = {field.name: values_of(field.type) for field in fields}
            return st.builds(cls, **parts | {"delivery": st.just(Delivery.STREAM), "private": PRIVATE})
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: values_of(field.type) for field in fields})
    raise AssertionError(f"no strategy for {kind}")


MESSAGES = {name: values_of(inspect.type_info(codec._decoder.type)) for name, codec in CODECS.items()}
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_every_message_survives_the_way_there(name: str, data: st.DataObject) -> None:
    message = data.draw(MESSAGES[name])
    assert CODECS[name].decode(CODECS[name].encode(message)) == message


def decode_or_refuse(codec: Codec[Any], data: bytes) -> None:
    """What decodes is the same when sent again; what does not is refused in one way only."""
    try:
        message = codec.decode(data)
    except MessageInvalidError as error:
        assert str(error).startswith(f"message of {len(data)} bytes: ")
        return
    again = codec.encode(message)
    assert codec.encode(codec.decode(again)) == again


@pytest.mark.parametrize("name", CODECS)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(name: str, data: bytes) -> None:
    decode_or_refuse(CODECS[name], data)


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_a_damaged_message_is_decoded_or_refused(name: str, data: st.DataObject) -> None:
    encoded = bytearray(CODECS[name].encode(data.draw(MESSAGES[name])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(encoded)))
        encoded[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    decode_or_refuse(CODECS[name], bytes(encoded))


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_a_message_with_a_strange_part_is_decoded_or_refused(name: str, data: st.DataObject) -> None:
    """Any field, however deep, replaced by any value of any type."""
    raw = msgspec.msgpack.decode(CODECS[name].encode(data.draw(MESSAGES[name])))
    place = raw
    while True:
        key = data.draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.just(0))
        inside = place[key]
        if not (isinstance(inside, dict | list) and inside and data.draw(st.booleans())):
            break
        place = inside
    place[key] = data.draw(JUNK)
    decode_or_refuse(CODECS[name], msgspec.msgpack.encode(raw))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1x", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"])
def test_nesting_and_lengths_without_end_are_refused(name: str, opening: bytes) -> None:
    with pytest.raises(MessageInvalidError):
        CODECS[name].decode(opening * 20_000)


@given(payload=st.binary(max_size=200) | JUNK.map(msgspec.msgpack.encode))
def test_any_payload_is_refused_as_a_record_even_if_signed(payload: bytes) -> None:
    with pytest.raises(RecordRefusedError):
        open_record(SignedRecord(payload, PEER.sign(RECORD_TAG + payload)), 1e9)


@given(record=values_of(inspect.type_info(PeerRecord)))
def test_any_record_of_a_made_up_peer_is_refused(record: PeerRecord) -> None:
    payload = msgspec.msgpack.encode(record)
    with pytest.raises(RecordRefusedError):
        open_record(SignedRecord(payload, PEER.sign(RECORD_TAG + payload)), 1e9)


@given(token=st.text() | st.lists(st.text(alphabet="abcZ019_-=", max_size=20), max_size=5).map(".".join))
def test_any_text_is_refused_as_a_token(token: str) -> None:
    peer = PEER.peer_id
    with pytest.raises(TokenRefusedError):
        verify_token(token, coordinator_id=peer, subject=peer, audience=peer, scope="job", now=0.0)


@given(data=st.binary(max_size=300) | st.binary(max_size=150).map(lambda rest: b"CYXFILE2" + rest))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    try:
        manifest = decode_manifest(data)
    except TransferError:
        return
    assert encode_manifest(manifest) == data
