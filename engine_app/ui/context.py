"""What every panel is given: the look, the desk, and the ways to the rest of the window."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine_app.config import Config
from engine_app.ui.desk import Desk
from engine_app.ui.loop import Tasks
from engine_app.ui.settings import Settings
from engine_app.ui.theme import Look
from engine_app.ui.widgets.overlays import Host

if TYPE_CHECKING:
    import trio


@dataclass(frozen=True, slots=True)
class Actions:
    """What reaches beyond a panel."""

    show_page: Callable[[str], None]
    save: Callable[[], None]
    save_as: Callable[[], None]
    new: Callable[[], None]
    ask_open: Callable[[], None]
    open_example: Callable[[], None]
    change_settings: Callable[[Settings], None]
    settings: Callable[[], Settings]
    show_shortcuts: Callable[[], None]
    start_tour: Callable[[], None]
    show_files: Callable[[], None]
    export: Callable[[Path | None], None]
    """A model; None: it is chosen there. So with the next."""
    deploy: Callable[[Path | None], None]


@dataclass(frozen=True, slots=True)
class Context:
    look: Look
    host: Host
    desk: Desk
    tasks: Tasks
    config: Config
    act: Actions

    def start(self, work: Callable[[], Awaitable[None]]) -> trio.CancelScope:
        """Its errors are shown; cancel the scope to stop it."""
        return self.tasks.start(work)
