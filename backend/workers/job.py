"""The training thread of a worker: data in, checkpoints and progress out, orders obeyed.

Files are read and written in the worker's own directory only; the sandbox would allow no other.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from backend.datasets import open_dataset
from backend.distributed import Ranks
from backend.errors import (
    ArchiveError,
    BackendError,
    CheckpointError,
    CodeError,
    DatasetError,
    ExportError,
    GraphFormatError,
    GraphInvalidError,
    ModelImportError,
    RankLostError,
    TrainingDivergedError,
)
from backend.evaluation import evaluate
from backend.fine_tuning import Start
from backend.formats.cyxmodel import CyxModel, read_cyxmodel, write_cyxmodel
from backend.pipeline import read_pipeline
from backend.reports import (
    Cancelled,
    Evaluate,
    Evaluated,
    Event,
    Failed,
    Finished,
    LearningRateChanged,
    Metrics,
    Paused,
    Progress,
    Resumed,
    SampleStream,
    SegmentSaved,
    StateSaved,
    Train,
    TrainingPrepared,
    WaitingForPermission,
)
from backend.sample_plan import RESIDENT_BYTES
from backend.samples import LocalSamples, SampleSource
from backend.serialize import load_graph
from backend.training import Trainer, TrainingConfig
from backend.workers.feed import Connection, FedSamples, read_scaling
from backend.workers.gate import Gate, TrainingCancelled

_RESULT = "result.cyxmodel"
_SAVED = "saved.cyxmodel"
_KEPT_CHECKPOINTS = 2
_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (GraphFormatError, "graph"),
    (GraphInvalidError, "graph"),
    (DatasetError, "dataset"),
    (CheckpointError, "checkpoint"),
    (ArchiveError, "checkpoint"),
    (ExportError, "export"),
    (ModelImportError, "import"),
    (TrainingDivergedError, "diverged"),
    (CodeError, "code"),
    (MemoryError, "memory"),
    (RankLostError, "ranks"),
)
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "std::bad_alloc")


class TrainingJob:
    """One Train command, from load to result."""

    def __init__(
        self,
        command: Train,
        graph: bytes,
        directory: Path,
        send: Callable[[Event], None],
        ranks: Ranks | None = None,
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        """Inputs of more than ``resident_bytes`` stay on disk."""
        self._command = command
        self._resident_bytes = resident_bytes
        self._ranks = ranks
        self._graph = graph
        self._directory = directory
        self._send = send
        self._step = 0
        self._fed: FedSamples | None = None
        self._trainer: Trainer | None = None
        self._rates: deque[float] = deque(maxlen=1)
        allowed = 0 if command.prepare_only else command.allowed_segments
        self.has_ended = False
        """Set before the last event goes out, so that its reader may ask for another training."""
        self.gate = Gate(allowed, time.monotonic)
        if ranks is not None:
            ranks.waiting = self.gate.waiting

    def run(self) -> None:
        """Ends with exactly one of Finished, Cancelled and Failed."""
        end: Event
        try:
            with self.gate.working():
                end = self._train()
        except TrainingCancelled:
            self._save_state()
            end = Cancelled(step=self._step)
        except Exception as error:
            self._save_state(error)
            end = failure_of(error)
        self.has_ended = True
        self._send(end)

    def deliver(self, number: int, body: bytes) -> None:
        """Samples that the training asked for."""
        if self._fed is not None:
            self._fed.deliver(number, body)

    def before_step(self, step: int) -> None:
        """The trainer's control."""
        self._step = step
        self.gate.before_step(lambda: self._send(Paused(step=step)), lambda: self._send(Resumed(step=step)))
        if self._rates and self._trainer is not None:
            rate = self._rates.pop()
            self._trainer.change_rate(rate)
            self._send(LearningRateChanged(step=step, rate=rate))

    def change_rate(self, rate: float) -> None:
        """From the next step on."""
        self._rates.append(rate)

    def _train(self) -> Finished:
        trainer = self._prepare()
        command = self._command
        for segment in range(command.first_segment, command.segments):
            self._wait_for(segment)
            metrics = trainer.run_segment(segment, self, self._report)
            self._step = trainer.step
            if trainer.is_over:
                break
            if segment < command.segments - 1 and self._leads:
                self._save(trainer, segment, metrics)
        return self._finish(trainer)

    @property
    def _leads(self) -> bool:
        """Whether it saves and takes orders for all ranks of the training."""
        return self._ranks is None or self._ranks.rank == 0

    def _prepare(self) -> Trainer:
        command = self._command
        checkpoint = self._read_checkpoint()
        if checkpoint is not None and checkpoint.training.segments_done != command.first_segment:
            done = checkpoint.training.segments_done
            raise CheckpointError(
                f"checkpoint after {done} segments, asked to go on at {command.first_segment}"
            )
        trainer = Trainer(
            self._graph,
            self._open_samples(),
            TrainingConfig(
                command.device,
                command.segments,
                command.report_every_s,
                time.monotonic,
                command.may_stop,
                self._ranks,
                command.watch_every_s,
                self._send,
            ),
            checkpoint,
            self._read_start(),
        )
        self._trainer = trainer
        if command.learning_rate is not None:
            trainer.change_rate(command.learning_rate)
        self._step = trainer.step
        self._send(
            TrainingPrepared(
                total_steps=trainer.total_steps,
                parameters=trainer.parameters,
                training_samples=trainer.training_samples,
                device=command.device,
                numerics=trainer.choice.numerics,
                notes=trainer.notes,
            )
        )
        return trainer

    def _open_samples(self) -> SampleSource:
        command, pipeline = self._command, read_pipeline(load_graph(self._graph))
        if command.stream is not None:
            self._fed = self._feed_from(command.stream)
            return self._fed
        if command.dataset is None:
            raise DatasetError("neither a data file nor a stream of samples")
        return LocalSamples(open_dataset(self._directory / command.dataset, self._resident_bytes), pipeline)

    def _feed_from(self, stream: SampleStream) -> FedSamples:
        scaling = None
        if stream.scaling is not None:
            scaling = read_scaling(self._directory / stream.scaling, stream.sample_shape[0])
        connection = Connection(self._send, self.gate.wait_for, self.gate.wake, time.monotonic)
        return FedSamples(stream, scaling, connection)

    def _read_checkpoint(self) -> CyxModel | None:
        command = self._command
        if not 0 <= command.first_segment < command.segments:
            raise CheckpointError(f"segment {command.first_segment} of {command.segments}")
        if command.checkpoint is None:
            if command.first_segment == 0:
                return None
            raise CheckpointError(f"segment {command.first_segment} needs a checkpoint to begin from")
        return read_cyxmodel(self._directory / command.checkpoint)

    def _read_start(self) -> Start | None:
        command = self._command
        if command.start is None or command.checkpoint is not None:
            return None
        return Start(read_cyxmodel(self._directory / command.start), command.start_partly)

    def _save_state(self, error: Exception | None = None) -> None:
        """What was trained so far, for whoever wants to go on: up to here, or to where all was well."""
        if self._trainer is None or not self._leads:
            return
        state = self._trainer.checkpoint() if error is None else self._trainer.last_good()
        if state is None or not state.training.step:
            return
        try:
            write_cyxmodel(self._directory / _SAVED, state)
        except (OSError, BackendError, MemoryError):
            return  # The training has ended for a reason of its own, which is what counts.
        found = state.training
        self._send(StateSaved(step=found.step, segments_done=found.segments_done, file=_SAVED))

    def _wait_for(self, segment: int) -> None:
        self.gate.wait_for_segment(segment, lambda: self._send(WaitingForPermission(segment=segment)))

    def _report(self, metrics: Metrics) -> None:
        self._send(Progress(metrics=metrics, waited_s=self._fed.waited_s if self._fed else None))

    def _save(self, trainer: Trainer, segment: int, metrics: Metrics) -> None:
        name = f"checkpoint-{segment}.cyxmodel"
        write_cyxmodel(self._directory / name, trainer.checkpoint(segment + 1))
        old = self._directory / f"checkpoint-{segment - _KEPT_CHECKPOINTS}.cyxmodel"
        old.unlink(missing_ok=True)
        self._send(SegmentSaved(segment=segment, file=name, metrics=metrics))

    def _finish(self, trainer: Trainer) -> Finished:
        metrics = trainer.finish()
        write_cyxmodel(self._directory / _RESULT, trainer.result())
        return Finished(file=_RESULT, metrics=metrics)


