from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.transfer import (
    MIN_CHUNK_BYTES,
    MIN_PIECE_BYTES,
    ManifestBuilder,
    PieceWindow,
    chunk_count,
    decode_manifest,
    encode_manifest,
    manifest_of,
)

SIZES = st.integers(0, 5 * MIN_CHUNK_BYTES) | st.sampled_from([MIN_CHUNK_BYTES, 2 * MIN_CHUNK_BYTES])


@given(size=SIZES, cuts=st.lists(st.integers(0, 5 * MIN_CHUNK_BYTES), max_size=8))
def test_a_manifest_does_not_depend_on_how_a_file_was_read(size: int, cuts: list[int]) -> None:
    data = Random(size).randbytes(size)
    builder = ManifestBuilder(MIN_CHUNK_BYTES)
    edges = [0, *sorted(min(place, size) for place in cuts), size]
    for start, end in pairwise(edges):
        builder.update(data[start:end])
    manifest = builder.finish()
    assert manifest == manifest_of(data, MIN_CHUNK_BYTES)
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert len(manifest.chunks) == chunk_count(size, MIN_CHUNK_BYTES)


@settings(deadline=None)
@given(
    size=st.integers(0, 10 * MIN_PIECE_BYTES),
    chunk_bytes=st.sampled_from([MIN_CHUNK_BYTES, MIN_PIECE_BYTES, 3 * MIN_PIECE_BYTES + 1]),
    seed=st.integers(0, 2**32),
)
def test_any_order_of_arrival_and_any_kill_gives_the_same_file(
    size: int, chunk_bytes: int, seed: int
) -> None:
    """Each kill loses what is on the way or not yet stored: never more than a chunk."""
    random = Random(seed)
    data = random.randbytes(size)
    stored, on_the_way = bytearray(), {}
    window, sent, kills = PieceWindow(size, chunk_bytes, 0), 0, 0
    while not window.is_complete:
        if random.random() < 0.05 and kills < 5:
            kills += 1
            window, on_the_way = PieceWindow(size, chunk_bytes, len(stored)), {}
        while (piece := window.next_piece()) is not None:
            at = piece.index * chunk_bytes + piece.offset
            on_the_way[at] = piece
            sent += piece.length
            assert piece.offset + piece.length <= chunk_bytes
        assert sum(piece.length for piece in on_the_way.values()) <= chunk_bytes
        at = random.choice([*on_the_way])
        piece = on_the_way.pop(at)
        window.receive(piece, data[at : at + piece.length])
        for arrived in window.take():
            stored += arrived
            window.mark_stored(len(arrived))
    assert stored == data
    assert sent <= size + kills * chunk_bytes
