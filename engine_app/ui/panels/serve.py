"""The dialog that deploys a model on this machine: which, with what, where it answers and to whom."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from backend.formats.sniff import ModelFormat, sniff
from engine_app.entry import CommandError
from engine_app.key_file import read_keys
from engine_app.plain import plain
from engine_app.serving import add_key, find_model
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.devices import local_devices
from engine_app.ui.network import Network
from engine_app.ui.panels.pick_model import ask_model
from engine_app.ui.panels.serve_peer import WHERE, PeerSheet
from engine_app.ui.parameters import whole_problem
from engine_app.ui.servers import Servers, ServeWish, free_port, port_problem
from engine_app.ui.widgets.box import Column, Row, Text
from engine_app.ui.widgets.buttons import Kind, PushButton, Segments
from engine_app.ui.widgets.facts import CopyRow, beside, labelled
from engine_app.ui.widgets.fields import Choice, Stepper, TextField
from engine_app.ui.widgets.overlays import Foot

ENDINGS = (".cyxmodel", ".onnx", ".gguf")
HERE, EVERYWHERE = "127.0.0.1", "0.0.0.0"
MOST_LAYERS, MOST_CONTEXT = 1000, 1 << 20


class ServeSheet(Column):
    def __init__(
        self, context: Context, servers: Servers, model: Path | None, elsewhere: Callable[[str], Any]
    ) -> None:
        """``elsewhere``: called where the user would rather have it at a peer."""
        look = context.look
        super().__init__(look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.STEP))
        self.elsewhere = elsewhere
        self.add_widget(labelled(look, "It runs on", Segments(look, WHERE, "here", elsewhere)))
        self._context, self._servers = context, servers
        self.model, self._format, self._problem = model, ModelFormat.UNKNOWN, ""
        self._host, self._key = HERE, ""
        self._layers, self._window, self._threads = 0, 0, 1
        self._has_keys = False
        self._steppers: dict[str, Stepper] = {}
        devices = local_devices()
        self._device = Choice(look, devices[0], devices, lambda value: None)
        self._port = TextField(look, str(free_port(HERE) or ""), check=self._port_problem)
        parts = ("model", "options", "where", "key")
        self._parts = {name: Column(look, gap=theme.STEP) for name in parts}
        for part in self._parts.values():
            self.add_widget(part)
        self.foot = self._parts["go"] = Foot(look)
        self._show_where()
        for name in ("model", "options", "key", "go"):
            self._show(name)
        if model is not None:
            self._take(model)

    def _show(self, name: str) -> None:
        self._parts[name].clear_widgets()
        getattr(self, f"_show_{name}")()

    # -- the model -----------------------------------------------------------------------------

    def _show_model(self) -> None:
        look, part, model = self._context.look, self._parts["model"], self.model
        row = Row(look, gap=theme.MEDIUM)
        names = Column(look, gap=0, pos_hint={"center_y": 0.5})
        names.add_widget(Text(look, plain(model.name) if model else "No model yet", theme.STRONG, lines=1))
        about = {
            ModelFormat.CYXMODEL: "A CyxWiz model, run by torch",
            ModelFormat.ONNX: "An ONNX model, run by ONNX Runtime",
            ModelFormat.GGUF: "A GGUF model, run by llama.cpp",
        }.get(self._format, "A .cyxmodel, ONNX or GGUF file, or a folder with one and its tokenizer")
        names.add_widget(Text(look, about, theme.SMALL, look.palette.muted))
        row.add_widget(names)
        kind = Kind.PLAIN if model else Kind.PRIMARY
        row.add_widget(PushButton(look, "Change" if model else "Choose a model", self._ask_model, kind))
        part.add_widget(row)
        if self._problem:
            part.add_widget(Text(look, plain(self._problem), theme.SMALL, look.palette.danger))

    def _ask_model(self) -> None:
        ask_model(self._context, "Deploy a model", ENDINGS, self._take, folders=True)

    def close(self) -> None:
        """What is still looked into is no longer shown."""
        self.model = None

    def _take(self, path: Path) -> None:
        self.model = path
        self._found(ModelFormat.UNKNOWN, "")

        async def look() -> None:
            found, problem = ModelFormat.UNKNOWN, ""
            try:
                file, _ = await trio.to_thread.run_sync(find_model, path, None)
                found = await trio.to_thread.run_sync(sniff, file)
            except (CommandError, OSError) as error:
                problem = str(error)
            if self.model is path:  # and no other one was chosen meanwhile
                self._found(found, problem)

        self._context.start(look)

    def _found(self, kind: ModelFormat, problem: str) -> None:
        self._format, self._problem = kind, problem
        self._steppers = {}
        for name in ("model", "options", "go"):
            self._show(name)

    def _show_options(self) -> None:
        look, part = self._context.look, self._parts["options"]
        if self._device.parent is not None:
            self._device.parent.remove_widget(self._device)
        row = Row(look, gap=theme.LARGE)
        row.add_widget(labelled(look, "Device", self._device))
        threads = self._stepper(self._threads, 1, 256, "_threads")
        row.add_widget(labelled(look, "Threads", threads))
        part.add_widget(row)
        if self._format is ModelFormat.GGUF:
            row = Row(look, gap=theme.LARGE)
            layers = self._stepper(self._layers, -1, MOST_LAYERS, "_layers")
            row.add_widget(labelled(look, "Layers on the GPU", layers, note="-1: all of them"))
            window = self._stepper(self._window, 0, MOST_CONTEXT, "_window", step=512)
            row.add_widget(labelled(look, "Context in tokens", window, note="0: as it was trained"))
            part.add_widget(row)

    def _stepper(self, value: int, low: int, high: int, name: str, step: int = 1) -> Stepper:
        def check(text: str) -> str | None:
            fits = text == "-1" and low == -1
            return None if fits else whole_problem(text, max(0, low), high)

        def changed(found: float) -> None:
            setattr(self, name, int(found))

        def move(found: float, way: int) -> float:
            return found + way * step

        stepper = Stepper(self._context.look, value, changed, check=check, step=move)
        self._steppers[name] = stepper
        return stepper

    # -- where it answers ----------------------------------------------------------------------

    def _show_where(self) -> None:
        look, part = self._context.look, self._parts["where"]
        choices = ((HERE, "This machine"), (EVERYWHERE, "The network"))
        row = Row(look, gap=theme.LARGE)
        row.add_widget(labelled(look, "It answers to", Segments(look, choices, self._host, self._set_host)))
        port = labelled(look, "Port", self._port)
        port.size_hint_x = 0.4
        row.add_widget(port)
        part.add_widget(row)

    def _set_host(self, host: str) -> None:
        self._host = host
        self._port.show(self._port.text)  # what is free here may be taken there
        self._show("key")
        self._show("go")

    def _port_problem(self, text: str) -> str | None:
        wrong = whole_problem(text, 1, 65535)
        if wrong is not None:
            return wrong
        taken = port_problem(self._host, int(text))
        return None if taken is None else f"{taken.rpartition(': ')[2]}: another port is needed"

    def _show_key(self) -> None:
        look, part = self._context.look, self._parts["key"]
        if self._host == HERE:
            return
        if self._key:
            note = "It is shown once: keep it now. Whoever has it may ask this model."
            part.add_widget(labelled(look, "The key", CopyRow(look, self._key, "the key"), note=note))
            return
        text = "Beyond this machine each request needs a key."
        make = PushButton(look, "Make a key", self._make_key, icon="add")
        part.add_widget(beside(look, "Key", make, text))
        self._context.start(self._count_keys)

    async def _count_keys(self) -> None:
        keys = await trio.to_thread.run_sync(read_keys, self._context.config.data_dir)
        if bool(keys) != self._has_keys:
            self._has_keys = bool(keys)
            self._show("go")

    def _make_key(self) -> None:
        async def work() -> None:
            name = self.model.stem if self.model else "deployment"
            make = partial(add_key, self._context.config.data_dir, name[:80], ("predict", "metrics"))
            self._key, _ = await trio.to_thread.run_sync(make)
            self._has_keys = True
            self._show("key")
            self._show("go")

        self._context.start(work)

    # -- going ---------------------------------------------------------------------------------

    def _show_go(self) -> None:
        look, part = self._context.look, self._parts["go"]
        needs_key = self._host != HERE and not self._has_keys
        button = PushButton(look, "Deploy", self._go, Kind.PRIMARY, "deploy", size_hint=(1, None))
        button.disabled = self._format is ModelFormat.UNKNOWN or needs_key
        part.add_widget(button)
        if needs_key:
            part.add_widget(Text(look, "Make a key first.", theme.SMALL, look.palette.muted))

    def _go(self) -> None:
        wrong = [each for each in self._steppers.values() if each.field.problem]
        if self.model is None or wrong or self._port_problem(self._port.text) is not None:
            return  # which is told below the field
        wish = ServeWish(
            self.model,
            self._host,
            int(self._port.text),
            self._layers,
            self._window,
            self._threads,
            self._device.value,
        )
        self._context.host.close()
        self._servers.start(wish)
        self._context.act.show_page("deploy")


def open_deploy(
    context: Context, servers: Servers, network: Network, model: Path | None, place: str = "here"
) -> None:
    """``place``: here, or peer; the dialog of the one leads to that of the other."""
    host = context.host
    sheet: ServeSheet | PeerSheet

    def elsewhere(place: str) -> None:
        model = sheet.model
        host.close()
        open_deploy(context, servers, network, model, place)

    if place == "peer":
        sheet = PeerSheet(context, network, model, elsewhere)
    else:
        sheet = ServeSheet(context, servers, model, elsewhere)
    is_below = not host.is_wide
    host.open("Deploy a model", sheet, side=is_below, wide=600, foot=sheet.foot, gone=sheet.close)
