"""Conversation with one worker process: training events go to a listener, answers to who asked.

One task reads the worker for as long as it lives, so the worker that trained a model can go on to
serve it. Knows nothing of jobs, peers or money.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog
import trio

from backend.errors import WorkerDiedError, WorkerError, WorkerFailedError
from backend.reports import (
    Command,
    Event,
    Failed,
    Train,
    TrainingPrepared,
)
from backend.serving.messages import LoadModel, ModelLoaded, Predict, Predicted, TensorSpec

log = structlog.get_logger(__name__)

LOAD_TIMEOUT_S = 60.0
PREDICT_TIMEOUT_S = 60.0
MAX_PENDING = 256


class Worker(Protocol):
    """What a session needs of a worker process of ``backend.workers.supervisor``."""

    directory: Path

    async def send(self, command: Command, body: bytes = b"") -> None: ...

    async def receive(self) -> tuple[Event, bytes]: ...

    def path(self, name: str) -> Path: ...

    async def aclose(self) -> None: ...


TrainingListener = Callable[[Event], Awaitable[None]]
DeathListener = Callable[[str], Awaitable[None]]


@dataclass(eq=False)
class _Pending:
    answered: trio.Event = field(default_factory=trio.Event)
    answer: tuple[Event, bytes] | None = None

    def give(self, event: Event, body: bytes) -> None:
        self.answer = (event, body)
        self.answered.set()


class WorkerSession:
    """Owns ``worker``. ``run`` must run for as long as the session is used."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.death: str | None = None
        self.on_training: TrainingListener | None = None
        self.on_death: DeathListener | None = None
        self._numbers = itertools.count(1)
        self._predictions: dict[int, _Pending] = {}
        self._loading: _Pending | None = None
        self._preparing: _Pending | None = None
        self._load_lock = trio.Lock()

    async def run(self) -> None:
        """Reads the worker until it ends, then tells everybody who still waits for it."""
        try:
            while True:
                await self._dispatch(*await self.worker.receive())
        except WorkerError as error:
            self.death = str(error)
        finally:
            self._end()
        if self.on_death is not None:
            await self.on_death(self.death or "the worker has ended")

    async def prepare(self, train: Train, graph: bytes, timeout_s: float) -> TrainingPrepared:
        """Sends ``train``, which must be ``prepare_only``; later events go to ``on_training``.

        Raises WorkerError, trio.TooSlowError.
        """
        self._preparing = _Pending()
        try:
            with trio.fail_after(timeout_s):
                await self.worker.send(train, graph)
                event, _ = await self._answer(self._preparing)
        finally:
            self._preparing = None
        assert isinstance(event, TrainingPrepared)
        return event

    async def load(self, model: str, file: str, device: str) -> ModelLoaded:
        """Raises WorkerError, trio.TooSlowError."""
        async with self._load_lock:
            self._loading = _Pending()
            try:
                with trio.fail_after(LOAD_TIMEOUT_S):
                    await self.worker.send(LoadModel(model, file, device))
                    event, _ = await self._answer(self._loading)
            finally:
                self._loading = None
        assert isinstance(event, ModelLoaded)
        return event

    async def predict(
        self, model: str, inputs: tuple[TensorSpec, ...], body: bytes
    ) -> tuple[Predicted, bytes]:
        """Raises WorkerError, trio.TooSlowError."""
        if len(self._predictions) >= MAX_PENDING:
            raise WorkerFailedError("busy", f"{MAX_PENDING} predictions wait already")
        number = next(self._numbers)
        pending = self._predictions[number] = _Pending()
        try:
            with trio.fail_after(PREDICT_TIMEOUT_S):
                # A send that is cut short ends the worker: a caller that leaves must not do that.
                with trio.CancelScope(shield=True):
                    await self.worker.send(Predict(number, model, inputs), body)
                event, output = await self._answer(pending)
        finally:
            del self._predictions[number]
        assert isinstance(event, Predicted)
        return event, output

    async def aclose(self) -> None:
        """Ends the process; ``on_death`` is not called for it."""
        self.on_death = None
        await self.worker.aclose()

    async def _answer(self, pending: _Pending) -> tuple[Event, bytes]:
        if self.death is None:
            await pending.answered.wait()
        if pending.answer is None:
            raise WorkerDiedError(self.death or "the worker has ended")
        event, body = pending.answer
        if isinstance(event, Failed):
            raise WorkerFailedError(event.code, event.text)
        return event, body

    async def _dispatch(self, event: Event, body: bytes) -> None:
        match event:
            case Predicted(id=number) | Failed(id=int(number)):
                waiting = self._predictions.get(number)
            case ModelLoaded():
                waiting = self._loading
            case TrainingPrepared():
                waiting = self._preparing
            case Failed() if self._preparing is not None or self._loading is not None:
                waiting = self._preparing or self._loading
            case _:
                if self.on_training is not None:
                    await self.on_training(event)
                return
        if waiting is not None:  # else its caller gave up
            waiting.give(event, body)

    def _end(self) -> None:
        self.death = self.death or "the worker has ended"
        for pending in (self._loading, self._preparing, *self._predictions.values()):
            if pending is not None:
                pending.answered.set()
