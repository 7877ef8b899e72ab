"""Generations of one model, one after the other: tokens from its thread to the event loop.

A slow reader keeps nobody waiting: the next one has its turn once all tokens are made, read or not.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor

from backend.errors import DeadlineError, InputError
from backend.runtime.base import Sampling, TextGenerator, Token
from backend.serving.batching import QueueFullError
from backend.serving.stats import ModelStats

Item = Token | Exception | None

UNREAD_TOKENS = 1 << 14
"""That all readers together may leave behind before the next generation waits for them."""


class Generations:
    """Whoever comes first is served first; ``waiting`` of them at most."""

    def __init__(
        self,
        generator: TextGenerator,
        context_tokens: int,
        thread: ThreadPoolExecutor,
        limit: int,
        stats: ModelStats,
        unread_limit: int = UNREAD_TOKENS,
    ) -> None:
        self.generator = generator
        self.context = context_tokens
        self.waiting = 0
        self.working_since: float | None = None
        """Of the token that is being made; read by other threads."""
        self._thread = thread
        self._limit = limit
        self._stats = stats
        self._unread_limit = unread_limit
        self._unread: set[asyncio.Queue[Item]] = set()
        self._turn = asyncio.Lock()
        self._is_made = False
        """Whoever has the turn needs it no more."""

    def checked(self, prompt: list[int]) -> list[int]:
        """Token ids that a caller gave. Raises InputError."""
        most = self.generator.facts.vocabulary or 0
        if not 0 < len(prompt) < self.context or not all(0 <= each < most for each in prompt):
            raise InputError(
                f"prompt of {len(prompt)} tokens, allowed are 1 to {self.context - 1} of numbers below {most}"
            )
        return prompt

    async def run(
        self, prompt: list[int], sampling: Sampling, deadline: float, *, goes_on: bool = False
    ) -> AsyncGenerator[Token]:
        """Closing it ends the generation. Raises QueueFullError, DeadlineError if its turn never comes.

        ``goes_on``: of a request that has had a turn already, for which there is always room to wait again.
        """
        await self._wait_for_turn(deadline, goes_on)
        self._stats.prompt_tokens += len(prompt)
        # Never more items than tokens fit into the context, so no bound of its own.
        items: asyncio.Queue[Item] = asyncio.Queue()
        left = threading.Event()
        made = self._begin(prompt, sampling, left, items)
        try:
            while (item := await items.get()) is not None:
                self._let_next()
                if isinstance(item, Exception):
                    raise item
                self._stats.note_tokens(time.monotonic(), 1)
                yield item
        finally:
            left.set()
            self._unread.discard(items)
            self._let_next()
            await asyncio.shield(made)

    def _begin(
        self, prompt: list[int], sampling: Sampling, left: threading.Event, items: asyncio.Queue[Item]
    ) -> asyncio.Future[None]:
        """The turn is over when the future is done, or later, where too much is unread by then."""
        loop = asyncio.get_running_loop()
        try:
            made = loop.run_in_executor(self._thread, self._generate, prompt, sampling, left, items, loop)
        except BaseException:
            self._turn.release()
            raise
        self._unread.add(items)
        made.add_done_callback(self._end_turn)
        return made

    def _end_turn(self, _made: asyncio.Future[None]) -> None:
        self._is_made = True
        self._let_next()

    def _let_next(self) -> None:
        if self._is_made and sum(items.qsize() for items in self._unread) <= self._unread_limit:
            self._is_made = False
            self._turn.release()

    async def _wait_for_turn(self, deadline: float, goes_on: bool) -> None:
        if self.waiting >= self._limit and not goes_on:
            raise QueueFullError(f"{self.waiting} requests wait, limit {self._limit}")
        self.waiting += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._turn.acquire()
        except TimeoutError:
            raise DeadlineError("other generations took all the time") from None
        finally:
            self.waiting -= 1

    def _generate(
        self,
        prompt: list[int],
        sampling: Sampling,
        left: threading.Event,
        items: asyncio.Queue[Item],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """In the model's thread."""
        self.working_since = time.monotonic()
        end: Item = None
        try:
            for token in self.generator.generate(prompt, sampling, left.is_set):
                self.working_since = time.monotonic()
                loop.call_soon_threadsafe(items.put_nowait, token)
        except Exception as error:
            end = error
        finally:
            self.working_since = None
        loop.call_soon_threadsafe(items.put_nowait, end)
