"""A curve of 100,000 points drawn again and again: our plot, and kivy-garden.graph's MeshLinePlot.

CPU time of an update with the frame that shows it, as when a training reports 20 times a second.
usage: plot.py [--json] [--points N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("SDL_VIDEODRIVER", "offscreen")
WIDTH, HEIGHT = 1000, 500
PIECE = 50_000
"""Points of one of its plots: more than 65,535 it cannot draw, so a curve is made of several."""
ROW = "plot_100k_of_garden_graph"


def noisy(count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.exp(-np.arange(count) / count * 3) + random.normal(0, 0.05, count)


def ours(values: np.ndarray) -> tuple[Any, Callable[[int], None]]:
    from engine_app.ui.curves import Curve
    from engine_app.ui.plots import Plot, Shown
    from engine_app.ui.theme import DARK, Look

    curve = Curve()
    curve.extend(np.arange(len(values), dtype=float), values)
    plot = Plot(Look())
    plot.show({"loss": Shown(curve, DARK.plots[0])})

    def update(at: int) -> None:
        curve.append(float(len(values) + at), float(values[at % len(values)]))
        plot.refresh()

    return plot, update


def garden(values: np.ndarray) -> tuple[Any, Callable[[int], None]]:
    from kivy_garden.graph import Graph, MeshLinePlot

    count = len(values)
    graph = Graph(
        xmin=0,
        xmax=count,
        ymin=-0.2,
        ymax=1.3,
        x_ticks_major=count / 5,
        y_ticks_major=0.2,
        x_grid=True,
        y_grid=True,
        x_grid_label=True,
        y_grid_label=True,
    )
    points = [(float(x), float(y)) for x, y in enumerate(values)]
    plots = [MeshLinePlot(color=(0, 1, 0, 1)) for _ in range(0, count + PIECE, PIECE)]
    for plot in plots:
        graph.add_plot(plot)

    def update(at: int) -> None:
        points.append((float(count + at), float(values[at % count])))
        graph.xmax = len(points)
        for number, plot in enumerate(plots):
            plot.points = points[number * PIECE : (number + 1) * PIECE + 1]

    return graph, update


def measure(widget: Any, update: Callable[[int], None], start: int, times: int) -> list[float]:
    """CPU ms of each update and its frame."""
    from kivy.base import EventLoop
    from kivy.core.window import Window
    from kivy.graphics.opengl import glFinish

    for child in Window.children[:]:
        Window.remove_widget(child)
    Window.add_widget(widget)
    for _ in range(3):
        EventLoop.idle()
    found = []
    for number in range(times):
        before = time.process_time()
        update(start + number)
        EventLoop.idle()
        Window.canvas.ask_update()
        EventLoop.idle()
        glFinish()
        found.append((time.process_time() - before) * 1000)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    from engine_app.ui.kivy_setup import WindowOptions, prepare_kivy

    with tempfile.TemporaryDirectory() as home:
        prepare_kivy(WindowOptions(home=Path(home), width=WIDTH, height=HEIGHT, max_fps=0))
        from kivy.base import runTouchApp
        from kivy.uix.widget import Widget

        runTouchApp(Widget(), embedded=True)
        values = noisy(options.points)
        contenders = {"ours": ours(values), "other": garden(values)}
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(options.rounds):
            for name, (widget, update) in contenders.items():
                found[name] += measure(widget, update, number * 10, 5)
    mine, other = (statistics.median(found[name]) for name in ("ours", "other"))
    print(f"{'':24}{'ms CPU an update':>18}")
    print(f"{'ours':24}{mine:18.1f}\n{'kivy-garden.graph':24}{other:18.1f}\n{'ratio':24}{mine / other:18.2f}")
    row = {
        "what": ROW,
        "ours": mine,
        "other": other,
        "other_name": "kivy-garden.graph",
        "ratio": mine / other,
    }
    if options.json:
        print(json.dumps({"results": [row]}))


if __name__ == "__main__":
    main()
