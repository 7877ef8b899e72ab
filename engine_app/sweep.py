"""``cyxwiz sweep``: many trainings of one graph with other parameters, within a budget; the best is kept.

Crash-safe: the trials are in a journal (``sweep_study``), graph and model of the best one are written
as soon as there is a better one.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from backend.errors import WorkerDiedError, WorkerFailedError
from backend.facts import DataFacts, read_facts
from backend.graph import Graph
from backend.pipeline import read_pipeline
from backend.reports import Cancel, Cancelled, Failed, Finished, Metrics, Progress, Train
from backend.serialize import dump_graph, load_graph
from backend.validate import diagnose, has_errors
from backend.workers.supervisor import PoolConfig, Worker, WorkerPool, open_pool
from engine_app.attended import OnlyCancelled, attended, wait_for_turn
from engine_app.checks import DATA_FILE, BackendChecks
from engine_app.config import Config
from engine_app.entry import CommandError, run
from engine_app.placing import install
from engine_app.show import Story, open_story, print_json, print_table
from engine_app.sweep_space import read_dimensions, with_values
from engine_app.training_order import GRAPH, MEMORY_BYTES, RUNTIME_BYTES, find_interrupted
from engine_app.training_queue import ORDER, Place, TrainingLine
from p2p.datadir import write_atomic

if TYPE_CHECKING:
    from optuna import Trial

    from engine_app.sweep_study import TrialRow

METRICS = ("validation_loss", "validation_accuracy")
KIND = "sweep"
DOCUMENT = "document.json"
"""The graph as it was given, with what is only for an editor: the best one is written in its form."""


@dataclass(frozen=True, slots=True)
class SweepWish:
    """What was asked for on the command line."""

    graph: Path
    data: Path
    output: Path
    """Of the best graph; its model lies beside it."""
    vary: tuple[str, ...]
    metric: str
    trials: int
    minutes: float | None
    device: str
    at_once: bool


class SweepOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a sweep is, on disk before it starts; graph and data lie beside it."""

    graph_file: str
    output: str
    vary: tuple[str, ...]
    metric: str
    trials: int
    minutes: float | None
    device: str
    memory_bytes: int


def sweep(config: Config, wish: SweepWish, as_json: bool) -> None:
    async def main() -> None:
        if not wish.output.parent.is_dir():
            raise CommandError(f"no folder {wish.output.parent} to write {wish.output.name} to")
        if model_beside(wish.output) in (wish.output, wish.data):
            raise CommandError(f"{wish.output.name} is for the graph: the model is written beside it")
        with (
            open_story(as_json) as story,
            TrainingLine(config.data_dir).open(KIND, wish.graph.name, wish.at_once) as place,
        ):
            try:
                order = await trio.to_thread.run_sync(_prepare, wish, place)
                place.write_order(order)
            except BaseException:
                place.discard()
                raise
            outcome = await Sweep(place, order, story).run()
        _close(outcome, order, as_json)

    run(main, config)


def resume_sweep(config: Config, name: str | None, graph: Path | None, at_once: bool, as_json: bool) -> None:
    """``name`` None: the newest, of ``graph`` if that is given."""

    async def main() -> None:
        line = TrainingLine(config.data_dir)
        with line.reopen(name or find_interrupted(line, graph, KIND), at_once) as place:
            order = read_sweep(place.directory)
            with open_story(as_json) as story:
                outcome = await Sweep(place, order, story).run()
        _close(outcome, order, as_json)

    run(main, config)


def read_sweep(directory: Path) -> SweepOrder:
    """Raises CommandError."""
    try:
        return msgspec.json.decode((directory / ORDER).read_bytes(), type=SweepOrder)
    except (OSError, msgspec.MsgspecError) as error:
        raise CommandError(f"{directory.name}: its order cannot be read: {error}") from error


