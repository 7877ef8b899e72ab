"""Records against the library that shakes the hands, and against every kind of meddling on the way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.backends.default import DefaultNoiseBackend
from noise.noise_protocol import NoiseProtocol
from noise.state import CipherState

from p2p.errors import LocalProtocolError, RemoteProtocolError, StreamResetError
from p2p.noise_records import MAX_PLAIN_BYTES, RecordReader, RecordWriter
from tests.property.effort import examples

KEY = bytes(range(32))
SIZES = st.sampled_from([0, 1, 12, 13, 500, 8191, 8192, 65_518, 65_519, 65_520, 140_000])
PIECES = st.lists(SIZES.map(lambda size: (bytes(range(251)) * (size // 251 + 1))[:size]), max_size=6)
SCRATCH_BYTES = st.sampled_from([0, 100, 70_000, 1 << 20])


def peer_cipher() -> Any:
    """The other implementation's cipher state under the same key."""
    name = b"Noise_XX_25519_ChaChaPoly_SHA256"
    state = CipherState(NoiseProtocol(name, DefaultNoiseBackend()))
    state.initialize_key(KEY)
    return state


def sealed(writer: RecordWriter, *pieces: bytes, scratch_bytes: int = 1 << 20) -> bytes:
    return bytes(writer.seal(pieces, memoryview(bytearray(scratch_bytes))))


def split(stream: bytes) -> list[bytes]:
    """Whole records, with their lengths."""
    records = []
    while stream:
        size = 2 + int.from_bytes(stream[:2], "big")
        records.append(stream[:size])
        stream = stream[size:]
    return records


def read_cut(reader: RecordReader, stream: bytes, cuts: list[int], buffer: memoryview | None) -> bytes:
    """What comes out of a stream that arrives in parts; through ``buffer`` where there is one."""
    plain, at = b"", 0
    for size in [*cuts, len(stream)]:
        part, at = stream[at : at + size], at + size
        while part:
            if buffer is None:
                plain += b"".join(reader.receive(part))
                break
            room = reader.room_in(buffer)
            taken = part[: len(room)]
            room[: len(taken)] = taken
            plain += b"".join(reader.received_in(buffer, len(taken)))
            part = part[len(taken) :]
    return plain


@given(batches=st.lists(PIECES, max_size=4), scratch_bytes=SCRATCH_BYTES)
def test_the_other_implementation_opens_what_is_sealed(
    batches: list[list[bytes]], scratch_bytes: int
) -> None:
    writer, peer = RecordWriter(KEY), peer_cipher()
    for pieces in batches:
        records = split(sealed(writer, *pieces, scratch_bytes=scratch_bytes))
        assert b"".join(peer.decrypt_with_ad(b"", record[2:]) for record in records) == b"".join(pieces)
        assert all(len(record) <= 2 + 65535 for record in records)


@given(
    plains=st.lists(st.binary(max_size=300) | st.just(bytes(MAX_PLAIN_BYTES)), max_size=8),
    cuts=st.lists(st.integers(1, 70_000), max_size=30),
    buffered=st.booleans(),
)
def test_what_the_other_side_sealed_is_opened_under_any_cut(
    plains: list[bytes], cuts: list[int], buffered: bool
) -> None:
    peer, reader = peer_cipher(), RecordReader(KEY)
    records = [peer.encrypt_with_ad(b"", plain) for plain in plains]
    stream = b"".join(len(record).to_bytes(2, "big") + record for record in records)
    buffer = memoryview(bytearray(80_000)) if buffered else None
    assert read_cut(reader, stream, cuts, buffer) == b"".join(plains)
    reader.end()


@settings(max_examples=examples(200))
@given(data=st.data(), count=st.integers(2, 6))
def test_meddling_yields_a_prefix_of_what_was_sent_and_then_an_error(data: st.DataObject, count: int) -> None:
    writer = RecordWriter(KEY)
    plains = [bytes([number]) * (number * 7 + 1) for number in range(count)]
    records = [sealed(writer, plain) for plain in plains]
    meddled = list(records)
    place = data.draw(st.integers(0, count - 1))
    match data.draw(st.sampled_from(["flip", "drop", "repeat", "swap", "forge", "shorten"])):
        case "flip":
            changed = bytearray(meddled[place])
            changed[data.draw(st.integers(2, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            meddled[place] = bytes(changed)
        case "drop":
            del meddled[place]
            meddled.append(records[0])
        case "repeat":
            meddled.insert(place, meddled[place])
        case "swap":
            other = (place + 1) % count
            meddled[place], meddled[other] = meddled[other], meddled[place]
        case "forge":
            meddled.insert(place, sealed(RecordWriter(bytes(32)), b"forged"))
        case "shorten":
            meddled[place] = b"\x00\x0f" + meddled[place][2:17]
    reader, opened = RecordReader(KEY), b""
    with pytest.raises(RemoteProtocolError):
        for record in meddled:
            opened += b"".join(reader.receive(record))
    assert b"".join(plains).startswith(opened)


@given(noise=st.lists(st.binary(max_size=400), max_size=20))
def test_noise_is_refused_or_waited_for_within_one_record(noise: list[bytes]) -> None:
    reader = RecordReader(KEY)
    try:
        for piece in noise:
            assert reader.receive(piece) == []
            assert len(reader._unfinished) <= 65536 + 1
    except RemoteProtocolError:
        pass


def test_empty_records_carry_nothing_and_break_nothing() -> None:
    peer, reader = peer_cipher(), RecordReader(KEY)
    for plain in (b"", b"one", b"", b"", b"two"):
        record = peer.encrypt_with_ad(b"", plain)
        assert reader.receive(len(record).to_bytes(2, "big") + record) == ([plain] if plain else [])


def test_an_end_inside_a_record_is_a_cut() -> None:
    reader = RecordReader(KEY)
    assert reader.receive(sealed(RecordWriter(KEY), b"something")[:-1]) == []
    with pytest.raises(StreamResetError, match="inside a record"):
        reader.end()


def test_the_last_nonce_is_never_used() -> None:
    last = 2**64 - 2  # the one after it is reserved
    writer, reader = RecordWriter(KEY, last), RecordReader(KEY, last)
    assert reader.receive(sealed(writer, b"last")) == [b"last"]
    with pytest.raises(LocalProtocolError, match="allowed 18446744073709551615"):
        sealed(writer, b"more")
    with pytest.raises(RemoteProtocolError, match="more than 18446744073709551615"):
        reader.receive(sealed(RecordWriter(KEY, last), b"more"))


def test_records_that_would_go_beyond_the_last_nonce_are_all_refused() -> None:
    writer = RecordWriter(KEY, 2**64 - 3)
    with pytest.raises(LocalProtocolError):
        sealed(writer, bytes(3 * MAX_PLAIN_BYTES))
    assert RecordReader(KEY, 2**64 - 3).receive(sealed(writer, b"fits")) == [b"fits"]


def test_large_pieces_are_sealed_where_they_lie_and_small_ones_joined() -> None:
    records = split(sealed(RecordWriter(KEY), bytes(12), bytes(4 * MAX_PLAIN_BYTES), bytes(12), b"x", b"y"))
    assert [len(record) - 18 for record in records] == [12, *[MAX_PLAIN_BYTES] * 4, 14]
