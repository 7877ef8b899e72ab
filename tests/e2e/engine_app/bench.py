"""The build page's canvas in a host, as gestures and keys meet it."""

from __future__ import annotations

from typing import Any

from backend.graph import Graph
from tests.unit.engine_app.document.builders import line

MLP = line("Dense", "ReLU")


class Bench:
    """The build page's canvas with its menus, in a host."""

    def __init__(self, graph: Graph = MLP) -> None:
        from engine_app.config import Config
        from engine_app.ui.context import Actions, Context
        from engine_app.ui.desk import Desk
        from engine_app.ui.panels.build import BuildPage
        from engine_app.ui.theme import Look
        from engine_app.ui.widgets.overlays import Host, bind_keys

        self.host, self.desk, self.before = Host(Look()), Desk(graph), graph
        ignore: Any = lambda *_: None  # noqa: E731
        actions = Actions(**dict.fromkeys(Actions.__slots__, ignore))
        context = Context(self.host.look, self.host, self.desk, ignore, Config(None, None, None, ""), actions)  # type: ignore[arg-type]
        self.page = BuildPage(context, is_wide=False)
        self.host.set_content(self.page)
        self.canvas = self.page.bench.canvas_widget
        self.stop = bind_keys(self.host, self._key)

    def _key(self, code: int, text: str, modifiers: list[str]) -> bool:
        from engine_app.ui.keys import shortcut

        name = shortcut(code, text, modifiers)
        return name is not None and self.page.command(name)

    def at(self, place: tuple[float, float]) -> tuple[float, float]:
        """A place of the world, as the window counts."""
        left, top = self.canvas.view.to_screen(*place)
        return self.canvas.x + left, self.canvas.y + self.canvas.height - top

    @property
    def menu(self) -> Any:
        from engine_app.ui.widgets.radial import RadialMenu

        return next((each for each in self.host.children if isinstance(each, RadialMenu)), None)

    def item(self, name: str) -> Any:
        return next(each for each in self.menu.items if each.name == name)

    def centre_of(self, name: str) -> tuple[float, float]:
        item = self.item(name)
        return item.x + item.width / 2, item.y + item.height / 2

    @property
    def palette(self) -> Any:
        from engine_app.ui.panels.palette import PalettePanel

        return next(each for each in self.host.walk() if isinstance(each, PalettePanel))

    def found(self, name: str) -> Any:
        """The row of a type in the palette, searched for as a user would."""
        self.palette.search.field.input.text = name
        return next(each for each in self.palette.walk() if getattr(each, "name", "") == name)

    @property
    def graph(self) -> Graph:
        return self.desk.graph

    def undone(self) -> bool:
        """That what was done was one step, and its undo leaves nothing of it."""
        is_one = len(self.desk.state.done) == 1
        self.desk.undo()
        return is_one and self.desk.graph == self.before


class Shown:
    def __init__(self, bench: Bench, show: Any) -> None:
        self._bench, self._shown = bench, show(bench.host)

    async def __aenter__(self) -> Any:
        driver = await self._shown.__aenter__()
        self._bench.canvas.fit()
        await driver.frames(2)
        return driver

    async def __aexit__(self, *error: Any) -> None:
        self._bench.stop()
        self._bench.page.close()
        await self._shown.__aexit__(*error)


async def stroke(bench: Bench, driver: Any, places: tuple[tuple[float, float], ...], **how: Any) -> None:
    """A finger along places of the world."""
    finger = driver.finger(*bench.at(places[0]), **how)
    finger.down()
    for place in places[1:]:
        finger.move(*bench.at(place))
        await driver.frames(1)
    finger.up()
    await driver.frames(1)
