"""The curves of a training: which, how smooth, against which other run; saved as PNG and CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio
from kivy.uix.widget import Widget

from engine_app.entry import CommandError
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.curves import as_csv
from engine_app.ui.panels.pick_file import ask_path
from engine_app.ui.plot_picture import write_plot
from engine_app.ui.plots import Plot, Shown
from engine_app.ui.runs import Run
from engine_app.ui.widgets.box import Card, Column, Row, Text, width_of
from engine_app.ui.widgets.buttons import IconButton, Kind, PushButton, Segments
from engine_app.ui.widgets.facts import Tiles
from engine_app.ui.widgets.still import Still
from p2p.datadir import write_atomic

VIEWS = (("loss", "Loss"), ("accuracy", "Accuracy"), ("learning_rate", "Rate"), ("samples_per_s", "Speed"))
CURVES_OF = {
    "loss": (("loss", "training"), ("validation_loss", "validation")),
    "accuracy": (("accuracy", "training"), ("validation_accuracy", "validation")),
    "learning_rate": (("learning_rate", "learning rate"),),
    "samples_per_s": (("samples_per_s", "samples/s"),),
}
SMOOTH = (("1", "Raw"), ("10", "10"), ("50", "50"))
SMOOTH_WIDTH = 280.0
FIGURES = (
    ("loss", "loss", "{:.4g}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("validation_loss", "validation loss", "{:.4g}"),
    ("validation_accuracy", "validation accuracy", "{:.1%}"),
    ("test_accuracy", "test accuracy", "{:.1%}"),
    ("learning_rate", "learning rate", "{:.4g}"),
    ("samples_per_s", "samples/s", "{:,.0f}"),
)
FIGURES_ACROSS, ROOMY = 4, 640.0
"""As many in windows so many dp wide, else three."""


class CurvesCard(Card):
    """The newest figures, and below them how they came about."""

    def __init__(self, context: Context, plot_height: float) -> None:
        look = context.look
        super().__init__(look, gap=theme.STEP)
        self._context = context
        self._run: Run | None = None
        self._other: Run | None = None
        self._shown: dict[str, Shown] = {}
        self._view = "loss"
        roomy = context.host.width >= look.px(ROOMY)
        self._figures = Tiles(look, across=FIGURES_ACROSS if roomy else 3)
        self._head = Column(look, gap=theme.MEDIUM)
        views = Segments(look, VIEWS, self._view, self._choose)
        self._head.add_widget(Still(views, look.palette.raised, beyond=1))
        self.add_widget(self._head)
        self.plot = Plot(look, size_hint_y=None, height=look.px(plot_height))
        self.add_widget(self.plot)
        self._legend = Row(look, gap=theme.LARGE)
        self.add_widget(self._legend)
        tools = Row(look, gap=theme.STEP)
        tools.add_widget(
            Text(
                look,
                "Smooth over",
                theme.SMALL,
                look.palette.muted,
                align="right",
                lines=1,
                pos_hint={"center_y": 0.5},
            )
        )
        smooth = Segments(look, SMOOTH, "1", self._smooth)
        smooth.size_hint_x, smooth.width = None, look.px(SMOOTH_WIDTH)
        tools.add_widget(smooth)
        self._log = PushButton(look, "Log", self._flip_log, Kind.QUIET, pos_hint={"center_y": 0.5})
        tools.add_widget(self._log)
        tools.add_widget(IconButton(look, "search", "Show all of it again", self.plot.show_all))
        tools.add_widget(IconButton(look, "export", "Save as a picture and as a table", self._export))
        self.add_widget(Still(tools, look.palette.raised, beyond=1))

    def fit(self, room: float, least: float) -> None:
        """The plot takes what is left of ``room`` pixels, and ``least`` dp where that is not enough."""
        around = self.minimum_height - self.plot.height
        height = max(room - around, self._context.look.px(least))
        if abs(height - self.plot.height) > 1:
            self.plot.height = height

    def show(self, run: Run | None, other: Run | None = None, metrics: dict[str, Any] | None = None) -> None:
        """``other``, to compare with, is fainter and of other colours; ``metrics``: the newest of no run."""
        self._run, self._other = run, other
        self._show_figures((run.metrics if run is not None else None) or metrics or {})
        shown: dict[str, Shown] = {}
        palette = self._context.look.palette
        for number, (name, title) in enumerate(CURVES_OF[self._view]):
            for each, is_other in ((other, True), (run, False)):
                if each is not None and len(each.curves[name]):
                    label = title if other is None else f"{title}, run {each.number}"
                    shown[label] = Shown(each.curves[name], palette.plots[number + 2 * is_other], is_other)
        self._shown = shown
        self.plot.show(shown)
        self._fill_legend(shown)

    def _show_figures(self, metrics: dict[str, Any]) -> None:
        found = [
            (title, form.format(metrics[name]))
            for name, title, form in FIGURES
            if metrics.get(name) is not None
        ]
        self._figures.show(found)
        if found and self._figures.parent is None:
            self._head.add_widget(self._figures, index=len(self._head.children))
        elif not found and self._figures.parent is not None:
            self._head.remove_widget(self._figures)

    def _fill_legend(self, shown: dict[str, Shown]) -> None:
        look = self._context.look
        texts = [(name, each.colour) for name, each in shown.items()]
        if [child.text for child in reversed(self._legend.children) if isinstance(child, Text)] == [
            name for name, _ in texts
        ]:
            return
        self._legend.clear_widgets()
        for name, colour in texts:
            text = Text(look, name, theme.LABEL, colour, lines=1, size_hint_x=None)
            text.width = width_of(look, name, theme.LABEL) + 2
            self._legend.add_widget(text)
        self._legend.add_widget(Widget(size_hint_y=None, height=1))

    def _choose(self, view: str) -> None:
        self._view = view
        self.show(self._run, self._other)

    def _smooth(self, window: str) -> None:
        self.plot.window = int(window)
        self.plot.refresh()

    def _flip_log(self) -> None:
        self.plot.is_log = not self.plot.is_log
        self._log.text = "Linear" if self.plot.is_log else "Log"
        self.plot.refresh()

    def _export(self) -> None:
        if not self._shown:
            self._context.host.toast("There is no curve yet")
            return
        start = Path.cwd() / f"{self._view}.png"
        ask_path(self._context, "Save the curves", start, "Save", self._write, (".png", ".csv"))

    def _write(self, target: Path) -> None:
        """The picture as it is seen, and beside it the table of all points that it is made of."""
        curves = {title: each.curve.copy() for title, each in self._shown.items()}
        drawing = target.with_name(f".{target.stem}.part.png")

        async def work() -> None:
            try:
                write_plot(drawing, self._context.look, self.plot)
                await trio.to_thread.run_sync(finish)
            except OSError as error:
                raise CommandError(f"{target.name}: {error.strerror}") from error
            self._context.host.toast(f"Saved {target.stem}.png and {target.stem}.csv")

        def finish() -> None:
            try:
                write_atomic(target.with_suffix(".csv"), as_csv(curves).encode(), 0o644)
                drawing.replace(target.with_suffix(".png"))
            finally:
                drawing.unlink(missing_ok=True)

        self._context.start(work)
