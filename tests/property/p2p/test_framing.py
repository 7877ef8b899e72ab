from __future__ import annotations

import struct
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FrameTooLargeError, LocalProtocolError
from p2p.framing import HEADER, Frame, FrameDecoder, FrameLimits, encode_frame

LIMITS = FrameLimits(message_bytes=64, body_bytes=128)
FRAMES = st.builds(Frame, st.binary(max_size=64), st.binary(max_size=128))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def frames_in(decoder: FrameDecoder) -> list[Frame]:
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


@given(frames=st.lists(FRAMES, max_size=6), places=st.lists(st.integers(0, 2000), max_size=12))
def test_frames_survive_any_cut(frames: list[Frame], places: list[int]) -> None:
    decoder, found = FrameDecoder(LIMITS), []
    for piece in cut(b"".join(encode_frame(frame, LIMITS) for frame in frames), places):
        decoder.receive_data(piece)
        found += frames_in(decoder)
    assert found == frames
    assert decoder.is_empty


@given(frame=FRAMES, missing=st.integers(1, 50))
def test_a_frame_that_ends_early_is_never_given_out(frame: Frame, missing: int) -> None:
    decoder = FrameDecoder(LIMITS)
    piece = encode_frame(frame, LIMITS)[:-missing]
    decoder.receive_data(piece)
    assert decoder.next_frame() is None
    assert decoder.is_empty == (not piece)


@given(
    message_bytes=st.integers(0, 2**32 - 1), body_bytes=st.integers(0, 2**32 - 1), rest=st.binary(max_size=20)
)
def test_a_frame_is_refused_from_its_header_on_if_it_announces_too_much(
    message_bytes: int, body_bytes: int, rest: bytes
) -> None:
    decoder = FrameDecoder(LIMITS)
    decoder.receive_data(HEADER.pack(message_bytes, body_bytes) + rest)
    if message_bytes > 64:
        with pytest.raises(FrameTooLargeError, match=f"message of {message_bytes} bytes, limit 64"):
            decoder.next_frame()
    elif body_bytes > 128:
        with pytest.raises(FrameTooLargeError, match=f"body of {body_bytes} bytes, limit 128"):
            decoder.next_frame()
    else:
        decoder.next_frame()


@given(pieces=st.lists(st.binary(max_size=40), max_size=10))
def test_any_bytes_are_frames_or_refused(pieces: list[bytes]) -> None:
    decoder, found = FrameDecoder(FrameLimits(2**31, 2**31)), []
    for piece in pieces:
        decoder.receive_data(piece)
        try:
            found += frames_in(decoder)
        except FrameTooLargeError:
            return
    whole = b"".join(struct.pack(">II", len(f.message), len(f.body)) + f.message + f.body for f in found)
    assert b"".join(pieces).startswith(whole)


@given(message=st.binary(max_size=100), body=st.binary(max_size=200))
def test_what_the_other_side_would_refuse_is_not_sent(message: bytes, body: bytes) -> None:
    frame = Frame(message, body)
    if len(message) > 64 or len(body) > 128:
        with pytest.raises(LocalProtocolError, match=r"refusing to send: .* bytes, limit (64|128)"):
            encode_frame(frame, LIMITS)
    else:
        decoder = FrameDecoder(LIMITS)
        decoder.receive_data(encode_frame(frame, LIMITS))
        assert decoder.next_frame() == frame


def test_the_bytes_of_a_frame_never_change() -> None:
    assert encode_frame(Frame(b"\xaa\xbb", b"\xcc"), LIMITS).hex() == "0000000200000001aabbcc"


def test_a_sender_of_single_bytes_costs_no_object_for_each() -> None:
    body = bytes(range(256)) * 1000
    limits = FrameLimits(64, len(body))
    decoder = FrameDecoder(limits)
    encoded = encode_frame(Frame(b"message", body), limits)
    tracemalloc.start()
    try:
        for at in range(len(encoded) - 1):
            decoder.receive_data(encoded[at : at + 1])
        assert decoder.next_frame() is None
        assert tracemalloc.get_traced_memory()[0] < 2 * len(encoded)
    finally:
        tracemalloc.stop()
    decoder.receive_data(encoded[-1:])
    assert decoder.next_frame() == Frame(b"message", body)
