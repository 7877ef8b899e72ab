"""The page on which a graph is trained on this machine: data, controls, live curves, what came of it."""

from __future__ import annotations

import math
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kivy.clock import Clock
from kivy.uix.boxlayout import BoxLayout

from engine_app.plain import plain, sentence
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.devices import local_devices
from engine_app.ui.panels.confusion import Confusion
from engine_app.ui.panels.curves import CurvesCard
from engine_app.ui.panels.data import DataCard, source_name
from engine_app.ui.panels.pick_file import ask_path
from engine_app.ui.parameters import whole_problem
from engine_app.ui.runs import Run, SavedRun, run_of
from engine_app.ui.trainer import Trainer
from engine_app.ui.widgets.box import Card, Column, Gap, Line, Row, Text
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton
from engine_app.ui.widgets.facts import ProgressLine
from engine_app.ui.widgets.fields import Choice, Stepper, doubled
from engine_app.ui.widgets.scroll import Scroll
from engine_app.ui.widgets.still import Still

NO_TORCH = "Training here needs torch: pip install 'cyxwiz[peer]'. Jobs for other machines work without it."
MAX_RATE = 10.0
LEAST_PLOT, RESULTS_SEEN = 240.0, 192.0
"""In dp: of the plot's height, and what is seen of the results below it before one scrolls."""


