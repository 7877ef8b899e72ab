"""A trained model into another format: what each is for, what prevents it, and that it answers alike."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kivy.clock import Clock

from engine_app.exporting import Order
from engine_app.plain import brief, plain
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.exporter import ENDINGS, FORMATS, Exporter
from engine_app.ui.files import holds
from engine_app.ui.panels.certificate import certificate_card
from engine_app.ui.panels.pick_file import folder_problem, path_of
from engine_app.ui.panels.pick_model import ask_model
from engine_app.ui.widgets.box import Column, Gap, Row, Text
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton, Segments, Toggle
from engine_app.ui.widgets.facts import CopyRow, ProgressLine, beside, labelled
from engine_app.ui.widgets.fields import TextField
from engine_app.ui.widgets.overlays import Foot
from engine_app.ui.widgets.scroll import scroll_of


class About(NamedTuple):
    title: str
    text: str


ABOUT = {
    "onnx": About("ONNX", "Runs in ONNX Runtime: servers, browsers, phones, from C++ to C#"),
    "gguf": About("GGUF", "For llama.cpp, where the graph is a llama or a GPT-2"),
    "safetensors": About("safetensors", "The weights by name, for Python; the graph is in its notes"),
    "pytorch": About("PyTorch program", "A Python file with its weights beside it; needs torch alone"),
    "cyxmodel": About("CyxWiz model", "Opens here again; without the state of its training"),
}
TENSOR_TYPES = (("f32", "32 bit"), ("f16", "16 bit"), ("q8_0", "8 bit"))
MOST_REFUSED = 6


class ExportSheet(Column):
    """Follows an Exporter, which goes on when the sheet is closed."""

    def __init__(self, context: Context, exporter: Exporter, data: str) -> None:
        """``data``: what was chosen to train on, to compare answers on; may be empty."""
        look = context.look
        super().__init__(look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.STEP))
        self._context, self._exporter, self._data = context, exporter, data
        self._format, self._tensor_type = FORMATS[0], "f32"
        self._on_data, self._inside = bool(data), False
        self._wrong = ""
        self._drawn: dict[str, Any] = {}
        parts = ("model", "formats", "options", "result")
        self._parts = {name: Column(look, gap=theme.STEP) for name in parts}
        self.foot = self._parts["run"] = Foot(look)
        self._target = TextField(look, "", check=folder_problem)
        for name in ("model", "formats", "options"):
            self.add_widget(self._parts[name])
        self.add_widget(labelled(look, "Write it to", self._target))
        self.add_widget(self._parts["result"])
        self._reveals = False
        self.bind(height=self._follow)
        self._soon = Clock.create_trigger(lambda _dt: self.refresh(), -1)
        self._stop = exporter.listen(self._soon)
        self.refresh()

    def close(self) -> None:
        self._stop()
        self._soon.cancel()

    def refresh(self) -> None:
        """Each part anew only when what it shows has changed."""
        exporter = self._exporter
        shown = {
            "model": (exporter.model, exporter.graph is None, exporter.is_busy),
            "formats": (exporter.refused, exporter.about_gguf, self._format, exporter.is_busy),
            "options": (self._format, self._on_data),
            "run": (exporter.is_busy, exporter.stage, exporter.graph is None, self._refused, self._wrong),
            "result": (exporter.problem, exporter.done),
        }
        for name, found in shown.items():
            if self._drawn.get(name) != found:
                self._drawn[name] = found
                self._parts[name].clear_widgets()
                getattr(self, f"_show_{name}")(self._parts[name])
                self._reveals = name == "result" and exporter.done is not None

    def _follow(self, *_: Any) -> None:
        """Shows what came of an export, which may be below what can be seen."""
        scroll = scroll_of(self)
        if self._reveals and scroll is not None:
            scroll.scroll_by(self.height)

    @property
    def _refused(self) -> tuple[Any, ...]:
        return self._exporter.refused.get(self._format, ())

    # -- parts ---------------------------------------------------------------------------------

    def _show_model(self, part: Column) -> None:
        look, exporter = self._context.look, self._exporter
        row = Row(look, gap=theme.MEDIUM)
        names = Column(look, gap=0, pos_hint={"center_y": 0.5})
        model = exporter.model
        names.add_widget(Text(look, plain(model.name) if model else "No model yet", theme.STRONG, lines=1))
        graph = exporter.graph
        about = f"{len(graph.nodes)} nodes" if graph else "Choose one that was trained"
        names.add_widget(Text(look, about, theme.SMALL, look.palette.muted, lines=1))
        row.add_widget(names)
        kind = Kind.PLAIN if model else Kind.PRIMARY
        change = PushButton(look, "Change" if model else "Choose a model", self._ask_model, kind)
        change.disabled = exporter.is_busy
        row.add_widget(change)
        part.add_widget(row)
        if model is not None:
            self._propose(model)

    def _ask_model(self) -> None:
        ask_model(self._context, "Export a model", (".cyxmodel",), self._exporter.choose)

    def _propose(self, model: Path) -> None:
        """A name beside the model; what the user wrote elsewhere keeps its folder."""
        written = Path(self._target.text) if self._target.text else Path.cwd() / model.name
        name = f"{model.stem}{ENDINGS[self._format]}"
        if (written.parent / name) == model:
            name = f"{model.stem}-exported{ENDINGS[self._format]}"
        self._target.show(str(written.parent / name))

    def _show_formats(self, part: Column) -> None:
        look, exporter = self._context.look, self._exporter
        part.add_widget(Text(look, "Format", theme.SMALL, look.palette.muted))
        rows = Column(look, gap=2)
        for name in FORMATS:
            refused = exporter.refused.get(name, ())
            count = f"{len(refused)} node{'' if len(refused) == 1 else 's'} cannot go there"
            text = count if refused else ABOUT[name].text
            icon = "check" if name == self._format else "warning" if refused else "export"
            mark = look.palette.warning if refused else None
            row = ListRow(look, ABOUT[name].title, text, partial(self._choose, name), icon=icon, mark=mark)
            row.choose(name == self._format)
            row.disabled = exporter.is_busy
            rows.add_widget(row)
        part.add_widget(rows)
        for refusal in self._refused[:MOST_REFUSED]:
            part.add_widget(
                ListRow(
                    look,
                    f"{plain(refusal.node_id)}  {plain(refusal.type)}",
                    plain(refusal.reason),
                    partial(self._show_node, refusal.node_id),
                    icon="error",
                    mark=look.palette.danger,
                    tip="Show this node",
                )
            )
        if len(self._refused) > MOST_REFUSED:
            text = f"and {len(self._refused) - MOST_REFUSED} more"
            part.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
        if self._format == "gguf" and exporter.graph is not None:
            told = exporter.about_gguf
            text = f"llama.cpp will refuse it: {plain(told)}. It is a container that CyxWiz reads back."
            fine = "It is a language model to the letter: llama.cpp runs it."
            colour = look.palette.warning if told else look.palette.success
            part.add_widget(Text(look, text if told else fine, theme.SMALL, colour))

    def _choose(self, name: str) -> None:
        self._format = name
        if self._exporter.model is not None:
            self._propose(self._exporter.model)
        self.refresh()

    def _show_options(self, part: Column) -> None:
        look = self._context.look
        if self._format == "onnx":
            toggle = Toggle(look, self._inside, partial(setattr, self, "_inside"))
            note = "Normalization and encoding go inside: it takes samples as they are."
            part.add_widget(beside(look, "With preprocessing", toggle, note))
        if self._format == "gguf":
            chosen = Segments(look, TENSOR_TYPES, self._tensor_type, partial(setattr, self, "_tensor_type"))
            part.add_widget(labelled(look, "Weights of", chosen))
        if self._data:
            choices = (("drawn", "Drawn inputs"), ("data", "The training data"))
            chosen = Segments(look, choices, "data" if self._on_data else "drawn", self._compare_on)
            part.add_widget(labelled(look, "Compare answers on", chosen))

    def _compare_on(self, value: str) -> None:
        self._on_data = value == "data"

    def _show_run(self, part: Column) -> None:
        look, exporter = self._context.look, self._exporter
        if exporter.is_busy:
            stage = exporter.stage
            line = ProgressLine(look)
            line.show((stage.number - 0.5) / stage.total if stage else 0.02)
            told = f"{stage.number} of {stage.total}: {plain(stage.text)}" if stage else "Starting the worker"
            row = Row(look)
            text = Text(look, told, theme.SMALL, look.palette.muted, lines=1, pos_hint={"center_y": 0.5})
            row.add_widget(text)
            row.add_widget(PushButton(look, "Cancel", exporter.cancel, Kind.QUIET, "stop"))
            part.add_widget(line)
            part.add_widget(row)
            return
        button = PushButton(look, "Export", self._start, Kind.PRIMARY, "export", size_hint=(1, None))
        button.disabled = exporter.graph is None or bool(self._refused)
        if self._wrong:
            part.add_widget(Text(look, self._wrong, theme.SMALL, look.palette.danger))
        part.add_widget(button)

    def _start(self) -> None:
        model, target = self._exporter.model, path_of(self._target.text)
        if model is None or folder_problem(self._target.text) is not None:
            return
        if target.absolute() == model.absolute():
            self._wrong = "That would replace the model itself: choose another name."
            self.refresh()
            return
        self._wrong = ""
        data = Path(self._data) if self._on_data and self._data else None
        inside = self._inside and self._format == "onnx"
        tensor_type = self._tensor_type if self._format == "gguf" else "f32"
        order = Order(model, self._format, target, inside, tensor_type, data)
        if holds(Path.exists, target):
            go = partial(self._exporter.start, order)
            self._context.host.ask("Replace the file?", f"{target.name} is there already.", "Replace", go)
        else:
            self._exporter.start(order)

    # -- what came of it -----------------------------------------------------------------------

    def _show_result(self, part: Column) -> None:
        look, exporter = self._context.look, self._exporter
        if exporter.problem:
            part.add_widget(Text(look, brief(exporter.problem), colour=look.palette.danger))
            for node in exporter.problem_nodes:
                row = Row(look)
                show = partial(self._show_node, node)
                row.add_widget(PushButton(look, f"Show {node}", show, icon="search"))
                row.add_widget(Gap(look))
                part.add_widget(row)
        if exporter.done is not None:
            order = exporter.done.order
            part.add_widget(labelled(look, "Written", CopyRow(look, str(order.output), "the path")))
            if exporter.done.exported.weights is not None:
                part.add_widget(CopyRow(look, str(order.weights_path), "the path"))
            part.add_widget(certificate_card(look, exporter.done.certificate))
            note = f"Kept as {order.certificate_path.name}, beside it."
            part.add_widget(Text(look, plain(note), theme.SMALL, look.palette.muted))

    def _show_node(self, node: str) -> None:
        """Where the graph on the desk has it."""
        desk, host = self._context.desk, self._context.host
        if node not in {each.id for each in desk.graph.nodes}:
            host.toast(f"{node} is not in the graph that is open: open {self._model_name}", bad=True)
            return
        host.close()
        self._context.act.show_page("build")
        desk.leave(0)
        desk.select(node)

    @property
    def _model_name(self) -> str:
        return self._exporter.model.name if self._exporter.model else "the model"


def open_export(context: Context, exporter: Exporter, data: str) -> None:
    sheet = ExportSheet(context, exporter, data)
    is_below = not context.host.is_wide
    context.host.open("Export a model", sheet, side=is_below, wide=640, foot=sheet.foot, gone=sheet.close)
