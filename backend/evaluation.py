"""How good a model is on samples: the same sums wherever they are taken, by a training or after it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from backend.balance import with_class_weights
from backend.checkpoint import restore_weights
from backend.compiler import compile_graph
from backend.datasets import DataFacts, Dataset, Scaling, StreamedDataset
from backend.errors import ArchiveError
from backend.facts import DataNotes
from backend.formats.cyxmodel import CyxModel
from backend.metrics import HeadTallies
from backend.numerics import has_images
from backend.objective import Objective
from backend.pipeline import read_pipeline
from backend.preparation import compile_preparation
from backend.reports import HeadMetrics
from backend.sample_plan import TEST, Schedule, Window
from backend.samples import LOCAL_WINDOW_BYTES, Rows, check_form
from backend.serialize import load_graph
from backend.stepper import as_tuple
from backend.tally import Sums, Tally
from backend.training_data import Batch, Layout, TrainingData


@dataclass(frozen=True, slots=True)
class Scores:
    """None for what the samples cannot tell."""

    loss: float | None
    accuracy: float | None
    samples: int
    heads: tuple[HeadMetrics, ...] = ()


@dataclass(frozen=True, slots=True)
class Examiner:
    """A model, what comes before it, and what its predictions are held against."""

    module: torch.nn.Module
    prepare: torch.nn.Module
    objective: Objective
    device: torch.device

    def measure(self, batches: Iterable[Batch]) -> Scores:
        """Leaves the module in training mode."""
        tally, heads = Tally(self.device), HeadTallies(self.objective, self.device)
        self.module.eval()
        with torch.inference_mode():
            for batch in batches:
                inputs, targets = self.prepare(batch.inputs, batch.targets)
                predictions = as_tuple(self.module(*inputs))
                losses = self.objective.losses(predictions, targets)
                judged = self.objective.judge(predictions, targets)
                tally.add(self.objective.weighted(losses), judged, len(batch.targets))
                heads.add(losses, predictions, targets)
        self.module.train()
        sums = tally.read()
        if not sums.samples:
            return Scores(None, None, 0)
        loss_mean = sums.loss / sums.samples
        finite = loss_mean if math.isfinite(loss_mean) else None
        return Scores(finite, accuracy_of(self.objective, Sums(), sums), sums.samples, heads.read())


def accuracy_of(objective: Objective, since: Sums, now: Sums) -> float | None:
    """None where there are no classes to be right about."""
    if not objective.counts_correct:
        return None
    return (now.correct - since.correct) / max(1, now.places - since.places)


def evaluate(model: CyxModel, dataset: Dataset | StreamedDataset, device_name: str) -> Scores:
    """Of all samples in their order, with the normalization that the model was trained with.

    Raises GraphFormatError, GraphInvalidError, DatasetError, CheckpointError, ArchiveError.
    """
    document = load_graph(model.graph)
    pipeline = read_pipeline(document)
    check_form(dataset.facts, pipeline)
    if (pipeline.normalization == "none") != (model.training.normalization is None):
        raise ArchiveError(f"model's normalization does not fit its graph's {pipeline.normalization!r}")
    losses = with_class_weights(pipeline.losses, model.training.class_weights)
    compiled = compile_graph(document)
    device = torch.device(device_name)
    module: torch.nn.Module = compiled.module.to(device)
    memory_format = torch.channels_last if has_images(module) else torch.contiguous_format
    module.to(memory_format=memory_format)  # type: ignore[call-overload]
    restore_weights(module, model.weights)
    size = max(1, LOCAL_WINDOW_BYTES // (4 * math.prod(dataset.x.shape[1:])))
    schedule = Schedule(0, 0, len(dataset.x), 1, 1, 0, 1, size)
    layout = Layout(device, memory_format)
    data = TrainingData(_PartAlone(dataset), schedule, layout, pipeline, model.training.normalization)
    prepare = compile_preparation(document).to(device)
    examiner = Examiner(module, prepare, Objective(compiled, losses), device)
    return examiner.measure(data.evaluation(TEST))


class _PartAlone:
    """A ``SampleSource`` of a file that holds nothing but the samples of one part, in its order."""

    withheld: Collection[str] = ()
    window_bytes = LOCAL_WINDOW_BYTES

    def __init__(self, dataset: Dataset | StreamedDataset) -> None:
        self._dataset = dataset

    @property
    def facts(self) -> DataFacts:
        return self._dataset.facts

    @property
    def notes(self) -> DataNotes:
        return self._dataset.notes

    def scaling(self, method: str) -> Scaling | None:
        return None

    def expect(self, windows: Iterator[Window]) -> None:
        """Nothing to prepare."""

    def gather(self, window: Window) -> Rows:
        rows = np.arange(window.first, window.first + window.count)
        return self._dataset.x.take(rows, axis=0), self._dataset.y.take(rows, axis=0)
