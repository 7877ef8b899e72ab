"""Finding a file: recent ones, folders one by one, or a path that is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.files import list_folder
from engine_app.ui.widgets.box import Column, Panel, Row, Text
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton
from engine_app.ui.widgets.fields import TextField
from engine_app.ui.widgets.scroll import Scroll


class FilePicker(Panel):
    """``picked`` gets a file that is there."""

    def __init__(
        self,
        context: Context,
        endings: tuple[str, ...],
        picked: Callable[[Path], Any],
        recent: Sequence[Path] = (),
        start: Path | None = None,
        folders: bool = False,
    ) -> None:
        """``folders``: a folder may be picked too."""
        super().__init__(context.look)
        self._folders = folders
        self._context = context
        self._endings = endings
        self._picked = picked
        self._recent = recent
        self._list = Column(context.look, gap=0, pad=(theme.STEP, 0, theme.STEP, theme.STEP))
        head = Column(context.look, pad=(theme.LARGE, 0, theme.LARGE, theme.STEP))
        self._path = TextField(context.look, "", self._written, hint="A file or folder")
        head.add_widget(self._path)
        self.add_widget(head)
        self._scroll = Scroll(context.look, self._list)
        self.add_widget(self._scroll)
        self._go(start or Path.cwd())

    def _go(self, path: Path) -> None:
        self._context.start(partial(self._show, path))

    async def _show(self, path: Path) -> None:
        look = self._context.look
        folder = await list_folder(path, self._endings)
        self._path.show(str(path))
        self._list.clear_widgets()
        self._scroll.to_top()
        if self._recent:
            self._heading("RECENT")
            for each in self._recent[:5]:
                self._list.add_widget(
                    ListRow(look, each.name, str(each.parent), partial(self._picked, each), icon="reset")
                )
            self._heading(path.name.upper() or "/")
        if path.parent != path:
            self._list.add_widget(ListRow(look, "Up", "", partial(self._go, path.parent), icon="up"))
        if self._folders:
            take = partial(self._picked, path)
            self._list.add_widget(ListRow(look, "Take this folder", path.name, take, icon="check"))
        for each in folder.folders:
            self._list.add_widget(ListRow(look, each.name, "", partial(self._go, each), icon="open"))
        for each in folder.files:
            self._list.add_widget(ListRow(look, each.name, "", partial(self._picked, each), icon="build"))
        if not folder.files:
            text = f"No {' or '.join(self._endings)} file here."
            self._list.add_widget(Text(look, text, theme.SMALL, look.palette.muted, align="center"))
        if folder.left_out:
            text = f"and {folder.left_out} more: write the path above"
            self._list.add_widget(Text(look, text, theme.SMALL, look.palette.muted, align="center"))

    def _heading(self, text: str) -> None:
        look = self._context.look
        padding = (look.px(theme.MEDIUM), look.px(theme.STEP))
        self._list.add_widget(Text(look, text, theme.LABEL, look.palette.muted, padding=padding))

    def _written(self, text: str) -> None:
        path = Path(text).expanduser()
        if path.is_dir():
            self._go(path)
        elif path.is_file():
            self._picked(path)
        else:
            self._context.host.toast(f"There is no {path}", bad=True)


def ask_path(
    context: Context,
    title: str,
    path: Path,
    yes: str,
    action: Callable[[Path], Any],
    endings: Sequence[str] = (),
) -> None:
    """Where to write; ``action`` gets it, once the user agreed to replace what is there.

    ``endings``: of the files that are written, where that is not the one that was named.
    """
    look, host = context.look, context.host
    column = Column(look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))
    field = TextField(look, str(path), check=folder_problem)
    column.add_widget(field)

    def agreed() -> None:
        target = Path(field.text).expanduser()
        if field.problem:
            return
        host.close()
        written = [target.with_suffix(each) for each in endings] or [target]
        there = [each.name for each in written if each.exists()]
        if there:
            told = f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} there already."
            host.ask("Replace the file?", told, "Replace", lambda: action(target))
        else:
            action(target)

    row = Row(look)
    row.add_widget(PushButton(look, yes, agreed, Kind.PRIMARY))
    column.add_widget(row)
    host.open(title, column)


def folder_problem(text: str) -> str | None:
    path = Path(text).expanduser()
    if not path.name:
        return "the name of the file is missing"
    return None if path.parent.is_dir() else f"there is no folder {path.parent}"
