"""What panels follow: it tells them of every change, and they ask it for what they need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio

    from backend.exporting.messages import Stage
    from engine_app.ui.loop import Tasks

Listener = Callable[[], None]


class Observed:
    """Listeners are told of every change."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Gives the function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()


class OneAtATime(Observed):
    """Does at most one thing at a time, which can be taken back."""

    def __init__(self, tasks: Tasks) -> None:
        super().__init__()
        self._tasks = tasks
        self._scope: trio.CancelScope | None = None
        self.stage: Stage | None = None
        """Of what goes by stages: the one that it is in."""
        self.is_busy = False
        self.problem = ""

    def _begin(self, work: Callable[[], Awaitable[None]]) -> None:
        """``work`` calls ``_end`` whatever becomes of it."""
        self.is_busy, self.stage, self.problem = True, None, ""
        self._tell()
        self._scope = self._tasks.start(work)

    def _end(self) -> None:
        self.is_busy, self.stage, self._scope = False, None, None
        self._tell()

    def _on_stage(self, stage: Stage) -> None:
        self.stage = stage
        self._tell()

    def cancel(self) -> None:
        """Leaves nothing."""
        if self._scope is not None:
            self._scope.cancel()
