"""Long work on the document, in a thread: told once it lasts, and called off by a button."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import trio
from kivy.clock import Clock

from engine_app.ui.context import Context

T = TypeVar("T")
TOLD_AFTER_S = 0.2
"""What is done before that need not be told."""


def do_aside(
    context: Context,
    told: str,
    work: Callable[[], T],
    done: Callable[[T], Any],
    ended: Callable[[], Any] = lambda: None,
) -> trio.CancelScope:
    """``work`` must be pure: called off, it goes on for nothing, and ``done`` is not called.

    ``ended`` is called in any case, before ``done``.
    """

    async def run() -> None:
        try:
            found = await trio.to_thread.run_sync(work, abandon_on_cancel=True)  # type: ignore[call-arg]
            await trio.lowlevel.checkpoint_if_cancelled()  # it may have come in the frame of the button
        finally:
            hide()
        done(found)

    def show(_dt: float) -> None:
        context.host.toast(told, ("Cancel", call_off), stays=True)

    def call_off() -> None:
        scope.cancel()
        context.host.toast("Cancelled: nothing has changed.")

    def hide() -> None:
        showing.cancel()
        if context.host.message == told:
            context.host.close_toast()
        ended()

    scope = context.start(run)
    showing = Clock.schedule_once(show, TOLD_AFTER_S)
    return scope
