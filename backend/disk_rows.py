"""Rows of a tensor that is larger than memory, read from its file where they are asked for.

With ``pread`` rather than a mapping: what is mapped counts against a worker's limit of address space,
however little of it is in use.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from backend.errors import DatasetError
from backend.formats.tensor_header import TensorHeader
from backend.formats.tensors import Array, tensor_dtype

BUFFER_BYTES = 4 << 20
"""Read at once, but for a row that is larger."""
_BRIDGED_BYTES = 16 << 10
"""A gap of so much is read along: cheaper than to ask once more."""


class DiskRows:
    """As much of an array (N, ...) as samples need: shape, type, and rows by index."""

    def __init__(self, path: Path, header: TensorHeader, name: str) -> None:
        """Of a file whose header has been checked. Raises OSError."""
        info = header.tensors[name]
        self.shape = info.shape
        self.dtype: np.dtype[Any] = tensor_dtype(info.dtype)
        self._name = name
        self._at = header.data_at + info.begin
        self._row_bytes = (info.end - info.begin) // info.shape[0]
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, indices: Array, axis: int = 0) -> Array:
        """A new array of these rows, in this order. Raises DatasetError, also for what is no number."""
        if axis != 0:
            raise ValueError(f"axis {axis}, rows lie along 0")
        rows: Array = np.empty((len(indices), *self.shape[1:]), self.dtype)
        order = np.argsort(indices, kind="stable")
        places = indices[order]
        for begin, end in self._runs(places):
            first = int(places[begin])
            rows[order[begin:end]] = self._read(first, int(places[end - 1]) + 1)[places[begin:end] - first]
        if self.dtype.kind == "f" and not np.isfinite(rows).all():
            raise DatasetError(f"{self._name} holds NaN or infinity")
        return rows

    def _runs(self, places: Array) -> Iterator[tuple[int, int]]:
        """Cuts sorted places where a gap is not worth reading, and where the buffer is full."""
        most = max(1, BUFFER_BYTES // self._row_bytes)
        gap = 1 + _BRIDGED_BYTES // self._row_bytes
        cuts = [*(np.flatnonzero(np.diff(places) > gap) + 1).tolist(), len(places)]
        begin = 0
        for cut in cuts:
            while begin < cut:
                end = min(cut, int(np.searchsorted(places, places[begin] + most)))
                yield begin, end
                begin = end

    def _read(self, first: int, end: int) -> Array:
        """The rows from ``first`` to ``end``."""
        wanted = (end - first) * self._row_bytes
        buffer = bytearray(wanted)
        view, done = memoryview(buffer), 0
        while done < wanted:
            at = self._at + first * self._row_bytes + done
            try:
                count = os.preadv(self._file, [view[done:]], at)
            except OSError as error:
                raise DatasetError(f"data file cannot be read: {error.strerror}") from error
            if not count:
                raise DatasetError(f"data file ends at byte {at}, {wanted - done} bytes are missing")
            done += count
        return np.frombuffer(buffer, self.dtype).reshape(end - first, *self.shape[1:])


StoredRows: TypeAlias = Array | DiskRows
