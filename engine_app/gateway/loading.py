"""Loads and unloads models: those on this machine give their memory back, and start again when asked to.

At a peer a model that is unloaded is only asked no more: what ends a deployment there is its user's order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Protocol

import trio

from backend.errors import WorkerError
from backend.serving.http import HttpError
from engine_app.gateway.pool import Pool


class Loadable(Protocol):
    """Of a model on this machine. Neither is called while the other goes on."""

    async def load(self) -> None:
        """Returns once it answers; at once where it does. Raises WorkerError."""

    async def unload(self) -> None:
        """Returns once what was in flight is answered, and its worker has ended."""


class Loading:
    """``loaded``: told of each that was loaded or unloaded."""

    def __init__(
        self,
        pool: Pool,
        workers: Callable[[str], Iterable[Loadable]] = lambda model: (),
        loaded: Callable[[str, bool], None] = lambda model, is_loaded: None,
    ) -> None:
        self._pool = pool
        self._workers = workers
        self._loaded = loaded
        self._turns: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)

    async def load(self, model: str) -> None:
        """Of a model that the pool has. Raises HttpError 500 where a worker of it does not start."""
        failures: list[str] = []

        async def load_one(worker: Loadable) -> None:
            try:
                await worker.load()
            except WorkerError as error:
                failures.append(str(error))

        async with self._turns[model]:
            async with trio.open_nursery() as nursery:
                for worker in self._workers(model):
                    nursery.start_soon(load_one, worker)
            if failures:
                raise HttpError(500, "model", f"model {model!r} cannot be loaded: {failures[0][:500]}")
            if self._pool.is_withdrawn(model):
                self._pool.restore(model)
                self._loaded(model, True)

    async def unload(self, model: str) -> None:
        """Of a model that the pool has."""
        async with self._turns[model]:
            is_news = not self._pool.is_withdrawn(model)
            self._pool.withdraw(model)
            async with trio.open_nursery() as nursery:
                for worker in self._workers(model):
                    nursery.start_soon(worker.unload)
            if is_news:
                self._loaded(model, False)
