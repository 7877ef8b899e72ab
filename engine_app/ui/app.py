"""The window: wires desk, pages, files, keys and settings together. Decides nothing that they could."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from kivy.app import App
from kivy.clock import Clock
from kivy.core.window import Window
from kivy.metrics import Metrics

from backend.graph import Graph
from engine_app.config import Config
from engine_app.document.files import Opened, open_graph
from engine_app.document.recovery import Recovered
from engine_app.entry import cause_of
from engine_app.plain import plain
from engine_app.ui import files, tour
from engine_app.ui.activity import pulse_speed
from engine_app.ui.aside import do_aside
from engine_app.ui.context import Actions, Context
from engine_app.ui.desk import Desk
from engine_app.ui.examples import DIGITS, DIGITS_DATA
from engine_app.ui.frame import TopBar, framed
from engine_app.ui.keeper import Keeper
from engine_app.ui.keys import shortcut
from engine_app.ui.loop import Tasks
from engine_app.ui.panels.build import BuildPage, show_problems
from engine_app.ui.panels.pick_file import FilePicker, ask_path
from engine_app.ui.panels.settings import SettingsPage, open_shortcuts
from engine_app.ui.settings import Settings, load_settings, save_settings
from engine_app.ui.theme import PALETTES, Look
from engine_app.ui.trainer import Trainer
from engine_app.ui.widgets.overlays import Host, bind_keys

if TYPE_CHECKING:
    from engine_app.ui.exporter import Exporter
    from engine_app.ui.importer import Importer
    from engine_app.ui.network import Network
    from engine_app.ui.purse import Purse
    from engine_app.ui.servers import Servers

SETTINGS = "window.json"
CONNECT_AFTER_S = 1.0
"""The first frames come before what the network needs is imported."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What the window begins with."""

    config: Config
    file: Path | None = None
    greets: bool = True
    """Offers the tour where it has not been seen."""


