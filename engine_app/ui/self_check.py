"""Walks through the main screens and takes their pictures. An error in any ends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from backend.graph import Lora
from engine_app.config import Config
from engine_app.ui import self_check_states as states
from engine_app.ui.app import EngineApp, Opening
from engine_app.ui.examples import DIGITS
from engine_app.ui.gallery import build_gallery
from engine_app.ui.loop import run_app
from engine_app.ui.panels.build import BuildPage, show_problems
from engine_app.ui.panels.graph_files import open_picture
from engine_app.ui.panels.read_options import open_read
from engine_app.ui.pictures import frames, resize, take_picture
from engine_app.ui.self_check_edges import walk_edges, walk_enlarged
from engine_app.ui.self_check_models import THREE, show_deployment, show_network, shown_export, shown_servers
from engine_app.ui.theme import QUICK_S

DESKTOP, LAPTOP, TABLET = (1920, 1080), (1280, 800), (800, 1280)
DEADLINE_S = 540.0


async def check_window(config: Config, directory: Path) -> list[Path]:
    """The pictures. Raises the first error of the window, and trio.TooSlowError."""
    window = EngineApp(Opening(config, greets=False))
    walk = _Walk(window, directory)
    errors: list[BaseException] = []

    async def walk_and_close() -> None:
        try:
            await frames(3)
            await walk.all()
        finally:
            window.stop()

    def begin(tasks: object) -> None:
        window.begin(tasks)  # type: ignore[arg-type]
        window.context.start(walk_and_close)

    with trio.fail_after(DEADLINE_S):
        await run_app(window, begin, errors.append)
    if errors:
        raise errors[0]
    return walk.pictures


class _Walk:
    def __init__(self, window: EngineApp, directory: Path) -> None:
        self._window = window
        self._directory = directory
        self.pictures: list[Path] = []

    async def all(self) -> None:
        window = self._window
        for size, name in ((LAPTOP, "laptop"), (TABLET, "tablet")):
            await resize(*size)
            window.show_page("build")
            await self._tour_and_empty(name)
            window.open_example()
            await self._take(f"{name}-build", lambda: window.desk.select("conv1"))
            await self._sheets(name)
            window.desk.open(DIGITS)
            await self._train(name)
            await self._jobs(name)
            await self._deploy(name)
            await self._export(name)
            await self._wallet(name)
            await self._take(f"{name}-settings", lambda: window.show_page("settings"))
            await self._told(name)
        await walk_enlarged(window, self._take, "tablet")
        await resize(*LAPTOP)
        await walk_edges(window, self._take, "edge")
        await resize(*DESKTOP)
        window.show_page("build")
        await self._take("desktop-build", lambda: window.desk.select("optimizer"))
        await self._take("desktop-trained", lambda: window.show_page("train"))
        show_network(window.network, window.desk.graph, window.trainer.source)
        states.show_many_jobs(window.network)
        window.show_page("jobs")
        await self._take("desktop-jobs", lambda: window.content.choose(window.network.jobs[2]["job_id"]))
        window.show_page("build")
        await self._light()
        await self._models_at_all_sizes()
        window.host.set_content(build_gallery(window.host.look))
        await self._take("controls", lambda: None)

    async def _tour_and_empty(self, name: str) -> None:
        from backend.graph import Graph
        from engine_app.ui import tour

        window = self._window
        window.desk.open(Graph("Untitled"))
        await self._take(f"{name}-tour", lambda: tour.start(window.context))
        window.host.close()
        await self._take(f"{name}-empty", lambda: None)

    async def _sheets(self, name: str) -> None:
        window = self._window
        window.desk.remove("output")
        await self._take(f"{name}-problems", lambda: show_problems(window.context))
        window.host.close()
        window.desk.undo()
        page = window.content
        if isinstance(page, BuildPage):
            await self._take(f"{name}-add-node", page.show_palette)
            window.host.close()
        await self._take(f"{name}-files", lambda: window.context.act.show_files())
        window.host.close()
        await self._take(f"{name}-picture", lambda: open_picture(window.context))
        window.host.close()
        if name == "tablet":
            window.desk.set_tuning("dense", Lora(8, 16.0))
            await self._take(f"{name}-inspector", lambda: page.tap("dense"))
            window.host.close()

    async def _train(self, name: str) -> None:
        """Of a run that is made up: nothing is trained here."""
        window = self._window
        window.trainer.run, window.trainer.history = None, []
        window.show_page("train")  # which reads what was proposed
        await self._until(lambda: window.trainer.preview is not None)
        await self._take(f"{name}-train", lambda: None)
        states.show_training(window.trainer)
        await self._take(f"{name}-training", window.content.refresh)
        states.show_trained(window.trainer)
        await self._take(f"{name}-trained", window.content.refresh)

    async def _jobs(self, name: str) -> None:
        window = self._window
        network = window.network
        await self._take(f"{name}-jobs", lambda: window.show_page("jobs"))
        show_network(network, window.desk.graph, window.trainer.source)
        states.show_story(network)
        window.content.choose(network.jobs[0]["job_id"])
        await self._take(f"{name}-placement", lambda: None)
        states.show_many_jobs(network)
        await self._take(f"{name}-many-jobs", window.content.refresh)
        states.forget_network(network)
        trainer = window.trainer
        path = window.context.config.data_dir / "houses.csv"
        await self._take(
            f"{name}-read", lambda: open_read(window.context, trainer.converter, str(path), trainer.choose)
        )
        window.host.close()

    async def _deploy(self, name: str) -> None:
        """Of models that are made up."""
        window = self._window
        window.servers.all = []
        await self._take(f"{name}-deploy-empty", lambda: window.show_page("deploy"))
        await self._take(f"{name}-serve", lambda: window.context.act.deploy(None))
        window.host.close()
        window.servers.all = shown_servers(window.context.config.data_dir)
        page = window.content
        page.refresh()
        await self._until(lambda: page.try_it is not None and page.try_it.pad is not None)
        page.try_it.pad.draw(THREE)
        await self._take(f"{name}-deploy", lambda: None)
        page.choose("here-2")
        await self._until(lambda: page.try_it.conversation is not None)
        page.try_it.tryout.chat("How is a peer paid?")
        await self._take(f"{name}-chat", lambda: None)
        states.show_long_talk(page.try_it.tryout)
        await self._take(f"{name}-long-talk", page.try_it.refresh)
        await self._deploy_at_peer(name)

    async def _deploy_at_peer(self, name: str) -> None:
        window = self._window
        network = window.network
        show_network(network, window.desk.graph, window.trainer.source)
        show_deployment(network)
        page = window.content
        page.choose(network.deployments[0]["id"])
        await self._take(f"{name}-remote", lambda: None)
        states.move_deployment(network)
        await self._take(f"{name}-moved", page.refresh)
        window.context.act.deploy(None)
        await frames(2)
        await self._take(f"{name}-serve-peer", lambda: window.host.children[0].body.elsewhere("peer"))
        window.host.close()
        states.forget_network(network)

    async def _export(self, name: str) -> None:
        window = self._window
        window.exporter.model, window.exporter.graph = Path("digits.cyxmodel"), DIGITS
        await self._take(f"{name}-export", lambda: window.context.act.export(None))
        window.host.close()
        window.exporter.done = shown_export(Path.cwd())
        window.context.act.export(None)
        await frames(2)
        sheet = window.host.children[0]
        await self._take(f"{name}-certificate", sheet.to_end)
        window.host.close()
        window.exporter.done = None

    async def _wallet(self, name: str) -> None:
        purse = self._window.purse
        if not purse.exists:
            await self._take(f"{name}-wallet", lambda: self._window.show_page("wallet"))
            purse.create("")
            await self._until(lambda: bool(purse.address) and not purse.busy)
        self._window.show_page("wallet")
        await self._until(lambda: not purse.busy)
        states.show_balance(purse)
        await self._take(f"{name}-balance", self._window.content.refresh)

    async def _told(self, name: str) -> None:
        """What lies over a page, and names that are too long for their place."""
        window = self._window
        window.show_page("build")
        window.desk.rename(states.LONG_NAME)
        window.desk.select(None)
        await self._take(f"{name}-error", lambda: window.host.toast(states.LONG_ERROR, bad=True))
        window.host.close_toast()
        window.desk.undo()
        await self._take(f"{name}-keys", lambda: window.context.act.show_shortcuts())
        window.host.close()
        window.desk.select("dense")
        await self._take(f"{name}-menu", lambda: window.content.command("menu"))
        window.host.close()
        await self._take(f"{name}-patterns", lambda: window.content.bench.offer_patterns((0, 0)))
        window.host.close()
        window.content.show_palette()
        await frames(2)
        window.host.children[0].body.search.field.input.text = "teleporter"
        await self._take(f"{name}-nothing-found", lambda: None)
        window.host.close()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await frames(1)

    async def _models_at_all_sizes(self) -> None:
        """What a model is asked, in the light too."""
        window = self._window
        window.servers.all = shown_servers(window.context.config.data_dir)
        await self._take("desktop-light-deploy", lambda: window.show_page("deploy"))
        await self._export("desktop-light")
        window.servers.all = []

    async def _light(self) -> None:
        window = self._window
        settings = msgspec.structs.replace(window.settings, palette="light")
        await self._take("desktop-light", lambda: window.change_settings(settings))

    async def _take(self, name: str, act: Callable[[], object]) -> None:
        act()
        await trio.sleep(2 * QUICK_S)  # sheets fade in
        picture = self._directory / f"{name}.png"
        await take_picture(picture)
        self.pictures.append(picture)
