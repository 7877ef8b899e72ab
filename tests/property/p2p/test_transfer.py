from __future__ import annotations

from itertools import pairwise
from random import Random

from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.identifiers import PeerId
from p2p.protocols.transfer import MAX_CHUNK_BYTES
from p2p.transfer import (
    Manifest,
    ManifestBuilder,
    decode_manifest,
    encode_manifest,
    manifest_of,
    max_manifest_bytes,
)
from p2p.transfer_cuts import MIN_CHUNK_BYTES, find_borders, spaced
from p2p.transfer_plan import Schedule, Span

KB = 1024
SIZES = st.integers(0, 600 * KB) | st.sampled_from([4095, 4096, 4097, 16 * KB, 256 * KB, 260 * KB])
PLACES = st.lists(st.integers(-10, 700 * KB), max_size=12)


def check_sound(manifest: Manifest, data: bytes) -> None:
    """Every byte belongs to exactly one chunk, and the sizes are allowed."""
    encoded = encode_manifest(manifest)
    assert decode_manifest(encoded) == manifest
    assert len(encoded) <= max_manifest_bytes(len(data))
    assert manifest.size == len(data)
    assert all(MIN_CHUNK_BYTES <= size <= MAX_CHUNK_BYTES for size in manifest.sizes[:-1])
    chunks = [data[begin:end] for begin, end in pairwise(manifest.offsets())]
    assert [blake3(chunk).digest() for chunk in chunks] == list(manifest.chunks)
    assert manifest.blake3 == blake3(data).digest()


@settings(deadline=None)
@given(size=SIZES, borders=PLACES, blocks=PLACES, repeating=st.booleans())
def test_a_manifest_is_sound_and_does_not_depend_on_how_a_file_was_read(
    size: int, borders: list[int], blocks: list[int], repeating: bool
) -> None:
    data = bytes(size) if repeating else Random(size).randbytes(size)
    builder = ManifestBuilder(size, borders)
    edges = [0, *sorted(min(max(place, 0), size) for place in blocks), size]
    for start, end in pairwise(edges):
        builder.update(data[start:end])
    manifest = builder.finish()
    assert manifest == manifest_of(data, borders)
    check_sound(manifest, data)
    assert set(spaced(borders, size)) - {0} <= set(manifest.offsets())


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 4), data=st.data())
def test_random_edits_cost_the_chunks_around_them(seed: int, edits: int, data: st.DataObject) -> None:
    random = Random(seed)
    old = random.randbytes(2000 * KB)
    new = old
    for _ in range(edits):
        at, cut = random.randrange(len(new)), random.choice([0, 1, 100, 5000])
        new = new[:at] + random.randbytes(random.choice([0, 1, 100, 5000])) + new[at + cut :]
    held, manifest = set(manifest_of(old).chunks), manifest_of(new)
    check_sound(manifest, new)
    fetched = [size for size, chunk in zip(manifest.sizes, manifest.chunks, strict=True) if chunk not in held]
    assert sum(fetched) <= edits * 3 * 260 * KB
    assert len(fetched) <= edits * 6


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b"PK\x03\x04" + tail))
def test_no_content_is_hard_to_cut(data: bytes) -> None:
    borders = find_borders(lambda offset, length: data[offset : offset + length], len(data))
    assert all(0 <= border <= len(data) for border in borders)
    check_sound(manifest_of(data, borders), data)


WINDOW = 8


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), max_size=40),
    sources=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_any_order_of_arrival_and_any_loss_asks_for_every_chunk_and_for_little_twice(
    sizes: list[int], sources: int, seed: int
) -> None:
    """Sources are lost at random with all that is on the way; chunks turn out bad; all ends well."""
    random = Random(seed)
    manifest = Manifest(tuple(sizes), tuple(index.to_bytes(32) for index in range(len(sizes))), bytes(32))
    names = [PeerId(str(number)) for number in range(sources)]
    missing = [index for index in range(len(sizes)) if random.random() < 0.8]
    plan = Schedule(manifest, missing, names, max_window_bytes=WINDOW)
    on_the_way: dict[PeerId, list[Span]] = {name: [] for name in names}
    stored: set[int] = set()
    now, asked, lost, bad_bytes, taken_over = 0.0, 0, 0, 0, 0
    while not plan.is_complete:
        now += random.random() + 0.01
        name = random.choice(names)
        while (span := plan.next_span(name, now)) is not None:
            elsewhere = any(span in spans for other, spans in on_the_way.items() if other != name)
            taken_over += span.length if elsewhere else 0
            assert span not in on_the_way[name]
            assert span.length == sum(sizes[span.first : span.end])
            assert set(range(span.first, span.end)) <= set(missing)
            on_the_way[name].append(span)
            asked += span.length
        assert sum(span.length for span in on_the_way[name]) <= WINDOW + max(sizes)
        if on_the_way[name] and random.random() < 0.1:
            lost += sum(span.length for span in on_the_way[name])
            on_the_way[name] = []
            plan.drop(name)
        elif on_the_way[name]:
            span = on_the_way[name].pop(random.randrange(len(on_the_way[name])))
            bad = [index for index in range(span.first, span.end) if random.random() < 0.05]
            bad_bytes += sum(sizes[index] for index in bad)
            plan.arrived(name, span, now)
            plan.settled(name, span, now, bad)
            stored |= set(range(span.first, span.end)) - set(bad)
    assert stored >= set(missing)
    assert asked <= sum(sizes[index] for index in missing) + lost + bad_bytes + taken_over + sources * WINDOW
