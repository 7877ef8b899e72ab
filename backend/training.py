"""The trainer: reads top to bottom what training is. Deterministic, resumable at every segment.

Everything random follows from the graph's seed and the step's number, so a checkpoint needs only
weights, optimizer state and position. Knows no process, no clock but the one it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import torch

from backend.checkpoint import capture_optimizer, capture_weights, restore_optimizer, restore_weights
from backend.compiler import compile_graph
from backend.errors import CheckpointError, DatasetError, TrainingDivergedError
from backend.evaluation import Examiner, Sums, Tally, best_memory_format
from backend.formats.cyxmodel import CyxModel, TrainingState
from backend.objective import Objective, Penalties
from backend.optimizers import build_optimizer
from backend.pipeline import read_pipeline
from backend.preparation import build_augmentation, compile_preparation
from backend.reports import Metrics
from backend.sample_plan import TEST, VALIDATION, make_schedule
from backend.samples import SampleSource, check_fit
from backend.schedules import (
    Position,
    first_plateaus,
    load_plateaus,
    observe_loss,
    rate_factor,
    save_plateaus,
)
from backend.serialize import load_graph
from backend.training_data import Batch, Layout, TrainingData

MAX_HISTORY = 10_000


class Control(Protocol):
    """What may stop a training between two steps."""

    def before_step(self, step: int) -> None:
        """Returns when step number ``step`` may run; raises to end the training."""


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """``now`` is a monotonic clock in seconds."""

    device: str
    segments: int
    report_every_s: float
    now: Callable[[], float]


class Trainer:
    """One training of one graph on one dataset."""

    def __init__(
        self, graph: bytes, samples: SampleSource, config: TrainingConfig, checkpoint: CyxModel | None = None
    ) -> None:
        """Raises GraphFormatError, GraphInvalidError, DatasetError, CheckpointError."""
        document = load_graph(graph)
        compiled = compile_graph(document)
        pipeline = read_pipeline(document)
        self._graph = graph
        self._config = config
        self._pipeline = pipeline
        self._device = torch.device(config.device)
        self._seed = pipeline.seed
        self._facts, self._notes = samples.facts, samples.notes
        self._module: torch.nn.Module = compiled.module.to(self._device)
        memory_format = best_memory_format(self._module)
        self._module.to(memory_format=memory_format)  # type: ignore[call-overload]
        check_fit(samples.facts, pipeline)
        self._schedule = make_schedule(
            pipeline, samples.facts.samples, config.segments, samples.withheld, samples.window_bytes
        )
        normalization = checkpoint.training.normalization if checkpoint else None
        layout = Layout(self._device, memory_format)
        self._data = TrainingData(samples, self._schedule, layout, pipeline, normalization)
        self.training_samples = pipeline.split_sizes(samples.facts.samples)[0]
        if config.segments > self.total_steps:
            raise DatasetError(f"{config.segments} segments of {self.total_steps} steps, at most one a step")
        self._changes = [
            build_augmentation(change) for change in pipeline.changes if change.type == "Augmentation"
        ]
        self._prepare = compile_preparation(document).to(self._device)
        self._objective = Objective(compiled, pipeline.losses)
        self._examiner = Examiner(self._module, self._prepare, self._objective, self._device)
        self._penalties = Penalties(self._module, pipeline)
        self._optimizer = build_optimizer(pipeline.optimizer, self._module.parameters())
        self._plateaus = first_plateaus(pipeline.schedules)
        self._step = 0
        self._history: list[Metrics] = []
        self._tally = Tally(self._device)
        self._reported = self._epoch_began = Sums()
        self._reported_at = -math.inf
        if checkpoint is not None:
            self._go_on_from(checkpoint)
        samples.expect(self._schedule.windows(self._step))

    # -- what it is ------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        return self._step

    @property
    def total_steps(self) -> int:
        return self._schedule.total_steps

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._module.parameters())

    def segment_end(self, segment: int) -> int:
        """The step at which a segment ends."""
        return self._schedule.segment_end(segment)

    # -- what it does ----------------------------------------------------------------------------

    def run_segment(self, segment: int, control: Control, report: Callable[[Metrics], None]) -> Metrics:
        """Trains to the end of ``segment`` and returns where that leaves it.

        Reports at the first step, then as often as configured, and at the end of each epoch. Raises
        TrainingDivergedError, and what ``control`` raises.
        """
        end = self.segment_end(segment)
        self._reported_at = -math.inf
        while self._step < end:
            for batch in self._data.training(self._step, self._schedule.epoch_end(self._step, end)):
                control.before_step(self._step)
                self._train_step(batch)
                self._report_when_due(report)
            if self._step % self._schedule.steps_per_epoch == 0:
                report(self._finish_epoch())
        return self._measure(self._epoch_began, None)

    def finish(self) -> Metrics:
        """The last point of the curve, with the accuracy on the test samples."""
        scores = self._examiner.measure(self._data.evaluation(TEST))
        final = msgspec.structs.replace(self._history[-1], test_accuracy=scores.accuracy, test=scores.heads)
        self._history[-1] = final
        return final

    def checkpoint(self, segments_done: int) -> CyxModel:
        """A model from which training goes on bit-exactly."""
        tensors, groups = capture_optimizer(self._optimizer)
        state = self._state(segments_done)
        return CyxModel(
            graph=self._graph,
            weights=capture_weights(self._module),
            training=msgspec.structs.replace(state, optimizer_groups=groups),
            history=tuple(self._history),
            optimizer=tensors,
        )

    def result(self) -> CyxModel:
        """The trained model, without what only training needs."""
        return CyxModel(
            graph=self._graph,
            weights=capture_weights(self._module),
            training=self._state(self._config.segments),
            history=tuple(self._history),
            notes=self._notes,
        )

    # -- how -------------------------------------------------------------------------------------

    def _train_step(self, batch: Batch) -> None:
        _seed_step(self._device, self._seed, self._step)
        self._set_rate()
        samples = batch.inputs
        for change in self._changes:
            samples = change(samples)
        inputs, targets = self._prepare(samples, batch.targets)
        self._optimizer.zero_grad(set_to_none=True)
        predictions = self._examiner.predict(inputs)
        loss = self._objective.loss(predictions, targets)
        self._penalties.add_to(loss).backward()  # type: ignore[no-untyped-call]
        self._penalties.limit_gradients()
        self._optimizer.step()
        self._tally.add(loss, self._objective.judge(predictions, targets), len(batch.targets))
        self._step += 1

    def _set_rate(self) -> None:
        schedules = self._pipeline.schedules
        if not schedules:
            return
        position = Position(self._step, self._schedule.steps_per_epoch, self.total_steps)
        factor = rate_factor(schedules, position, self._plateaus)
        for group in self._optimizer.param_groups:
            group["lr"] = self._pipeline.optimizer.parameters["learning_rate"] * factor

    def _report_when_due(self, report: Callable[[Metrics], None]) -> None:
        now = self._config.now()
        elapsed_s = now - self._reported_at
        if elapsed_s < self._config.report_every_s:
            return
        since = self._reported
        self._reported, self._reported_at = self._tally.read(), now
        rate = (self._reported.samples - since.samples) / elapsed_s
        report(self._measure(since, rate if math.isfinite(elapsed_s) else None))

    def _finish_epoch(self) -> Metrics:
        """Adds a point with the epoch's means and its validation to the history."""
        metrics = self._measure(self._epoch_began, None)
        self._epoch_began = self._tally.read()
        scores = self._examiner.measure(self._data.evaluation(VALIDATION))
        metrics = msgspec.structs.replace(
            metrics,
            validation_loss=scores.loss,
            validation_accuracy=scores.accuracy,
            validation=scores.heads,
        )
        watched = scores.loss if scores.loss is not None else metrics.loss
        self._plateaus = observe_loss(self._pipeline.schedules, self._plateaus, watched)
        self._history = [*_briefer(self._history), metrics][-MAX_HISTORY:]
        return metrics

    def _measure(self, since: Sums, samples_per_s: float | None) -> Metrics:
        """Means over what was trained after ``since``. Raises TrainingDivergedError."""
        now = self._tally.read()
        samples = now.samples - since.samples
        if not samples:
            return self._history[-1]
        loss = (now.loss - since.loss) / samples
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {loss} at step {self._step}: a lower learning rate may help"
            )
        return Metrics(
            step=self._step,
            total_steps=self.total_steps,
            epoch=(self._step - 1) // self._schedule.steps_per_epoch,
            loss=loss,
            accuracy=self._examiner.accuracy(since, now),
            learning_rate=float(self._optimizer.param_groups[0]["lr"]),
            samples_per_s=samples_per_s,
        )

    def _state(self, segments_done: int) -> TrainingState:
        return TrainingState(
            step=self._step,
            total_steps=self.total_steps,
            segments=self._config.segments,
            segments_done=segments_done,
            seed=self._seed,
            samples=self._facts.samples,
            sample_shape=self._facts.sample_shape,
            classes=self._facts.classes,
            normalization=self._data.normalization,
            schedule=save_plateaus(self._plateaus),
        )

    def _go_on_from(self, checkpoint: CyxModel) -> None:
        found = checkpoint.training
        self._step = found.step
        expected = self._state(found.segments_done)
        if checkpoint.graph != self._graph:
            raise CheckpointError("the checkpoint is of another graph")
        if msgspec.structs.replace(found, optimizer_groups=[], schedule=expected.schedule) != expected:
            raise CheckpointError(
                "the checkpoint is of other data, another seed or another cut into segments"
            )
        if found.segments_done < 1 or self.segment_end(found.segments_done - 1) != found.step:
            raise CheckpointError(f"the checkpoint stands at step {found.step}, not at the end of a segment")
        if checkpoint.optimizer is None:
            raise CheckpointError("the checkpoint holds no optimizer state")
        restore_weights(self._module, checkpoint.weights)
        restore_optimizer(self._optimizer, checkpoint.optimizer, found.optimizer_groups)
        try:
            self._plateaus = load_plateaus(self._pipeline.schedules, found.schedule)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError("the checkpoint holds another state of the schedules") from error
        self._history = list(checkpoint.history)


def _briefer(history: list[Metrics]) -> list[Metrics]:
    """Confusions are kept of the newest point alone."""
    if not history or not any(head.confusion for head in history[-1].validation):
        return history
    heads = tuple(msgspec.structs.replace(head, confusion=()) for head in history[-1].validation)
    return [*history[:-1], msgspec.structs.replace(history[-1], validation=heads)]


def _seed_step(device: torch.device, seed: int, step: int) -> None:
    """Makes what a step draws, such as dropout masks, a function of seed and step alone."""
    mixed = (seed * 6_364_136_223_846_793_005 + step * 1_442_695_040_888_963_407 + 1) % 2**63
    torch.default_generator.manual_seed(mixed)
    if device.type == "cuda":
        torch.cuda.manual_seed(mixed)
