"""``cyxwiz train``: the same worker process that a peer would use, on this machine, crash-safe.

Everything that a training needs is in its directory (``training_queue``) before it starts: graph,
data, order, then its newest checkpoint. The trained .cyxmodel is written whole or not at all.
"""

from __future__ import annotations

import math
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import trio
from msgspec import to_builtins

from backend.errors import WorkerDiedError, WorkerError, WorkerFailedError
from backend.reports import (
    AllowSegments,
    Cancel,
    Cancelled,
    ChangeLearningRate,
    Command,
    Failed,
    Finished,
    LearningRateChanged,
    Metrics,
    Pause,
    Paused,
    Progress,
    Resume,
    Resumed,
    SegmentSaved,
    StateSaved,
    Train,
    TrainingPrepared,
    Watched,
)
from backend.workers.group import TrainingWorkers, open_training
from backend.workers.supervisor import PoolConfig, Worker
from engine_app.attended import attended, wait_for_turn
from engine_app.checks import DATA_FILE, BackendChecks
from engine_app.config import Config
from engine_app.entry import CommandError, run
from engine_app.placing import install
from engine_app.scores import print_scores
from engine_app.show import Story, open_story, print_json
from engine_app.tensorboard import EventFile, scalars_of
from engine_app.training_order import (
    CHECKPOINT,
    GRAPH,
    MEMORY_BYTES,
    PROGRESS,
    RUNTIME_BYTES,
    START,
    SavedProgress,
    TrainingOrder,
    choose_segments,
    copy_start,
    find_interrupted,
    note_rate,
    noted_rate,
    read_order,
    read_rate,
)
from engine_app.training_queue import Place, TrainingLine
from p2p.datadir import write_atomic
from p2p.errors import RemoteFailureError
from p2p.session.checks import Prepared

WATCH_EVERY_S = 0.5
DISK_BYTES = 32 << 30
"""What a worker may write, beside its copy of the data."""
_AHEAD = 2
"""Segments that may run while the one before is being copied: so many checkpoints a worker keeps."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for on the command line."""

    graph: Path
    data: Path
    output: Path
    device: str = "cpu"
    at_once: bool = False
    start: Path | None = None
    """A model with whose weights it begins."""
    start_partly: bool = False
    tensorboard: Path | None = None
    watched: Callable[[Watched], None] | None = None
    """Told now and then what goes on at the nodes; nothing is looked at where nobody is."""


def train_here(config: Config, wish: Wish, as_json: bool) -> None:
    async def main() -> None:
        with open_story(as_json) as story:
            metrics = await begin(TrainingLine(config.data_dir), wish, story)
        _close(metrics, wish.output, as_json)

    run(main, config)


async def begin(
    line: TrainingLine,
    wish: Wish,
    story: Story,
    started: Callable[[LocalTraining], None] = lambda training: None,
) -> Metrics:
    """``started`` gets the training once its data is ready. Raises what ``LocalTraining.run`` raises."""
    if not wish.output.parent.is_dir():
        raise CommandError(f"no folder {wish.output.parent} to write {wish.output.name} to")
    document = wish.graph.read_bytes()
    with line.open("train", wish.graph.name, wish.at_once) as place:
        try:
            prepare = BackendChecks(here=True).prepare
            prepared = await trio.to_thread.run_sync(prepare, document, wish.data, place.directory)
            order = _order_of(wish, prepared)
            write_atomic(place.directory / GRAPH, prepared.graph)
            if wish.start is not None:
                await trio.to_thread.run_sync(copy_start, wish.start, place.directory / START)
            place.write_order(order)
        except BaseException:
            place.discard()
            raise
        training = LocalTraining(place, order, story, wish.watched)
        started(training)
        return await training.run()


def _order_of(wish: Wish, prepared: Prepared) -> TrainingOrder:
    return TrainingOrder(
        graph_file=str(wish.graph),
        output=str(wish.output),
        device=wish.device,
        segments=choose_segments(prepared.steps, prepared.training_flops, prepared.parameters),
        steps=prepared.steps,
        memory_bytes=max(MEMORY_BYTES, RUNTIME_BYTES + 2 * prepared.memory_bytes),
        has_start=wish.start is not None,
        start_partly=wish.start_partly,
        tensorboard=str(wish.tensorboard) if wish.tensorboard is not None else None,
    )


def resume_here(config: Config, name: str, at_once: bool, as_json: bool) -> None:
    """Goes on with a training that was cut short, from its newest checkpoint."""

    async def main() -> None:
        await _go_on(TrainingLine(config.data_dir), name, at_once, as_json)

    run(main, config)


def resume_newest(config: Config, graph: Path | None, at_once: bool, as_json: bool) -> None:
    """The same with the newest one, of ``graph`` if that is given."""

    async def main() -> None:
        line = TrainingLine(config.data_dir)
        await _go_on(line, find_interrupted(line, graph), at_once, as_json)

    run(main, config)


