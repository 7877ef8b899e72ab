"""The whole graph as a PNG, drawn by the canvas itself at a scale of the user's choice, off the screen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kivy.graphics.opengl import GL_MAX_TEXTURE_SIZE, glGetIntegerv

from engine_app.document.analysis import Analysis
from engine_app.document.editing import Editing
from engine_app.scene.snapshot import SnapshotBuilder
from engine_app.scene.svg import around_of
from engine_app.scene.view import MAX_ZOOM, View
from engine_app.ui.canvas import CanvasActions, GraphCanvas
from engine_app.ui.desk import Desk
from engine_app.ui.theme import Look

MAX_SIDE = 8192
"""Pixels, where the graphics card allows so many."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A document that nothing changes and in which nothing is selected."""

    state: Editing
    analysis: Analysis

    def show(self, state: Editing) -> None:
        raise RuntimeError("a portrait does not change")


def _ignore(*_: Any) -> None:
    """Nobody touches it."""


def write_png(path: Path, desk: Desk, look: Look, scale: float) -> tuple[int, int]:
    """``scale``: pixels to a unit, less where the picture would be too large. Gives its size in pixels.

    Raises OSError.
    """
    state = replace(desk.state, selected=frozenset())
    scene = SnapshotBuilder().build(desk.wiring, desk.analysis, state.inside)
    around = around_of(scene)
    if around is None:
        raise OSError(f"{path.name}: the graph is empty")
    most = min(MAX_SIDE, int(glGetIntegerv(GL_MAX_TEXTURE_SIZE)[0]))
    zoom = min(scale, MAX_ZOOM, most / around.width, most / around.height)
    shown = _Shown(state, desk.analysis)
    # Its own density, so that texts and lines have the size that they have at this zoom.
    canvas = GraphCanvas(Look(look.palette, zoom), shown, CanvasActions(_ignore, _ignore, _ignore, _ignore))
    try:
        canvas.pos, canvas.size = (0, 0), (round(around.width * zoom), round(around.height * zoom))
        canvas.look_at(View(around.x, around.y, zoom, *map(float, canvas.size)))
        canvas._draw()
        # A name of its own beside the target: the picture is whole or not there.
        drawing = path.with_name(f".{path.stem}.part.png")
        canvas.export_to_png(str(drawing))
        drawing.replace(path)
    finally:
        canvas.close()
    return int(canvas.width), int(canvas.height)
