"""Parts of the window that are drawn into a picture of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


async def test_it_looks_the_same_and_is_drawn_only_when_it_changes(show: Any, tmp_path: Path) -> None:
    from kivy.graphics import Callback
    from kivy.uix.floatlayout import FloatLayout
    from kivy.uix.widget import Widget

    from engine_app.ui.theme import Look
    from engine_app.ui.widgets.box import Column, Text, paint
    from engine_app.ui.widgets.buttons import ListRow
    from engine_app.ui.widgets.scroll import Scroll
    from engine_app.ui.widgets.still import Still

    look, drawn = Look(), []
    rows = Column(look)
    for number in range(20):
        rows.add_widget(ListRow(look, f"Row {number}", "What it is for", mark=look.palette.accent))
    line = Text(look, "Before")
    body = Column(look, size_hint=(None, None), width=300)
    paint(body, look.palette.raised, 12)
    for part in (line, Scroll(look, rows, size_hint_y=None, height=250)):
        body.add_widget(part)
    body.canvas.add(Callback(lambda _: drawn.append(1)))
    root = FloatLayout()
    paint(root, look.palette.canvas)
    root.add_widget(body)
    async with show(root):
        body.pos = 20.5, 30.25  # pixel on pixel also there
        direct = await picture(tmp_path)
        root.remove_widget(body)
        still = Still(body, look.palette.canvas, beyond=1)
        still.pos = body.pos
        root.add_widget(still)
        root.add_widget(Still(Widget(size_hint=(None, None), size=(0, 0)), look.palette.danger))
        assert apart(direct, await picture(tmp_path)) <= 2
        count = len(drawn)
        assert apart(direct, await picture(tmp_path)) <= 2
        assert len(drawn) == count
        line.color = look.palette.danger
        assert apart(direct, await picture(tmp_path)) > 50
        assert len(drawn) > count
        still.remove_widget(body)
        root.remove_widget(still)
        root.add_widget(body)
        line.color = look.palette.text
        assert apart(direct, await picture(tmp_path)) == 0


async def picture(folder: Path) -> Any:
    from PIL import Image

    from engine_app.ui.pictures import take_picture

    await take_picture(folder / "seen.png")
    return Image.open(folder / "seen.png").convert("RGB")


def apart(one: Any, other: Any) -> int:
    """The greatest difference of a pixel's channel, of 255."""
    from PIL import ImageChops

    return max(most for _, most in ImageChops.difference(one, other).getextrema())
