"""Screens of the canvas against stored pictures, small and with tolerance: another Mesa draws other edges.

CYXWIZ_MAKE_REFERENCE=1 scripts/test tests/e2e/engine_app/test_reference.py     makes them again
"""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine_app.document.apply import apply
from engine_app.document.edits import SetFrame, SetMode
from engine_app.document.view import Frame, FrameKind, Mode, Rect
from tests.e2e.engine_app.test_gestures import NODE, Bench, Shown, hold
from tests.unit.engine_app.document.builders import line

pytestmark = pytest.mark.e2e

STORED = Path(__file__).parent / "reference"
SIZE = (320, 200)
BLOCK = 20
TOLERANCE = 3.0
"""Mean difference of a channel in a block, of 255, where it differs most."""
GRAPH = apply(
    apply(line("Dense", "ReLU", "Dropout"), SetMode(("relu",), Mode.MUTED)),
    SetFrame(FrameKind.GROUP, Frame("g", "Hidden layers", Rect(280, -60, 860, 240))),
)


async def compare(name: str, folder: Path) -> None:
    from PIL import Image

    from engine_app.ui.pictures import take_picture

    await take_picture(folder / "seen.png")
    seen = Image.open(folder / "seen.png").convert("RGB").resize(SIZE, Image.Resampling.BOX)
    if os.environ.get("CYXWIZ_MAKE_REFERENCE"):
        seen.quantize(64).save(STORED / f"{name}.png", optimize=True)
    stored = Image.open(STORED / f"{name}.png").convert("RGB")
    difference = farthest(seen, stored)
    assert difference < TOLERANCE, f"{name} differs by {difference:.1f} of 255, allowed are {TOLERANCE}"


def farthest(one: Any, other: Any) -> float:
    apart = np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean(-1)
    blocks = apart.reshape(SIZE[1] // BLOCK, BLOCK, SIZE[0] // BLOCK, BLOCK)
    return float(blocks.mean((1, 3)).max())


def test_other_screens_are_told_apart() -> None:
    from PIL import Image

    found = {each.stem: Image.open(each).convert("RGB") for each in STORED.glob("*.png")}
    assert len(found) == 4
    assert all(farthest(found[a], found[b]) > 1.5 * TOLERANCE for a, b in combinations(found, 2))


async def test_a_graph_looks_as_it_did(show: Any, tmp_path: Path) -> None:
    bench = Bench(GRAPH)
    async with Shown(bench, show) as driver:
        bench.desk.select("dense")
        await driver.frames(2)
        await compare("graph", tmp_path)
        bench.canvas.zoom_by(0.2)
        await compare("graph-far", tmp_path)


async def test_a_menu_looks_as_it_did(show: Any, tmp_path: Path) -> None:
    bench = Bench(GRAPH)
    async with Shown(bench, show) as driver:
        (await hold(bench, driver, NODE)).up()
        await driver.frames(2)
        await compare("menu", tmp_path)


async def test_a_training_looks_as_it_did(show: Any, tmp_path: Path) -> None:
    from engine_app.scene.pulse import Sparks

    bench = Bench(GRAPH)
    async with Shown(bench, show) as driver:
        curve = tuple(1.0 + (step % 7) / 3 for step in range(30))
        bench.canvas.show_training({"dense": Sparks(curve, curve[::-1]), "dropout": Sparks(curve)}, 0.0)
        await driver.frames(2)
        await compare("training", tmp_path)
