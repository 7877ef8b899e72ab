"""The canvas under fingers, in a real window that is drawn offscreen."""

from __future__ import annotations

from typing import Any

import pytest

from backend.graph import Graph
from engine_app.document.apply import apply
from engine_app.document.edits import AddNodes, Disconnect, MakeSubgraph
from engine_app.document.view import place_of
from tests.unit.engine_app.document.builders import line

pytestmark = pytest.mark.e2e

MLP = line("Dense", "ReLU")


class Seen:
    """What the canvas asked its surroundings for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __call__(self, *what: Any) -> None:
        self.asked.append(what[-1])


def make(graph: Graph = MLP) -> tuple[Any, Any, Seen]:
    from engine_app.ui.canvas import CanvasActions, GraphCanvas
    from engine_app.ui.desk import Desk
    from engine_app.ui.theme import Look

    desk, seen = Desk(graph), Seen()
    canvas = GraphCanvas(Look(), desk, CanvasActions(seen, seen, seen, seen))
    desk.listen(canvas.refresh)
    return canvas, desk, seen


def at(canvas: Any, x: float, y: float) -> tuple[float, float]:
    """A place of the world, as the window counts."""
    left, top = canvas.view.to_screen(x, y)
    return canvas.x + left, canvas.y + canvas.height - top


async def test_a_node_is_dragged_and_the_drag_undone(show: Any) -> None:
    canvas, desk, _ = make()
    async with show(canvas) as driver:
        start, end = at(canvas, 400, 20), at(canvas, 400, 260)
        await driver.drag(start, end)
        place = place_of(desk.graph.node("dense"))
        assert place is not None and abs(place[1] - 240) < 12
        assert len(desk.state.done) == 1
        desk.undo()
        assert desk.graph == MLP
        await driver.frames(2)
        assert canvas.scene.corners[1].tolist() == [300, 0]


async def test_a_pinch_on_a_node_zooms_and_moves_nothing(show: Any) -> None:
    canvas, desk, _ = make()
    async with show(canvas) as driver:
        zoom = canvas.view.zoom
        x, y = at(canvas, 400, 20)
        one, two = driver.finger(x - 30, y), driver.finger(x + 30, y)
        one.down()
        two.down()
        await driver.frames(1)
        for step in range(1, 5):
            one.move(x - 30 - 10 * step, y)
            two.move(x + 30 + 10 * step, y)
            await driver.frames(1)
        one.up()
        two.up()
        await driver.frames(1)
        assert desk.graph == MLP and not desk.state.done
        assert canvas.view.zoom == pytest.approx(zoom * 140 / 60, rel=0.02)


async def test_two_taps_link_and_a_drag_unlinks(show: Any) -> None:
    canvas, desk, _ = make()
    async with show(canvas) as driver:
        await driver.drag(at(canvas, 602, 48), at(canvas, 560, 400))
        assert len(desk.graph.links) == 2
        await driver.tap_at(*at(canvas, 500, 48))
        assert canvas.tools.pending is not None
        await driver.tap_at(*at(canvas, 600, 48))
        assert len(desk.graph.links) == 3
        desk.undo()
        desk.undo()
        assert desk.graph == MLP


async def test_a_link_that_ends_in_the_void_asks_for_a_node(show: Any) -> None:
    canvas, _, seen = make(apply(MLP, Disconnect((("dense", "output", "relu", "input"),))))
    async with show(canvas) as driver:
        await driver.drag(at(canvas, 500, 48), at(canvas, 560, 300))
        (asked,) = seen.asked
        assert (asked.end.node, asked.end.port) == ("dense", "output")


async def test_a_long_press_opens_a_menu_and_a_double_tap_what_is_inside(show: Any) -> None:
    canvas, desk, seen = make(apply(MLP, MakeSubgraph(("dense", "relu"))))
    async with show(canvas) as driver:
        finger = driver.finger(*at(canvas, 550, 20))
        finger.down()
        await driver.until(lambda: bool(seen.asked))
        finger.up()
        assert seen.asked[0].on.node == "subgraph"
        for _ in range(2):
            finger = driver.finger(*at(canvas, 550, 20))
            finger.down()
            finger.up()
        await driver.frames()
        assert desk.state.inside == ("subgraph",)
        assert {card.node.id for card in canvas.scene.cards} >= {"dense", "relu"}
        canvas.go_to(0)
        assert desk.state.inside == () and desk.state.selected == {"subgraph"}


async def test_the_picture_shows_nodes_links_and_what_is_selected(show: Any, tmp_path: Any) -> None:
    from PIL import Image

    from engine_app.ui.pictures import take_picture
    from engine_app.ui.theme import DARK

    canvas, desk, _ = make()
    async with show(canvas) as driver:
        pictures = []
        for chosen in (None, "dense"):
            desk.select(chosen)
            await driver.frames()
            await take_picture(tmp_path / "seen.png")
            pictures.append(Image.open(tmp_path / "seen.png").convert("RGB"))
        height = pictures[0].height

        def colour(picture: Any, x: float, y: float) -> tuple[float, ...]:
            left, low = at(canvas, x, y)
            return tuple(value / 255 for value in picture.getpixel((round(left), round(height - low))))

        assert colour(pictures[0], 350, 80) == pytest.approx(DARK.raised[:3], abs=0.02)
        assert colour(pictures[0], 550, 300) == pytest.approx(DARK.canvas[:3], abs=0.06)
        link = colour(pictures[0], 550, 48)
        assert link[2] > 0.5 > link[0]
        assert pictures[0].tobytes() != pictures[1].tobytes()


async def test_the_last_of_thousands_of_nodes_is_drawn(show: Any, tmp_path: Any) -> None:
    from dataclasses import replace

    from PIL import Image

    from backend.catalogue import Category
    from engine_app.document.view import placed
    from engine_app.ui.pictures import take_picture
    from engine_app.ui.theme import DARK

    relu, columns = MLP.node("relu"), 40
    nodes = tuple(
        placed(replace(relu, id=f"n{i}"), 230.0 * (i % columns), 130.0 * (i // columns)) for i in range(2_000)
    )
    canvas = make(apply(Graph("many"), AddNodes(nodes)))[0]
    async with show(canvas) as driver:
        canvas.fit()
        await driver.frames(3)
        await take_picture(tmp_path / "seen.png")
        picture = Image.open(tmp_path / "seen.png").convert("RGB")
        left, low = at(canvas, *canvas.scene.rect(len(canvas.scene.cards) - 1).centre)
        found = [value / 255 for value in picture.getpixel((round(left), round(picture.height - low)))]
        assert found == pytest.approx(DARK.categories[Category.ACTIVATION][:3], abs=0.1)
