"""Training in this process, for scripts and notebooks: a graph and data in, a model and its history out.

The same trainer that a worker process runs, so the same weights come out, and a checkpoint from here goes on
there. No sandbox: for graphs and data of one's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from backend.datasets import DataFacts, Dataset, load_dataset
from backend.errors import DatasetError, GraphInvalidError
from backend.formats.cyxmodel import CyxModel
from backend.formats.tensors import Array
from backend.graph import Graph
from backend.pipeline import read_pipeline
from backend.reports import Metrics
from backend.samples import LocalSamples
from backend.serialize import dump_graph, load_graph
from backend.training import Trainer, TrainingConfig
from backend.validate import Severity, diagnose

Data = Path | str | tuple[Array, Array]
Listener = Callable[[Metrics], "bool | None"]


@dataclass(frozen=True, slots=True)
class Fitted:
    """``model`` can be written with ``write_cyxmodel``."""

    model: CyxModel
    history: tuple[Metrics, ...]
    """A point for each epoch; the last one also has the test samples."""


def fit(
    graph: Graph | Path,
    data: Data,
    *,
    on_batch: Listener | None = None,
    on_epoch: Listener | None = None,
    on_end: Listener | None = None,
    device: str = "cpu",
    checkpoint: CyxModel | None = None,
) -> Fitted:
    """Trains to the end, or until a listener returns False.

    ``data`` is a file or folder that ``cyxwiz data`` can read, ``bundled:NAME``, or arrays (x, y) of samples
    and their labels. ``on_batch`` hears of each step, with the means of its batch; ``on_epoch`` of each
    epoch, with its validation; ``on_end`` of the last point, with the test samples.

    Raises GraphFormatError, GraphInvalidError, DatasetError, CheckpointError, TrainingDivergedError.
    """
    document = load_graph(graph.read_bytes()) if isinstance(graph, Path) else graph
    samples = _samples(document, data)
    config = TrainingConfig(device, 1, 0.0 if on_batch else 1e9, time.monotonic, may_stop=True)
    trainer = Trainer(dump_graph(document), samples, config, checkpoint)
    listening = _Listening(trainer, on_batch, on_epoch)
    try:
        trainer.run_segment(0, listening, listening.hear)
    except _Enough:
        if not trainer.history:
            return Fitted(trainer.result(), ())
    final = trainer.finish()
    if on_end is not None:
        on_end(final)
    model = trainer.result()
    return Fitted(model, model.history)


class _Enough(Exception):
    """A listener wants no more."""


class _Listening:
    """Tells batches from epochs, and ends the training between two steps."""

    def __init__(self, trainer: Trainer, on_batch: Listener | None, on_epoch: Listener | None) -> None:
        self._trainer = trainer
        self._on_batch, self._on_epoch = on_batch, on_epoch
        self._is_enough = False

    def before_step(self, step: int) -> None:
        if self._is_enough:
            raise _Enough

    def hear(self, metrics: Metrics) -> None:
        history = self._trainer.history
        ended = bool(history) and history[-1].step == metrics.step
        listener = self._on_epoch if ended else self._on_batch
        if listener is not None and listener(metrics) is False:
            self._is_enough = True


def _samples(document: Graph, data: Data) -> LocalSamples:
    pipeline = read_pipeline(document)
    dataset = _dataset(data, pipeline.classes)
    errors = tuple(each for each in diagnose(document, dataset.facts) if each.severity is Severity.ERROR)
    if errors:
        raise GraphInvalidError(errors)
    return LocalSamples(dataset, pipeline)


def _dataset(data: Data, classes: int) -> Dataset:
    if not isinstance(data, tuple):
        from backend.readers import convert

        with TemporaryDirectory() as folder:
            file = Path(folder) / "data.safetensors"
            convert(data, file)
            return load_dataset(file)
    x, y = (_numbers(each) for each in data)
    if len(x) != len(y) or not len(x):
        raise DatasetError(f"{len(x)} samples and {len(y)} labels, must be as many and at least one")
    if classes and not np.array_equal(y, np.floor(y)):
        raise DatasetError(f"labels are {y.dtype}, classes are whole numbers")
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    y = y.astype(np.int64 if classes else np.float32)
    if classes and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise DatasetError(f"labels from {y.min()} to {y.max()}, the graph has classes 0 to {classes - 1}")
    stored = int(y.max()) + 1 if classes and y.ndim == 1 else 0
    return Dataset(x, y, DataFacts(len(x), x.shape[1:], str(x.dtype), stored, y.shape[1:]))


def _numbers(given: Array) -> Array:
    """Raises DatasetError for anything else, and for what float32 cannot hold."""
    found: Array = np.ascontiguousarray(given)
    if found.dtype.kind not in "fiub":
        raise DatasetError(f"{found.dtype} is no array of numbers")
    if found.dtype.kind == "f" and not (np.abs(found) <= np.finfo(np.float32).max).all():
        raise DatasetError("holds NaN, infinity or a number that float32 cannot hold")
    return found
