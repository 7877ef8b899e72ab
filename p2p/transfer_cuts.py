"""Where the chunks of a file end. Pure.

Two versions of a file share most of their chunks only if the cuts follow the content. So a
safetensors file, and one inside a ZIP of stored members such as a .cyxmodel, is cut at the borders
of its tensors: a changed head then touches the chunks of the head. Within a tensor, and in every
other file, a rolling hash over the content decides (FastCDC), so that an insertion moves the cuts
with it. Tensors too small for a chunk of their own share one with their neighbours.

Whatever a file holds, cutting it never fails: what does not parse has no borders. Two programs that
cut differently lose shared chunks and nothing else.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pyfastcdc import FastCDC

from p2p.errors import TransferError

MIN_CHUNK_BYTES = 4 << 10
"""Of every chunk but a file's last one."""
LARGE_FILE_BYTES = 16 << 30
"""From here on chunks are larger, to keep manifests short."""

_MAX_HEADER_BYTES = 4 << 20
_MAX_TENSORS = 65_536
_MAX_MEMBERS = 256
_LOCAL = struct.Struct("<4s5H3L2H")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_LENGTH = struct.Struct("<Q")
_TENSORS_SUFFIX = b".safetensors"

Read = Callable[[int, int], bytes]
"""Reads up to ``length`` bytes at ``offset``."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Of content-defined chunks, in bytes; the average is a little above ``usual``."""

    least: int
    usual: int
    most: int


_SMALL = _Sizes(16 << 10, 64 << 10, 256 << 10)
_LARGE = _Sizes(256 << 10, 1 << 20, 4 << 20)


class Cutter:
    """Cuts a file whose bytes come in order, in blocks of any size."""

    def __init__(self, size: int, borders: Sequence[int]) -> None:
        """``size`` is that of the whole file; ``borders`` are places where a chunk should end."""
        sizes = _SMALL if size < LARGE_FILE_BYTES else _LARGE
        self._most = sizes.most
        self._cdc = FastCDC(
            sizes.usual, min_size=sizes.least, max_size=sizes.most, normalized_chunking=2, seed=0
        )
        self._ends = spaced(borders, size)
        self._segment = 0
        self._size = size
        self._at = 0
        """Where the next chunk begins."""
        self._rest = b""
        """Bytes from there on."""

    def cut(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """The chunks that are whole now. Raises TransferError beyond the announced size."""
        view = memoryview(b"".join((self._rest, data)) if self._rest else data)
        if self._at + len(view) > self._size:
            raise TransferError(f"file of {self._size} bytes goes on beyond its end")
        done = 0
        while done < len(view):
            end = self._ends[self._segment] - self._at
            length = self._next_length(view[done : done + min(end, len(view) - done)], end)
            if length == 0:
                break
            yield view[done : done + length]
            done += length
            self._at += length
            if self._at == self._ends[self._segment]:
                self._segment += 1
        self._rest = bytes(view[done:])

    def finish(self) -> None:
        """Raises TransferError unless all of the file was cut."""
        if self._at != self._size:
            raise TransferError(f"file of {self._at + len(self._rest)} bytes, {self._size} announced")

    def _next_length(self, view: memoryview, end: int) -> int:
        """Of the chunk at the start of ``view``, ``end`` bytes before its segment ends; 0 needs more."""
        if len(view) < min(end, self._most + MIN_CHUNK_BYTES):
            return 0
        length = next(self._cdc.cut_buf(view[: self._most])).length
        # What would be left of the segment is too little for a chunk: it goes along.
        return end if end - length < MIN_CHUNK_BYTES else length


def spaced(borders: Sequence[int], size: int) -> list[int]:
    """Ends of the segments of a file of ``size`` bytes, at least a smallest chunk apart but for the last.

    What lies between two borders and is too little for a chunk takes what it lacks from what
    follows, and no more: else a few changed bytes would cost a whole chunk of a large tensor.
    """
    ends: list[int] = []
    last, is_little = 0, False
    for border in sorted(border for border in borders if 0 < border < size):
        if border - last < MIN_CHUNK_BYTES:
            is_little = is_little or border > last
            continue
        if is_little and border - last >= 2 * MIN_CHUNK_BYTES:
            ends.append(last + MIN_CHUNK_BYTES)
        ends.append(border)
        last, is_little = border, False
    if is_little and size - last >= 2 * MIN_CHUNK_BYTES:
        ends.append(last + MIN_CHUNK_BYTES)
    return [*ends, size]


def find_borders(read: Read, size: int) -> tuple[int, ...]:
    """Where the tensors of a file of a known format end; empty for any other file."""
    head = read(0, min(size, _LOCAL.size))
    if head.startswith(_LOCAL_SIGNATURE):
        return tuple(_archive_borders(read, size))
    return tuple(_tensor_borders(read, 0, size))


def _archive_borders(read: Read, size: int) -> Iterator[int]:
    """Ends of the stored members of a ZIP, and of the tensors inside them."""
    at = 0
    for _ in range(_MAX_MEMBERS):
        header = read(at, _LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(_LOCAL_SIGNATURE):
            return
        _, _, flags, method, _, _, _, packed, length, name_length, extra = _LOCAL.unpack(header)
        name = read(at + _LOCAL.size, name_length)
        begin = at + _LOCAL.size + name_length + extra
        if flags or method or packed != length or begin + length > size:
            return
        if name.endswith(_TENSORS_SUFFIX):
            yield from _tensor_borders(read, begin, length)
        at = begin + length
        yield at


def _tensor_borders(read: Read, start: int, size: int) -> Iterator[int]:
    """Ends of the header and of each tensor of the safetensors file at ``start``."""
    prefix = read(start, _LENGTH.size)
    if len(prefix) < _LENGTH.size:
        return
    (length,) = _LENGTH.unpack(prefix)
    data_at = _LENGTH.size + length
    if not 2 <= length <= _MAX_HEADER_BYTES or data_at > size:
        return
    ends = _tensor_ends(read(start + _LENGTH.size, length))
    if ends is None:
        return
    yield start + data_at
    yield from (start + data_at + end for end in ends if data_at + end <= size)


def _tensor_ends(text: bytes) -> list[int] | None:
    if not text.startswith(b"{"):
        return None
    try:
        header = json.loads(text)
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        ends = [entry["data_offsets"][1] for entry in entries[:_MAX_TENSORS]]
    except (ValueError, RecursionError, TypeError, KeyError, IndexError, AttributeError):
        return None
    return [end for end in ends if type(end) is int and end >= 0]
