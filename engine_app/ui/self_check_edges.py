"""The self-check's walk along the edges: large and nested graphs, what fails, what was lost, large words."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from backend.graph import Graph, Link, Node
from engine_app.document.edits import MakeSubgraph, SetFrame, SetMode
from engine_app.document.view import Frame, FrameKind, Mode, Rect, placed
from engine_app.ui import self_check_states as states
from engine_app.ui.activity import Activity, Trace
from engine_app.ui.app import EngineApp
from engine_app.ui.examples import DIGITS
from engine_app.ui.panels.graph_files import open_picture
from engine_app.ui.self_check_models import shown_export
from engine_app.ui.widgets.scroll import Scroll

Take = Callable[[str, Callable[[], object]], Awaitable[None]]
LARGEST_SCALE = 1.5
MANY = 600


async def walk_edges(window: EngineApp, take: Take, name: str) -> None:
    """Each in one picture at the size that the window has."""
    await _graphs(window, take, name)
    await _trainings(window, take, name)
    await _network(window, take, name)
    await _dialogs(window, take, name)


async def walk_enlarged(window: EngineApp, take: Take, name: str) -> None:
    """With words as large as they can be."""
    usual = window.settings
    window.change_settings(msgspec.structs.replace(usual, scale=LARGEST_SCALE))
    await take(f"{name}-enlarged", lambda: window.show_page("build"))
    await take(f"{name}-enlarged-train", lambda: window.show_page("train"))
    await take(f"{name}-enlarged-sheet", lambda: open_picture(window.context))
    window.host.close()
    window.change_settings(usual)


def many(count: int) -> Graph:
    """A chain in rows, as wide as high."""
    kinds = ("Dense", "ReLU", "Dropout", "BatchNorm")
    across = math.ceil(math.sqrt(count / 2))
    nodes = [placed(Node("n0", "Input", 1, {"shape": [64]}), 0.0, 0.0)]
    for at in range(1, count):
        node = Node(f"n{at}", kinds[at % len(kinds)], 1, {"units": 64} if at % len(kinds) == 0 else {})
        nodes.append(placed(node, 260.0 * (at % across), 170.0 * (at // across)))
    links = [Link(f"n{at}", "output", f"n{at + 1}", "input") for at in range(count - 1)]
    return Graph("A large one", tuple(nodes), tuple(links))


async def _graphs(window: EngineApp, take: Take, name: str) -> None:
    desk = window.desk
    window.show_page("build")
    _example(window)
    desk.do(SetMode(("norm1",), Mode.BYPASSED))
    desk.do(SetMode(("dropout",), Mode.MUTED))
    desk.select("relu1")
    window.content.command("collapse")
    desk.select(None)
    desk.do(SetFrame(FrameKind.NOTE, Frame("why", NOTE, Rect(720, 1300, 420, 130))))
    around = window.content.bench.canvas_widget.scene.around
    wider = Rect(around.x - 60, around.y - 60, around.width + 120, around.height + 120)
    desk.do(SetFrame(FrameKind.GROUP, Frame("all", states.LONG_NAME, wider)))
    await take(f"{name}-modes", lambda: window.content.command("fit"))
    _example(window)
    desk.do(MakeSubgraph(("conv1", "norm1", "relu1")))
    inside = next(node.id for node in desk.graph.nodes if node.body is not None)
    await take(f"{name}-nested", lambda: desk.enter(inside))
    await take(f"{name}-large", lambda: desk.open(many(MANY)))
    _example(window)


def _example(window: EngineApp) -> None:
    window.desk.open(Graph("Untitled"))  # or it would be asked whether to save what there is
    window.open_example()


NOTE = "Bypassed to see what batch normalization is worth: with it 0.978, without it 0.961."


async def _trainings(window: EngineApp, take: Take, name: str) -> None:
    trainer = window.trainer
    states.show_training(trainer)
    trainer.activity = _activity(window.desk.graph)
    window.desk.select("conv2")
    window.content.command("fit_selected")
    await take(f"{name}-activity", trainer._tell)
    window.desk.select(None)
    window.content.command("fit")
    trainer.activity = None
    window.show_page("train")
    states.show_trained(trainer)
    window.content.refresh()
    window.content.compare(trainer.history[0])
    await take(f"{name}-compared", lambda: None)
    await take(f"{name}-confusion", lambda: _to_end(window))
    window.content.compare(trainer.history[0])
    states.show_failed(trainer)
    await take(f"{name}-failed", window.content.refresh)
    trainer.run, trainer.history = None, []
    window.content.refresh()


def _to_end(window: EngineApp) -> None:
    for each in window.content.walk(restrict=True):
        if isinstance(each, Scroll):
            each.scroll_by(each.height * 10)


def _activity(graph: Graph) -> Activity:
    found = Activity(graph)
    for at, node in enumerate(graph.nodes):
        wave = [1 + math.sin((step + 5 * at) / 4) / (1 + step / 9) for step in range(60)]
        found.traces[node.id] = Trace(deque(wave), deque(wave[::-1]))
    return found


async def _network(window: EngineApp, take: Take, name: str) -> None:
    states.show_own_network(window.network)
    window.show_page("jobs")
    await take(f"{name}-away", window.content.refresh)
    states.forget_network(window.network)
    window.content.refresh()


async def _dialogs(window: EngineApp, take: Take, name: str) -> None:
    window.show_page("build")
    await take(f"{name}-open", lambda: window.context.act.ask_open())
    window.host.close()
    await take(f"{name}-recovery", lambda: window.offer(states.lost(), ("Throw away", lambda: None)))
    window.host.close()
    exporter = window.exporter
    exporter.model, exporter.graph = Path("digits.cyxmodel"), DIGITS
    exporter.done = states.differing(shown_export(Path.cwd()))
    window.context.act.export(None)
    await take(f"{name}-differs", lambda: window.host.children[0].to_end())
    window.host.close()
    exporter.done = None
