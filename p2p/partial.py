"""A file that is still arriving, chunk by chunk in any order. Blocking; call it in a thread.

The file itself is the only record of what has arrived: every chunk found on disk is hashed again
when it is opened after a crash, so a torn or lost write never counts, and there is no book to keep
in step with it. Only chunks that were checked are written, and nothing unchecked ever leaves.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from p2p.errors import TransferError
from p2p.transfer import Manifest

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Arrival:
    """The bytes of whole chunks that follow each other, from chunk ``first`` on."""

    first: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class BadChunk:
    """A chunk that is not what the manifest says."""

    index: int
    text: str


class PartialFile:
    """Takes in chunks and knows which are still missing."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Goes on from what ``path`` holds, as far as its chunks are right."""
        self._manifest = manifest
        self._offsets = manifest.offsets()
        self._held = bytearray(len(manifest.chunks))
        self._stored = 0
        self._twins = _repeated(manifest.chunks)
        self._whole = blake3()
        self._hashed = 0
        """Chunks that ``_whole`` has taken in."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._resume()
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def stored(self) -> int:
        """Bytes of the chunks that are here and checked."""
        return self._stored

    def missing(self) -> list[int]:
        """Chunks to ask for, ascending; of equal ones only the first."""
        wanted, seen = [], set()
        for index, held in enumerate(self._held):
            if held:
                continue
            chunk = self._manifest.chunks[index]
            if chunk in self._twins:
                if chunk in seen:
                    continue
                seen.add(chunk)
            wanted.append(index)
        return wanted

    def write(self, arrivals: Iterable[Arrival]) -> list[list[BadChunk]]:
        """Keeps the chunks that are right; says of each arrival which are not.

        Raises OSError when the disk refuses; what was kept before stays.
        """
        return [self._take(arrival) for arrival in arrivals]

    def copy(self, places: Mapping[int, tuple[Path, int]]) -> None:
        """Takes chunks from files that should hold them, by path and offset; wrong ones are left out."""
        descriptors: dict[Path, int | None] = {}
        try:
            for index, (path, offset) in sorted(places.items()):
                if path not in descriptors:
                    descriptors[path] = _open(path)
                descriptor = descriptors[path]
                if descriptor is not None and not self._held[index]:
                    self._take(Arrival(index, os.pread(descriptor, self._manifest.sizes[index], offset)))
        finally:
            for descriptor in filter(None, descriptors.values()):
                os.close(descriptor)

    def flush(self) -> None:
        """Makes durable what was written so far."""
        os.fdatasync(self._descriptor)

    def finish(self) -> None:
        """Makes the file durable. Raises TransferError if the whole is not what the manifest says."""
        self._hash_on()
        found, manifest = self._whole.hexdigest(), self._manifest
        if self._stored != manifest.size or found != manifest.blake3.hex():
            raise TransferError(
                f"file of {self._stored} bytes hashes to {found}, "
                f"its manifest says {manifest.size} bytes and {manifest.blake3.hex()}"
            )
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    # -- inside --------------------------------------------------------------------------------------

    def _take(self, arrival: Arrival) -> list[BadChunk]:
        """Writes the right chunks, as many at a time as follow each other."""
        view, bad = memoryview(arrival.data), []
        index, at, run_at = arrival.first, 0, 0
        good: list[int] = []
        while at < len(view):
            end = at + self._manifest.sizes[index]
            found = blake3(view[at:end]).digest()
            if found == self._manifest.chunks[index]:
                good.append(index)
            else:
                bad.append(BadChunk(index, self._difference(index, found, len(view[at:end]))))
                self._put(good, view[run_at:at])
                good, run_at = [], end
            index, at = index + 1, end
        self._put(good, view[run_at:at])
        return bad

    def _difference(self, index: int, found: bytes, length: int) -> str:
        allowed = self._manifest.chunks[index].hex()
        return f"chunk {index} of {length} bytes hashes to {found.hex()}, its manifest says {allowed}"

    def _put(self, indexes: Sequence[int], data: memoryview) -> None:
        """Writes checked chunks that follow each other, and their twins elsewhere in the file."""
        if not indexes:
            return
        self._write_at(self._offsets[indexes[0]], data)
        self._mark(indexes, data)
        if self._twins:
            at = 0
            for index in indexes:
                chunk = data[at : at + self._manifest.sizes[index]]
                at += len(chunk)
                self._spread(index, chunk)

    def _spread(self, index: int, chunk: memoryview) -> None:
        """Writes a chunk wherever else the file has the same."""
        for twin in self._twins.get(self._manifest.chunks[index], ()):
            if not self._held[twin]:
                self._write_at(self._offsets[twin], chunk)
                self._mark((twin,), chunk)

    def _mark(self, indexes: Sequence[int], data: memoryview) -> None:
        """These chunks, which are ``data``, are on disk. One call hashes all: each lets other threads in."""
        for index in indexes:
            if not self._held[index]:
                self._held[index] = True
                self._stored += self._manifest.sizes[index]
        if indexes[0] <= self._hashed <= indexes[-1]:
            self._whole.update(data[self._offsets[self._hashed] - self._offsets[indexes[0]] :])
            self._hashed = indexes[-1] + 1
            self._hash_on()

    def _hash_on(self) -> None:
        """Takes into the hash of the whole what came before its turn."""
        while self._hashed < len(self._held) and self._held[self._hashed]:
            begin = self._offsets[self._hashed]
            run = self._hashed
            while run < len(self._held) and self._held[run] and self._offsets[run + 1] - begin <= _READ_BYTES:
                run += 1
            run = max(run, self._hashed + 1)
            self._whole.update(os.pread(self._descriptor, self._offsets[run] - begin, begin))
            self._hashed = run

    def _write_at(self, offset: int, data: memoryview) -> None:
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            offset += written
            data = data[written:]

    def _resume(self) -> None:
        found = os.fstat(self._descriptor).st_size
        on_disk = min(found, self._manifest.size)
        if found > on_disk:
            os.ftruncate(self._descriptor, on_disk)
        next_data = 0
        for index, size in enumerate(self._manifest.sizes):
            begin = self._offsets[index]
            if begin + size > on_disk:
                break
            if self._held[index] or begin + size <= next_data:
                continue
            next_data = max(next_data, self._next_data(begin))
            if begin + size > next_data:
                chunk = memoryview(os.pread(self._descriptor, size, begin))
                if blake3(chunk).digest() == self._manifest.chunks[index]:
                    self._mark((index,), chunk)
                    self._spread(index, chunk)

    def _next_data(self, offset: int) -> int:
        """Where, from ``offset`` on, something was written; the end of the file where nothing was."""
        try:
            return os.lseek(self._descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            # Nothing but a hole up to the end; or a file system that does not tell.
            return self._manifest.size if error.errno == errno.ENXIO else offset


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None


def _repeated(chunks: Sequence[bytes]) -> dict[bytes, list[int]]:
    """The places of every chunk that a file has more than once."""
    if len(set(chunks)) == len(chunks):
        return {}
    places: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, chunk in enumerate(chunks):
        places[chunk].append(index)
    return {chunk: indexes for chunk, indexes in places.items() if len(indexes) > 1}