def _prepare(wish: SweepWish, place: Place) -> SweepOrder:
    """Raises CommandError, SessionError."""
    if importlib.util.find_spec("optuna") is None:
        raise CommandError("a sweep needs Optuna: pip install 'cyxwiz[engine]'")
    document = wish.graph.read_bytes()
    prepared = BackendChecks(here=True).prepare(document, wish.data, place.directory)
    graph = load_graph(prepared.graph)
    read_dimensions(graph, wish.vary)
    if not read_pipeline(graph).split_sizes(prepared.samples)[1]:
        raise CommandError(f"no {wish.metric}: the graph needs a DataSplit that leaves validation samples")
    write_atomic(place.directory / GRAPH, prepared.graph)
    write_atomic(place.directory / DOCUMENT, dump_graph(load_graph(document)))
    return SweepOrder(
        graph_file=str(wish.graph),
        output=str(wish.output),
        vary=wish.vary,
        metric=wish.metric,
        trials=wish.trials,
        minutes=wish.minutes,
        device=wish.device,
        memory_bytes=max(MEMORY_BYTES, RUNTIME_BYTES + 4 * prepared.memory_bytes),
    )


def model_beside(output: Path) -> Path:
    return output.with_suffix(".cyxmodel")


@dataclass(frozen=True, slots=True)
class Outcome:
    rows: list[TrialRow]
    best: TrialRow | None


def _close(outcome: Outcome, order: SweepOrder, as_json: bool) -> None:
    best, output = outcome.best, Path(order.output)
    if as_json:
        answers = [asdict(row) for row in outcome.rows]
        print_json({"trials": answers, "best": asdict(best) if best else None, "output": order.output})
        return
    rows = outcome.rows
    names = sorted({name for row in rows for name in row.parameters})
    table = [
        (
            row.number,
            row.state + (f": {row.why}" if row.why else ""),
            "" if row.value is None else f"{row.value:.4f}",
            row.epochs,
            *(_shown(row.parameters.get(name)) for name in names),
        )
        for row in rows
    ]
    print_table(("trial", "state", order.metric, "epochs", *names), table)
    if best is None:
        raise CommandError("no trial came to its end: nothing was written")
    print(f"best: trial {best.number}; {output} and {model_beside(output)}")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class TrialFailedError(Exception):
    """A trial that cannot be trained; others may be."""


def final_value(graph: Graph, epochs: Sequence[Metrics], metric: str) -> float:
    """Of the weights that are kept: those of the last epoch, or of that with the best loss.

    Raises TrialFailedError where that is no number.
    """
    kept = epochs[-1:]
    if graph.training.keep == "best":
        kept = [each for each in epochs if each.validation_loss is not None]
        kept = sorted(kept, key=lambda each: each.validation_loss or 0.0)[:1]
    value: float | None = getattr(kept[0], metric) if kept else None
    if value is None:
        raise TrialFailedError(f"it came to no {metric}")
    return value


