from __future__ import annotations

import json
import struct
import zipfile
from io import BytesIO
from random import Random

import pytest

from p2p.transfer import Manifest, manifest_of
from p2p.transfer_cuts import MIN_CHUNK_BYTES, find_borders, spaced

KB = 1024


def borders_of(data: bytes) -> tuple[int, ...]:
    return find_borders(lambda offset, length: data[offset : offset + length], len(data))


def cut(data: bytes) -> Manifest:
    return manifest_of(data, borders_of(data))


def new_bytes(old: bytes, new: bytes) -> int:
    """What a receiver of ``new`` that holds ``old`` has to fetch."""
    held, manifest = set(cut(old).chunks), cut(new)
    return sum(size for size, chunk in zip(manifest.sizes, manifest.chunks, strict=True) if chunk not in held)


def safetensors(**tensors: bytes) -> bytes:
    entries, at = {}, 0
    for name, data in tensors.items():
        entries[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + b"".join(tensors.values())


def archive(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name.replace("__", ".")), data, compression)
    return buffer.getvalue()


def noise(seed: int, size: int) -> bytes:
    return Random(seed).randbytes(size)


BACKBONE = {f"layer{number}": noise(number, 300 * KB + number) for number in range(10)}
SMALL = {f"bias{number}": noise(100 + number, 64) for number in range(200)}


def test_a_safetensors_file_is_cut_at_its_tensors() -> None:
    data = safetensors(first=bytes(10 * KB), second=bytes(20 * KB), third=bytes(5 * KB))
    header = len(data) - 35 * KB
    assert borders_of(data) == (header, header + 10 * KB, header + 30 * KB, header + 35 * KB)
    # The header is too short for a chunk of its own: it takes what it lacks from the first tensor.
    assert cut(data).sizes == (4 * KB, header + 6 * KB, 20 * KB, 5 * KB)


def test_a_changed_head_touches_the_chunks_of_the_head() -> None:
    old = safetensors(**BACKBONE, head=noise(50, 20 * KB))
    new = safetensors(**BACKBONE, head=noise(51, 20 * KB))
    assert new_bytes(old, new) == 20 * KB
    assert new_bytes(old, new) < 0.02 * len(new)


def test_a_changed_head_in_an_archive_touches_head_and_directory() -> None:
    def model(seed: int) -> bytes:
        weights = safetensors(**BACKBONE, head=noise(seed, 20 * KB))
        return archive(manifest__json=noise(seed, 500), weights__safetensors=weights, history__json=b"[]")

    old, new = model(50), model(51)
    assert new_bytes(old, new) < 20 * KB + 12 * KB
    assert new_bytes(old, new) < 0.02 * len(new)


def test_a_tensor_that_grows_leaves_those_behind_it_as_they_were() -> None:
    old = safetensors(embedding=noise(1, 400 * KB), **BACKBONE)
    new = safetensors(embedding=noise(1, 400 * KB) + noise(2, 100), **BACKBONE)
    assert new_bytes(old, new) < 400 * KB


def test_small_tensors_share_chunks_and_large_ones_are_split() -> None:
    data = safetensors(**SMALL, large=noise(1, 2048 * KB))
    manifest = cut(data)
    assert min(manifest.sizes[:-1]) >= MIN_CHUNK_BYTES
    assert max(manifest.sizes) <= 260 * KB
    assert len(manifest.sizes) < 60


@pytest.mark.parametrize("edit", [b"", b"x", b"some inserted text" * 50])
@pytest.mark.parametrize("at", [0, 1_000_000, 3_900_000])
def test_an_insertion_or_removal_in_any_file_touches_the_chunks_around_it(edit: bytes, at: int) -> None:
    old = noise(7, 4_000_000)
    new = old[:at] + edit + old[at + 100 :]
    assert new_bytes(old, new) <= 2 * 260 * KB


def test_cuts_are_the_same_every_time() -> None:
    """Golden sizes: a change here loses every chunk that programs already share."""
    assert cut(noise(7, 400_000)).sizes == manifest_of(noise(7, 400_000)).sizes == GOLDEN_SIZES


GOLDEN_SIZES = (91119, 87256, 67902, 71710, 70301, 11712)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        b"PK\x03\x04" + b"\xff" * 100,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 20) + b"{" * 20,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 8) + b'{"a": 1}',
        struct.pack("<Q", 27) + b'{"a": {"data_offsets": []}}',
        struct.pack("<Q", 40_000) + b'{"a":' * 8_000,
        b'{"just": "json"}',
        archive(zipfile.ZIP_DEFLATED, weights__safetensors=safetensors(a=bytes(50 * KB))),
    ],
)
def test_what_does_not_parse_is_cut_like_any_file(data: bytes) -> None:
    assert set(borders_of(data)) <= {len(data)}
    assert cut(data).size == len(data)


def test_lying_tensor_headers_move_no_border_out_of_the_file() -> None:
    header = json.dumps(
        {
            name: {"data_offsets": [0, end]}
            for name, end in (("a", -5), ("b", 10**18), ("c", 2.5), ("d", True))
        }
    ).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(9 * KB)
    assert borders_of(data) == (8 + len(header),)
    assert cut(data).size == len(data)


def test_borders_keep_a_distance() -> None:
    assert spaced([], 10) == [10]
    assert spaced([5, 4096, 4097, 9000, 9000, 9_999], 10_000) == [4096, 9000, 10_000]
    assert spaced([4096], 4096) == [4096]
    assert spaced([5000], 5001) == [5000, 5001]
    assert spaced([-5, 0, 4096, 10**9], 8192) == [4096, 8192]


def test_too_little_for_a_chunk_takes_what_it_lacks_from_what_follows() -> None:
    assert spaced([100, 8192], 20_000) == [4096, 8192, 20_000]
    assert spaced([100, 8191], 20_000) == [8191, 20_000]
    assert spaced([100, 200, 300], 20_000) == [4096, 20_000]
    assert spaced([5000, 5100], 20_000) == [5000, 9096, 20_000]
    assert spaced([5000, 5100], 6_000) == [5000, 6_000]
