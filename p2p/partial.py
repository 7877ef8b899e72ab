"""A file that is still arriving: its checked beginning on disk. Blocking; call it in a thread.

The file itself is the only record of what has arrived: it is written in order, so its length says
how far it got, and its chunks are checked again when it is opened after a crash. Nothing here
trusts what is on disk, and nothing unchecked ever leaves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from p2p.errors import TransferError
from p2p.transfer import Manifest

_READ_BYTES = 1 << 20


class PartialFile:
    """Appends data to a file, checking every chunk as it becomes whole."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Goes on from what ``path`` holds, as far as its whole chunks are right."""
        self._manifest = manifest
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._length = 0
        self._current = 0
        """Index of the chunk that is being filled."""
        self._whole = blake3()
        self._before_chunk = self._whole.copy()
        self._chunk = blake3()
        self._inherited = False
        """Whether the current chunk began before this object."""
        try:
            self._resume()
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def length(self) -> int:
        """Bytes on disk. All whole chunks among them are checked."""
        return self._length

    def append(self, pieces: Sequence[bytes]) -> int:
        """Writes ``pieces`` at the end; returns the new length.

        Raises TransferError for a chunk that is not what the manifest says; the file then ends
        before that chunk. Where a part of the chunk was on disk before this object was made,
        the disk may be at fault: then nothing is raised, and the length is less than expected.
        """
        for piece in pieces:
            view = memoryview(piece)
            while view:
                room = self._room_in_chunk()
                part, view = view[:room], view[room:]
                self._write(part)
                self._hash(part)
                if self._room_in_chunk() == 0 and not self._end_chunk():
                    return self._length
        return self._length

    def finish(self) -> None:
        """Makes the file durable. Raises TransferError if the whole is not what the manifest says."""
        found = self._whole.hexdigest()
        if self._length != self._manifest.size or found != self._manifest.blake3.hex():
            raise TransferError(
                f"file of {self._length} bytes hashes to {found}, "
                f"its manifest says {self._manifest.size} bytes and {self._manifest.blake3.hex()}"
            )
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _room_in_chunk(self) -> int:
        """Bytes until the current chunk is whole; 0 exactly when it is."""
        start = self._current * self._manifest.chunk_bytes
        return start + self._manifest.chunk_size(self._current) - self._length

    def _resume(self) -> None:
        on_disk = min(os.fstat(self._descriptor).st_size, self._manifest.size)
        while self._length < on_disk:
            wanted = min(_READ_BYTES, self._room_in_chunk(), on_disk - self._length)
            data = os.pread(self._descriptor, wanted, self._length)
            if not data:
                break
            self._length += len(data)
            self._inherited = True
            self._hash(data)
            if self._room_in_chunk() == 0 and not self._end_chunk():
                break
        os.ftruncate(self._descriptor, self._length)

    def _write(self, data: memoryview) -> None:
        while data:
            written = os.pwrite(self._descriptor, data, self._length)
            self._length += written
            data = data[written:]

    def _hash(self, data: bytes | memoryview) -> None:
        self._chunk.update(data)
        self._whole.update(data)

    def _end_chunk(self) -> bool:
        """Whether the chunk that just became whole is right."""
        found, expected = self._chunk.hexdigest(), self._manifest.chunks[self._current].hex()
        inherited, self._inherited = self._inherited, False
        self._chunk = blake3()
        if found == expected:
            self._before_chunk = self._whole.copy()
            self._current += 1
            return True
        self._whole = self._before_chunk.copy()
        self._length = self._current * self._manifest.chunk_bytes
        os.ftruncate(self._descriptor, self._length)
        if inherited:
            return False
        raise TransferError(f"chunk {self._current} hashes to {found}, its manifest says {expected}")
