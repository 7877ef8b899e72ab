from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from p2p.errors import TransferError
from p2p.partial import PartialFile
from p2p.transfer import MIN_CHUNK_BYTES, Manifest, manifest_of

DATA = Random(1).randbytes(3 * MIN_CHUNK_BYTES + 100)
MANIFEST = manifest_of(DATA, MIN_CHUNK_BYTES)
HALF = 2 * MIN_CHUNK_BYTES + 50


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partial"


def test_a_file_is_whole_when_every_piece_has_come(path: Path) -> None:
    file = PartialFile(path, MANIFEST)
    assert file.append([DATA[:10], DATA[10:20_000], DATA[20_000:]]) == len(DATA)
    file.finish()
    assert path.read_bytes() == DATA


def test_a_file_goes_on_in_the_middle_of_a_chunk(path: Path) -> None:
    path.write_bytes(DATA[:HALF])
    file = PartialFile(path, MANIFEST)
    assert file.length == HALF
    assert file.append([DATA[HALF:]]) == len(DATA)
    file.finish()
    assert path.read_bytes() == DATA


def test_a_bad_chunk_that_just_came_is_refused_and_cut_off(path: Path) -> None:
    file = PartialFile(path, MANIFEST)
    bad = bytearray(DATA)
    bad[MIN_CHUNK_BYTES] ^= 1
    with pytest.raises(TransferError, match=f"chunk 1 hashes to .*says {MANIFEST.chunks[1].hex()}"):
        file.append([bytes(bad)])
    assert file.length == path.stat().st_size == MIN_CHUNK_BYTES
    assert file.append([DATA[MIN_CHUNK_BYTES:]]) == len(DATA)
    file.finish()


def test_a_bad_beginning_of_a_chunk_on_disk_is_blamed_on_nobody(path: Path) -> None:
    """As a power failure leaves it: the length was written, the bytes were not."""
    path.write_bytes(DATA[: 2 * MIN_CHUNK_BYTES] + bytes(50))
    file = PartialFile(path, MANIFEST)
    assert file.length == HALF
    assert file.append([DATA[HALF:]]) == 2 * MIN_CHUNK_BYTES
    assert file.append([DATA[2 * MIN_CHUNK_BYTES :]]) == len(DATA)
    file.finish()
    assert path.read_bytes() == DATA


def test_a_chunk_that_rotted_on_disk_and_all_after_it_are_fetched_again(path: Path) -> None:
    rotten = bytearray(DATA[:HALF])
    rotten[MIN_CHUNK_BYTES + 7] ^= 1
    path.write_bytes(rotten)
    file = PartialFile(path, MANIFEST)
    assert file.length == path.stat().st_size == MIN_CHUNK_BYTES
    file.append([DATA[MIN_CHUNK_BYTES:]])
    file.finish()
    assert path.read_bytes() == DATA


def test_bytes_beyond_the_end_are_cut_off(path: Path) -> None:
    path.write_bytes(DATA + b"more")
    file = PartialFile(path, MANIFEST)
    assert file.length == path.stat().st_size == len(DATA)
    file.finish()


def test_a_file_that_is_not_whole_does_not_finish(path: Path) -> None:
    file = PartialFile(path, MANIFEST)
    file.append([DATA[:HALF]])
    with pytest.raises(TransferError, match=f"file of {HALF} bytes .* its manifest says {len(DATA)} bytes"):
        file.finish()


def test_a_whole_that_is_not_what_the_manifest_says_does_not_finish(path: Path) -> None:
    lie = Manifest(MANIFEST.size, MANIFEST.chunk_bytes, MANIFEST.chunks, b"\x55" * 32)
    file = PartialFile(path, lie)
    file.append([DATA])
    with pytest.raises(TransferError, match=f"hashes to {MANIFEST.blake3.hex()}, .* {'55' * 32}"):
        file.finish()
