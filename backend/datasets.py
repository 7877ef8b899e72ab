"""Datasets as arrays: loading, splits, normalization. No torch. ``backend.readers`` makes the files.

The file format is described in ``backend.facts``, which reads what needs no arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.disk_rows import DiskRows, StoredRows
from backend.errors import ArchiveError, DatasetError
from backend.facts import DataFacts, DataNotes, decode_notes, facts_of, read_data_header, read_facts
from backend.formats.tensor_header import TensorHeader
from backend.formats.tensors import Array, load_tensor, map_tensor

__all__ = [
    "DataFacts",
    "Dataset",
    "Scaling",
    "Split",
    "StreamedDataset",
    "load_dataset",
    "map_dataset",
    "open_dataset",
    "read_facts",
    "split",
]
_SCALED_VALUES = 1 << 20
"""How many values are looked at at once to find a scaling."""


@dataclass(frozen=True, slots=True)
class Dataset:
    x: Array
    y: Array
    facts: DataFacts
    notes: DataNotes = DataNotes()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class StreamedDataset:
    """As ``Dataset``, with what is larger than memory left on disk: see ``backend.disk_rows``."""

    x: StoredRows
    y: StoredRows
    """Labels of whole samples are in memory, since they decide the split."""
    facts: DataFacts
    notes: DataNotes


@dataclass(frozen=True, slots=True)
class Split:
    """Indices of the samples of each part."""

    train: Array
    validation: Array
    test: Array


@dataclass(frozen=True, slots=True)
class Scaling:
    """Inputs become ``(x - offset) * factor`` per channel; float32."""

    offset: Array
    factor: Array

    def apply(self, x: Array) -> Array:
        """A float32 array of the shape of ``x`` (N, channel, ...)."""
        shape = (1, -1, *(1,) * (x.ndim - 2))
        scaled: Array = (x.astype(np.float32) - self.offset.reshape(shape)) * self.factor.reshape(shape)
        return scaled


def load_dataset(path: Path) -> Dataset:
    """Reads all of it. Raises DatasetError."""
    header = read_data_header(path)
    facts = facts_of(path, header)
    try:
        x, y = load_tensor(path, header, "x"), load_tensor(path, header, "y")
    except (OSError, ArchiveError) as error:
        raise DatasetError(f"data file cannot be read: {error}") from error
    _check_finite("x", x)
    _check_finite("y", y)
    return Dataset(x, y, facts, decode_notes(header.metadata))


def open_dataset(path: Path, resident_bytes: int) -> Dataset | StreamedDataset:
    """Reads all of it, or leaves on disk what takes more than ``resident_bytes``. Raises DatasetError."""
    header = read_data_header(path)
    tensors = header.tensors
    if not any(_is_large(header, name, resident_bytes) for name in tensors):
        return load_dataset(path)
    facts = facts_of(path, header)
    try:
        x, y = (_open_rows(path, header, name, resident_bytes) for name in ("x", "y"))
    except (OSError, ArchiveError) as error:
        raise DatasetError(f"data file cannot be read: {error}") from error
    return StreamedDataset(x, y, facts, decode_notes(header.metadata))


def _is_large(header: TensorHeader, name: str, resident_bytes: int) -> bool:
    info = header.tensors[name]
    decides_split = name == "y" and len(info.shape) == 1
    return info.end - info.begin > resident_bytes and not decides_split


def _open_rows(path: Path, header: TensorHeader, name: str, resident_bytes: int) -> StoredRows:
    if _is_large(header, name, resident_bytes):
        return DiskRows(path, header, name)
    array = load_tensor(path, header, name)
    _check_finite(name, array)
    return array


def _check_finite(name: str, array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DatasetError(f"{name} holds NaN or infinity")


def map_dataset(path: Path) -> Dataset:
    """The inputs stay on disk and are read where they are used. Raises DatasetError."""
    header = read_data_header(path)
    facts = facts_of(path, header)
    try:
        x, y = map_tensor(path, header, "x"), load_tensor(path, header, "y")
    except (OSError, ValueError, ArchiveError) as error:
        raise DatasetError(f"data file cannot be read: {error}") from error
    return Dataset(x, y, facts, decode_notes(header.metadata))


def split(
    y: Array, validation: int, test: int, seed: int, *, stratified: bool, in_order: bool = False
) -> Split:
    """So many samples for validation and test, the rest to train on; each part in random order.

    The same for equal arguments on every machine. Stratified: every part gets its share of each
    class, to within rounding. In order: the first samples train, the last test, none is moved.
    """
    if in_order:
        places, train = np.arange(len(y)), len(y) - validation - test
        return Split(
            train=places[:train], validation=places[train : len(y) - test], test=places[len(y) - test :]
        )
    # RandomState's stream is frozen by NumPy's policy; Generator's is not.
    order = np.random.RandomState(seed).permutation(len(y))
    if stratified and y.ndim == 1 and y.dtype.kind == "i":
        order = order[np.argsort(_position_in_class(y[order]), kind="stable")]
    return Split(
        train=order[validation + test :], validation=order[test : validation + test], test=order[:test]
    )


def mean_std_scaling(x: StoredRows, rows: Array | None = None) -> Scaling:
    """Zero mean and unit deviation per channel of ``x[rows]``; only ever of training samples.

    Equal values in equal places give equal bits, whether ``x`` is in memory, mapped or on disk.
    """
    count = (len(x) if rows is None else len(rows)) * math.prod(x.shape[2:])
    mean = np.sum([_channel_sums(chunk) for chunk in _chunks(x, rows)], axis=0) / count
    centre = mean.reshape(1, -1, 1)
    squares = [_channel_sums((_by_channel(chunk) - centre) ** 2) for chunk in _chunks(x, rows)]
    deviation = np.sqrt(np.sum(squares, axis=0) / count)
    factor = 1.0 / np.where(deviation > 1e-8, deviation, 1.0)
    return Scaling(mean.astype(np.float32), factor.astype(np.float32))


def range_scaling(x: StoredRows, rows: Array | None = None) -> Scaling:
    """To 0..1 per channel of ``x[rows]``: bytes by 255, floats by the training samples' range."""
    if x.dtype == np.uint8:
        return Scaling(np.zeros(x.shape[1], np.float32), np.full(x.shape[1], 1 / 255, np.float32))
    lows = [_by_channel(chunk).min(axis=(0, 2)) for chunk in _chunks(x, rows)]
    highs = [_by_channel(chunk).max(axis=(0, 2)) for chunk in _chunks(x, rows)]
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    factor = 1.0 / np.where(high - low > 1e-8, high - low, 1.0)
    return Scaling(low.astype(np.float32), factor.astype(np.float32))


def _chunks(x: StoredRows, rows: Array | None) -> Iterator[Array]:
    """The rows in the order of the file, in pieces of bounded size."""
    step = max(1, _SCALED_VALUES // math.prod(x.shape[1:]))
    chosen = np.arange(len(x)) if rows is None else np.sort(rows)
    for begin in range(0, len(chosen), step):
        yield x.take(chosen[begin : begin + step], axis=0)


def _by_channel(chunk: Array) -> Array:
    """(N, channel, values) in float64."""
    wide: Array = chunk.reshape(len(chunk), chunk.shape[1], -1).astype(np.float64)
    return wide


def _channel_sums(chunk: Array) -> Array:
    total: Array = _by_channel(chunk).sum(axis=(0, 2))
    return total


def _position_in_class(labels: Array) -> Array:
    """For each sample, how far along its class it stands, 0 to 1, in the order given."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    sizes = counts[labels[by_class]]
    position = np.empty(len(labels), np.float64)
    position[by_class] = (np.arange(len(labels)) - starts[labels[by_class]] + 0.5) / sizes
    return position
