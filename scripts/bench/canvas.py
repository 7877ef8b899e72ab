"""The editor's canvas: 3,000 nodes against a Kivy widget for each, and how soon a graph is open.

    scripts/bench/canvas.py [--json]

Both draw the same graph into the same offscreen window, frame by frame in turns; a frame is timed from the
change of the view until the driver has drawn it, its CPU time over the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NODES, FRAMES, ROUNDS = 3000, 10, 3
WIDTH, HEIGHT = 1280, 800


def make_graph(count: int) -> Any:
    from backend.graph import Graph, Link, Node
    from engine_app.document.view import placed

    columns = max(1, int((count * 1.1) ** 0.5))
    types = (("Conv2D", {"filters": 16, "padding": "same"}), ("BatchNorm", {}), ("ReLU", {}))
    nodes = [placed(Node("input", "Input", 1, {"shape": [16, 32, 32]}), -300, 0)]
    links = []
    for number in range(count - 1):
        name, parameters = types[number % 3]
        node = Node(f"n{number}", name, 1, parameters)
        links.append(Link(nodes[-1].id, "output", node.id, "input"))
        nodes.append(placed(node, 260.0 * (number % columns), 160.0 * (number // columns)))
    return Graph("bench", tuple(nodes), tuple(links))


class Widgets:
    """A Kivy widget for every node in a ScatterPlane, and a line for every link."""

    def __init__(self, scene: Any) -> None:
        from kivy.graphics import Color, Ellipse, Line, RoundedRectangle
        from kivy.uix.label import Label
        from kivy.uix.scatter import ScatterPlane
        from kivy.uix.widget import Widget

        from engine_app.scene.hits import link_ends

        self.root = ScatterPlane(do_rotation=False, auto_bring_to_front=False)
        with self.root.canvas.before:
            Color(0.4, 0.6, 0.9, 1)
            for (ax, ay), (bx, by) in link_ends(scene).tolist():
                pull = max(40, abs(bx - ax) / 2)
                Line(
                    bezier=(ax, -ay, ax + pull, -ay, bx - pull, -by, bx, -by), width=1.5, bezier_precision=20
                )
        for number, card in enumerate(scene.cards):
            rect = scene.rect(number)
            box = Widget(size_hint=(None, None), pos=(rect.x, -rect.bottom), size=(rect.width, rect.height))
            with box.canvas:
                Color(0.13, 0.15, 0.18, 1)
                RoundedRectangle(pos=box.pos, size=box.size, radius=[10])
                Color(0.2, 0.3, 0.4, 1)
                RoundedRectangle(pos=(box.x, box.top - 36), size=(box.width, 36), radius=[10, 10, 0, 0])
                Color(0.4, 0.6, 0.9, 1)
                for dx, dy in card.offsets:
                    Ellipse(pos=(box.x + dx - 6, box.top - dy - 6), size=(12, 12))
            for text, y in ((card.title, box.top - 30), (card.summary, box.y + 6)):
                box.add_widget(Label(text=text, font_size=14, size=(box.width, 20), pos=(box.x, y)))
            self.root.add_widget(box)

    def look(self, x: float, y: float, zoom: float) -> None:
        from kivy.graphics.transformation import Matrix

        move = Matrix().translate(-x * zoom, HEIGHT + y * zoom, 0)
        self.root.transform = move.multiply(Matrix().scale(zoom, zoom, 1))


def time_frames(step: Callable[[int], None]) -> tuple[list[float], list[float]]:
    """Wall and CPU milliseconds of each frame."""
    from kivy.base import EventLoop
    from kivy.core.window import Window
    from kivy.graphics.opengl import glFinish

    wall, cpu = [], []
    for number in range(FRAMES):
        start, busy = time.perf_counter(), time.process_time()
        step(number)
        Window.canvas.ask_update()
        EventLoop.idle()
        glFinish()
        wall.append((time.perf_counter() - start) * 1e3)
        cpu.append((time.process_time() - busy) * 1e3)
    return wall, cpu


def measure_drawing() -> list[dict[str, Any]]:
    from kivy.base import runTouchApp
    from kivy.core.window import Window

    from engine_app.ui.canvas import CanvasActions, GraphCanvas
    from engine_app.ui.desk import Desk
    from engine_app.ui.theme import Look

    ignore: Callable[..., None] = lambda *_: None  # noqa: E731
    canvas = GraphCanvas(
        Look(), Desk(make_graph(NODES)), CanvasActions(ignore, ignore, ignore, ignore), size=(WIDTH, HEIGHT)
    )
    runTouchApp(canvas, embedded=True)
    widgets = Widgets(canvas.scene)
    canvas.fit()
    fitted, rows = canvas.view, []
    starts = {"pan": fitted.zoomed(1 / fitted.zoom, WIDTH / 2, HEIGHT / 2), "fit": fitted}
    for name, start in starts.items():
        ours: list[list[float]] = [[], []]
        other: list[list[float]] = [[], []]

        def move(number: int, begin: Any = start) -> None:
            canvas.look_at(begin.panned(-7.0 * number, -3.0 * number))

        def move_widgets(number: int, begin: Any = start) -> None:
            view = begin.panned(-7.0 * number, -3.0 * number)
            widgets.look(view.x, view.y, view.zoom)

        for _ in range(ROUNDS):
            for root, step, found in ((canvas, move, ours), (widgets.root, move_widgets, other)):
                for child in Window.children[:]:
                    Window.remove_widget(child)
                Window.add_widget(root)
                time_frames(step)
                for kept, new in zip(found, time_frames(step), strict=True):
                    kept += new
        mine, theirs = (statistics.median(found[0]) for found in (ours, other))
        rows.append(row(f"{name}_{NODES}_of_widgets", mine, theirs, "a widget per node"))
        rows.append(row(f"{name}_{NODES}_cpu_ms", statistics.median(ours[1])))
    return rows


def measure_opening() -> dict[str, Any]:
    """A file of 1,000 nodes, to the first picture of it."""
    from backend.serialize import dump_graph
    from engine_app.document.files import open_graph
    from engine_app.scene.render import Look, Picture, cover_of, still
    from engine_app.scene.snapshot import SnapshotBuilder
    from engine_app.scene.text import TextLayout
    from engine_app.scene.view import View
    from engine_app.ui.desk import Desk
    from engine_app.ui.meshes import GlyphAtlas
    from engine_app.ui.theme import DARK

    times = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "graph.json"
        path.write_bytes(dump_graph(make_graph(1000)))
        for _ in range(5):
            start = time.perf_counter()
            desk = Desk(open_graph(path).graph)
            scene = SnapshotBuilder().build(desk.graph, desk.analysis)
            around = scene.bounds()
            view = View().fitted(around) if around is not None else View()
            picture = Picture(scene, Look(DARK), TextLayout(GlyphAtlas(14)), view.zoom)
            still(picture, cover_of(view.visible))
            times.append((time.perf_counter() - start) * 1e3)
    return row("open_1000_nodes_ms", statistics.median(times))


START = """
import time; begun = time.perf_counter()
import os, tempfile, trio
from pathlib import Path
os.environ["SDL_VIDEODRIVER"] = "offscreen"
from engine_app.config import Config
from engine_app.ui.kivy_setup import WindowOptions, prepare_kivy
place = Path(tempfile.mkdtemp())
prepare_kivy(WindowOptions(home=place / "kivy"))
from engine_app.ui.app import EngineApp, Opening
from engine_app.ui.loop import run_app
from engine_app.ui.pictures import frames
window = EngineApp(Opening(Config(place / "engine", None, None, "error"), greets=False))
async def drawn():
    window.open_example()
    await frames(2)
    print("DRAWN", time.perf_counter() - begun, flush=True)
    window.stop()
