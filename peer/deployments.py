"""Models that are loaded in workers, ready to answer. A few at a time; the longest unused goes first."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
import trio

from backend.errors import WorkerError
from backend.serving.messages import ModelLoaded, Predicted, TensorSpec
from p2p.errors import RemoteFailureError
from peer.sessions import Worker, WorkerSession

log = structlog.get_logger(__name__)

MAX_DEPLOYMENTS = 4
ACQUIRE_TIMEOUT_S = 60.0


@dataclass(eq=False)
class Deployment:
    """A model and the worker it is in. ``loaded`` is None until the first call."""

    session: WorkerSession
    file: str
    device: str
    loaded: ModelLoaded | None = None


class Workers(Protocol):
    """Hands out worker processes; ``backend.workers.supervisor`` keeps some warm."""

    async def acquire(self, timeout_s: float = 60) -> Worker:
        """Raises WorkerError, trio.TooSlowError."""


@dataclass(frozen=True, slots=True)
class DeviceWorkers:
    """The workers of one device; ``device`` as torch names it."""

    device: str
    pool: Workers


class Deployments:
    """Adopts the worker that trained a model, or loads the model into a new one at its first call."""

    def __init__(
        self,
        workers: Sequence[DeviceWorkers],
        choose_device: Callable[[], int],
        find_file: Callable[[str], Path | None],
        nursery: trio.Nursery,
        limit: int = MAX_DEPLOYMENTS,
    ) -> None:
        self._workers = workers
        self._choose_device = choose_device
        self._find_file = find_file
        self._nursery = nursery
        self._limit = limit
        self._deployments: OrderedDict[str, Deployment] = OrderedDict()
        self._starting = trio.Lock()

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self._deployments)

    def is_loaded(self, model: str) -> bool:
        deployment = self._deployments.get(model)
        return deployment is not None and deployment.loaded is not None

    async def adopt(self, model: str, session: WorkerSession, file: str, device: str) -> None:
        """``session``'s worker has the model as ``file`` in its directory and nothing else to do."""
        replaced = self._deployments.pop(model, None)
        self._deployments[model] = Deployment(session, file, device)
        if replaced is not None:
            await replaced.session.aclose()
        await self._shrink()

    async def describe(self, model: str) -> ModelLoaded:
        """Loads the model if need be. Raises RemoteFailureError, WorkerError."""
        return (await self._ready(model))[1]

    async def predict(
        self, model: str, dtype: str, shape: tuple[int, ...], body: bytes
    ) -> tuple[Predicted, bytes]:
        """Of a model with one input. Raises RemoteFailureError, WorkerError, trio.TooSlowError."""
        deployment, loaded = await self._ready(model)
        if len(loaded.inputs) != 1:
            names = ", ".join(spec.name for spec in loaded.inputs)
            raise RemoteFailureError("invalid", f"one input, model {model} takes {names}")
        given = TensorSpec(loaded.inputs[0].name, dtype, shape)
        return await deployment.session.predict(model, (given,), body)

    async def _ready(self, model: str) -> tuple[Deployment, ModelLoaded]:
        deployment = self._deployments.get(model)
        if deployment is None or deployment.session.death is not None or deployment.loaded is None:
            async with self._starting:
                deployment = await self._load(model)
        self._deployments.move_to_end(model)
        assert deployment.loaded is not None
        return deployment, deployment.loaded

    async def _load(self, model: str) -> Deployment:
        deployment = self._deployments.get(model)
        if deployment is None or deployment.session.death is not None:
            deployment = await self._deploy(model)
        if deployment.loaded is None:
            try:
                deployment.loaded = await deployment.session.load(model, deployment.file, deployment.device)
            except WorkerError:
                await self._forget(model, deployment)
                raise
            log.info("model loaded", model=model, device=deployment.device)
        return deployment

    async def _deploy(self, model: str) -> Deployment:
        path = self._find_file(model)
        if path is None:
            raise RemoteFailureError("not_found", f"no model {model} here")
        chosen = self._workers[self._choose_device()]
        worker = await chosen.pool.acquire(ACQUIRE_TIMEOUT_S)
        session = WorkerSession(worker)
        self._nursery.start_soon(session.run)
        file = f"{model}.cyxmodel"
        try:
            await trio.to_thread.run_sync(shutil.copyfile, path, worker.directory / file)
        except BaseException:
            with trio.CancelScope(shield=True):
                await session.aclose()
            raise
        deployment = self._deployments[model] = Deployment(session, file, chosen.device)
        await self._shrink()
        return deployment

    async def _forget(self, model: str, deployment: Deployment) -> None:
        if self._deployments.get(model) is deployment:
            del self._deployments[model]
        await deployment.session.aclose()

    async def _shrink(self) -> None:
        while len(self._deployments) > self._limit:
            model, deployment = self._deployments.popitem(last=False)
            log.info("model unloaded", model=model)
            await deployment.session.aclose()
