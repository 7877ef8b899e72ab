"""What leads from the graph to files: its picture, and models of other programs on their way in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio
from kivy.clock import Clock

from engine_app.document.files import write_atomically
from engine_app.plain import brief, plain
from engine_app.scene.snapshot import SnapshotBuilder
from engine_app.scene.svg import svg_of
from engine_app.ui import theme
from engine_app.ui.aside import do_aside
from engine_app.ui.context import Context
from engine_app.ui.files import holds
from engine_app.ui.importer import Importer
from engine_app.ui.panels.pick_file import folder_problem, path_of
from engine_app.ui.portrait import write_png
from engine_app.ui.widgets.box import Column, Gap, Row, Text
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton, Segments
from engine_app.ui.widgets.facts import ProgressLine, labelled
from engine_app.ui.widgets.fields import TextField

FORMATS = (("png", "PNG"), ("svg", "SVG"))
SCALES = (("1", "1×"), ("2", "2×"), ("4", "4×"))


def open_menu(context: Context) -> None:
    """All that can be done with the document as a whole."""
    look, host, act = context.look, context.host, context.act
    column = Column(look, gap=0, pad=(theme.HALF, 0, theme.HALF, theme.STEP))

    def row(text: str, note: str, icon: str, action: Callable[[], Any]) -> None:
        def go() -> None:
            host.close()
            action()

        column.add_widget(ListRow(look, text, note, go, icon=icon))

    row("New graph", "Begin with nothing", "add", act.new)
    row("Save as", "This graph, under another name", "save", act.save_as)
    row("Open", "A graph, or a model: .cyxmodel, ONNX, safetensors, GGUF", "open", act.ask_open)
    row("Save a picture", "The whole graph as PNG or SVG", "picture", partial(open_picture, context))
    row("Export a model", "ONNX, GGUF, safetensors, PyTorch", "export", partial(act.export, None))
    row("Deploy a model", "It answers over HTTP", "deploy", partial(act.deploy, None))
    host.open("Files", column, side=not host.is_wide, wide=440)


# -- pictures ------------------------------------------------------------------------------------


class PictureSheet(Column):
    def __init__(self, context: Context) -> None:
        look = context.look
        super().__init__(look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))
        self._context = context
        self._format, self._scale = "png", "2"
        name = "".join(each if each.isalnum() else "_" for each in context.desk.graph.name)[:60]
        self.target = TextField(look, str(Path.cwd() / f"{name or 'graph'}.png"), check=folder_problem)
        self._scales = Column(look)
        self.add_widget(labelled(look, "Format", Segments(look, FORMATS, self._format, self.choose)))
        self.add_widget(self._scales)
        self.add_widget(labelled(look, "Write it to", self.target))
        save = PushButton(look, "Save", self._save, Kind.PRIMARY, "picture", size_hint=(1, None))
        save.disabled = not context.desk.wiring.nodes
        self.add_widget(save)
        self._show_scales()

    def choose(self, value: str) -> None:
        self._format = value
        self.target.show(str(Path(self.target.text).with_suffix(f".{value}")))
        self._show_scales()

    def _show_scales(self) -> None:
        look = self._context.look
        self._scales.clear_widgets()
        if self._format == "png":
            chosen = Segments(look, SCALES, self._scale, partial(setattr, self, "_scale"))
            self._scales.add_widget(labelled(look, "Size", chosen))
        else:
            text = "Lines and words stay sharp at any size."
            self._scales.add_widget(Text(look, text, theme.SMALL, look.palette.muted))

    def _save(self) -> None:
        host, path = self._context.host, path_of(self.target.text)
        if folder_problem(self.target.text) is not None:
            return
        write = partial(save_picture, self._context, path, self._format, float(self._scale))
        host.close()
        if holds(Path.exists, path):
            host.ask("Replace the file?", f"{path.name} is there already.", "Replace", write)
        else:
            write()


def save_picture(context: Context, path: Path, format: str, scale: float) -> None:
    """What went wrong is shown."""
    host, desk = context.host, context.desk

    wiring, analysis, inside = desk.wiring, desk.analysis, desk.state.inside
    palette, name = context.look.palette, desk.graph.name

    def draw() -> bytes:
        return svg_of(SnapshotBuilder().build(wiring, analysis, inside), palette, name).encode()

    async def write(drawn: bytes) -> None:
        await trio.to_thread.run_sync(write_atomically, path, drawn)
        host.toast(f"Saved {path.name}")

    async def paint() -> None:
        width, height = write_png(path, desk, context.look, scale)
        host.toast(f"Saved {path.name}, {width} × {height} pixels")

    if format == "svg":
        told = f"Drawing {plain(path.name)} …"
        do_aside(context, told, draw, lambda drawn: context.start(partial(write, drawn)))
    else:
        context.start(paint)


def open_picture(context: Context) -> None:
    host = context.host
    host.open("Save a picture of the graph", PictureSheet(context), side=not host.is_wide, wide=480)


# -- models of other programs --------------------------------------------------------------------


class ImportSheet(Column):
    """Follows an Importer; it goes away when the model is there."""

    def __init__(self, context: Context, importer: Importer) -> None:
        look = context.look
        super().__init__(look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))
        self._context, self._importer = context, importer
        self._line = ProgressLine(look)
        self._told = Text(look, "", theme.SMALL, look.palette.muted)
        self._buttons = Row(look)
        for part in (self._line, self._told, self._buttons):
            self.add_widget(part)
        self._soon = Clock.create_trigger(lambda _dt: self.refresh(), -1)
        self._stop = importer.listen(self._soon)
        self._shown: bool | None = None
        self.refresh()

    def close(self) -> None:
        self._stop()
        self._soon.cancel()

    def refresh(self) -> None:
        look, importer = self._context.look, self._importer
        stage = importer.stage
        if importer.is_busy:
            self._line.show((stage.number - 0.5) / stage.total if stage else 0.02)
            told = f"{stage.number} of {stage.total}: {stage.text}" if stage else "Starting a closed worker"
            self._told.text = plain(told)
        elif importer.problem:
            self._told.text, self._told.color = brief(importer.problem), look.palette.danger
        if self._shown != importer.is_busy:
            self._shown = importer.is_busy
            self._buttons.clear_widgets()
            self._buttons.add_widget(Gap(look))
            if importer.problem and importer.source is not None and importer.can_serve:
                deploy = partial(self._deploy, importer.source)
                self._buttons.add_widget(PushButton(look, "Deploy it instead", deploy, Kind.PRIMARY))
            action = importer.cancel if importer.is_busy else self._context.host.close
            text = "Cancel" if importer.is_busy else "Close"
            self._buttons.add_widget(PushButton(look, text, action, Kind.PLAIN))
            if not importer.is_busy and not importer.problem:
                self._context.host.close_with(self)

    def _deploy(self, source: Path) -> None:
        """What cannot become a graph may still answer."""
        self._context.host.close()
        self._context.act.deploy(source)


def open_import(context: Context, importer: Importer, source: Path, opened: Callable[[Path], Any]) -> None:
    """Asks nothing: says how far it is. ``opened`` gets the .cyxmodel that came of it."""
    host = context.host
    if importer.is_busy:
        host.toast("Another model is being opened", bad=True)
        return

    def done(target: Path, found: Any) -> None:
        opened(target)
        host.toast(f"{source.name}: {plain(found.about)}. Kept as {target.name}, with its weights")

    importer.start(source, done)
    sheet = ImportSheet(context, importer)
    host.open(f"Opening {plain(source.name)}", sheet, wide=480, gone=sheet.close)