def run_evaluation(
    command: Evaluate, directory: Path, send: Callable[[Event], None], resident_bytes: int = RESIDENT_BYTES
) -> None:
    """Ends with exactly one of Evaluated and Failed."""
    try:
        model = read_cyxmodel(directory / command.model)
        dataset = open_dataset(directory / command.dataset, resident_bytes)
        scores = evaluate(model, dataset, command.device)
        end: Event = Evaluated(scores.samples, scores.loss, scores.accuracy, scores.heads)
    except Exception as error:
        end = failure_of(error, archive_code="model")
    send(end)


def failure_of(
    error: BaseException, *, request: int | None = None, archive_code: str = "checkpoint"
) -> Failed:
    """What went wrong, for the other side; ``archive_code`` says which file an ArchiveError is about."""
    text = str(error)[:2000] or type(error).__name__
    if isinstance(error, ArchiveError):
        return Failed(code=archive_code, text=text, id=request)
    for kind, code in _CODES:
        if isinstance(error, kind):
            return Failed(code=code, text=text, id=request)
    if _is_out_of_memory(error):
        return Failed(code="memory", text=text.splitlines()[0], id=request)
    if isinstance(error, BackendError):
        return Failed(code="internal", text=text, id=request)
    return Failed(code="internal", text=f"{type(error).__name__}: {text}", id=request)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
