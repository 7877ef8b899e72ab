"""From a dataset and a graph's data nodes to normalized batches on a device, in a fixed order.

Samples stay as they were read; each window of batches is gathered, normalized and laid out at once.
The order of epoch e follows from seed and e alone, so any step can be gone on from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from backend.datasets import DataFacts, Dataset, Scaling, Split, mean_std_scaling, range_scaling, split
from backend.errors import DatasetError
from backend.formats.cyxmodel import Normalization
from backend.formats.tensors import Array
from backend.pipeline import Pipeline

_WINDOW_BYTES = 32 << 20
_EVALUATION_BATCH = 512


@dataclass(frozen=True, slots=True)
class Batch:
    inputs: torch.Tensor
    targets: torch.Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """Where and how batches are wanted."""

    device: torch.device
    memory_format: torch.memory_format = torch.contiguous_format


class TrainingData:
    """The three parts of a dataset as tensors."""

    def __init__(
        self,
        dataset: Dataset,
        pipeline: Pipeline,
        layout: Layout,
        normalization: Normalization | None = None,
    ) -> None:
        """``normalization`` of a checkpoint is used as it is. Raises DatasetError."""
        self.pipeline = pipeline
        self._layout = layout
        _check_fit(dataset.facts, pipeline)
        _, validation, test = pipeline.split_sizes(dataset.facts.samples)
        self._split = split(dataset.y, validation, test, pipeline.split_seed, stratified=pipeline.stratified)
        self.steps_per_epoch = pipeline.steps_per_epoch(dataset.facts.samples)
        if not self.steps_per_epoch:
            raise DatasetError(f"{dataset.facts.samples} samples leave no batch to train on")
        scaling = _scaling(dataset, self._split, pipeline, normalization)
        self.normalization = _saved(scaling)
        self._x = torch.from_numpy(dataset.x).to(layout.device)
        self._y = torch.from_numpy(dataset.y).to(layout.device)
        self._offset, self._factor = _tensors(scaling, dataset.x.ndim, layout.device)

    @property
    def training_samples(self) -> int:
        return len(self._split.train)

    def part(self, name: str) -> Array:
        """Indices of the samples of ``train``, ``validation`` or ``test``."""
        indices: Array = getattr(self._split, name)
        return indices

    def epoch(self, number: int, seed: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``first_batch`` on."""
        order = self._split.train
        if self.pipeline.shuffle:
            order = order[np.random.RandomState(_mix(seed, number)).permutation(len(order))]
        used = min(len(order), self.steps_per_epoch * self.pipeline.batch_size)
        yield from self._batches(order[:used], self.pipeline.batch_size, first_batch)

    def evaluation(self, part: str) -> Iterator[Batch]:
        yield from self._batches(self.part(part), _EVALUATION_BATCH, 0)

    def _batches(self, order: Array, size: int, first: int) -> Iterator[Batch]:
        bytes_per_batch = size * 4 * max(1, self._x[0].numel())
        window = size * max(1, _WINDOW_BYTES // bytes_per_batch)
        for begin in range(first * size, len(order), window):
            whole = self._gather(order[begin : begin + window])
            for at in range(0, len(whole.targets), size):
                yield Batch(whole.inputs[at : at + size], whole.targets[at : at + size])

    def _gather(self, indices: Array) -> Batch:
        chosen = torch.from_numpy(indices).to(self._layout.device)
        inputs = self._x.index_select(0, chosen).float()
        if self._offset is not None and self._factor is not None:
            inputs = inputs.sub_(self._offset).mul_(self._factor)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=self._layout.memory_format)
        return Batch(inputs, self._y.index_select(0, chosen))


def _check_fit(facts: DataFacts, pipeline: Pipeline) -> None:
    """Raises DatasetError unless the data is what the graph says it is."""
    if facts.sample_shape != pipeline.sample_shape:
        raise DatasetError(f"samples are shaped {facts.sample_shape}, the graph says {pipeline.sample_shape}")
    if facts.classes > pipeline.classes:
        raise DatasetError(f"the data has {facts.classes} classes, the graph {pipeline.classes}")
    if not facts.classes and pipeline.classes:
        raise DatasetError(f"the data has real-numbered targets, the graph {pipeline.classes} classes")
    if not facts.classes and facts.target_shape != pipeline.target_shape:
        raise DatasetError(f"targets are shaped {facts.target_shape}, the graph says {pipeline.target_shape}")


def _scaling(
    dataset: Dataset, parts: Split, pipeline: Pipeline, normalization: Normalization | None
) -> Scaling | None:
    if normalization is not None:
        channels = dataset.facts.sample_shape[0]
        if {len(normalization.offset), len(normalization.factor)} != {channels}:
            raise DatasetError(f"normalization of {len(normalization.offset)} channels, data has {channels}")
        return scaling_of(normalization)
    match pipeline.normalization:
        case "mean_std":
            return mean_std_scaling(dataset.x[parts.train])
        case "scale":
            return range_scaling(dataset.x[parts.train])
        case _:
            return None


def scaling_of(normalization: Normalization) -> Scaling:
    return Scaling(np.array(normalization.offset, np.float32), np.array(normalization.factor, np.float32))


def _saved(scaling: Scaling | None) -> Normalization | None:
    if scaling is None:
        return None
    return Normalization(tuple(scaling.offset.tolist()), tuple(scaling.factor.tolist()))


def _tensors(
    scaling: Scaling | None, rank: int, device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if scaling is None:
        return None, None
    shape = (1, -1, *(1,) * (rank - 2))
    offset = torch.from_numpy(scaling.offset).reshape(shape).to(device)
    return offset, torch.from_numpy(scaling.factor).reshape(shape).to(device)


def _mix(seed: int, number: int) -> int:
    """32 bits for RandomState, different for every epoch of every seed."""
    return (seed * 2_654_435_761 + number * 40_503 + 1) % 2**32
