from __future__ import annotations

import struct

import pytest
from blake3 import blake3

from p2p.errors import TransferError
from p2p.protocols.transfer import MAX_CHUNK_BYTES
from p2p.transfer import (
    MAX_CHUNKS,
    Manifest,
    ManifestAssembler,
    ManifestBuilder,
    decode_manifest,
    encode_manifest,
    manifest_hash,
    manifest_of,
    max_manifest_bytes,
)
from p2p.transfer_cuts import MIN_CHUNK_BYTES

CHUNK = 16 << 10
DATA = bytes(range(256)) * 300  # 76,800 bytes: four whole chunks of 16 KiB and a rest
MANIFEST = manifest_of(DATA, borders=range(CHUNK, len(DATA), CHUNK))
ENCODED = encode_manifest(MANIFEST)


def assembler(manifest: bytes = ENCODED, **changes: object) -> ManifestAssembler:
    expected = {
        "manifest_hash": blake3(manifest).hexdigest(),
        "file_hash": MANIFEST.blake3.hex(),
        "size": len(DATA),
    }
    return ManifestAssembler(**(expected | changes))  # type: ignore[arg-type]


def test_a_manifest_names_every_chunk_and_the_whole() -> None:
    pieces = [DATA[at : at + CHUNK] for at in range(0, len(DATA), CHUNK)]
    assert MANIFEST.sizes == (16384,) * 4 + (11264,)
    assert MANIFEST.chunks == tuple(blake3(piece).digest() for piece in pieces)
    assert MANIFEST.blake3 == blake3(DATA).digest()
    assert MANIFEST.size == len(DATA)
    assert MANIFEST.offsets() == [0, 16384, 32768, 49152, 65536, 76800]


def test_the_encoding_of_a_manifest_never_changes() -> None:
    tiny = Manifest((4096, 3), (b"\x11" * 32, b"\x33" * 32), b"\x22" * 32)
    assert encode_manifest(tiny).hex() == (
        "43595846494c4532"
        + "0000000000001003"
        + "00000002"
        + "22" * 32
        + "00001000"
        + "00000003"
        + "11" * 32
        + "33" * 32
    )
    assert manifest_hash(tiny) == blake3(encode_manifest(tiny)).hexdigest()
    assert decode_manifest(encode_manifest(tiny)) == tiny


def test_an_empty_file_has_no_chunks() -> None:
    empty = manifest_of(b"")
    assert (empty.sizes, empty.chunks, empty.offsets()) == ((), (), [0])
    assert decode_manifest(encode_manifest(empty)) == empty


def encoded(sizes: list[int], size: int | None = None, count: int | None = None, hashes: int = -1) -> bytes:
    """A manifest that may contradict itself."""
    size = sum(sizes) if size is None else size
    header = struct.pack(">8sQI32s", b"CYXFILE2", size, len(sizes) if count is None else count, bytes(32))
    hashes = len(sizes) if hashes < 0 else hashes
    return header + struct.pack(f">{len(sizes)}I", *sizes) + bytes(32) * hashes


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "manifest of 0 bytes, at least 52 expected"),
        (b"CYXFILE1" + bytes(44), "begins with b'CYXFILE1', expected b'CYXFILE2'"),
        (encoded([], size=2**64 - 1), "of 18446744073709551615 bytes, limit 1099511627776"),
        (encoded([1] * 5000), "manifest of 5000 chunks, limit 2 for 5000 bytes"),
        (encoded([4096], count=2**32 - 1), "manifest of 4294967295 chunks, limit 1 for 4096 bytes"),
        (encoded([], size=2**40, count=MAX_CHUNKS + 1), f"of {MAX_CHUNKS + 1} chunks, limit {MAX_CHUNKS}"),
        (encoded([4096, 4096], hashes=1), "with 40 bytes of chunks, 2 chunks need 72"),
        (encoded([4096, 4096]) + b"x", "with 73 bytes of chunks, 2 chunks need 72"),
        (encoded([4096, 4096], size=8193), "chunks of 8192 bytes in all, the file has 8193"),
        (encoded([4096, 4096], size=8191), "chunks of 8192 bytes in all, the file has 8191"),
        (encoded([], size=10), "chunks of 0 bytes in all, the file has 10"),
        (encoded([4095, 4097]), "with a chunk of 4095 bytes, must be 4096"),
        (encoded([0, 8192]), "with a chunk of 0 bytes"),
        (encoded([8192, 0]), "with a chunk of 0 bytes"),
        (encoded([MAX_CHUNK_BYTES + 1]), f"with a chunk of {MAX_CHUNK_BYTES + 1} bytes"),
        (encoded([2**32 - 1, 4096]), "with a chunk of 4294967295 bytes"),
    ],
)
def test_a_manifest_that_contradicts_itself_or_asks_too_much_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(TransferError) as caught:
        decode_manifest(data)
    assert text in str(caught.value)


def test_a_file_of_another_length_than_announced_has_no_manifest() -> None:
    short = ManifestBuilder(100)
    short.update(bytes(99))
    with pytest.raises(TransferError, match="file of 99 bytes, 100 announced"):
        short.finish()
    with pytest.raises(TransferError, match="file of 100 bytes goes on beyond its end"):
        ManifestBuilder(100).update(bytes(101))


def test_a_manifest_comes_in_parts() -> None:
    parts = assembler()
    for at in range(0, len(ENCODED), 50):
        assert parts.offset == at
        assert not parts.is_complete
        parts.add(len(ENCODED), ENCODED[at : at + 50])
    assert parts.is_complete
    assert parts.encoded == ENCODED
    assert parts.finish() == MANIFEST


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"manifest_hash": "00" * 32}, f"manifest hashes to {manifest_hash(MANIFEST)}, asked for 0000"),
        ({"file_hash": "00" * 32}, f"manifest of file {MANIFEST.blake3.hex()}, expected 0000"),
        ({"size": len(DATA) + 1}, "manifest of a file of 76800 bytes, expected 76801"),
    ],
)
def test_a_manifest_of_another_file_is_refused(changes: dict[str, object], text: str) -> None:
    parts = assembler(**changes)
    parts.add(len(ENCODED), ENCODED)
    with pytest.raises(TransferError, match=text):
        parts.finish()


def test_a_manifest_longer_than_the_file_can_need_is_refused_at_its_first_part() -> None:
    limit = max_manifest_bytes(len(DATA))
    assert limit == 52 + 36 * -(-len(DATA) // MIN_CHUNK_BYTES)
    with pytest.raises(
        TransferError, match=f"manifest of 4294967296 bytes, limit {limit} for 76800 bytes of file"
    ):
        assembler().add(2**32, b"x")


@pytest.mark.parametrize("part", [b"", b"x" * (len(ENCODED) + 1)])
def test_a_part_that_does_not_fit_is_refused(part: bytes) -> None:
    with pytest.raises(TransferError, match=f"part of {len(part)} bytes at 0 of {len(ENCODED)} bytes"):
        assembler().add(len(ENCODED), part)


def test_a_source_that_changes_its_mind_is_refused() -> None:
    parts = assembler()
    parts.add(len(ENCODED), b"x")
    with pytest.raises(TransferError, match=f"manifest of 100 bytes, was {len(ENCODED)} before"):
        parts.add(100, b"x")