class Sweep:
    def __init__(self, place: Place, order: SweepOrder, story: Story) -> None:
        from engine_app.sweep_study import Study

        self._place = place
        self._order = order
        self._story = story
        self._graph: Graph = load_graph((place.directory / GRAPH).read_bytes())
        self._facts: DataFacts = read_facts(place.directory / DATA_FILE)
        self._dimensions = read_dimensions(self._graph, order.vary)
        seed, maximize = self._graph.training.seed, order.metric == "validation_accuracy"
        self._study = Study(place.directory, self._dimensions, seed, maximize=maximize)
        self._controls = OnlyCancelled(place.name, "sweeping", lambda: (self._study.done, order.trials))
        self._worker: Worker | None = None

    async def run(self) -> Outcome:
        """Raises CommandError when it is stopped or cancelled before its budget is spent."""
        self._study.go_on()
        controls, is_done = self._controls, False
        async with attended(self._place, controls.control, controls.on_signal):
            with controls.scope:
                await wait_for_turn(self._place, self._story, controls.note_wait)
                await self._use_budget()
                is_done = True
        if not is_done and not controls.is_discarded:
            raise CommandError(f"stopped: `cyxwiz resume {self._place.name}` goes on")
        outcome = Outcome(self._study.rows(), self._study.best())
        self._place.discard()
        if not is_done:
            raise CommandError(f"{self._place.name} is cancelled")
        return outcome

    async def _use_budget(self) -> None:
        order = self._order
        seconds = math.inf
        if order.minutes is not None:
            seconds = max(0.0, order.minutes * 60 - self._study.spent_s)
        config = PoolConfig(
            directory=self._place.directory / "workers",
            prewarmed=0,
            memory_bytes=order.memory_bytes,
            device=order.device,
            wall_clock_s=math.inf,
        )
        async with open_pool(config) as pool:
            with trio.move_on_after(seconds):
                while self._study.done < order.trials:
                    await self._try_one(pool)

    async def _try_one(self, pool: WorkerPool) -> None:
        """A cancellation leaves the trial running in the journal, to be made again."""
        trial, drawn = self._study.ask()
        number = self._study.done + 1
        try:
            graph = with_values(self._graph, self._dimensions, drawn)
            worker = await self._worker_of(pool)
            value, finished = await self._train(worker, graph, trial)
        except (TrialFailedError, WorkerFailedError, WorkerDiedError) as error:
            self._study.fail(trial, str(error)[:200])
            self._tell(number, f"failed: {error}", drawn)
            return
        if value is None or finished is None:
            self._study.stop(trial)
            self._tell(number, "stopped early: worse than half of the others", drawn)
            return
        if self._study.is_better(value):
            output = Path(self._order.output)
            await trio.to_thread.run_sync(install, worker.path(finished.file), model_beside(output))
            document = load_graph((self._place.directory / DOCUMENT).read_bytes())
            best = with_values(document, self._dimensions, drawn)
            write_atomic(output, dump_graph(best), mode=0o644)
        self._study.finish(trial, value)
        self._tell(number, f"{self._order.metric} {value:.4f}", drawn)

    def _tell(self, number: int, text: str, drawn: dict[str, Any]) -> None:
        values = ", ".join(f"{name} {_shown(value)}" for name, value in drawn.items())
        line = f"{number} of {self._order.trials}: {text} ({values})"
        self._story.tell({"kind": "trial", "number": number, "text": line, "parameters": drawn})

    async def _worker_of(self, pool: WorkerPool) -> Worker:
        """The one of the trial before, if it still lives."""
        if self._worker is None or not self._worker.is_alive:
            self._worker = await pool.acquire()
            source = self._place.directory / DATA_FILE
            await trio.to_thread.run_sync(shutil.copyfile, source, self._worker.directory / DATA_FILE)
        return self._worker

    async def _train(
        self, worker: Worker, graph: Graph, trial: Trial
    ) -> tuple[float | None, Finished | None]:
        """The metric and the model; (None, None) for a trial that is not worth finishing."""
        found = diagnose(graph, self._facts)
        if has_errors(found):
            raise TrialFailedError(str(next(each for each in found)))
        await worker.send(
            Train(DATA_FILE, None, 1, 0, 1, self._order.device, may_stop=True), dump_graph(graph)
        )
        points: list[Metrics] = []
        while True:
            event, _ = await worker.receive()
            match event:
                case Progress(metrics):
                    self._show(metrics)
                    if not metrics.validation:
                        continue  # within an epoch
                    points.append(metrics)
                    value = getattr(metrics, self._order.metric)
                    if value is not None and self._study.report(trial, len(points), value):
                        await worker.send(Cancel())
                case Failed(code, text):
                    raise WorkerFailedError(code, text)
                case Cancelled():
                    return None, None
                case Finished():
                    return final_value(graph, points, self._order.metric), event

    def _show(self, metrics: Metrics) -> None:
        text = f"trial {self._study.done + 1} of {self._order.trials}  loss {metrics.loss:.4f}"
        self._story.show("training", metrics.step, metrics.total_steps, text)
