"""The window as users start it, which also tells, on standard output, where things are on its screen.

A test asks for places and states in lines of JSON on standard input; it acts with mouse and keys alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trio


def main() -> None:
    from engine_app.config import read_config
    from engine_app.entry import run
    from engine_app.ui.kivy_setup import WindowOptions, prepare_kivy

    config = read_config(sys.argv[1])
    prepare_kivy(WindowOptions(home=config.data_dir / "kivy"))
    from engine_app.ui.app import EngineApp, Opening
    from engine_app.ui.loop import run_app

    window = EngineApp(Opening(config, Path(sys.argv[2]) if len(sys.argv) > 2 else None))

    def begin(tasks: Any) -> None:
        window.begin(tasks)
        window.context.start(lambda: _answer(window))

    async def work() -> None:
        await run_app(window, begin, window.show_error)

    run(work, config)


async def _answer(window: Any) -> None:
    """One line for each question, of what is seen after what was done before it."""
    from engine_app.ui.pictures import frames

    reader = trio.lowlevel.FdStream(0)
    pending = b""
    async for data in reader:
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            asked = json.loads(line)
            await frames(2)
            print(json.dumps(_ANSWERS[asked["ask"]](window, asked)), flush=True)


def _widgets(window: Any) -> Iterator[Any]:
    """What is on the screen, the topmost last."""
    from kivy.core.window import Window

    seen: set[int] = set()
    for top in reversed(Window.children):
        for widget in top.walk(restrict=True):
            if id(widget) not in seen:
                seen.add(id(widget))
                yield widget


def _box(widget: Any) -> tuple[float, float, float, float]:
    """Left, top, right and bottom in pixels of the window, from the upper left."""
    from kivy.core.window import Window

    left, low = widget.to_window(widget.x, widget.y)
    right, high = widget.to_window(widget.right, widget.top)
    return left, Window.height - high, right, Window.height - low


def _is_seen(widget: Any, box: tuple[float, float, float, float]) -> bool:
    """Whether its middle is in the window and in everything that scrolls around it."""
    from kivy.core.window import Window

    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    if not (0 <= x < Window.width and 0 <= y < Window.height):
        return False
    above = widget.parent
    while above is not None and above is not Window and hasattr(above, "parent"):
        if type(above).__name__ == "Scroll":
            around = _box(above)
            if not (around[0] <= x <= around[2] and around[1] <= y <= around[3]):
                return False
        above = above.parent if above.parent is not above else None
    return True


def _texts(widget: Any) -> set[str]:
    """What a user could call it by."""
    found = {getattr(widget, name, "") for name in ("text", "hint_text", "tip")}
    return {text for text in found if isinstance(text, str) and text}


def _find(window: Any, asked: dict[str, Any]) -> list[float] | None:
    """The middle of the topmost thing of that text; ``...`` at its end stands for anything.

    With ``field`` only of what is written in, with ``until`` only of what is no further to the right.
    """
    place = None
    wanted = asked["text"]
    for widget in _widgets(window):
        texts = _texts(widget)
        found = wanted in texts or (
            wanted.endswith("...") and any(text.startswith(wanted[:-3]) for text in texts)
        )
        if asked.get("field") and not hasattr(widget, "hint_text"):
            continue
        if found and not getattr(widget, "disabled", False):
            box = _box(widget)
            if _is_seen(widget, box):
                middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
                if asked.get("until") is None or middle[0] <= asked["until"]:
                    place = middle
    return place


def _place_of(window: Any, asked: dict[str, Any]) -> list[float] | None:
    """Left, top, right and bottom of the topmost widget of that class."""
    found = [widget for widget in _widgets(window) if type(widget).__name__ == asked["kind"]]
    seen = [_box(widget) for widget in found if _is_seen(widget, _box(widget))]
    return list(seen[-1]) if seen else None


def _seen_texts(window: Any, asked: dict[str, Any]) -> list[str]:
    del asked
    return [text for widget in _widgets(window) if _is_seen(widget, _box(widget)) for text in _texts(widget)]


def _written(window: Any, asked: dict[str, Any]) -> str | None:
    """What is in the field that has the keyboard."""
    del asked
    writing = window.host.ring.writing
    return None if writing is None else str(writing.text)


def _port(window: Any, asked: dict[str, Any]) -> list[float] | None:
    """Where a node's port is drawn; without a port, the middle of the node."""
    canvas = window.content.bench.canvas_widget
    scene, view = canvas.scene, canvas.view
    number = scene.index.get(asked["node"])
    if number is None:
        return None
    x, y = scene.rect(number).centre
    if "port" in asked:
        card = scene.cards[number]
        names = [each.name for each in (*card.ports.inputs, *card.ports.outputs)]
        x, y = map(float, scene.port_places[int(scene.first_port[number]) + names.index(asked["port"])])
    across, down = view.to_screen(x, y)
    box = _box(canvas)
    return [box[0] + across, box[1] + down]


def _state(window: Any, asked: dict[str, Any]) -> dict[str, Any]:
    del asked
    run, graph = window.trainer.run, window.desk.graph
    return {
        "page": window.page,
        "selected": sorted(window.desk.state.selected),
        "nodes": {node.id: node.type for node in graph.nodes},
        "links": [
            [link.source_node, link.source_port, link.target_node, link.target_port] for link in graph.links
        ],
        "problems": [each.text for each in window.desk.analysis.diagnostics],
        "training": window.trainer.state,
        "metrics": run.metrics if run is not None else {},
        "jobs": [{name: job[name] for name in ("job_id", "state", "result")} for job in window.network.jobs],
        "network": window.network.state,
    }


_ANSWERS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "find": _find,
    "texts": _seen_texts,
    "place": _place_of,
    "port": _port,
    "written": _written,
    "state": _state,
}

if __name__ == "__main__":
    main()
