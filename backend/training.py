"""The trainer: reads top to bottom what training is. Deterministic, resumable between any two steps.

Everything random follows from the graph's seed and the step's number, so a checkpoint needs only
weights, optimizer state, position and how it computes. Knows no process, no clock but the one it is given.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import msgspec
import torch
from torch import fx

from backend.activity import Watcher
from backend.balance import find_class_weights, with_class_weights
from backend.blame import Culprit, culprit_of_update, find_culprit, first_bad_gradient
from backend.checkpoint import capture_weights, restore_weights
from backend.compiler import compile_graph
from backend.distributed import Ranks
from backend.errors import DatasetError, TrainingDivergedError
from backend.estimate import BACKWARD_FACTOR, Estimate, estimate
from backend.evaluation import Examiner, accuracy_of
from backend.fine_tuning import Start, scaling_of, take_weights
from backend.formats.cyxmodel import CyxModel, TrainingState
from backend.formats.tensors import Array
from backend.lora import merge_adapters
from backend.numerics import Choice, Work, choose, describe, recorded, standard
from backend.objective import Objective, Penalties
from backend.pipeline import read_pipeline
from backend.preparation import build_augmentations, compile_preparation
from backend.rates import Rates
from backend.reports import Metrics, Watched
from backend.sample_plan import TEST, VALIDATION, make_schedule
from backend.samples import LocalSamples, SampleSource, check_fit
from backend.schedules import Position
from backend.serialize import load_graph
from backend.stepper import Parts, Stepper, Turn, memory_format_of
from backend.stopping import Watch, is_over, observe
from backend.tally import Sums, Tally
from backend.training_data import Batch, Layout, TrainingData
from backend.training_state import Standing, capture, check_belongs, check_fits_file, put_back, told
from backend.validate import Severity, diagnose

MAX_HISTORY = 10_000
MAX_REMEMBERED_BYTES = 256 << 20
"""State of up to this size is kept at each epoch's end, to go back to when a step goes wrong."""
SOUND_BATCHES = 8
"""From as many follows which loss is usual for sound weights."""


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
    may_stop: bool = False
    """Whether it ends early when the graph says so."""
    ranks: Ranks | None = None
    """The other processes that train the same model; each computes a part of every batch."""
    watch_every_s: float | None = None
    """How often ``watched`` is told what goes on at the nodes; never where there are ranks."""
    watched: Callable[[Watched], None] = lambda found: None


