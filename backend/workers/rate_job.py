"""A learning-rate range test in a worker: training steps at ever higher rates, and what they lose."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from backend.datasets import Dataset, StreamedDataset, open_dataset
from backend.errors import TrainingDivergedError
from backend.fine_tuning import Start
from backend.formats.cyxmodel import read_cyxmodel
from backend.graph import Graph
from backend.pipeline import read_pipeline
from backend.rate_finder import RateRamp, as_trial, has_diverged
from backend.reports import Event, FindRate, Metrics, RatesTried, RateTried
from backend.sample_plan import RESIDENT_BYTES
from backend.samples import LocalSamples
from backend.serialize import dump_graph, load_graph
from backend.training import Trainer, TrainingConfig
from backend.workers.job import failure_of


class _EnoughError(Exception):
    """There is nothing more to try."""


class _Climb:
    """Sets the rate before each step and keeps what came of it; the trainer's control and reader."""

    def __init__(self, ramp: RateRamp, send: Callable[[Event], None]) -> None:
        self._ramp = ramp
        self._send = send
        self._losses: list[float] = []
        self.trainer: Trainer | None = None

    def before_step(self, step: int) -> None:
        if step >= self._ramp.steps or has_diverged(self._losses):
            raise _EnoughError
        if self.trainer is not None:
            self.trainer.change_rate(self._ramp.rate(step))

    def report(self, metrics: Metrics) -> None:
        """Of one step; an epoch's end is told apart by having been told of already."""
        if metrics.step == len(self._losses) + 1:
            self._losses.append(metrics.loss)
            self._send(RateTried(metrics.step - 1, self._ramp.rate(metrics.step - 1), metrics.loss))


def run_rate_search(
    command: FindRate,
    graph: bytes,
    directory: Path,
    send: Callable[[Event], None],
    resident_bytes: int = RESIDENT_BYTES,
) -> None:
    """Ends with exactly one of RatesTried and Failed."""
    try:
        dataset = open_dataset(directory / command.dataset, resident_bytes)
        send(_climb(command, load_graph(graph), dataset, directory, send))
    except Exception as error:
        send(failure_of(error))


def _climb(
    command: FindRate,
    document: Graph,
    dataset: Dataset | StreamedDataset,
    directory: Path,
    send: Callable[[Event], None],
) -> RatesTried:
    steps = read_pipeline(document).steps_per_epoch(dataset.facts.samples)
    document = as_trial(document, max(1, math.ceil(command.steps / max(1, steps))))
    samples = LocalSamples(dataset, read_pipeline(document))
    start = Start(read_cyxmodel(directory / command.start), command.start_partly) if command.start else None
    config = TrainingConfig(command.device, 1, 0.0, time.monotonic)
    climb = _Climb(RateRamp(command.lowest, command.highest, command.steps), send)
    climb.trainer = Trainer(dump_graph(document), samples, config, None, start)
    try:
        climb.trainer.run_segment(0, climb, climb.report)
    except _EnoughError:
        return RatesTried(diverged=False)
    except TrainingDivergedError:
        return RatesTried(diverged=True)
    return RatesTried(diverged=False)