class EngineApp(App):
    title = "CyxWiz"
    trainer: Trainer
    """Made by ``begin``, before the first frame."""

    def __init__(self, opening: Opening) -> None:
        super().__init__()
        self._opening = opening
        self._settings_file = opening.config.data_dir / SETTINGS
        self.settings = load_settings(self._settings_file)
        self.desk = Desk(Graph("Untitled"))
        self.path: Path | None = None
        self.page = "build"
        self.host = Host(self._look())
        self._tasks: Tasks | None = None
        self.content: Any = None
        self._pages: dict[str, Any] = {}
        self.bar: Any = None
        self._is_wide = True
        self._ends: list[Callable[[], Any]] = []
        self._document = object()
        """Another for each document: what was begun for one before it does nothing to this one."""
        self._reading = trio.CancelScope()
        """Of the file that is being read: whatever is opened after it is what is wanted."""
        self._writing = trio.Lock()
        """The newest is written last."""

    # -- start and end -------------------------------------------------------------------------

    def begin(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self.desk.think_with(tasks.aside)
        self.trainer = Trainer(self._opening.config, tasks)
        self._keeper = Keeper(self._opening.config.data_dir, self.desk, lambda: self.path, self.show_error)
        self.trainer.listen(self._expect_data)
        self.trainer.listen(self._show_training)
        self.desk.listen(self._show_training)
        tasks.start(self._keeper.run)

    # What the network, the chain and models need takes long to import: not before somebody asks for it.

    @cached_property
    def network(self) -> Network:
        from engine_app.ui.network import Network

        return Network(self._opening.config, self.context.tasks)

    @cached_property
    def purse(self) -> Purse:
        from engine_app.ui.purse import Purse

        return Purse(self.network, self.context.tasks)

    @cached_property
    def exporter(self) -> Exporter:
        from engine_app.ui.exporter import Exporter

        return Exporter(self._opening.config, self.context.tasks)

    @cached_property
    def importer(self) -> Importer:
        from engine_app.ui.importer import Importer

        return Importer(self._opening.config, self.context.tasks)

    @cached_property
    def servers(self) -> Servers:
        from engine_app.ui.servers import Servers

        return Servers(self._opening.config, self.context.tasks)

    async def _connect(self) -> None:
        """Once the window is there, unless its user was faster."""
        await trio.to_thread.run_sync(importlib.import_module, "engine_app.ui.network")
        if self.network.address and self.network.state == "off":
            self.network.connect()

    def _show_training(self) -> None:
        """On the canvas of the graph that is trained: pulses while it runs, what it told about its nodes.

        That stays until the graph is changed.
        """
        page, trainer = self._pages.get("build"), self.trainer
        activity = trainer.activity
        if page is None or activity is None:
            return
        runs = trainer.state in ("training", "paused")
        is_on = activity.belongs_to(self.desk.graph) if runs else activity.graph is self.desk.graph
        flow = self.trainer.run.metrics.get("samples_per_s") if self.trainer.run is not None else None
        speed = pulse_speed(flow) if trainer.state == "training" else 0.0
        page.show_training(activity.traces if is_on else {}, speed if is_on and runs else None)

    def _expect_data(self) -> None:
        if not self.trainer.is_reading:
            preview = self.trainer.preview
            self.desk.expect(preview.facts if preview is not None else None)

    def build(self) -> Host:
        self._ends.append(bind_keys(self.host, self._shortcut, self._shortcut_first))
        self.host.size = Window.size
        self.host.bind(size=lambda *_: Clock.schedule_once(lambda _dt: self._follow_size(), -1))
        Window.bind(on_request_close=self._may_close, on_drop_file=self._dropped)
        self.rebuild()
        return self.host

    def on_start(self) -> None:
        if self._opening.file is not None:
            self.open_file(self._opening.file)
        else:
            self.context.start(self._greet)
        Clock.schedule_once(lambda _dt: self.context.start(self._connect), CONNECT_AFTER_S)

    async def _greet(self) -> None:
        """With what was lost, or, once, with the tour."""
        lost = await self._keeper.lost()
        if lost is not None:
            self.offer(lost, ("Throw away", lost.discard))
        elif self._opening.greets and not self.settings.seen_tour:
            self._start_tour()

    def offer(self, lost: Recovered, instead: tuple[str, Callable[[], Any]]) -> None:
        """Whoever answers nothing is asked again at the next start."""
        text = f"{plain(lost.graph.name)} had changes that were not saved when the window ended."
        recover = partial(self._recover, lost)
        self.host.ask("Go on where it stopped?", text, "Recover", recover, instead=instead)

    def _recover(self, lost: Recovered) -> None:
        self.path, self._document = lost.document, object()
        self._keeper.take_over(lost)
        self.desk.open_unsaved(lost.graph)

    def _leave(self) -> None:
        """Without what is not saved."""
        try:
            self._keeper.discard()
        finally:
            self.stop()

    def on_stop(self) -> None:
        """Kivy calls it twice."""
        while self._ends:
            self._ends.pop()()
        self._close_pages()
        Window.unbind(on_request_close=self._may_close, on_drop_file=self._dropped)

    def show_error(self, error: BaseException) -> None:
        error = cause_of(error)
        self.host.toast(plain(str(error) or type(error).__name__, lines=True), bad=True)

    def _may_close(self, *_: Any, **__: Any) -> bool:
        """True keeps the window."""
        if self.trainer.is_busy:
            text = "`cyxwiz trainings` shows it afterwards; it goes on from what is saved."
            self.host.ask("Close while it trains?", text, "Close", self.stop, danger=True)
            return True
        if self.servers.running:
            text = "Nobody is answered from then on."
            self.host.ask("Close while models are deployed?", text, "Close", self.stop, danger=True)
            return True
        if not self.desk.is_changed:
            return False
        text = f"{plain(self.desk.graph.name)} has changes."
        self.host.ask("Close without saving?", text, "Close", self._leave, danger=True)
        return True

    # -- drawing -------------------------------------------------------------------------------

    def _look(self) -> Look:
        return Look(PALETTES[self.settings.palette], float(Metrics.density) * self.settings.scale)

    @property
    def context(self) -> Context:
        if self._tasks is None:
            raise RuntimeError("the window is not in its loop yet")
        actions = Actions(
            show_page=self.show_page,
            save=self.save,
            save_as=self.save_as,
            new=self.new,
            ask_open=self._ask_open,
            open_example=self.open_example,
            change_settings=self.change_settings,
            settings=lambda: self.settings,
            show_shortcuts=self._show_shortcuts,
            start_tour=self._start_tour,
            show_files=self._show_files,
            export=self._show_export,
            deploy=self._deploy,
        )
        return Context(self.host.look, self.host, self.desk, self._tasks, self._opening.config, actions)

    def rebuild(self) -> None:
        """All widgets anew: for another look or shape of the window."""
        self._close_pages()
        self._is_wide = self.host.is_wide
        self.bar = TopBar(self.context, self._is_wide, partial(show_problems, self.context))
        self._frame()

    def _close_pages(self) -> None:
        for part in (*self._pages.values(), *([self.bar] if self.bar is not None else [])):
            part.close()
        self._pages, self.bar = {}, None

    def _frame(self) -> None:
        """Pages that were shown before are kept as they are."""
        context = self.context
        if self.page not in self._pages:
            self._pages[self.page] = self._page(context)
        self.content = self._pages[self.page]
        for part in (self.content, self.bar):
            if part.parent is not None:
                part.parent.remove_widget(part)
        self.host.set_content(framed(context, self._is_wide, self.page, self.content, self.bar))

    def _page(self, context: Context) -> Any:
        match self.page:
            case "train":
                from engine_app.ui.panels.train import TrainPage

                return TrainPage(context, self.trainer, self._is_wide)
            case "jobs":
                from engine_app.ui.panels.jobs import JobsPage

                return JobsPage(context, self.network, self.trainer, self._is_wide)
            case "deploy":
                from engine_app.ui.panels.deploy import DeployPage

                return DeployPage(context, self.servers, self.network, self._is_wide)
            case "wallet":
                from engine_app.ui.panels.wallet import WalletPage

                return WalletPage(context, self.purse)
            case "settings":
                return SettingsPage(context)
            case _:
                return BuildPage(context, self._is_wide)

    def _follow_size(self) -> None:
        if self.host.is_wide != self._is_wide:
            while self.host.is_asking:
                self.host.close()
            self.rebuild()

    def show_page(self, name: str) -> None:
        if name != self.page:
            self.page = name
            self._frame()

    def change_settings(self, settings: Settings) -> None:
        before, self.settings = self.settings, settings
        if (before.palette, before.scale) != (settings.palette, settings.scale):
            self.host.set_look(self._look())
            self.rebuild()
        try:
            save_settings(self._settings_file, settings)
        except OSError as error:
            self.host.toast(f"The settings could not be kept: {error.strerror}", bad=True)

    # -- files ---------------------------------------------------------------------------------

    def open_file(self, path: Path) -> None:
        """A graph, or a model of any program; data becomes what is trained on."""

        async def open_it() -> None:
            match await files.kind_of(path):
                case "graph":
                    self._unless_changed(lambda: self._open_graph(path))
                case "model":
                    from engine_app.ui.panels.graph_files import open_import

                    open_import(self.context, self.importer, path, self.open_file)
                case "data":
                    self.trainer.choose(str(path))
                    self.show_page("train")
                case _:
                    allowed = ", ".join(files.OPENED)
                    text = f"{plain(path.name)} cannot be opened: allowed are {allowed} and data"
                    self.host.toast(text, bad=True)

        self.context.start(open_it)

    def _open_graph(self, path: Path) -> None:
        before = self.desk.graph

        async def show_it(opened: Opened) -> None:
            lost = await self._keeper.lost_of(path)
            show = partial(self._show_opened, path, opened)
            if self.desk.graph is not before:  # edited while it was read
                self._unless_changed(show)
            elif lost is not None and lost.graph != opened.graph:
                self.offer(lost, ("Open as saved", show))
            else:
                show()

        told = f"Opening {plain(path.name)} …"
        read = partial(open_graph, path, self.desk.aspect)
        self._reading.cancel()
        self._reading = do_aside(
            self.context, told, read, lambda opened: self.context.start(partial(show_it, opened))
        )

    def _show_opened(self, path: Path, opened: Opened) -> None:
        self.path, self._document = path if path.suffix.lower() == ".json" else None, object()
        self.desk.open(opened.graph)
        self._remember(path)
        self.show_page("build")
        if opened.notes:
            self.host.toast("; ".join(opened.notes))

    def open_example(self) -> None:
        def open_it() -> None:
            self._begin_with(DIGITS)
            if not self.trainer.source:
                self.trainer.propose(DIGITS_DATA)

        self._unless_changed(open_it)

    def new(self) -> None:
        self._unless_changed(lambda: self._begin_with(Graph("Untitled")))

    def _begin_with(self, graph: Graph) -> None:
        """Something that no file holds yet."""
        self._reading.cancel()
        self.path, self._document = None, object()
        self.desk.open(graph)
        self.show_page("build")

    def save(self) -> None:
        if self.path is not None:
            self._write(self.path)
        else:
            self.save_as()

    def save_as(self) -> None:
        start = self.path or Path.cwd() / f"{_file_name(self.desk.graph.name)}.json"
        ask_path(self.context, "Save the graph", start, "Save", self._write)

    def _write(self, path: Path) -> None:
        graph, document = self.desk.graph, self._document

        async def write() -> None:
            async with self._writing:
                await files.write_graph(path, graph)
            if document is self._document:  # another may have been opened meanwhile
                self.path = path
                self.desk.mark_saved(graph)
            self._remember(path)
            self.host.toast(f"Saved as {plain(path.name)}")

        self.context.start(write)

    def _remember(self, path: Path) -> None:
        self.change_settings(self.settings.with_recent(path.absolute()))

    def _ask_open(self) -> None:
        def picked(path: Path) -> None:
            self.host.close()
            self.open_file(path)

        recent = [Path(each) for each in self.settings.recent if Path(each).is_file()]
        start = self.path.parent if self.path is not None else None
        picker = FilePicker(self.context, files.OPENED, picked, recent, start)
        self.host.open("Open a graph or a model", picker, fills=True, side=not self._is_wide, wide=560)

    def _dropped(self, _window: Any, name: bytes, *_: Any) -> None:
        self.open_file(Path(name.decode(errors="surrogateescape")))

    def _unless_changed(self, action: Callable[[], Any]) -> None:
        if self.desk.is_changed:
            text = f"The changes to {plain(self.desk.graph.name)} are not saved."
            self.host.ask("Open another graph?", text, "Discard them", action, danger=True)
        else:
            action()

    def _show_files(self) -> None:
        from engine_app.ui.panels.graph_files import open_menu

        open_menu(self.context)

    def _deploy(self, model: Path | None) -> None:
        from engine_app.ui.panels.serve import open_deploy

        open_deploy(self.context, self.servers, self.network, model)

    def _show_export(self, model: Path | None) -> None:
        from engine_app.ui.panels.export import open_export

        if model is not None:
            self.exporter.choose(model)
        open_export(self.context, self.exporter, self.trainer.source)

    # -- keys and help -------------------------------------------------------------------------

    def _shortcut_first(self, code: int, text: str, modifiers: list[str]) -> bool:
        """Tab over the canvas searches; elsewhere, and while something has the focus, it moves that."""
        if shortcut(code, text, modifiers) != "search_here" or not isinstance(self.content, BuildPage):
            return False
        return not self.host.is_asking and self.host.ring.current is None and self.content.search_here()

    def _shortcut(self, code: int, text: str, modifiers: list[str]) -> bool:
        match shortcut(code, text, modifiers):
            case "undo":
                self.desk.undo()
            case "redo":
                self.desk.redo()
            case "save":
                self.save()
            case "save_as":
                self.save_as()
            case "new":
                self.new()
            case "open":
                self._ask_open()
            case "add" if isinstance(self.content, BuildPage):
                self.content.show_palette()
            case "next" if isinstance(self.content, BuildPage):
                self.desk.select_beside(1)
            case "previous" if isinstance(self.content, BuildPage):
                self.desk.select_beside(-1)
            case "train":
                self.show_page("train")
            case "help":
                self._show_shortcuts()
            case str(name) if isinstance(self.content, BuildPage):
                return self.content.command(name)
            case _:
                return False
        return True

    def _show_shortcuts(self) -> None:
        open_shortcuts(self.context)

    def _start_tour(self) -> None:
        import msgspec

        if not self.settings.seen_tour:
            self.change_settings(msgspec.structs.replace(self.settings, seen_tour=True))
        tour.start(self.context)


def _file_name(name: str) -> str:
    kept = "".join(each if each.isalnum() else "_" for each in name.lower()).strip("_")
    return kept[:60] or "graph"
