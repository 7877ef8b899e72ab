"""Local work in the terminal: its turn in the line, its control socket, Ctrl-C. Knows no training."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from engine_app.show import Story
from engine_app.training_queue import Place
from p2p.control import ControlHandler, serve_control
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
