"""The window's place in trio: one nursery for all that runs beside it, and errors that are shown.

What other tasks have to show is shown by triggers of Kivy's clock, once a frame: a stream of progress
costs one redraw a frame, however fast it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import trio
from kivy.app import App
from kivy.base import ExceptionHandler, ExceptionManager
from kivy.clock import Clock

from engine_app.entry import is_expected
from engine_app.plain import plain
from engine_app.ui import fair_clock, plain_colour
from engine_app.ui.touch import enable_touch

T = TypeVar("T")
log = structlog.get_logger(__name__)

MAX_ERRORS_A_MINUTE = 20
"""More than that is no accident: the window ends with the last of them."""


def _log(event: str, error: Exception) -> None:
    if is_expected(error):
        log.warning(event, error=plain(str(error)))
    else:
        log.error(event, exc_info=error)


class ErrorsShown(ExceptionHandler):
    """An error in a callback is shown; the window lives on. What is no Exception ends it, as trio wants."""

    def __init__(self, show: Callable[[BaseException], None]) -> None:
        super().__init__()
        self._show = show
        self._times: list[float] = []

    def handle_exception(self, error: BaseException) -> int:
        if not isinstance(error, Exception):
            return int(ExceptionManager.RAISE)
        now = Clock.get_time()
        self._times = [at for at in self._times if now - at < 60] + [now]
        if len(self._times) > MAX_ERRORS_A_MINUTE:
            return int(ExceptionManager.RAISE)
        _log("error in the window", error)
        self._show(error)
        return int(ExceptionManager.PASS)


class Tasks:
    """What runs beside the window. Each task's errors are its own."""

    def __init__(self, nursery: trio.Nursery, show: Callable[[BaseException], None]) -> None:
        self._nursery = nursery
        self._show = show
        self._is_over = False

    def start(self, work: Callable[[], Awaitable[None]]) -> trio.CancelScope:
        """Cancel the scope to stop the task. Once the window has ended nothing is begun any more."""
        scope = trio.CancelScope()
        if not self._is_over:
            self._nursery.start_soon(self._run, work, scope)
        return scope

    def end(self) -> None:
        """Kivy may still call back whoever then starts something."""
        self._is_over = True

    def aside(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        """``work`` in a thread, ``done`` with what it gave, in the window."""

        async def think() -> None:
            done(await trio.to_thread.run_sync(work))

        self.start(think)

    async def _run(self, work: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        with scope:
            try:
                await work()
            except Exception as error:  # a task's boundary: it is shown, and the window lives on
                _log("task failed", error)
                self._show(error)


async def run_app(app: App, begin: Callable[[Tasks], None], show: Callable[[BaseException], None]) -> None:
    """Until the window is closed or the caller cancels. Tasks are cancelled, and have ended, on return.

    ``begin`` is called before the first frame. Raises what is no Exception, and errors without end.
    """
    fair_clock.install()
    plain_colour.install()
    enable_touch()
    handler = ErrorsShown(show)
    ExceptionManager.add_handler(handler)
    try:
        async with trio.open_nursery() as nursery:
            tasks = Tasks(nursery, show)
            begin(tasks)
            try:
                await app.async_run(async_lib="trio")
            finally:
                tasks.end()
            nursery.cancel_scope.cancel()
    finally:
        app.dispatch("on_stop")  # Kivy says so itself unless the window is cancelled; then it is heard again
        ExceptionManager.remove_handler(handler)
