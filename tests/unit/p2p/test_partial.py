from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from p2p.errors import TransferError
from p2p.partial import Arrival, PartialFile
from p2p.transfer import Manifest, manifest_of

CHUNK = 16 << 10
DATA = Random(1).randbytes(3 * CHUNK + 100)
MANIFEST = manifest_of(DATA, borders=range(CHUNK, len(DATA), CHUNK))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "partial"


def part(first: int, end: int, data: bytes = DATA) -> Arrival:
    return Arrival(first, data[first * CHUNK : end * CHUNK])


def corrupt(at: int) -> bytes:
    data = bytearray(DATA)
    data[at] ^= 1
    return bytes(data)


def test_a_file_is_whole_when_every_chunk_has_come_in_any_order(path: Path) -> None:
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        path.unlink(missing_ok=True)
        file = PartialFile(path, MANIFEST)
        for number, index in enumerate(order, start=1):
            assert file.write([part(index, index + 1)]) == [[]]
            assert file.missing() == sorted(set(range(4)) - set(order[:number]))
        assert file.stored == len(DATA)
        file.finish()
        assert path.read_bytes() == DATA


def test_several_runs_of_chunks_are_written_in_one_go(path: Path) -> None:
    file = PartialFile(path, MANIFEST)
    assert file.write([part(2, 4), part(0, 2)]) == [[], []]
    file.finish()
    assert path.read_bytes() == DATA


def test_a_file_goes_on_with_the_chunks_that_are_on_disk(path: Path) -> None:
    file = PartialFile(path, MANIFEST)
    file.write([part(1, 2), part(3, 4)])
    file.close()
    again = PartialFile(path, MANIFEST)
    assert again.missing() == [0, 2]
    assert again.stored == CHUNK + 100
    again.write([part(0, 1), part(2, 3)])
    again.finish()
    assert path.read_bytes() == DATA


def test_a_bad_chunk_is_named_and_its_good_neighbours_are_kept(path: Path) -> None:
    file = PartialFile(path, MANIFEST)
    ((bad,),) = file.write([part(0, 4, corrupt(CHUNK + 5))])
    assert bad.index == 1
    assert bad.text.startswith("chunk 1 of 16384 bytes hashes to ")
    assert bad.text.endswith(f"its manifest says {MANIFEST.chunks[1].hex()}")
    assert file.missing() == [1]
    assert corrupt(CHUNK + 5)[CHUNK : 2 * CHUNK] not in path.read_bytes()
    file.write([part(1, 2)])
    file.finish()
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("torn", [0, 1, CHUNK // 2, CHUNK - 1])
def test_a_torn_write_never_counts(path: Path, torn: int) -> None:
    file = PartialFile(path, MANIFEST)
    file.write([part(0, 1), part(2, 3)])
    file.close()
    with path.open("r+b") as raw:
        raw.seek(CHUNK)
        raw.write(DATA[CHUNK : CHUNK + torn])
    assert PartialFile(path, MANIFEST).missing() == [1, 3]


@pytest.mark.parametrize("rotten", [5, 2 * CHUNK + 5, 3 * CHUNK + 5])
def test_a_chunk_that_rotted_on_disk_is_fetched_again_and_the_others_are_not(path: Path, rotten: int) -> None:
    path.write_bytes(corrupt(rotten))
    file = PartialFile(path, MANIFEST)
    assert file.missing() == [rotten // CHUNK]
    file.write([part(rotten // CHUNK, rotten // CHUNK + 1)])
    file.finish()
    assert path.read_bytes() == DATA


def test_zeros_that_a_power_failure_left_do_not_count(path: Path) -> None:
    path.write_bytes(DATA[:CHUNK] + bytes(2 * CHUNK + 100))
    assert PartialFile(path, MANIFEST).missing() == [1, 2, 3]


def test_bytes_beyond_the_end_are_cut_off(path: Path) -> None:
    path.write_bytes(DATA + b"more")
    file = PartialFile(path, MANIFEST)
    file.finish()
    assert path.read_bytes() == DATA


def test_a_chunk_that_comes_twice_counts_once(path: Path) -> None:
    file = PartialFile(path, MANIFEST)
    file.write([part(0, 2), part(1, 3)])
    file.write([part(0, 4)])
    assert file.stored == len(DATA)
    file.finish()


def test_a_file_that_is_not_whole_does_not_finish(path: Path) -> None:
    file = PartialFile(path, MANIFEST)
    file.write([part(0, 3)])
    with pytest.raises(
        TransferError, match=f"file of {3 * CHUNK} bytes .* its manifest says {len(DATA)} bytes"
    ):
        file.finish()


def test_a_whole_that_is_not_what_the_manifest_says_does_not_finish(path: Path) -> None:
    lie = Manifest(MANIFEST.sizes, MANIFEST.chunks, b"\x55" * 32)
    file = PartialFile(path, lie)
    file.write([part(0, 4)])
    with pytest.raises(TransferError, match=f"hashes to {MANIFEST.blake3.hex()}, .* {'55' * 32}"):
        file.finish()


def test_equal_chunks_are_asked_for_once(path: Path) -> None:
    data = (DATA[:CHUNK] + bytes(CHUNK)) * 3 + DATA[:CHUNK]
    manifest = manifest_of(data, borders=range(CHUNK, len(data), CHUNK))
    file = PartialFile(path, manifest)
    assert file.missing() == [0, 1]
    file.write([Arrival(1, bytes(CHUNK))])
    assert file.missing() == [0]
    file.close()
    file = PartialFile(path, manifest)
    assert file.missing() == [0]
    file.write([Arrival(0, DATA[:CHUNK])])
    assert file.missing() == []
    file.finish()
    assert path.read_bytes() == data


def test_equal_chunks_of_which_one_survived_are_not_asked_for(path: Path) -> None:
    data = DATA[:CHUNK] * 3
    manifest = manifest_of(data, borders=range(CHUNK, len(data), CHUNK))
    path.write_bytes(b"x" * CHUNK + data[CHUNK : 2 * CHUNK])
    file = PartialFile(path, manifest)
    assert file.missing() == []
    file.finish()
    assert path.read_bytes() == data


def test_chunks_are_taken_from_other_files_if_they_are_right(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"in front" + DATA[CHUNK : 3 * CHUNK] + b"short")
    file = PartialFile(path, MANIFEST)
    gone, link = tmp_path / "gone", tmp_path / "link"
    link.symlink_to(other)
    file.copy({0: (other, 8), 1: (other, 8), 3: (other, 8 + 2 * CHUNK)})
    assert file.missing() == [0, 2, 3]
    file.copy({2: (gone, 0), 0: (link, 8)})
    file.copy({2: (other, 8 + CHUNK)})
    assert file.missing() == [0, 3]


def test_a_disk_that_refuses_leaves_what_was_right(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PartialFile(path, MANIFEST)
    file.write([part(0, 1)])

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            file.write([part(1, 4)])
    assert file.missing() == [1, 2, 3]
    file.write([part(1, 4)])
    file.finish()
    assert path.read_bytes() == DATA