class Trainer:
    """One training of one graph on one dataset."""

    def __init__(
        self,
        graph: bytes,
        samples: SampleSource,
        config: TrainingConfig,
        checkpoint: CyxModel | None = None,
        start: Start | None = None,
    ) -> None:
        """Begins with the weights of ``start``, unless it goes on from a checkpoint.

        Raises GraphFormatError, GraphInvalidError, DatasetError, CheckpointError.
        """
        document = load_graph(graph)
        compiled = compile_graph(document, for_training=True)
        self._warnings = [str(each) for each in diagnose(document) if each.severity is Severity.WARNING]
        pipeline = read_pipeline(document)
        self._graph = graph
        self._config = config
        self._pipeline = pipeline
        self._device = torch.device(config.device)
        self._facts, self._notes = samples.facts, samples.notes
        check_fit(samples.facts, pipeline)
        self._schedule = make_schedule(
            pipeline, samples.facts.samples, config.segments, samples.withheld, samples.window_bytes
        )
        self.training_samples = pipeline.split_sizes(samples.facts.samples)[0]
        if config.segments > self.total_steps:
            raise DatasetError(f"{config.segments} segments of {self.total_steps} steps, at most one a step")
        self._module: torch.nn.Module = compiled.module.to(self._device)
        start = start if checkpoint is None else None
        self._taken = take_weights(self._module, start) if start is not None else None
        if config.ranks is not None:
            self._module = config.ranks.prepare(self._module, self._device)
        self._class_weights = (
            find_class_weights(pipeline, samples) if checkpoint is None else checkpoint.training.class_weights
        )
        self._objective = Objective(compiled, with_class_weights(pipeline.losses, self._class_weights))
        self._parts = Parts(
            module=self._module,
            prepare=compile_preparation(document).to(self._device),
            changes=build_augmentations(pipeline),
            objective=self._objective,
            penalties=Penalties(self._module, pipeline),
            optimizer=pipeline.optimizer,
            device=self._device,
            seed=pipeline.seed,
        )
        size = estimate(document, samples.facts.samples, samples.facts.sample_shape)
        check_fits_file(size, config.segments)
        self.choice = self._choose(size, checkpoint)
        self._stepper = Stepper(self._parts, self.choice.numerics, config.ranks)
        self._examiner = Examiner(self._module, self._parts.prepare, self._objective, self._device)
        self._data = TrainingData(
            samples,
            self._schedule,
            Layout(self._device, memory_format_of(self.choice.numerics)),
            pipeline,
            checkpoint.training.normalization if checkpoint else scaling_of(start, pipeline),
        )
        self._watcher = self._watch_with(config)
        self._can_look_back = isinstance(samples, LocalSamples) and config.ranks is None
        self._state_bytes = size.checkpoint_bytes
        self._control: Control = _Unhindered()
        self._rates = Rates(pipeline, self._stepper)
        self._watch = Watch()
        self._best: Mapping[str, Array] | None = None
        self._step = 0
        self._has_looked = False
        self._history: list[Metrics] = []
        self._tally = Tally(self._device)
        self._reported = Sums()
        self._reported_at = -math.inf
        if checkpoint is not None:
            check_belongs(checkpoint, graph, self._state(0), self._schedule)
            self._stand_as(put_back(checkpoint, self._stepper, pipeline), checkpoint.training.learning_rate)
        self._remembered = self._remember()
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

    @property
    def history(self) -> Sequence[Metrics]:
        """A point for each epoch."""
        return self._history

    @property
    def notes(self) -> tuple[str, ...]:
        """For people: how it computes, and what the graph asks for that cannot be had."""
        found = [describe(self.choice), *(self._taken.notes() if self._taken else ())]
        if self._config.ranks is not None:
            found.append(self._config.ranks.note(self._device))
        trained = sum(each.numel() for each in self._module.parameters() if each.requires_grad)
        if trained != self.parameters:
            found.append(f"{trained} of {self.parameters} parameters are trained")
            if self._taken is None and not self._step:
                found.append("the others stay random: begin with the weights of a model")
        found += self._warnings
        pipeline = self._pipeline
        if (pipeline.patience or pipeline.keep_best) and not self._schedule.validation:
            found.append(
                "the validation samples are not here: it trains all epochs and keeps the weights of the last"
            )
        elif pipeline.patience and not self._config.may_stop:
            found.append(f"patience {pipeline.patience} does not end it early: all its steps are paid for")
        return tuple(found)

    @property
    def is_over(self) -> bool:
        """At its last step, or stopped early."""
        early = self._config.may_stop and is_over(self._watch, self._pipeline.patience)
        return self._step == self.total_steps or early

    def segment_end(self, segment: int) -> int:
        """The step at which a segment ends."""
        return self._schedule.segment_end(segment)

    @property
    def _is_at_epoch_end(self) -> bool:
        return self._step % self._schedule.steps_per_epoch == 0

    # -- what it does ----------------------------------------------------------------------------

    def run_segment(self, segment: int, control: Control, report: Callable[[Metrics], None]) -> Metrics:
        """Trains to the end of ``segment``, or until it is over, and returns where that leaves it.

        Reports at the first step, then as often as configured, and at the end of each epoch. Raises
        TrainingDivergedError, and what ``control`` raises.
        """
        end, self._control = self.segment_end(segment), control
        self._reported_at = -math.inf
        if self._step and self._is_at_epoch_end and self._tally.read().samples:
            self._report_epoch(report)
        while self._step < end and not self.is_over:
            for batch in self._data.training(self._step, self._schedule.epoch_end(self._step, end)):
                control.before_step(self._step)
                self._train_step(batch)
                self._report_when_due(report)
            if self._is_at_epoch_end:
                self._report_epoch(report)
        return self._measure(Sums(), None)

    def change_rate(self, rate: float) -> None:
        """From the next step on; what schedules there are go on multiplying it."""
        self._rates.change(self._step, rate)

    def finish(self) -> Metrics:
        """The last point of the curve, with how the weights that are kept do on the test samples."""
        if self._best is not None and self._watch.best_step != self._step:
            restore_weights(self._module, self._best)
        scores = self._examiner.measure(self._data.evaluation(TEST))
        final = msgspec.structs.replace(self._history[-1], test_accuracy=scores.accuracy, test=scores.heads)
        self._history[-1] = final
        return final

    def checkpoint(self, segments_done: int | None = None) -> CyxModel:
        """A model from which training goes on bit-exactly; by default with the segments that are done."""
        done = self._schedule.segments_done(self._step) if segments_done is None else segments_done
        return capture(self._graph, self._stepper, self._standing(), self._state(done))

    def last_good(self) -> CyxModel | None:
        """A checkpoint of the newest state that is known to be sound; None where it is too large to keep."""
        return self._remembered

    def result(self) -> CyxModel:
        """The trained model, without what only training needs."""
        return CyxModel(
            graph=self._graph,
            weights=merge_adapters(self._module, capture_weights(self._module)),
            training=told(self._state(self._config.segments), self._standing()),
            history=tuple(self._history),
            notes=self._notes,
        )

    # -- how -------------------------------------------------------------------------------------

    def _train_step(self, batch: Batch) -> None:
        if not self._has_looked:  # Targets of another kind show in the first batch.
            self._objective.check_targets(self._stepper.inputs_of(batch, self._step)[1])
            self._has_looked = True
        turn = self._turn(len(batch.targets))
        watcher = self._watcher if self._watcher is not None and self._watcher.is_due else None
        outcome = self._stepper.forward(batch, self._step, watcher.run if watcher is not None else None)
        if turn.is_last:
            self._rates.follow_schedules(self._position())
        whole = self._stepper.over_all(outcome, len(batch.targets))
        loss = self._tally.add(whole.loss, whole.judged, len(batch.targets))
        if loss is not None and not math.isfinite(loss):
            self._explain(f"the loss is {loss}", batch)
        self._stepper.backward(outcome, turn)
        if watcher is not None:
            self._config.watched(Watched(step=self._step, nodes=watcher.activity()))
        self._update(turn)

    def _watch_with(self, config: TrainingConfig) -> Watcher | None:
        if config.watch_every_s is None or config.ranks is not None:
            return None
        module = self._stepper.module
        return (
            Watcher(module, config.watch_every_s, config.now) if isinstance(module, fx.GraphModule) else None
        )

    def _update(self, turn: Turn) -> None:
        if turn.is_last:
            self._stepper.update()
        self._step += 1

    def _turn(self, samples: int) -> Turn:
        """Of the batch at this step, among those that make one step of the optimizer."""
        count = self._pipeline.accumulate
        if count == 1:
            return _ALONE
        number = self._step % self._schedule.steps_per_epoch
        first = number - number % count
        together = self._schedule.samples_between(first, first + count)
        is_last = number + 1 in (first + count, self._schedule.steps_per_epoch)
        return Turn(samples / together, number == first, is_last)

    def _position(self) -> Position:
        return Position(self._step, self._schedule.steps_per_epoch, self.total_steps)

    def _report_when_due(self, report: Callable[[Metrics], None]) -> None:
        now = self._config.now()
        elapsed_s = now - self._reported_at
        if elapsed_s < self._config.report_every_s:
            return
        metrics = self._measure(self._reported, self._rate(elapsed_s))
        self._reported, self._reported_at = self._tally.read(), now
        report(metrics)

    def _report_epoch(self, report: Callable[[Metrics], None]) -> None:
        """An epoch may be shorter than the time between two reports; its validation does not slow it."""
        rate = self._rate(self._config.now() - self._reported_at)
        report(msgspec.structs.replace(self._finish_epoch(), samples_per_s=rate))

    def _rate(self, elapsed_s: float) -> float | None:
        """Samples a second since the last report; None where no time has passed."""
        if not 0 < elapsed_s < math.inf:
            return None
        return (self._tally.read().samples - self._reported.samples) / elapsed_s

    def _finish_epoch(self) -> Metrics:
        """Adds a point with the epoch's means and its validation to the history."""
        metrics = self._measure(Sums(), None)
        if culprit_of_update(self._module) is not None:
            self._explain("the weights are no numbers")
        scores = self._examiner.measure(self._data.evaluation(VALIDATION))
        metrics = msgspec.structs.replace(
            metrics,
            validation_loss=scores.loss,
            validation_accuracy=scores.accuracy,
            validation=scores.heads,
        )
        watched = metrics.loss
        if self._schedule.validation:
            self._observe(scores.loss)
            watched = scores.loss if scores.loss is not None else math.nan
        self._rates.observe(watched)
        self._history = [*_briefer(self._history), metrics][-MAX_HISTORY:]
        self._tally, self._reported = Tally(self._device), Sums()
        self._reported_at = self._config.now()
        self._remembered = self._remember()
        return metrics

    def _observe(self, validation_loss: float | None) -> None:
        self._watch = observe(self._watch, validation_loss, self._step)
        if self._pipeline.keep_best and self._watch.best_step == self._step:
            self._best = capture_weights(self._module)

    def _measure(self, since: Sums, samples_per_s: float | None) -> Metrics:
        """Means over what was trained of this epoch after ``since``. Raises TrainingDivergedError."""
        now = self._tally.read()
        samples = now.samples - since.samples
        if not samples:
            return self._history[-1]
        loss = (now.loss - since.loss) / samples
        if not math.isfinite(loss):
            self._explain(f"the loss is {loss}")
        return Metrics(
            step=self._step,
            total_steps=self.total_steps,
            epoch=(self._step - 1) // self._schedule.steps_per_epoch,
            loss=loss,
            accuracy=accuracy_of(self._objective, since, now),
            learning_rate=self._stepper.rate,
            samples_per_s=samples_per_s,
        )

    def _choose(self, size: Estimate, checkpoint: CyxModel | None) -> Choice:
        """How to compute: as the checkpoint did, or what is best here."""
        if checkpoint is not None:
            found = checkpoint.training.numerics
            return Choice(recorded(found, self._module, self._pipeline.optimizer.type))
        if self._config.ranks is not None:  # Each would choose for itself.
            return Choice(standard(self._module, self._pipeline.optimizer.type, self._pipeline.precision))
        flops = float(size.flops_per_sample) * self._pipeline.batch_size * (1 + BACKWARD_FACTOR)
        return choose(self._parts, self._pipeline, Work(flops, self.total_steps), self._config.now)

    # -- where it stands -------------------------------------------------------------------------

    def _standing(self) -> Standing:
        sums = self._tally.read()
        return Standing(self._step, sums, self._rates.plateaus, self._watch, self._best, self._history)

    def _stand_as(self, found: Standing, rate: float | None) -> None:
        self._step, self._rates.plateaus, self._watch = found.step, found.plateaus, found.watch
        self._best, self._history = found.best, list(found.history)
        self._tally, self._reported = Tally(self._device, found.sums), found.sums
        self._rates.base = rate
        if rate is not None:
            self._rates.take(rate)

    def _state(self, segments_done: int) -> TrainingState:
        return TrainingState(
            step=self._step,
            total_steps=self.total_steps,
            segments=self._config.segments,
            segments_done=segments_done,
            seed=self._pipeline.seed,
            samples=self._facts.samples,
            sample_shape=self._facts.sample_shape,
            classes=self._facts.classes,
            normalization=self._data.normalization,
            numerics=self.choice.numerics,
            learning_rate=self._rates.base,
            class_weights=self._class_weights,
        )

    def _remember(self) -> CyxModel | None:
        self._rates.changes = []
        if self._state_bytes > MAX_REMEMBERED_BYTES:
            return None
        return self.checkpoint()

    # -- when the loss is no number any more -----------------------------------------------------

    def _explain(self, what: str, batch: Batch | None = None) -> NoReturn:
        """Says where it began, and stands before that step if the state from before is still there."""
        culprit, step = None, self._step
        if self._remembered is not None and self._can_look_back:
            culprit, step = self._look_back(self._remembered)
        elif batch is not None:
            culprit = find_culprit(self._stepper, batch, self._step)
        where = f"; first no number: {culprit.text}" if culprit else ""
        node = culprit.node if culprit else ""
        advice = (
            ". A lower learning rate may help" if step else ""
        )  # Nothing was learned before the first step.
        raise TrainingDivergedError(f"{what} at step {step}{where}{advice}", node)

    def _look_back(self, sound: CyxModel) -> tuple[Culprit | None, int]:
        """Trains again from a sound state and looks at each step; remembers how it was before all went wrong.

        Weights that grow without end are numbers for some steps more, from which nothing can go on. Also
        returns the bad step.
        """
        found, end, changes = None, self._step, self._rates.changes
        step = last_good = sound.training.step
        tolerated = self._tolerated(sound)
        before: Batch | None = None
        for batch in self._again(sound, end + 1, changes):
            step = self._step
            loss, found = self._step_with_care(batch)
            if loss <= tolerated:
                last_good = step
            elif before is not None and last_good == step - 1 and not math.isfinite(loss):
                # Perhaps it is this batch, and the weights still do for the one before.
                last_good = step if self._loss_of(before, step - 1) <= tolerated else last_good
            before = batch
            if found is not None:
                break
        for batch in self._again(sound, last_good, changes):
            self._train_step(batch)
        self._rates.change_again(self._step, changes)
        self._remembered = self._remember()
        return found, step

    def _tolerated(self, sound: CyxModel) -> float:
        """The loss up to which weights count as sound: twice what those known to be so have.

        Of several batches, since one may be very easy or very hard. NaN if they lose a number in all of them.
        """
        start = sound.training.step
        batches = enumerate(self._again(sound, start + SOUND_BATCHES, ()), start)
        losses = [self._loss_of(batch, step) for step, batch in batches]
        usual = statistics.median_high([each for each in losses if math.isfinite(each)] or [math.nan])
        return usual + abs(usual)

    def _loss_of(self, batch: Batch, step: int) -> float:
        """Of the batch at ``step``, with the weights of now."""
        with torch.no_grad():
            return self._stepper.forward(batch, step).loss.item()

    def _again(self, sound: CyxModel, until: int, changes: Sequence[tuple[int, float]]) -> Iterator[Batch]:
        """The batches from a sound state on, up to step ``until`` or the end of the epoch."""
        standing = put_back(sound, self._stepper, self._pipeline)
        self._stand_as(standing, sound.training.learning_rate)
        if self._step < until:
            for batch in self._data.training(self._step, self._schedule.epoch_end(self._step, until)):
                self._control.before_step(self._step)
                self._rates.change_again(self._step, changes)
                yield batch

    def _step_with_care(self, batch: Batch) -> tuple[float, Culprit | None]:
        """One step: its loss, and what is wrong with it, in which case it has not been made to its end."""
        turn = self._turn(len(batch.targets))
        outcome = self._stepper.forward(batch, self._step)
        loss = outcome.loss.item()
        if not math.isfinite(loss):
            return loss, find_culprit(self._stepper, batch, self._step)
        self._tally.add(outcome.loss, outcome.judged, len(batch.targets))
        if turn.is_last:
            self._rates.follow_schedules(self._position())
        self._stepper.backward(outcome, turn)
        if first_bad_gradient(self._module) is not None:
            return loss, find_culprit(self._stepper, batch, self._step)
        self._update(turn)
        return loss, culprit_of_update(self._module)


_ALONE = Turn()


def _briefer(history: list[Metrics]) -> list[Metrics]:
    """Confusions are kept of the newest point alone."""
    if not history or not any(head.confusion for head in history[-1].validation):
        return history
    heads = tuple(msgspec.structs.replace(head, confusion=()) for head in history[-1].validation)
    return [*history[:-1], msgspec.structs.replace(history[-1], validation=heads)]


class _Unhindered:
    def before_step(self, step: int) -> None:
        """Goes on."""
