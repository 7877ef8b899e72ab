"""Content-addressed files: their manifests, which name every chunk. Pure.

A manifest lists the chunks of a file, of sizes that follow its content (``p2p.transfer_cuts``), by
their BLAKE3, and is itself named by its BLAKE3: whoever knows that one hash can check each chunk
on its own, no source is trusted, and a chunk that another file holds already need not travel. On
the wire and on disk a manifest is

    "CYXFILE2" | u64 file size | u32 count | 32-byte BLAKE3 of the file
               | count x u32 chunk size | count x 32-byte BLAKE3 of the chunk

big-endian. Reads and writes no file and no stream; ``p2p.files`` does.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from blake3 import blake3

from p2p.errors import TransferError
from p2p.protocols.transfer import MAX_CHUNK_BYTES, MAX_FILE_BYTES
from p2p.transfer_cuts import MIN_CHUNK_BYTES, Cutter

HASH_BYTES = 32
MAX_CHUNKS = 1 << 20

_MAGIC = b"CYXFILE2"
_HEADER = struct.Struct(f">8sQI{HASH_BYTES}s")
_SIZE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Manifest:
    """``sizes`` and ``chunks`` go together: bytes and BLAKE3 of each chunk, in the order of the file."""

    sizes: tuple[int, ...]
    chunks: tuple[bytes, ...]
    blake3: bytes

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def offsets(self) -> list[int]:
        """Where each chunk begins, and at the end the size of the file."""
        return list(accumulate(self.sizes, initial=0))


def max_manifest_bytes(size: int) -> int:
    """The longest manifest that a file of ``size`` bytes can have."""
    return _HEADER.size + (HASH_BYTES + _SIZE_BYTES) * max_chunks(size)


def max_chunks(size: int) -> int:
    """All chunks but the last have a minimum."""
    return min(MAX_CHUNKS, -(-size // MIN_CHUNK_BYTES))


def encode_manifest(manifest: Manifest) -> bytes:
    count = len(manifest.sizes)
    header = _HEADER.pack(_MAGIC, manifest.size, count, manifest.blake3)
    return header + struct.pack(f">{count}I", *manifest.sizes) + b"".join(manifest.chunks)


def decode_manifest(data: bytes) -> Manifest:
    """Raises TransferError for bytes that are no manifest, or one that contradicts itself."""
    if len(data) < _HEADER.size:
        raise TransferError(f"manifest of {len(data)} bytes, at least {_HEADER.size} expected")
    magic, size, count, file_hash = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise TransferError(f"manifest begins with {magic!r}, expected {_MAGIC!r}")
    if size > MAX_FILE_BYTES:
        raise TransferError(f"manifest of a file of {size} bytes, limit {MAX_FILE_BYTES}")
    if count > max_chunks(size):
        raise TransferError(f"manifest of {count} chunks, limit {max_chunks(size)} for {size} bytes")
    listed, expected = len(data) - _HEADER.size, count * (HASH_BYTES + _SIZE_BYTES)
    if listed != expected:
        raise TransferError(f"manifest with {listed} bytes of chunks, {count} chunks need {expected}")
    sizes = struct.unpack_from(f">{count}I", data, _HEADER.size)
    _check_sizes(sizes, size)
    hashes_at = _HEADER.size + count * _SIZE_BYTES
    chunks = tuple(data[at : at + HASH_BYTES] for at in range(hashes_at, len(data), HASH_BYTES))
    return Manifest(sizes, chunks, file_hash)


def _check_sizes(sizes: Sequence[int], size: int) -> None:
    if sum(sizes) != size:
        raise TransferError(f"manifest with chunks of {sum(sizes)} bytes in all, the file has {size}")
    if not sizes:
        return
    smallest = min(sizes[:-1], default=MIN_CHUNK_BYTES)
    if smallest < MIN_CHUNK_BYTES or sizes[-1] < 1 or max(sizes) > MAX_CHUNK_BYTES:
        wrong = smallest if smallest < MIN_CHUNK_BYTES else (max(sizes) if sizes[-1] else 0)
        raise TransferError(
            f"manifest with a chunk of {wrong} bytes, "
            f"must be {MIN_CHUNK_BYTES} (the last 1) to {MAX_CHUNK_BYTES}"
        )


def manifest_hash(manifest: Manifest) -> str:
    return blake3(encode_manifest(manifest)).hexdigest()


class ManifestBuilder:
    """Cuts and hashes a file's bytes, which come in order, in blocks of any size."""

    def __init__(self, size: int, borders: Sequence[int] = ()) -> None:
        """``borders``: see ``p2p.transfer_cuts.find_borders``."""
        self._cutter = Cutter(size, borders)
        self._whole = blake3()
        self._sizes: list[int] = []
        self._chunks: list[bytes] = []

    def update(self, data: bytes | memoryview) -> None:
        self._whole.update(data)
        for chunk in self._cutter.cut(data):
            self._sizes.append(len(chunk))
            self._chunks.append(blake3(chunk).digest())

    def finish(self) -> Manifest:
        """Raises TransferError unless exactly the announced size has come."""
        self._cutter.finish()
        return Manifest(tuple(self._sizes), tuple(self._chunks), self._whole.digest())


def manifest_of(data: bytes, borders: Sequence[int] = ()) -> Manifest:
    builder = ManifestBuilder(len(data), borders)
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
