"""Choosing a model: one that was trained here, or a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.panels.pick_file import FilePicker
from engine_app.ui.widgets.box import Column, Text
from engine_app.ui.widgets.buttons import ListRow

SHOWN = 12


def ask_model(
    context: Context,
    title: str,
    endings: tuple[str, ...],
    picked: Callable[[Path], Any],
    folders: bool = False,
) -> None:
    """``picked`` gets a file, or with ``folders`` a folder too; what was trained here comes first."""
    look, host = context.look, context.host
    column = Column(look, gap=0, pad=(theme.HALF, 0, theme.HALF, theme.STEP))

    def took(path: Path) -> None:
        host.close()
        picked(path)

    def browse() -> None:
        host.close()
        picker = FilePicker(context, endings, took, folders=folders)
        host.open(title, picker, side=not host.is_wide, wide=560, fills=True)

    names = ", ".join(endings)
    text = f"{names}, or a folder with one" if folders else names
    column.add_widget(ListRow(look, "Look for a file", text, browse, icon="open"))

    async def fill() -> None:
        found = await trio.to_thread.run_sync(trained_models, context.config.data_dir / "models")
        if found:
            padding = (look.px(theme.MEDIUM), look.px(theme.STEP))
            text = Text(look, "TRAINED HERE", theme.LABEL, look.palette.muted, padding=padding)
            column.add_widget(text)
        for path in found[:SHOWN]:
            column.add_widget(ListRow(look, path.stem, "", partial(took, path), icon="train"))

    host.open(title, column, side=not host.is_wide, wide=480)
    context.start(fill)


def trained_models(folder: Path) -> list[Path]:
    """Newest first. Blocking."""
    if not folder.is_dir():
        return []
    found = [(path.stat().st_mtime, path) for path in folder.glob("*.cyxmodel")]
    return [path for _, path in sorted(found, reverse=True)]
