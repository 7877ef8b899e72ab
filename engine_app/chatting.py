"""A conversation on a terminal: lines in, answers out as they come. Ctrl-C stops an answer, not all."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from engine_app.config import Config
from engine_app.entry import CommandError, run
from engine_app.plain import plain
from engine_app.sessions import Session, open_session
from engine_app.show import print_json
from p2p.errors import P2PError

MAX_PROMPT_CHARACTERS = 1 << 20
_TAB = "    "
_PROMPT = "> "
_HINT = "(Ctrl-D ends the conversation, /new begins another)"


@dataclass(frozen=True, slots=True)
class ChatOrder:
    """What ``cyxwiz chat`` was told. ``options``: of the answers; None: as the model has it."""

    deployment: str
    peer: str | None
    """Only there; None: wherever the user gave it to."""
    system: str | None
    options: dict[str, float | None]
    as_json: bool

    def begin(self) -> list[dict[str, str]]:
        """The messages before the first question."""
        return [] if self.system is None else [{"role": "system", "content": self.system}]


def talk(config: Config, order: ChatOrder, prompt: str | None) -> None:
    """Once with ``prompt`` or what stdin holds, else until the user ends it. Raises nothing."""

    async def main() -> None:
        if prompt is not None or not sys.stdin.isatty():
            question = prompt if prompt is not None else await trio.to_thread.run_sync(_read_all)
            await _answer_once(config, order, question)
            return
        async with open_session(config) as session:
            with trio.open_signal_receiver(signal.SIGINT) as interrupts:
                await Conversation(session, order).run(interrupts)

    run(main, config)


async def _answer_once(config: Config, order: ChatOrder, prompt: str) -> None:
    if not prompt.strip():
        raise CommandError("nothing to ask: give a prompt, or one on stdin")
    async with open_session(config) as session:
        answer = await answer_to(session, order, [*order.begin(), {"role": "user", "content": prompt}])
    if order.as_json:
        print_json(answer)


async def answer_to(session: Session, order: ChatOrder, messages: list[dict[str, str]]) -> dict[str, Any]:
    """Shows it as it comes; the text and what is known of it. Cut short by a cancel, it ends its line."""
    text: list[str] = []

    def tell(news: dict[str, Any]) -> None:
        piece = str(news.get("text", ""))
        text.append(piece)
        if not order.as_json:
            print(plain(piece.replace("\t", _TAB), lines=True), end="", flush=True)

    try:
        where = {"deployment": order.deployment, "peer": order.peer}
        end = await session.ask("chat", tell, **where, messages=messages, **order.options)
    finally:
        if text and not order.as_json:
            print(flush=True)
    return {"text": "".join(text), **end}


class Conversation:
    """Every answer goes out with all that was said before it."""

    def __init__(self, session: Session, order: ChatOrder) -> None:
        self._session = session
        self._order = order
        self._messages = order.begin()

    async def run(self, interrupts: AsyncIterator[int]) -> None:
        """Until the end of the input."""
        if not self._order.as_json:
            print(_HINT)
        async with trio.open_nursery() as nursery:
            self._answering: trio.CancelScope | None = None
            nursery.start_soon(self._stop_answers, interrupts)
            prompt = "" if self._order.as_json else _PROMPT
            read = partial(trio.to_thread.run_sync, _read_line, prompt, abandon_on_cancel=True)  # type: ignore[call-arg]
            while (line := await read()) is not None:
                if line.strip() == "/new":
                    self._messages = self._order.begin()
                elif line.strip():
                    await self._turn(line)
            nursery.cancel_scope.cancel()

    async def _turn(self, line: str) -> None:
        messages = [*self._messages, {"role": "user", "content": line}]
        with trio.CancelScope() as self._answering:
            try:
                answer = await answer_to(self._session, self._order, messages)
            except P2PError as error:  # the next question may do better
                print(f"cyxwiz: {plain(str(error), lines=True)}", file=sys.stderr, flush=True)
                return
            self._messages = [*messages, {"role": "assistant", "content": answer["text"]}]
            if self._order.as_json:
                print_json(answer)
        if self._answering.cancelled_caught and not self._order.as_json:
            print("(stopped)", flush=True)
        self._answering = None

    async def _stop_answers(self, interrupts: AsyncIterator[int]) -> None:
        async for _ in interrupts:
            if self._answering is not None:
                self._answering.cancel()
            elif not self._order.as_json:
                print(f"\n{_HINT}\n{_PROMPT}", end="", flush=True)


def _read_line(prompt: str) -> str | None:
    """None at the end of the input."""
    with suppress(ImportError):
        import readline  # noqa: F401 - gives the prompt its history and editing
    try:
        return input(prompt)[:MAX_PROMPT_CHARACTERS]
    except EOFError:
        if prompt:
            print()
        return None


def _read_all() -> str:
    """Raises CommandError."""
    text = sys.stdin.read(MAX_PROMPT_CHARACTERS + 1)
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise CommandError(f"a prompt of over {MAX_PROMPT_CHARACTERS} characters")
    return text
