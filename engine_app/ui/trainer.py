"""Training on this machine, for the window: as ``cyxwiz train`` does it, told to panels."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio
from msgspec import to_builtins

from backend.facts import DataFacts
from backend.graph import Graph
from engine_app.config import Config
from engine_app.document.files import save_graph
from engine_app.entry import CommandError, cause_of, is_expected
from engine_app.local_training import LocalTraining, Wish, begin
from engine_app.placing import install
from engine_app.show import Story
from engine_app.training_queue import TrainingLine
from engine_app.ui.activity import Activity
from engine_app.ui.converter import Converter
from engine_app.ui.observed import Observed
from engine_app.ui.runs import Run, RunFiles, SavedRun

if TYPE_CHECKING:
    from backend.describe import Description
    from engine_app.ui.loop import Tasks

SAMPLES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Preview:
    """What is in the data: a description, and the first samples with their targets."""

    description: Description
    samples: Any
    """numpy, (n, ...)."""
    targets: Any

    @property
    def facts(self) -> DataFacts | None:
        """What a graph has to fit; None where the number of classes is not counted, as of a text."""
        classes = len(self.description.classes)
        if not classes and self.targets.dtype.kind == "i":
            return None
        shapes = self.samples.shape[1:], self.targets.shape[1:]
        return DataFacts(
            self.description.samples, shapes[0], self.samples.dtype.name, classes, target_shape=shapes[1]
        )


class _Told:
    """Stands where a terminal's Story does."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def tell(self, news: dict[str, Any]) -> None:
        self._trainer.on_metrics(news["metrics"])

    def line(self, text: str, kind: str = "note", news: dict[str, Any] | None = None) -> None:
        self._trainer.on_line(text, kind)


