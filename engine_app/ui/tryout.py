"""Asking one model by hand: what it is, one question at a time, texts as they are written."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import trio

from backend.serving.asked import Asked
from backend.serving.http import HttpError
from engine_app.entry import CommandError
from engine_app.gateway.errors import GatewayError
from engine_app.ui.observed import Observed
from engine_app.ui.questions import (
    DESCRIBE,
    Answer,
    Description,
    EventLines,
    QuestionError,
    chatted,
    completed,
    read_answers,
    read_description,
    read_error,
)
from engine_app.ui.servers import read_whole

if TYPE_CHECKING:
    from engine_app.gateway.endpoint import Endpoint
    from engine_app.ui.loop import Tasks

TIMEOUT_S = 120.0
"""For a whole answer, or between two parts of a streamed one."""
MAX_MESSAGES = 200
"""Of a conversation; older ones are forgotten."""
MAX_WRITTEN = 1 << 18
"""Characters of a streamed answer that are kept."""
MAX_REFUSAL_BYTES = 1 << 16


@dataclass(slots=True)
class Message:
    role: Literal["user", "assistant"]
    text: str


class Tryout(Observed):
    """Listeners are told of every change. One question at a time; a new one takes the old one back."""

    def __init__(self, endpoint: Endpoint, tasks: Tasks) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._tasks = tasks
        self._scope: trio.CancelScope | None = None
        self.about: Description | None = None
        self.problem = ""
        self.is_busy = False
        self.answers: tuple[Answer, ...] = ()
        self.took_ms: float | None = None
        """From the question to the whole answer."""
        self.messages: list[Message] = []
        self.written = ""
        """How the model went on with a text."""

    def look(self) -> None:
        """Asks the model what it is."""

        async def work() -> None:
            self.about = await trio.to_thread.run_sync(read_description, await self._whole(DESCRIBE))

        self._do(work)

    def ask(self, question: Callable[[], Asked]) -> None:
        """``question`` is called in a thread. It may raise QuestionError."""

        async def work() -> None:
            asked = await trio.to_thread.run_sync(question)
            began = time.monotonic()
            body = await self._whole(asked)
            self.took_ms = (time.monotonic() - began) * 1000
            self.answers = await trio.to_thread.run_sync(read_answers, body)

        self._do(work)

    def chat(self, text: str) -> None:
        if self.about is None or not text.strip():
            return
        del self.messages[: -MAX_MESSAGES + 2]
        self.messages.append(Message("user", text))
        told = [(each.role, each.text) for each in self.messages]
        answer = Message("assistant", "")
        self.messages.append(answer)

        def add(more: str) -> None:
            answer.text = (answer.text + more)[:MAX_WRITTEN]

        self._do(partial(self._stream, chatted(self.about, told), add))

    def complete(self, text: str) -> None:
        if self.about is None or not text:
            return
        self.written = ""

        def add(more: str) -> None:
            self.written = (self.written + more)[:MAX_WRITTEN]

        self._do(partial(self._stream, completed(self.about, text), add))

    def forget(self) -> None:
        """Begins the conversation anew."""
        self.stop()
        self.messages.clear()
        self._tell()

    def stop(self) -> None:
        """Takes the question back; what was written so far stays."""
        if self._scope is not None:
            self._scope.cancel()

    # -- asking --------------------------------------------------------------------------------

    async def _whole(self, asked: Asked) -> bytes:
        """Raises QuestionError for a refusal, CommandError, GatewayError, HttpError, trio.TooSlowError."""
        with trio.fail_after(TIMEOUT_S):
            async with self._endpoint.ask(asked) as answer:
                body = await read_whole(answer)
        if answer.status != 200:
            raise QuestionError(read_error(answer.status, body[:MAX_REFUSAL_BYTES]))
        return body

    async def _stream(self, asked: Asked, add: Callable[[str], None]) -> None:
        began = time.monotonic()
        lines = EventLines()
        async with self._endpoint.ask(asked) as answer:
            if answer.status != 200:
                raise QuestionError(read_error(answer.status, (await read_whole(answer))[:MAX_REFUSAL_BYTES]))
            with trio.CancelScope() as patience:
                patience.deadline = trio.current_time() + TIMEOUT_S
                async for chunk in answer:
                    patience.deadline = trio.current_time() + TIMEOUT_S
                    if more := lines.take(chunk):
                        add(more)
                        self._tell()
                    await trio.lowlevel.checkpoint()  # as in ``read_whole``: the window is drawn meanwhile
            if patience.cancelled_caught:
                raise trio.TooSlowError
        self.took_ms = (time.monotonic() - began) * 1000

    def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work()
            except (QuestionError, CommandError, GatewayError, HttpError) as error:
                self.problem = str(error)
            except trio.TooSlowError:
                self.problem = f"no answer for {TIMEOUT_S:.0f} s"
            finally:
                if self._scope is scope:
                    self.is_busy, self._scope = False, None
                    self._tell()

        self.stop()
        self.is_busy, self.problem, self.answers, self.took_ms = True, "", (), None
        self._tell()
        scope = self._scope = self._tasks.start(run)
