"""From samples and a graph's data nodes to normalized batches on a device, in a fixed order.

Samples stay as they were read; each window of batches is gathered, normalized and laid out at once.
Which window comes when is ``backend.sample_plan``; where its samples come from, a ``SampleSource``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from backend.datasets import Dataset, Scaling
from backend.errors import DatasetError
from backend.formats.cyxmodel import Normalization
from backend.pipeline import Pipeline
from backend.sample_plan import EVALUATION_BATCH, Schedule, Window
from backend.samples import LocalSamples, SampleSource

_CACHED_VALUES = 1 << 18


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
    """The batches of one training."""

    def __init__(
        self,
        samples: SampleSource,
        schedule: Schedule,
        layout: Layout,
        pipeline: Pipeline,
        normalization: Normalization | None = None,
    ) -> None:
        """``normalization`` comes from a checkpoint; without it the graph says how. Raises DatasetError."""
        self._schedule = schedule
        self._layout = layout
        self._vocabulary, self._classes = pipeline.vocabulary, pipeline.classes
        scaling = _scaling(samples, pipeline.normalization, normalization)
        self.normalization = _saved(scaling)
        self._rows = _rows_on_device(samples, layout.device)
        rank = 1 + len(samples.facts.sample_shape)
        self._offset, self._factor = scaling_tensors(scaling, rank, layout.device)

    def training(self, step: int, end: int) -> Iterator[Batch]:
        """The batches of the steps from ``step`` to ``end``, both in one epoch."""
        for window in self._schedule.training_windows(step, end):
            yield from self._batches(window, self._schedule.batch_size)

    def evaluation(self, part: str) -> Iterator[Batch]:
        for window in self._schedule.evaluation_windows(part):
            yield from self._batches(window, EVALUATION_BATCH)

    def _batches(self, window: Window, size: int) -> Iterator[Batch]:
        x, y = self._rows(window)
        if self._vocabulary:
            check_names(x, self._vocabulary, "samples")
        if self._classes:
            check_names(y, self._classes, "labels")
        together = self._rows_together(x, size)
        for begin in range(0, len(y), together):
            ready = self._normalized(x[begin : begin + together], y[begin : begin + together])
            for at in range(0, len(ready.targets), size):
                yield Batch(ready.inputs[at : at + size], ready.targets[at : at + size])

    def _rows_together(self, x: torch.Tensor, size: int) -> int:
        """Whole batches that are normalized at once: on a CPU as many as stay in its cache."""
        if self._layout.device.type != "cpu":
            return max(size, len(x))
        return size * max(1, _CACHED_VALUES // max(1, size * x[0].numel()))

    def _normalized(self, x: torch.Tensor, y: torch.Tensor) -> Batch:
        """``x`` is this window's own and may be written to."""
        inputs = x.float()
        if self._offset is not None and self._factor is not None:
            inputs = inputs.sub_(self._offset).mul_(self._factor)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=self._layout.memory_format)
        return Batch(inputs, y)


class _ResidentRows:
    """All samples on the device, where windows are gathered."""

    def __init__(self, samples: LocalSamples, dataset: Dataset, device: torch.device) -> None:
        self._samples = samples
        self._device = device
        self._x = torch.from_numpy(dataset.x).to(device)
        self._y = torch.from_numpy(dataset.y).to(device)

    def __call__(self, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.from_numpy(self._samples.indices(window)).to(self._device)
        return self._x.index_select(0, chosen), self._y.index_select(0, chosen)


class _GatheredRows:
    """Windows that are gathered elsewhere and moved to the device one by one."""

    def __init__(self, samples: SampleSource, device: torch.device) -> None:
        self._samples = samples
        self._device = device

    def __call__(self, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self._samples.gather(window)
        return torch.from_numpy(x).to(self._device), torch.from_numpy(y).to(self._device)


def _rows_on_device(samples: SampleSource, device: torch.device) -> _ResidentRows | _GatheredRows:
    if isinstance(samples, LocalSamples):
        dataset = samples.dataset
        if isinstance(dataset, Dataset) and not isinstance(dataset.x, np.memmap):
            return _ResidentRows(samples, dataset, device)
    return _GatheredRows(samples, device)


def check_names(values: torch.Tensor, below: int, what: str) -> None:
    """Raises DatasetError unless all are whole numbers from 0 to below ``below``.

    A device that looks up one that is not there ends the process, so they are looked at first.
    """
    low, high = float(values.min()), float(values.max())
    if low < 0 or high >= below:
        raise DatasetError(f"{what} from {low:g} to {high:g}, the graph allows 0 to {below - 1}")
    if values.is_floating_point() and not bool((values == values.floor()).all()):
        raise DatasetError(f"{what} that are no whole numbers, the graph says they name one of {below}")


def _scaling(samples: SampleSource, method: str, normalization: Normalization | None) -> Scaling | None:
    if normalization is None:
        return samples.scaling(method)
    channels = samples.facts.sample_shape[0]
    if {len(normalization.offset), len(normalization.factor)} != {channels}:
        raise DatasetError(f"normalization of {len(normalization.offset)} channels, data has {channels}")
    return scaling_of(normalization)


def scaling_of(normalization: Normalization) -> Scaling:
    return Scaling(np.array(normalization.offset, np.float32), np.array(normalization.factor, np.float32))


def _saved(scaling: Scaling | None) -> Normalization | None:
    if scaling is None:
        return None
    return Normalization(tuple(scaling.offset.tolist()), tuple(scaling.factor.tolist()))


def scaling_tensors(
    scaling: Scaling | None, rank: int, device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if scaling is None:
        return None, None
    shape = (1, -1, *(1,) * (rank - 2))
    offset = torch.from_numpy(scaling.offset).reshape(shape).to(device)
    return offset, torch.from_numpy(scaling.factor).reshape(shape).to(device)
