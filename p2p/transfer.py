"""Content-addressed files: their manifests, and what a receiver asks for next. Pure.

A manifest names every chunk of a file by its BLAKE3, and is itself named by its BLAKE3, so
whoever knows that one hash can check each chunk on its own and no source is trusted. On the
wire and on disk a manifest is

    "CYXFILE1" | u64 file size | u32 chunk size | 32-byte BLAKE3 of the file | 32 bytes per chunk

big-endian. Reads and writes no file and no stream; ``p2p.files`` does.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from blake3 import blake3

from p2p.errors import TransferError
from p2p.protocols.transfer import MAX_FILE_BYTES, MAX_PART_BYTES

HASH_BYTES = 32
MIN_CHUNK_BYTES = 16 << 10
MAX_CHUNK_BYTES = 16 << 20
DEFAULT_CHUNK_BYTES = 1 << 20
TARGET_CHUNKS = 64
MIN_PIECE_BYTES = 128 << 10
PIECES_ON_THE_WAY = 8
"""A chunk is asked for in pieces; several of them, but never more than one chunk, are on the way at a
time: that keeps a stream busy and bounds what a kill can lose."""

_MAGIC = b"CYXFILE1"
_HEADER = struct.Struct(f">8sQI{HASH_BYTES}s")


@dataclass(frozen=True, slots=True)
class Manifest:
    size: int
    chunk_bytes: int
    """Size of every chunk but the last, which may be shorter."""
    chunks: tuple[bytes, ...]
    blake3: bytes

    def chunk_size(self, index: int) -> int:
        """Raises IndexError for a chunk that the file does not have."""
        return chunk_size(self.size, self.chunk_bytes, index)


def chunk_size(size: int, chunk_bytes: int, index: int) -> int:
    """Bytes in one chunk of a file of ``size`` bytes. Raises IndexError for a chunk it does not have."""
    if not 0 <= index < chunk_count(size, chunk_bytes):
        raise IndexError(f"chunk {index} of {chunk_count(size, chunk_bytes)}")
    return min(chunk_bytes, size - index * chunk_bytes)


def chunk_count(size: int, chunk_bytes: int) -> int:
    return -(-size // chunk_bytes)


def chunk_bytes_for(size: int) -> int:
    """1 MiB for small files, doubling up to 16 MiB, to keep the manifests of large ones short."""
    chunk_bytes = DEFAULT_CHUNK_BYTES
    while chunk_bytes < MAX_CHUNK_BYTES and size > TARGET_CHUNKS * chunk_bytes:
        chunk_bytes *= 2
    return chunk_bytes


def piece_bytes_for(chunk_bytes: int) -> int:
    return max(MIN_PIECE_BYTES, min(MAX_PART_BYTES, chunk_bytes // PIECES_ON_THE_WAY))


def max_manifest_bytes(size: int) -> int:
    """The longest manifest that a file of ``size`` bytes can have."""
    return _HEADER.size + HASH_BYTES * chunk_count(size, MIN_CHUNK_BYTES)


def encode_manifest(manifest: Manifest) -> bytes:
    header = _HEADER.pack(_MAGIC, manifest.size, manifest.chunk_bytes, manifest.blake3)
    return header + b"".join(manifest.chunks)


def decode_manifest(data: bytes) -> Manifest:
    """Raises TransferError for bytes that are no manifest, or one that contradicts itself."""
    if len(data) < _HEADER.size:
        raise TransferError(f"manifest of {len(data)} bytes, at least {_HEADER.size} expected")
    magic, size, chunk_bytes, file_hash = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise TransferError(f"manifest begins with {magic!r}, expected {_MAGIC!r}")
    if size > MAX_FILE_BYTES:
        raise TransferError(f"manifest of a file of {size} bytes, limit {MAX_FILE_BYTES}")
    if not MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES:
        raise TransferError(
            f"manifest with chunks of {chunk_bytes} bytes, must be {MIN_CHUNK_BYTES} to {MAX_CHUNK_BYTES}"
        )
    hash_bytes, expected = len(data) - _HEADER.size, chunk_count(size, chunk_bytes) * HASH_BYTES
    if hash_bytes != expected:
        raise TransferError(
            f"manifest with {hash_bytes} bytes of chunk hashes, "
            f"{size} bytes in chunks of {chunk_bytes} need {expected}"
        )
    hashes = data[_HEADER.size :]
    chunks = tuple(hashes[at : at + HASH_BYTES] for at in range(0, hash_bytes, HASH_BYTES))
    return Manifest(size, chunk_bytes, chunks, file_hash)


def manifest_hash(manifest: Manifest) -> str:
    return blake3(encode_manifest(manifest)).hexdigest()


class ManifestBuilder:
    """Hashes a file's bytes, cut anywhere, in order."""

    def __init__(self, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._whole = blake3()
        self._chunk = blake3()
        self._in_chunk = 0
        self._size = 0
        self._chunks: list[bytes] = []

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._whole.update(view)
        self._size += len(view)
        while view:
            room = self._chunk_bytes - self._in_chunk
            self._chunk.update(view[:room])
            self._in_chunk += len(view[:room])
            view = view[room:]
            if self._in_chunk == self._chunk_bytes:
                self._end_chunk()

    def finish(self) -> Manifest:
        if self._in_chunk:
            self._end_chunk()
        return Manifest(self._size, self._chunk_bytes, tuple(self._chunks), self._whole.digest())

    def _end_chunk(self) -> None:
        self._chunks.append(self._chunk.digest())
        self._chunk = blake3()
        self._in_chunk = 0


def manifest_of(data: bytes, chunk_bytes: int | None = None) -> Manifest:
    builder = ManifestBuilder(chunk_bytes or chunk_bytes_for(len(data)))
    builder.update(data)
    return builder.finish()


class ManifestAssembler:
    """Collects the parts of a manifest from a source that may lie about all of it."""

    def __init__(self, manifest_hash: str, file_hash: str, size: int) -> None:
        self._hash = manifest_hash
        self._file_hash = file_hash
        self._size = size
        self._total: int | None = None
        self._data = bytearray()

    @property
    def offset(self) -> int:
        """Where the next part begins."""
        return len(self._data)

    @property
    def is_complete(self) -> bool:
        return self._total == len(self._data)

    @property
    def encoded(self) -> bytes:
        """What has been collected; only ``finish`` says whether it is right."""
        return bytes(self._data)

    def add(self, total_bytes: int, part: bytes) -> None:
        """Raises TransferError for a part that cannot belong to the manifest asked for."""
        limit = max_manifest_bytes(self._size)
        if total_bytes > limit:
            raise TransferError(
                f"manifest of {total_bytes} bytes, limit {limit} for {self._size} bytes of file"
            )
        if self._total not in (None, total_bytes):
            raise TransferError(f"manifest of {total_bytes} bytes, was {self._total} before")
        if not part or len(self._data) + len(part) > total_bytes:
            raise TransferError(
                f"manifest part of {len(part)} bytes at {len(self._data)} of {total_bytes} bytes"
            )
        self._total = total_bytes
        self._data += part

    def finish(self) -> Manifest:
        """Raises TransferError unless it is the manifest asked for, of the file asked for."""
        found = blake3(self._data).hexdigest()
        if found != self._hash:
            raise TransferError(f"manifest hashes to {found}, asked for {self._hash}")
        manifest = decode_manifest(bytes(self._data))
        if manifest.size != self._size:
            raise TransferError(f"manifest of a file of {manifest.size} bytes, expected {self._size}")
        if manifest.blake3.hex() != self._file_hash:
            raise TransferError(f"manifest of file {manifest.blake3.hex()}, expected {self._file_hash}")
        return manifest


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes within one chunk."""

    index: int
    offset: int
    length: int


class PieceWindow:
    """Which pieces to ask for, and their data back in the order of the file.

    Never more than one chunk's bytes are asked for and not yet stored.
    """

    def __init__(self, size: int, chunk_bytes: int, stored: int) -> None:
        """``stored`` bytes from the start of the file are there already."""
        self._size = size
        self._chunk_bytes = chunk_bytes
        self._piece_bytes = piece_bytes_for(chunk_bytes)
        self._stored = stored
        self._asked = stored
        self._arrived: dict[int, bytes] = {}
        self._next_taken = stored

    @property
    def stored(self) -> int:
        return self._stored

    @property
    def is_complete(self) -> bool:
        return self._stored == self._size

    def next_piece(self) -> Piece | None:
        """The next piece to ask for, or None while the window is full or all has been asked for."""
        index, offset = divmod(self._asked, self._chunk_bytes)
        room = self._chunk_bytes - (self._asked - self._stored)
        in_chunk = min(self._chunk_bytes - offset, self._size - self._asked)
        length = min(self._piece_bytes, in_chunk)
        if length == 0 or length > room:
            return None
        self._asked += length
        return Piece(index, offset, length)

    def receive(self, piece: Piece, data: bytes) -> None:
        """Raises TransferError for data of another length than was asked for."""
        if len(data) != piece.length:
            raise TransferError(
                f"chunk {piece.index}: {len(data)} bytes at {piece.offset}, asked for {piece.length}"
            )
        self._arrived[piece.index * self._chunk_bytes + piece.offset] = data

    def take(self) -> list[bytes]:
        """What has arrived and can be written next, in order."""
        ready = []
        while (data := self._arrived.pop(self._next_taken, None)) is not None:
            ready.append(data)
            self._next_taken += len(data)
        return ready

    def mark_stored(self, length: int) -> None:
        """So many of the bytes taken are on disk now: room to ask for as many more."""
        self._stored += length
