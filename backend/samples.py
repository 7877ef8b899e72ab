"""Where a training gets its samples from: the seam between a dataset and whoever trains on it. No torch.

A source knows the facts and gives rows by window (see ``backend.sample_plan``). The order of
epoch e follows from the graph's seed and e alone, so every source of equal data gives equal rows.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from backend.datasets import (
    DataFacts,
    Dataset,
    Scaling,
    StreamedDataset,
    map_dataset,
    mean_std_scaling,
    range_scaling,
    split,
)
from backend.disk_rows import DiskRows, StoredRows
from backend.errors import DatasetError
from backend.facts import DataNotes
from backend.formats.tensor_file import TensorPlan, write_tensor_file
from backend.formats.tensors import Array
from backend.pipeline import Pipeline
from backend.read_ahead import ReadAhead
from backend.sample_plan import PARTS, TRAIN, Window

LOCAL_WINDOW_BYTES = 32 << 20
_KEPT_ORDERS = 2
"""Of epochs: whoever reads ahead is in two at once."""
_WRITTEN_BYTES = 8 << 20

Rows = tuple[Array, Array]
"""x and y of consecutive samples, in the types of the data file."""


class SampleSource(Protocol):
    """Samples of one dataset for one training."""

    @property
    def facts(self) -> DataFacts: ...

    @property
    def notes(self) -> DataNotes:
        """Of the data, saved with the model."""

    @property
    def withheld(self) -> Collection[str]:
        """Parts that this source never gives."""

    @property
    def window_bytes(self) -> int:
        """How much to gather at once, counting 4 bytes a value."""

    def scaling(self, method: str) -> Scaling | None:
        """Of the training samples; ``method`` is mean_std, scale or none."""

    def expect(self, windows: Iterator[Window]) -> None:
        """What will be gathered, in that order: a source may read ahead."""

    def gather(self, window: Window) -> Rows:
        """Raises DatasetError."""


class LocalSamples:
    """A ``SampleSource`` over arrays in memory, mapped from a file, or read from it row by row."""

    withheld: Collection[str] = ()
    window_bytes = LOCAL_WINDOW_BYTES

    def __init__(self, dataset: Dataset | StreamedDataset, pipeline: Pipeline) -> None:
        """Raises DatasetError unless the data is what the graph says it is."""
        check_fit(dataset.facts, pipeline)
        self.dataset = dataset
        self._pipeline = pipeline
        _, validation, test = pipeline.split_sizes(dataset.facts.samples)
        self._split = split(
            _labels(dataset.y),
            validation,
            test,
            pipeline.split_seed,
            stratified=pipeline.stratified,
            in_order=pipeline.in_order,
        )
        self._orders: OrderedDict[int, Array] = OrderedDict()
        self._ahead: ReadAhead | None = None

    @property
    def facts(self) -> DataFacts:
        return self.dataset.facts

    @property
    def notes(self) -> DataNotes:
        return self.dataset.notes

    def scaling(self, method: str) -> Scaling | None:
        match method:
            case "mean_std":
                return mean_std_scaling(self.dataset.x, self._split.train)
            case "scale":
                return range_scaling(self.dataset.x, self._split.train)
            case _:
                return None

    def expect(self, windows: Iterator[Window]) -> None:
        """Reads ahead what is on disk."""
        if isinstance(self.dataset.x, DiskRows):
            self._ahead = ReadAhead(self._gather, windows)

    def gather(self, window: Window) -> Rows:
        return self._gather(window) if self._ahead is None else self._ahead.take(window)

    def _gather(self, window: Window) -> Rows:
        indices = self.indices(window)
        return self.dataset.x.take(indices, axis=0), self.dataset.y.take(indices, axis=0)

    def indices(self, window: Window) -> Array:
        """Where the samples of a window lie in the dataset. Raises DatasetError."""
        order = self.order(window.part, window.epoch)
        end = window.first + window.count
        if not (0 <= window.first < end <= len(order)):
            found = f"samples {window.first} to {end} of {window.part}"
            raise DatasetError(f"{found}, allowed are 0 to {len(order)}")
        return order[window.first : end]

    def size(self, part: str) -> int:
        return len(self.members(part))

    def order(self, part: str, epoch: int) -> Array:
        """Indices of a part's samples in the order of one pass. Raises DatasetError."""
        members = self.members(part)
        if part != TRAIN or not self._pipeline.shuffle:
            return members
        known = self._orders.get(epoch)
        if known is None:
            mixed = _mix(self._pipeline.seed, epoch)
            known = self._orders[epoch] = members[np.random.RandomState(mixed).permutation(len(members))]
            if len(self._orders) > _KEPT_ORDERS:
                self._orders.popitem(last=False)
        return known

    def write_part(self, part: str, target: Path) -> None:
        """A dataset file of one part alone, in its order. Raises OSError."""
        members, dataset = self.members(part), self.dataset
        plan = {
            name: TensorPlan(array.dtype, (len(members), *array.shape[1:]), _in_chunks(array, members))
            for name, array in (("x", dataset.x), ("y", dataset.y))
        }
        write_tensor_file(target, plan)

    def members(self, part: str) -> Array:
        """Indices of a part's samples. Raises DatasetError."""
        if part not in PARTS:
            raise DatasetError(f"part {part!r}, allowed are {', '.join(PARTS)}")
        members: Array = getattr(self._split, part)
        return members


def open_samples(path: Path, pipeline: Pipeline) -> LocalSamples:
    """Samples mapped from a data file: memory holds only what is in use. Raises DatasetError."""
    return LocalSamples(map_dataset(path), pipeline)


def check_fit(facts: DataFacts, pipeline: Pipeline) -> None:
    """Raises DatasetError unless the graph can be trained on the data."""
    check_form(facts, pipeline)
    if not pipeline.steps_per_epoch(facts.samples):
        raise DatasetError(f"{facts.samples} samples leave no batch to train on")


def check_form(facts: DataFacts, pipeline: Pipeline) -> None:
    """Raises DatasetError unless each sample is what the graph says it is."""
    if facts.sample_shape != pipeline.sample_shape:
        raise DatasetError(f"samples are shaped {facts.sample_shape}, the graph says {pipeline.sample_shape}")
    # Labels with axes of their own may be stored as either: what they mean, the graph says.
    if facts.classes > pipeline.classes and (pipeline.classes or not pipeline.target_shape):
        raise DatasetError(f"the data has {facts.classes} classes, the graph {pipeline.classes}")
    if not pipeline.target_shape and not facts.classes and pipeline.classes:
        raise DatasetError(f"the data has real-numbered targets, the graph {pipeline.classes} classes")
    if facts.target_shape != pipeline.target_shape:
        raise DatasetError(f"targets are shaped {facts.target_shape}, the graph says {pipeline.target_shape}")


def _labels(y: StoredRows) -> Array:
    """What may decide a split: labels of whole samples, in memory. Of others only the number counts."""
    return y if isinstance(y, np.ndarray) else np.broadcast_to(y.dtype.type(0), y.shape)


def _in_chunks(array: StoredRows, indices: Array) -> Iterator[Array]:
    row_bytes = max(1, array.dtype.itemsize * math.prod(array.shape[1:]))
    rows = max(1, _WRITTEN_BYTES // row_bytes)
    for begin in range(0, len(indices), rows):
        yield array.take(indices[begin : begin + rows], axis=0)


def _mix(seed: int, number: int) -> int:
    """32 bits for RandomState, different for every epoch of every seed."""
    return (seed * 2_654_435_761 + number * 40_503 + 1) % 2**32
