from __future__ import annotations

import struct

import pytest
from blake3 import blake3

from p2p.errors import TransferError
from p2p.transfer import (
    MAX_CHUNK_BYTES,
    MIN_CHUNK_BYTES,
    MIN_PIECE_BYTES,
    Manifest,
    ManifestAssembler,
    Piece,
    PieceWindow,
    chunk_bytes_for,
    decode_manifest,
    encode_manifest,
    manifest_hash,
    manifest_of,
)

DATA = bytes(range(256)) * 300  # 76,800 bytes: four whole chunks of 16 KiB and a rest
MANIFEST = manifest_of(DATA, MIN_CHUNK_BYTES)
ENCODED = encode_manifest(MANIFEST)


def assembler(manifest: bytes = ENCODED, **changes: object) -> ManifestAssembler:
    expected = {
        "manifest_hash": blake3(manifest).hexdigest(),
        "file_hash": MANIFEST.blake3.hex(),
        "size": len(DATA),
    }
    return ManifestAssembler(**(expected | changes))  # type: ignore[arg-type]


def test_a_manifest_names_every_chunk_and_the_whole() -> None:
    pieces = [DATA[at : at + MIN_CHUNK_BYTES] for at in range(0, len(DATA), MIN_CHUNK_BYTES)]
    assert MANIFEST.chunks == tuple(blake3(piece).digest() for piece in pieces)
    assert MANIFEST.blake3 == blake3(DATA).digest()
    assert [MANIFEST.chunk_size(index) for index in range(5)] == [16384] * 4 + [11264]


def test_the_encoding_of_a_manifest_never_changes() -> None:
    tiny = Manifest(3, MIN_CHUNK_BYTES, (b"\x11" * 32,), b"\x22" * 32)
    assert encode_manifest(tiny).hex() == (
        "43595846494c4531" + "0000000000000003" + "00004000" + "22" * 32 + "11" * 32
    )
    assert manifest_hash(tiny) == blake3(encode_manifest(tiny)).hexdigest()


def test_an_empty_file_has_no_chunks() -> None:
    empty = manifest_of(b"")
    assert empty.chunks == ()
    assert decode_manifest(encode_manifest(empty)) == empty
    assert PieceWindow(0, empty.chunk_bytes, 0).is_complete


def test_chunks_grow_with_the_file_up_to_a_limit() -> None:
    assert chunk_bytes_for(0) == chunk_bytes_for(64 << 20) == 1 << 20
    assert chunk_bytes_for((64 << 20) + 1) == 2 << 20
    assert chunk_bytes_for(1 << 40) == MAX_CHUNK_BYTES


def header(size: int = len(DATA), chunk_bytes: int = MIN_CHUNK_BYTES, magic: bytes = b"CYXFILE1") -> bytes:
    return struct.pack(">8sQI32s", magic, size, chunk_bytes, MANIFEST.blake3)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "manifest of 0 bytes, at least 52 expected"),
        (header(magic=b"CYXFILE2"), "begins with b'CYXFILE2', expected b'CYXFILE1'"),
        (header(size=2**64 - 1), "of 18446744073709551615 bytes, limit 1099511627776"),
        (header(chunk_bytes=0), "chunks of 0 bytes, must be 16384 to 16777216"),
        (header(chunk_bytes=MIN_CHUNK_BYTES - 1), "chunks of 16383 bytes"),
        (header(chunk_bytes=2**32 - 1), "chunks of 4294967295 bytes"),
        (ENCODED[:-1], "159 bytes of chunk hashes, 76800 bytes in chunks of 16384 need 160"),
        (ENCODED + b"\0" * 32, "192 bytes of chunk hashes, .* need 160"),
        (header(size=len(DATA) + MIN_CHUNK_BYTES) + ENCODED[52:], "160 bytes of chunk hashes, .* need 192"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(TransferError, match=text):
        decode_manifest(data)


def test_parts_add_up_to_the_manifest_asked_for() -> None:
    parts = assembler()
    while not parts.is_complete:
        parts.add(len(ENCODED), ENCODED[parts.offset : parts.offset + 100])
    assert parts.finish() == MANIFEST


def test_a_manifest_of_another_hash_is_refused() -> None:
    parts = assembler(manifest_hash="0" * 64)
    parts.add(len(ENCODED), ENCODED)
    with pytest.raises(
        TransferError, match=f"manifest hashes to {blake3(ENCODED).hexdigest()}, asked for 0{{64}}"
    ):
        parts.finish()


def test_a_manifest_of_another_file_is_refused() -> None:
    for changes, text in (
        ({"size": len(DATA) - 1}, "file of 76800 bytes, expected 76799"),
        ({"file_hash": "f" * 64}, f"of file {MANIFEST.blake3.hex()}, expected f{{64}}"),
    ):
        parts = assembler(**changes)
        parts.add(len(ENCODED), ENCODED)
        with pytest.raises(TransferError, match=text):
            parts.finish()


def test_a_manifest_longer_than_the_file_can_need_is_refused_at_its_first_part() -> None:
    with pytest.raises(
        TransferError, match="manifest of 4294967296 bytes, limit 212 for 76800 bytes of file"
    ):
        assembler().add(2**32, b"x")


@pytest.mark.parametrize("part", [b"", b"x" * 213])
def test_a_part_that_does_not_fit_is_refused(part: bytes) -> None:
    with pytest.raises(TransferError, match=f"part of {len(part)} bytes at 0 of 212 bytes"):
        assembler().add(212, part)


def test_a_source_that_changes_its_mind_is_refused() -> None:
    parts = assembler()
    parts.add(212, b"x")
    with pytest.raises(TransferError, match="manifest of 100 bytes, was 212 before"):
        parts.add(100, b"x")


def pieces_of(window: PieceWindow) -> list[Piece]:
    pieces = []
    while (piece := window.next_piece()) is not None:
        pieces.append(piece)
    return pieces


def test_no_more_than_a_chunk_is_ever_on_the_way() -> None:
    window = PieceWindow(5 << 20, 1 << 20, stored=0)
    first = pieces_of(window)
    assert sum(piece.length for piece in first) == 1 << 20
    assert window.next_piece() is None
    for piece in reversed(first[1:]):
        window.receive(piece, bytes(piece.length))
    assert window.take() == [], "the first piece is still missing"
    window.receive(first[0], bytes(MIN_PIECE_BYTES))
    assert sum(len(data) for data in window.take()) == 1 << 20
    assert window.next_piece() is None, "taken is not yet stored"
    window.mark_stored(MIN_PIECE_BYTES)
    assert pieces_of(window) == [Piece(1, 0, MIN_PIECE_BYTES)]


def test_a_window_goes_on_in_the_middle_of_a_chunk() -> None:
    stored = (1 << 20) + 1000
    window = PieceWindow(2 << 20, 1 << 20, stored)
    pieces = pieces_of(window)
    assert pieces[0] == Piece(1, 1000, MIN_PIECE_BYTES)
    assert sum(piece.length for piece in pieces) == (2 << 20) - stored
    for piece in pieces:
        window.receive(piece, bytes(piece.length))
    window.mark_stored(sum(len(data) for data in window.take()))
    assert window.is_complete


def test_a_piece_of_another_length_is_refused() -> None:
    window = PieceWindow(100, 1 << 20, stored=0)
    piece = window.next_piece()
    assert piece == Piece(0, 0, 100)
    for data in (b"", bytes(99), bytes(101)):
        with pytest.raises(TransferError, match=f"chunk 0: {len(data)} bytes at 0, asked for 100"):
            window.receive(piece, data)
