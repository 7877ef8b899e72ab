"""Asking a model by hand: whatever it answers, and however, the window is drawn meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from backend.serving.asked import Asked
from engine_app.ui.questions import Description
from engine_app.ui.tryout import Tryout

MANY = 2000


class Crumbs:
    """An endpoint whose answers are there at once, in single bytes."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.given = 0
        self.status, self.content_type, self.headers = 200, "", ()

    @property
    def name(self) -> str:
        return "crumbs"

    @asynccontextmanager
    async def ask(self, asked: Asked) -> AsyncIterator[Crumbs]:
        yield self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for byte in self._body:
            self.given += 1
            yield bytes([byte])


class Tasks:
    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start(self, work: Callable[[], Awaitable[None]]) -> trio.CancelScope:
        self._nursery.start_soon(work)
        return trio.CancelScope()


async def most_at_once(crumbs: Crumbs, begin: Callable[[Tryout], None]) -> int:
    """How many bytes it took while nobody else got a turn."""
    most = before = 0
    async with trio.open_nursery() as nursery:
        tasks: Any = Tasks(nursery)
        endpoint: Any = crumbs
        tryout = Tryout(endpoint, tasks)
        begin(tryout)
        while tryout.is_busy:
            await trio.lowlevel.checkpoint()
            most, before = max(most, crumbs.given - before), crumbs.given
    assert (crumbs.given, tryout.problem) == (len(crumbs._body), "")
    return most


async def test_an_answer_in_single_bytes_holds_up_nobody() -> None:
    body = b'{"name": "m"}' + b" " * MANY
    assert await most_at_once(Crumbs(body), Tryout.look) < 50


async def test_a_stream_in_single_bytes_holds_up_nobody() -> None:
    def chat(tryout: Tryout) -> None:
        tryout.about = Description("m")
        tryout.chat("hi")

    assert await most_at_once(Crumbs(b": " + b"x" * MANY + b"\n"), chat) < 50