class TrainPage(BoxLayout):
    def __init__(self, context: Context, trainer: Trainer, is_wide: bool) -> None:
        super().__init__()
        look = context.look
        self._context = context
        self._trainer = trainer
        self._chosen: list[Run] = []
        """Of those that are over: what is shown is compared with it; two, where nothing else is shown."""
        self._buttons_for = ""
        self._history_of: Any = None
        self._data = DataCard(context, trainer)
        self._controls = Card(look, gap=theme.MEDIUM)
        self._curves = CurvesCard(context, 360 if is_wide else 300)
        self._results = Column(look, gap=theme.LARGE)
        self._status = Text(look, "", theme.SMALL, look.palette.muted)
        self._line = ProgressLine(look)
        self._buttons = Column(look)
        self._fill_controls()
        left = Column(look, gap=theme.LARGE, pad=theme.LARGE)
        right = Column(look, gap=theme.LARGE, pad=theme.LARGE) if is_wide else left
        left.add_widget(self._controls)
        right.add_widget(self._curves)
        left.add_widget(Still(self._data, look.palette.canvas, beyond=1))
        right.add_widget(Still(self._results, look.palette.canvas, beyond=1))
        if is_wide:
            side = Scroll(look, left, size_hint_x=None, width=look.px(theme.PANEL_WIDTH + 72))
            self._right = Scroll(look, right)
            for part in (side, Line(look, upright=True), self._right):
                self.add_widget(part)
            self._right.bind(height=self._fit_plot)
            self._curves.bind(minimum_height=self._fit_plot)
            self._results.bind(height=self._fit_plot)
        else:
            self.add_widget(Scroll(look, left))
        self._soon = Clock.create_trigger(lambda _dt: self.refresh(), -1)  # once a frame, however much comes
        self._stops = [trainer.listen(self._soon), context.desk.listen(self._soon)]
        self.refresh()

    def _fit_plot(self, *_: Any) -> None:
        """As high as the window has room for."""
        px = self._context.look.px
        below = px(RESULTS_SEEN) if self._results.children else px(theme.LARGE)
        self._curves.fit(self._right.height - 2 * px(theme.LARGE) - below, LEAST_PLOT)

    def close(self) -> None:
        for stop in self._stops:
            stop()
        self._soon.cancel()
        self._data.close()

    def _fill_controls(self) -> None:
        look, desk = self._context.look, self._context.desk
        self._controls.add_widget(Text(look, "Training", theme.HEADING))
        row = Row(look)
        row.add_widget(Text(look, "Epochs", lines=1, size_hint_x=0.6, pos_hint={"center_y": 0.5}))
        self._epochs = Stepper(
            look,
            desk.graph.training.epochs,
            lambda value: desk.set_training(epochs=int(value)),
            check=lambda text: whole_problem(text, 1, 100_000),
        )
        row.add_widget(self._epochs)
        self._controls.add_widget(row)
        row = Row(look)
        row.add_widget(Text(look, "Device", lines=1, size_hint_x=0.6, pos_hint={"center_y": 0.5}))
        devices = local_devices()
        row.add_widget(Choice(look, self._trainer.device, devices, self._choose_device))
        self._controls.add_widget(row)
        for part in (self._buttons, self._line, self._status):
            self._controls.add_widget(part)

    def _choose_device(self, device: str) -> None:
        self._trainer.device = device

    # -- following -----------------------------------------------------------------------------

    def refresh(self) -> None:
        trainer = self._trainer
        self._epochs.show(self._context.desk.graph.training.epochs)
        self._show_buttons()
        run = trainer.run
        metrics = run.metrics if run is not None else {}
        self._line.show(metrics["step"] / metrics["total_steps"] if metrics.get("total_steps") else 0)
        self._status.text = self._told()
        self._status.color = self._status_colour()
        shown = [*([run] if run is not None else []), *self._chosen]
        first, second, *_ = [*shown, None, None]
        self._curves.show(first, second)
        found = (trainer.history, first, second, run if not trainer.is_busy else None)
        if self._history_of is None or any(a is not b for a, b in zip(found, self._history_of, strict=True)):
            self._history_of = found
            self._show_results()

    def _told(self) -> str:
        trainer, desk = self._trainer, self._context.desk
        if trainer.state == "idle":
            run = trainer.run
            if run is not None and run.outcome:
                return {"done": "Trained", "cancelled": "Cancelled", "failed": "Failed"}[run.outcome] + (
                    f": {run.text}" if run.text else ""
                )
            return why_not(self._context, trainer) or f"Ready to train {desk.graph.name}"
        metrics = trainer.run.metrics if trainer.run is not None else {}
        place = f"step {metrics['step']} of {metrics['total_steps']}" if metrics else ""
        eta = f"{duration(trainer.eta_s)} to go" if trainer.eta_s is not None else ""
        told = trainer.text or {"training": "", "paused": "Paused"}.get(trainer.state, "")
        return sentence(", ".join(filter(None, (told, place, eta))))

    def _status_colour(self) -> Any:
        run, palette = self._trainer.run, self._context.look.palette
        outcome = run.outcome if run is not None and not self._trainer.is_busy else ""
        return {"done": palette.success, "failed": palette.danger}.get(outcome, palette.muted)

    def _show_buttons(self) -> None:
        trainer, look = self._trainer, self._context.look
        state = trainer.state
        blocked = why_not(self._context, trainer) is not None
        wanted = f"{state}{blocked}"
        if wanted == self._buttons_for:
            return
        self._buttons_for = wanted
        self._buttons.clear_widgets()
        row = Row(look)
        if state == "idle":
            start = PushButton(look, "Start training", self._start, Kind.PRIMARY, "play", size_hint=(1, None))
            start.disabled = blocked
            row.add_widget(start)
        else:
            if state == "training":
                row.add_widget(PushButton(look, "Pause", trainer.pause, Kind.PLAIN, "pause"))
            elif state == "paused":
                row.add_widget(PushButton(look, "Resume", trainer.resume, Kind.PRIMARY, "play"))
            if state != "stopping":
                row.add_widget(PushButton(look, "Cancel", self._ask_cancel, Kind.QUIET, "stop"))
            row.add_widget(Gap(look))
        self._buttons.add_widget(row)
        if state in ("training", "paused"):
            self._buttons.add_widget(self._rate())

    def _rate(self) -> Row:
        """The learning rate, to be changed from the next step on."""
        look, trainer = self._context.look, self._trainer
        metrics = trainer.run.metrics if trainer.run is not None else {}
        row = Row(look)
        row.add_widget(Text(look, "Learning rate", lines=1, size_hint_x=0.6, pos_hint={"center_y": 0.5}))
        rate = rounded_rate(metrics.get("learning_rate") or 1e-3)
        row.add_widget(
            Stepper(look, rate, trainer.change_rate, check=rate_problem, whole=False, step=doubled)
        )
        return row

    def _start(self) -> None:
        self._chosen = self._chosen[-1:]
        self._trainer.start(self._context.desk.graph)

    def _ask_cancel(self) -> None:
        self._context.host.ask(
            "Cancel this training?",
            "Its curves stay; the model is lost.",
            "Cancel it",
            self._trainer.cancel,
            danger=True,
        )

    # -- results -------------------------------------------------------------------------------

    def _show_results(self) -> None:
        look, trainer = self._context.look, self._trainer
        self._results.clear_widgets()
        run = trainer.run
        if run is not None and run.outcome == "done":
            self._results.add_widget(self._result(run))
        if trainer.history:
            card = Card(look, gap=theme.HALF)
            card.add_widget(Text(look, "Runs", theme.HEADING))
            text = "Tap one to see its curves beside those that are shown; again to stop."
            card.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
            for saved in trainer.history:
                row = ListRow(
                    look,
                    f"{saved.number}  {saved.name}",
                    outcome_of(saved),
                    partial(self.compare, saved),
                    mark={"done": look.palette.success, "failed": look.palette.danger}.get(saved.outcome),
                    icon={"done": "check", "failed": "error"}.get(saved.outcome, "stop"),
                    figure=best_figure(saved.metrics),
                    tip=saved.text,
                )
                row.choose(any(each.number == saved.number for each in self._chosen))
                card.add_widget(row)
            self._results.add_widget(card)

    def _result(self, run: Run) -> Card:
        look = self._context.look
        card = Card(look, gap=theme.MEDIUM)
        card.add_widget(Text(look, "The model", theme.HEADING))
        told = f"{Path(run.output).name}, in the models of this Engine's data folder"
        card.add_widget(Text(look, told, theme.SMALL, look.palette.muted))
        row = Row(look)
        model, act = Path(run.output), self._context.act
        row.add_widget(PushButton(look, "Deploy", partial(act.deploy, model), Kind.PRIMARY, "deploy"))
        row.add_widget(PushButton(look, "Export", partial(act.export, model), icon="export"))
        row.add_widget(PushButton(look, "Save a copy", partial(self._ask_copy, run), icon="download"))
        row.add_widget(Gap(look))
        card.add_widget(row)
        confusion = next(
            (head["confusion"] for head in run.metrics.get("test", ()) if head.get("confusion")), None
        )
        if confusion:
            card.add_widget(Line(look))
            card.add_widget(Text(look, "What was taken for what", theme.STRONG))
            text = "Test samples: rows are the right class, columns the model's."
            card.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
            card.add_widget(Confusion(look, confusion))
        return card

    def _ask_copy(self, run: Run) -> None:
        def copy(target: Path) -> None:
            async def work() -> None:
                await self._trainer.copy_model(target)
                self._context.host.toast(f"Saved {target.name}")

            self._context.start(work)

        ask_path(self._context, "Save the model", Path.cwd() / Path(run.output).name, "Save", copy)

    def compare(self, saved: SavedRun) -> None:
        """With what is shown; no longer if it is."""
        run = self._trainer.run
        if run is not None and run.number == saved.number:
            self._context.host.toast("These curves are shown already")
            return
        others = [each for each in self._chosen if each.number != saved.number]
        if len(others) == len(self._chosen):
            others = [*others, run_of(saved)][-2 if run is None else -1 :]
        self._chosen = others
        self.refresh()


