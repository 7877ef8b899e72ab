"""Finding a file: recent ones, folders one by one, or a path that is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from engine_app.plain import plain
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.files import holds, list_folder
from engine_app.ui.widgets.box import Column, Gap, Panel, Row, Text
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton
from engine_app.ui.widgets.fields import TextField
from engine_app.ui.widgets.rows import Entry, LazyRows
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
        self._looking: trio.CancelScope | None = None
        self._list = LazyRows(context.look, side=theme.HALF, below=theme.STEP)
        head = Column(context.look, pad=(theme.LARGE, 0, theme.LARGE, theme.STEP))
        self._path = TextField(context.look, "", self._written, hint="A file or folder")
        head.add_widget(self._path)
        self.add_widget(head)
        self._scroll = Scroll(context.look, self._list)
        self.add_widget(self._scroll)
        self._go(start or Path.cwd())

    def _go(self, path: Path) -> None:
        if self._looking is not None:  # another folder was wanted first
            self._looking.cancel()
        self._looking = self._context.start(partial(self._show, path))

    async def _show(self, path: Path) -> None:
        folder = await list_folder(path, self._endings)
        self._path.show(str(path))
        self._scroll.to_top()
        entries: list[Entry] = []
        if self._recent:
            entries.append(self._heading("recent", "RECENT"))
            for each in self._recent[:5]:
                entries.append(self._row(each.name, partial(self._picked, each), "reset", str(each.parent)))
            entries.append(self._heading("here", path.name.upper() or "/"))
        if path.parent != path:
            entries.append(self._row("Up", partial(self._go, path.parent), "up"))
        if self._folders:
            entries.append(self._row("Take this folder", partial(self._picked, path), "check", path.name))
        for each in folder.folders:
            entries.append(self._row(each.name, partial(self._go, each), "open"))
        for each in folder.files:
            entries.append(self._row(each.name, partial(self._picked, each), "build"))
        if not folder.files:
            entries.append(self._told(f"No {' or '.join(self._endings)} file here."))
        if folder.left_out:
            entries.append(self._told(f"and {folder.left_out} more: write the path above"))
        self._list.show(entries, anew=True)

    def _row(self, name: str, action: Callable[[], Any], icon: str, note: str = "") -> Entry:
        """Made when it comes into view: a folder may hold hundreds."""
        look = self._context.look
        high = theme.TOUCH + (theme.STEP if note else 0)
        make = partial(ListRow, look, plain(name), plain(note), action, icon=icon)
        return Entry(f"{icon} {name} {note}", look.px(high), make)

    def _heading(self, of: str, text: str) -> Entry:
        look = self._context.look
        padding = (look.px(theme.MEDIUM), look.px(theme.STEP))
        make = partial(Text, look, plain(text), theme.LABEL, look.palette.muted, lines=1, padding=padding)
        return Entry(f"heading {of}", look.px(theme.LABEL.line + 2 * theme.STEP), make)

    def _told(self, text: str) -> Entry:
        look = self._context.look
        make = partial(Text, look, text, theme.SMALL, look.palette.muted, align="center", lines=2)
        return Entry(text, look.px(2 * theme.SMALL.line), make)

    def _written(self, text: str) -> None:
        path = path_of(text)
        if holds(Path.is_dir, path):
            self._go(path)
        elif holds(Path.is_file, path):
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
        target = path_of(field.text)
        if field.problem:
            return
        host.close()
        written = [target.with_suffix(each) for each in endings] or [target]
        there = [each.name for each in written if holds(Path.exists, each)]
        if there:
            told = f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} there already."
            host.ask("Replace the file?", told, "Replace", lambda: action(target))
        else:
            action(target)

    row = Row(look)
    row.add_widget(Gap(look))
    row.add_widget(PushButton(look, yes, agreed, Kind.PRIMARY))
    column.add_widget(row)
    host.open(title, column)


def path_of(text: str) -> Path:
    """As it is written, where its ``~`` is nobody's."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def folder_problem(text: str) -> str | None:
    path = path_of(text)
    if not path.name:
        return "the name of the file is missing"
    return None if holds(Path.is_dir, path.parent) else f"there is no folder {path.parent}"