def begin(tasks):
    window.begin(tasks)
    window.context.start(drawn)
trio.run(run_app, window, begin, print)
"""


def measure_start() -> dict[str, Any]:
    """From a fresh interpreter to the second frame with the example in it."""
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, timeout=60)
        lines = [each for each in done.stdout.splitlines() if each.startswith("DRAWN")]
        if not lines:
            raise SystemExit(f"the window did not start: {done.stderr[-2000:]}")
        times.append(float(lines[0].split()[1]))
    return row("window_start_s", statistics.median(times))


def row(what: str, ours: float, other: float | None = None, name: str | None = None) -> dict[str, Any]:
    ratio = ours / other if other else None
    return {"what": what, "ours": ours, "other": other, "other_name": name, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    results = [measure_start()]
    os.environ["SDL_VIDEODRIVER"] = "offscreen"
    from engine_app.ui.kivy_setup import WindowOptions, prepare_kivy

    with tempfile.TemporaryDirectory() as home:
        prepare_kivy(WindowOptions(Path(home), WIDTH, HEIGHT, max_fps=0))
        from kivy.config import Config

        Config.set("graphics", "vsync", "0")
        Config.set("graphics", "multisamples", "0")
        results += measure_drawing()
        results.append(measure_opening())
    for found in results:
        other = (
            f"{found['other']:.1f} ({found['other_name']}), {found['ratio']:.3f}" if found["ratio"] else ""
        )
        print(f"{found['what']:28} {found['ours']:10.2f}  {other}")
    if as_json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