def why_not(context: Context, trainer: Trainer) -> str | None:
    """What stands between here and a training; None for nothing."""
    if find_spec("torch") is None:
        return NO_TORCH
    if not context.desk.graph.nodes:
        return "The graph is empty"
    errors = context.desk.analysis.errors
    if errors:
        return f"The graph has {errors} problem{'' if errors == 1 else 's'}: see the top of the window"
    return None if trainer.source else "Choose data first"


def rounded_rate(rate: float) -> float:
    """To what a narrow field has room for."""
    return float(f"{rate:.3g}")


def rate_problem(text: str) -> str | None:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    return (
        None
        if 0 < found <= MAX_RATE
        else f"found {text[:20]!r}, must be a number above 0, at most {MAX_RATE:g}"
    )


def outcome_of(saved: SavedRun) -> str:
    """With its reason, where it failed."""
    why = f": {plain(saved.text)}" if saved.outcome == "failed" and saved.text else ""
    return f"{sentence(saved.outcome)}{why}, {source_name(saved.data)}"


def best_figure(metrics: dict[str, Any]) -> str:
    for name, title in (("test_accuracy", "test"), ("validation_accuracy", "validation")):
        if metrics.get(name) is not None:
            return f"{title} {metrics[name]:.1%}"
    return "" if metrics.get("loss") is None else f"loss {metrics['loss']:.4g}"


def duration(seconds: float) -> str:
    """``3 min 20 s``."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
