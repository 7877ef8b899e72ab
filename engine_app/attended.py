"""Local work in the terminal: its turn in the line, its control socket, Ctrl-C. Knows no training."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from engine_app.show import Story
from engine_app.training_queue import Place
from p2p.control import ControlHandler, serve_control
from p2p.errors import RemoteFailureError
from p2p.tasks import background_tasks

LOOK_EVERY_S = 0.5

OnSignal = Callable[[int], Awaitable[None]]


@asynccontextmanager
async def attended(place: Place, handler: ControlHandler, on_signal: OnSignal) -> AsyncIterator[trio.Nursery]:
    """Answers the control socket and takes Ctrl-C and SIGTERM as long as the block runs."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def obey() -> None:
            async for number in signals:
                await on_signal(number)

        async with background_tasks() as nursery:
            await nursery.start(serve_control, place.control, handler)
            nursery.start_soon(obey)
            yield nursery


class OnlyCancelled:
    """The controls of work that can be cancelled and nothing else; it runs inside ``scope``."""

    def __init__(self, name: str, state: str, standing: Callable[[], tuple[int, int]]) -> None:
        """``state`` is what it does once its turn has come; ``standing`` gives its step, and all of them."""
        self.scope = trio.CancelScope()
        self.is_discarded = False
        """The user wants nothing of it kept."""
        self._name, self._state, self._standing = name, state, standing
        self._waits_for: list[str] = []

    def note_wait(self, waits_for: list[str]) -> None:
        self._waits_for = waits_for

    async def on_signal(self, _: int) -> None:
        self.scope.cancel()

    async def control(self, method: str, _: dict[str, Any]) -> dict[str, Any]:
        """Raises RemoteFailureError for what it cannot do."""
        match method:
            case "cancel":
                self.is_discarded = True
                self.scope.cancel()
            case "status":
                pass
            case _:
                raise RemoteFailureError("refused", f"{method}: {self._name} can only be cancelled")
        step, total = self._standing()
        return {
            "name": self._name,
            "state": "waiting" if self._waits_for else self._state,
            "waits_for": self._waits_for,
            "step": step,
            "total_steps": total,
        }


async def wait_for_turn(place: Place, story: Story, note: Callable[[list[str]], None]) -> None:
    """Returns when it may start; says whom it waits for, each time that changes."""
    said: list[str] = []
    while waits_for := place.waits_for():
        if waits_for != said:
            story.line(f"{place.name} waits for {', '.join(waits_for)}; --at-once would not", "queue")
            note(waits_for)
            said = waits_for
        await trio.sleep(LOOK_EVERY_S)
    note([])