class Trainer(Observed):
    """At most one training at a time. Listeners are told of every change, and ask for what they need."""

    def __init__(self, config: Config, tasks: Tasks) -> None:
        super().__init__()
        self._config = config
        self._tasks = tasks
        self._files = RunFiles(config.data_dir / "runs")
        self._training: LocalTraining | None = None
        self._scope: trio.CancelScope | None = None
        self._look: trio.CancelScope | None = None
        self.converter = Converter(config, tasks)
        self._first: tuple[float, float] | None = None
        self.source = ""
        self.preview: Preview | None = None
        self.problem = ""
        """With the data."""
        self.is_reading = False
        self.device = "cpu"
        """Where the next training runs, as torch names it."""
        self.state = "idle"
        """idle, preparing, waiting, training, paused, stopping."""
        self.text = ""
        self.run: Run | None = None
        self.activity: Activity | None = None
        """What went on at the nodes in the newest training."""
        self.history: list[SavedRun] = self._files.load()

    @property
    def is_busy(self) -> bool:
        return self.state != "idle"

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end, as it went since training began or went on."""
        metrics = self.run.metrics if self.run is not None else {}
        if self.state != "training" or self._first is None or not metrics:
            return None
        step, at = self._first
        done = metrics["step"] - step
        if done <= 0:
            return None
        return float((metrics["total_steps"] - metrics["step"]) * (trio.current_time() - at) / done)

    # -- data ----------------------------------------------------------------------------------

    def choose(self, source: str) -> None:
        """A file, or ``bundled:NAME``; what is in it is read in a thread."""
        if self._look is not None:
            self._look.cancel()
        self.source, self.preview, self.problem, self.is_reading = source, None, "", True
        self._tell()
        self._look = self._tasks.start(partial(self._read, source))

    def propose(self, source: str) -> None:
        """As ``choose``, but it is not read before somebody wants to see it."""
        if self._look is not None:
            self._look.cancel()
        self.source, self.preview, self.problem, self.is_reading = source, None, "", False
        self._tell()

    def stop_reading(self) -> None:
        """It is still what is trained on; only what is in it is not shown."""
        if self.is_reading and self._look is not None:
            self._look.cancel()
            self.is_reading, self.problem = (
                False,
                "Reading: called off. Choose it again to see what is in it.",
            )
            self._tell()

    def look(self) -> None:
        """Somebody wants to see what is in the data."""
        if self.source and self.preview is None and not self.problem and not self.is_reading:
            self.choose(self.source)

    async def _read(self, source: str) -> None:
        found, problem, fault = None, "", None
        try:
            found = await trio.to_thread.run_sync(_preview, source, abandon_on_cancel=True)  # type: ignore[call-arg]
        except UnicodeEncodeError:
            problem = "The file's name is not Unicode: give it another one."
        except Exception as error:  # a reader's boundary: whatever it was, it is no longer being read
            problem = str(error) or type(error).__name__
            fault = None if is_expected(error) else error
        if source != self.source or not self.is_reading:
            return  # it came in the moment in which it was called off
        self.preview, self.problem, self.is_reading = found, problem, False
        self._tell()
        if fault is not None:
            raise fault

    # -- training ------------------------------------------------------------------------------

    def start(self, graph: Graph) -> None:
        """Nothing while one runs."""
        if not self.is_busy and self.source:
            self.run = Run(graph.name, self.source, self._files.next_number())
            self._set("preparing", "Preparing the data")
            self._scope = self._tasks.start(partial(self._train, graph, self.run))

    async def _train(self, graph: Graph, run: Run) -> None:
        folder = self._config.data_dir / "models"
        name = "".join(each if each.isalnum() else "_" for each in graph.name)[:60] or "graph"
        run.output = str(folder / f"{name}-{run.number}.cyxmodel")
        graph_file = folder / f"{name}-{run.number}.json"
        run.outcome, fault = "cancelled", None
        try:
            await trio.to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True, exist_ok=True))
            await trio.to_thread.run_sync(save_graph, graph_file, graph)
            self.activity = Activity(graph)
            wish = Wish(graph_file, Path(run.data), Path(run.output), self.device, watched=self.activity.add)
            line = TrainingLine(self._config.data_dir)
            metrics = await begin(line, wish, cast(Story, _Told(self)), self._on_started)
            run.add(to_builtins(metrics))
            run.outcome, run.text = "done", ""
        except CommandError as error:
            run.text = str(error)
        except Exception as error:  # whatever it was, the run is in the history with it
            cause = cause_of(error)
            run.outcome, run.text = "failed", str(cause) or type(cause).__name__
            fault = None if is_expected(cause) else error
        finally:
            self._training = None
            self._set("idle", run.text)
        await trio.to_thread.run_sync(self._files.save, run.saved(time.time()))
        self.history = await trio.to_thread.run_sync(self._files.load)
        self._tell()
        if fault is not None:
            raise fault

    def _on_started(self, training: LocalTraining) -> None:
        self._training = training
        self._set("waiting", "Starting the worker")

    def on_metrics(self, metrics: dict[str, Any]) -> None:
        if self.run is not None:
            if self.state != "training":
                self._first = None
            if self._first is None:
                self._first = (metrics["step"], trio.current_time())
            self.run.add(metrics)
            if self.state == "stopping":
                self._tell()
            else:
                self._set("training", "")

    def on_line(self, text: str, kind: str) -> None:
        if kind == "queue":
            self._set("waiting", text)
        elif self._training is not None:
            status = self._training.status()["state"]
            if status in ("paused", "training", "stopping"):
                self._first = None if status == "paused" else self._first
                self._set(status, "Stopping after this step" if status == "stopping" else "")
            else:
                self._set("waiting", text)

    def pause(self) -> None:
        self._order("pause")

    def resume(self) -> None:
        self._order("resume")

    def change_rate(self, rate: float) -> None:
        """From the next step on; of a training that runs or pauses."""
        self._order("set_rate", {"rate": rate})

    def cancel(self) -> None:
        """Nothing is kept of it but its curves."""
        if self._training is not None:
            self._order("cancel")
        elif self._scope is not None:
            self._scope.cancel()

    def _order(self, name: str, parameters: dict[str, Any] | None = None) -> None:
        training = self._training

        async def send() -> None:
            if training is not None:
                await training.control(name, parameters or {})

        if training is not None:
            if name == "cancel":
                self._set("stopping", "Stopping after this step")
            self._tasks.start(send)

    async def copy_model(self, target: Path) -> None:
        """The model of the newest run. Raises OSError."""
        if self.run is not None and self.run.output:
            await trio.to_thread.run_sync(install, Path(self.run.output), target)

    def _set(self, state: str, text: str) -> None:
        self.state, self.text = state, text
        self._tell()


def _preview(source: str) -> Preview:
    """Blocking. Raises BackendError, OSError."""
    from backend.describe import describe
    from backend.readers import ReadOptions, open_source
    from backend.readers.source import Missing

    opened = open_source(source, ReadOptions(missing=Missing.DROP))
    found = describe(opened)
    x, y = next(iter(opened.blocks()))
    return Preview(found, x[:SAMPLES_SHOWN].copy(), y[:SAMPLES_SHOWN].copy())