async def _go_on(line: TrainingLine, name: str, at_once: bool, as_json: bool) -> None:
    with line.reopen(name, at_once) as place:
        order = read_order(place.directory)
        with open_story(as_json) as story:
            metrics = await LocalTraining(place, order, story).run()
    _close(metrics, Path(order.output), as_json)


def _close(metrics: Metrics, output: Path, as_json: bool) -> None:
    if as_json:
        print_json({"output": str(output), "metrics": to_builtins(metrics)})
        return
    accuracy = "" if metrics.test_accuracy is None else f", test accuracy {metrics.test_accuracy:.4f}"
    print(f"{output}: loss {metrics.loss:.4f}{accuracy}")
    if metrics.step < metrics.total_steps:
        print(f"stopped early, at step {metrics.step} of {metrics.total_steps}")
    print_scores("validation", to_builtins(metrics.validation), brief=bool(metrics.test))
    print_scores("test", to_builtins(metrics.test))


class LocalTraining:
    """One training in one worker, with Ctrl-C, Enter and the control socket as its controls."""

    def __init__(
        self,
        place: Place,
        order: TrainingOrder,
        story: Story,
        watched: Callable[[Watched], None] | None = None,
    ) -> None:
        """``watched`` is told now and then what goes on at the nodes."""
        self._watched = watched
        self._place = place
        self._order = order
        self._story = story
        self._worker: Worker | None = None
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._state = "waiting"
        self._waits_for: list[str] = []
        self._metrics: Metrics | None = None
        self._saved_step = 0
        self._is_discarded = False
        self._events: EventFile | None = None
        self._is_log_broken = False

    async def run(self) -> Metrics:
        """Raises WorkerError, and CommandError when the user stops or cancels it."""
        finished: Metrics | None = None
        try:
            async with attended(self._place, self.control, self._on_signal) as self._nursery:
                with self._scope:
                    await wait_for_turn(self._place, self._story, self._note_wait)
                    self._state = "starting"
                    finished = await self._train()
        except (WorkerError, OSError) as error:
            self._fail(error)
            raise
        finally:
            if self._events is not None:
                self._events.close()
        if finished is None and not self._is_discarded:
            raise CommandError(f"stopped: {self._how_to_go_on()}")
        self._place.discard()
        if finished is None:
            raise CommandError(f"{self._place.name} is cancelled, nothing was written")
        return finished

    def _fail(self, error: WorkerError | OSError) -> None:
        """What a worker told of before its first checkpoint would fail again."""
        can_go_on = bool(self._saved_step) or not isinstance(error, WorkerFailedError)
        with suppress(OSError):  # A full disk: the error itself is what counts.
            self._place.fail(str(error), can_go_on)
        if can_go_on:
            slower = getattr(error, "code", "") == "diverged"
            first = f"; `cyxwiz set-rate {self._place.name} RATE` first: at another rate" if slower else ""
            self._story.line(self._how_to_go_on() + first, "checkpoint")

    def _how_to_go_on(self) -> str:
        return f"`cyxwiz resume {self._place.name}` goes on from step {self._saved_step}"

    def _note_wait(self, waits_for: list[str]) -> None:
        self._waits_for = waits_for

    # -- the worker ----------------------------------------------------------------------------

    async def _train(self) -> Metrics | None:
        order, directory = self._order, self._place.directory
        config = PoolConfig(
            directory=directory / "workers",
            prewarmed=0,
            memory_bytes=order.memory_bytes,
            wall_clock_s=math.inf,
            disk_bytes=DISK_BYTES + (directory / DATA_FILE).stat().st_size,
        )
        async with open_training(config, tuple(order.device.split(","))) as workers:
            await self._start(workers)
            self._worker = worker = workers.first
            async with workers.explained():
                finished = await self._watch(worker)
            if finished is not None:
                source = worker.path(finished.file)
                await trio.to_thread.run_sync(install, source, Path(order.output))
                return finished.metrics
            return None

    async def _start(self, workers: TrainingWorkers) -> None:
        order, directory = self._order, self._place.directory
        first = await trio.to_thread.run_sync(self._first_segment)
        begins_from = START if order.has_start else None
        checkpoint = CHECKPOINT if self._saved_step else None
        files = filter(None, (DATA_FILE, checkpoint or begins_from))
        for name, worker in product(files, workers.workers):
            await trio.to_thread.run_sync(shutil.copyfile, directory / name, worker.directory / name)
        command = Train(
            dataset=DATA_FILE,
            checkpoint=checkpoint,
            start=None if checkpoint else begins_from,
            start_partly=order.start_partly,
            learning_rate=noted_rate(directory, self._saved_step),
            segments=order.segments,
            first_segment=first,
            allowed_segments=first + _AHEAD,
            device=workers.devices[0],
            may_stop=True,
            watch_every_s=None if self._watched is None else WATCH_EVERY_S,
        )
        await workers.start(command, (directory / GRAPH).read_bytes())

    def _first_segment(self) -> int:
        from backend.formats.cyxmodel import inspect_cyxmodel

        checkpoint = self._place.directory / CHECKPOINT
        if not checkpoint.exists():
            return 0
        state = inspect_cyxmodel(checkpoint).training
        self._saved_step = state.step
        self._story.line(f"goes on from step {state.step} of {state.total_steps}", "checkpoint")
        return state.segments_done

    async def _watch(self, worker: Worker) -> Finished | None:
        """Until the end; None if it was stopped."""
        while True:
            event, _ = await worker.receive()
            match event:
                case TrainingPrepared(total_steps, parameters, samples, device, _, notes):
                    self._state = "training"
                    text = f"{parameters} parameters, {samples} samples, {total_steps} steps on {device}"
                    self._story.line(f"{self._place.name}: {text}", "stage")
                    for note in notes:
                        self._story.line(note)
                case Progress(metrics):
                    self._metrics = metrics
                    self._log(metrics)
                    self._story.tell({"kind": "progress", "metrics": to_builtins(metrics)})
                case Watched() if self._watched is not None:
                    self._watched(event)
                case SegmentSaved():
                    await self._keep(worker, event.file, event.metrics)
                    await worker.send(AllowSegments(upto=event.segment + 1 + _AHEAD))
                case StateSaved(step, _, file):
                    await self._keep(worker, file, SavedProgress(step, self._order.steps))
                case LearningRateChanged(step, rate):
                    note_rate(self._place.directory, step, rate)
                    self._story.line(f"learning rate {rate:g} from step {step} on")
                case Paused(step):
                    self._state = "paused"
                    self._story.line(f"paused at step {step}; {self._ways_on()}")
                case Resumed(step):
                    self._state = "training"
                    self._story.line(f"goes on at step {step}")
                case Failed(code, text):
                    raise WorkerFailedError(code, text)
                case Finished():
                    self._log(event.metrics)
                    return event
                case Cancelled():
                    return None

    def _log(self, metrics: Metrics) -> None:
        """For TensorBoard, where that is asked for; a full disk there ends the log, not the training."""
        directory = self._order.tensorboard
        if directory is None or self._is_log_broken:
            return
        now = time.time()
        try:
            if self._events is None:
                self._events = EventFile(Path(directory), now, self._saved_step and self._saved_step + 1)
            self._events.add(metrics.step, scalars_of(metrics), now)
        except OSError as error:
            self._is_log_broken = True
            self._story.line(f"nothing more for TensorBoard: {error}")

    async def _keep(self, worker: Worker, file: str, at: Metrics | SavedProgress) -> None:
        """Copies a checkpoint out of the worker's directory before the next but one may replace it."""
        target = self._place.directory / CHECKPOINT
        await trio.to_thread.run_sync(install, worker.path(file), target)
        progress = SavedProgress(at.step, at.total_steps)
        write_atomic(self._place.directory / PROGRESS, msgspec.json.encode(progress))
        self._saved_step = at.step

    # -- its controls --------------------------------------------------------------------------

    async def control(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Raises RemoteFailureError for what it cannot do now."""
        match method, self._state:
            case "status", _:
                pass
            case "pause", "training":
                await self._send(Pause())
            case "resume", "paused":
                await self._send(Resume())
            case "set_rate", "training" | "paused":
                await self._change_rate(parameters.get("rate"))
            case "cancel", _:
                self._is_discarded = True
                await self._stop()
            case _:
                raise RemoteFailureError("refused", f"{method}: {self._place.name} is {self._state}")
        return self.status()

    def status(self) -> dict[str, Any]:
        return {
            "name": self._place.name,
            "state": self._state,
            "waits_for": self._waits_for,
            "step": self._metrics.step if self._metrics else self._saved_step,
            "total_steps": self._order.steps,
            "saved_step": self._saved_step,
            "metrics": to_builtins(self._metrics),
        }

    def _ways_on(self) -> str:
        here = "Enter goes on, a number sets the learning rate, Ctrl-C stops; " if sys.stdin.isatty() else ""
        return f"{here}cyxwiz resume|cancel {self._place.name}"

    async def _on_signal(self, number: int) -> None:
        is_first = self._state == "training" and number == signal.SIGINT
        if is_first and sys.stdin.isatty() and self._nursery is not None:
            await self._send(Pause())
            self._nursery.start_soon(self._resume_on_enter)
        else:
            await self._stop()

    async def _resume_on_enter(self) -> None:
        read = sys.stdin.readline
        while line := await trio.to_thread.run_sync(read, abandon_on_cancel=True):  # type: ignore[call-arg]
            try:
                if line.strip():
                    await self._change_rate(line)
            except RemoteFailureError as error:
                self._story.line(error.message)
                continue
            if self._state == "paused":
                await self._send(Resume())
            return

    async def _change_rate(self, found: object) -> None:
        """Raises RemoteFailureError."""
        await self._send(ChangeLearningRate(rate=read_rate(found)))

    async def _stop(self) -> None:
        """Between two steps where it trains, at once where it does not yet."""
        if self._worker is None:
            self._scope.cancel()
        else:
            await self._send(Cancel())
        self._state = "stopping"

    async def _send(self, command: Command) -> None:
        # If the worker is gone, whoever receives from it hears why.
        with suppress(WorkerDiedError):
            if self._worker is not None:
                await self._worker.send(command)
