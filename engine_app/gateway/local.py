"""Models on this machine as endpoints: each in a sandboxed worker of its own, which others do not notice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from backend.errors import BackendError, WorkerError, WorkerFailedError
from backend.serving.asked import Asked
from backend.serving.http import HttpError
from backend.workers.hosted import HostedModel
from backend.workers.model_server import ModelFile, ServerListener
from engine_app.gateway.endpoint import Answer, EndpointStatus, Place, RelayedAnswer
from engine_app.gateway.errors import EndpointBusyError, EndpointLostError
from engine_app.serving import ServeOrder, plan_of

_REFUSALS = {"invalid": 400, "refused": 403, "not_found": 404, "too_large": 413, "memory": 507}
"""What a worker's channel refuses before the model's own server sees it; anything else is its failure."""


class LocalModel:
    """An endpoint, the ``number``th of its model. ``run`` in a nursery; ``ready`` is set once it answers.

    ``on_change``: whether it answers now, and a line about it or about why it does not.
    """

    def __init__(
        self,
        model: ModelFile,
        number: int,
        order: ServeOrder,
        directory: Path,
        on_change: Callable[[LocalModel, bool, str], None],
    ) -> None:
        self._plan = plan_of(replace(order, models=(model,)), directory, False)
        self._hosted: HostedModel | None = None
        self._is_wanted = trio.Event()
        self._settled, self._ended = trio.Event(), trio.Event()
        """It answers or has ended; it has ended."""
        self._failure = ""
        self._on_change = on_change
        self._name = f"{model.name}@here-{number}"
        self.place = Place(model.name, model.name)
        self.ready = trio.Event()

    @property
    def name(self) -> str:
        return self._name

    async def run(self) -> None:
        """Raises WorkerError if it could not even start the first time."""
        while True:
            told = ServerListener(on_ready=self._ready, on_death=self._died)
            self._hosted, self._failure = HostedModel(self._plan, told), ""
            self._is_wanted, self._ended = trio.Event(), trio.Event()
            try:
                await self._hosted.run()
            except WorkerError as error:
                if not self.ready.is_set():
                    raise
                self._failure = str(error)
            self._hosted = None
            self._settled.set()
            self._ended.set()
            await self._is_wanted.wait()

    async def load(self) -> None:
        """Raises WorkerError."""
        if self._hosted is None:
            self._settled = trio.Event()
            self._is_wanted.set()
        await self._settled.wait()
        if self._failure:
            raise WorkerError(self._failure)

    async def unload(self) -> None:
        if self._hosted is not None:
            await self._hosted.stop(self._plan.limits.timeout_s)
            await self._ended.wait()

    @asynccontextmanager
    async def ask(self, asked: Asked) -> AsyncIterator[Answer]:
        if self._hosted is None:
            raise EndpointLostError("it has been unloaded")
        try:
            async with self._hosted.calls.ask(asked) as answer:
                yield RelayedAnswer(answer, BackendError)
        except BackendError as error:
            raise _worded(error) from error

    async def status(self) -> EndpointStatus:
        if self._hosted is None:
            raise EndpointLostError("it has been unloaded")
        try:
            return EndpointStatus(True, (await self._hosted.calls.status()).queue_depth)
        except BackendError as error:
            raise EndpointLostError(str(error)) from error

    async def counts(self) -> str:
        async with self.ask(Asked("GET", "/metrics")) as answer:
            return b"".join([part async for part in answer]).decode()

    def _ready(self, lines: tuple[str, ...]) -> None:
        self.ready.set()
        self._settled.set()
        self._on_change(self, True, ", ".join(lines))

    def _died(self, reason: str, pause_s: float) -> None:
        self._on_change(self, False, f"its worker ended: {reason}; another one starts in {pause_s:g} s")


def _worded(error: BackendError) -> Exception:
    """As the gateway understands it."""
    if isinstance(error, WorkerFailedError):
        if error.code == "busy":
            return EndpointBusyError(str(error))
        if error.code in _REFUSALS:
            return HttpError(_REFUSALS[error.code], error.code, str(error))
    return EndpointLostError(str(error))
