"""A model server that stays up: its socket is bound here, and a worker that dies is replaced.

The socket outlives its workers, so connections made meanwhile wait instead of being refused. Each
server has a worker of its own: what one model does to it, no other server notices.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
import trio

from backend.errors import WorkerDiedError, WorkerError, WorkerFailedError
from backend.formats.sniff import ModelFormat, sniff
from backend.reports import Failed
from backend.serving.messages import (
    ApiKey,
    RuntimeOptions,
    Serve,
    ServedModel,
    ServerLimits,
    Serving,
    ServingStopped,
    SetKeys,
    StopServing,
)
from backend.serving.restarts import Restarts
from backend.workers.model_calls import ModelCalls
from backend.workers.supervisor import PoolConfig, Worker, open_pool

log = structlog.get_logger(__name__)

_RUNTIMES = {
    ModelFormat.CYXMODEL: "torch",
    ModelFormat.ONNX: "onnx",
    ModelFormat.GGUF: "llama",
}
_START_TIMEOUT_S = 120.0
_KEYS_EVERY_S = 1.0
_BACKLOG = 1024
_DEFAULT_OPTIONS = RuntimeOptions()
_DEFAULT_LIMITS = ServerLimits()


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What is served under ``name``."""

    name: str
    path: Path
    device: str = "cpu"
    options: RuntimeOptions = _DEFAULT_OPTIONS
    tokenizer: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerPlan:
    models: tuple[ModelFile, ...]
    pool: PoolConfig
    limits: ServerLimits = _DEFAULT_LIMITS
    hosts: tuple[str, ...] = ()
    needs_key: bool = False


@dataclass(slots=True)
class ServerListener:
    """What the owner of a server is told; each does nothing unless it is replaced."""

    on_ready: Callable[[tuple[str, ...]], None] = field(default=lambda lines: None)
    on_death: Callable[[str, float], None] = field(default=lambda reason, pause_s: None)
    """Why the worker ended, and in how many seconds another one takes over."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class SupervisedServer:
    """``keys`` is asked every now and then, so that a key that was revoked stops working."""

    def __init__(
        self,
        plan: ServerPlan,
        listener: socket.socket | None,
        keys: Callable[[], tuple[ApiKey, ...]],
        told: ServerListener,
        calls: ModelCalls | None = None,
    ) -> None:
        """It answers on ``listener``, and what is asked through ``calls``."""
        self._plan = plan
        self._listener = listener
        self._calls = calls
        self._keys = keys
        self._told = told
        self._worker: Worker | None = None
        self._stopping = trio.Event()
        self._grace_s = 0.0
        self._restarts = Restarts()
        self.unanswered = 0

    @property
    def worker(self) -> Worker | None:
        """The one that answers now."""
        return self._worker

    async def run(self) -> None:
        """Until ``stop``. Raises WorkerError if it could not even start once."""
        plan = self._plan
        pool_config = replace(
            plan.pool,
            prewarmed=0,
            listener=self._listener,
            has_calls=self._calls is not None,
            runtimes=_runtimes(plan.models),
            refill_delay_s=0,
        )
        async with open_pool(pool_config) as pool:
            while not self._stopping.is_set():
                began_at = trio.current_time()
                try:
                    await self._serve_once(await pool.acquire(_START_TIMEOUT_S))
                except (WorkerError, trio.TooSlowError, OSError) as error:
                    # Once it has served, whatever keeps the next worker from it, memory or a file, may pass.
                    if self._stopping.is_set():
                        return
                    if not self._restarts.has_served:
                        raise
                    pause_s = self._restarts.pause_s(trio.current_time() - began_at)
                    reason = str(error) or f"no worker within {_START_TIMEOUT_S:g} s"
                    log.warning("model server died", reason=reason, pause_s=pause_s)
                    self._told.on_death(reason, pause_s)
                    with trio.move_on_after(pause_s):
                        await self._stopping.wait()

    async def stop(self, grace_s: float) -> None:
        """Finishes what is in flight, ``grace_s`` at most; ``run`` returns then."""
        self._grace_s = grace_s
        self._stopping.set()
        if self._worker is not None:
            await self._ask_to_stop(self._worker)

    async def _ask_to_stop(self, worker: Worker) -> None:
        with suppress(WorkerDiedError):  # its death is told where its events are read
            await worker.send(StopServing(grace_s=self._grace_s))

    async def _serve_once(self, worker: Worker) -> None:
        try:
            keys = self._keys()
            await worker.send(await self._order(worker, keys))
            with trio.fail_after(_START_TIMEOUT_S):
                event, _ = await worker.receive()
            if isinstance(event, Failed):
                raise WorkerFailedError(event.code, event.text)
            assert isinstance(event, Serving)
            self._worker = worker
            self._restarts.has_served = True
            if self._stopping.is_set():  # since before there was somebody to tell
                await self._ask_to_stop(worker)
            async with trio.open_nursery() as nursery:
                if self._calls is not None and worker.calls is not None:
                    await nursery.start(self._calls.run, worker)
                self._told.on_ready(event.models)
                if self._listener is not None:
                    nursery.start_soon(self._follow_keys, worker, keys)
                death = await self._until_stopped(worker)
                nursery.cancel_scope.cancel()
            # Out of the nursery, which would wrap it in a group.
            if death is not None:
                raise death
        finally:
            self._worker = None
            await worker.aclose()

    async def _until_stopped(self, worker: Worker) -> WorkerDiedError | None:
        """None if it ended as it was asked to."""
        while True:
            try:
                event, _ = await worker.receive()
            except WorkerDiedError as error:
                return error
            match event:
                case ServingStopped(unanswered):
                    self.unanswered = unanswered
                    return None
                case Failed(code, text):
                    return WorkerDiedError(f"{code}: {text}")

    async def _follow_keys(self, worker: Worker, keys: tuple[ApiKey, ...]) -> None:
        while True:
            await trio.sleep(_KEYS_EVERY_S)
            newest = await trio.to_thread.run_sync(self._keys)
            if newest != keys:
                keys = newest
                try:
                    await worker.send(SetKeys(keys=keys))
                except WorkerDiedError:
                    return  # its death is told where its events are read

    async def _order(self, worker: Worker, keys: tuple[ApiKey, ...]) -> Serve:
        """With the models' files copied into the worker's directory, which it may write to."""
        served = []
        for number, model in enumerate(self._plan.models):
            file, tokenizer = f"model-{number}", None
            await _copy(model.path, worker.directory / file)
            if model.tokenizer is not None:
                tokenizer = f"tokenizer-{number}.json"
                await _copy(model.tokenizer, worker.directory / tokenizer)
            size = model.path.stat().st_size
            served.append(ServedModel(model.name, file, model.device, model.options, tokenizer, size))
        plan = self._plan
        return Serve(tuple(served), plan.limits, keys, plan.needs_key, plan.hosts)


async def _copy(source: Path, target: Path) -> None:
    await trio.to_thread.run_sync(shutil.copyfile, source, target)


def _runtimes(models: tuple[ModelFile, ...]) -> tuple[str, ...]:
    """What the models need, by a look at their first bytes only."""
    found = {_RUNTIMES.get(sniff(model.path)) for model in models}
    names = sorted(name for name in found if name is not None)
    if any(model.tokenizer is not None for model in models):
        names.append("tokenizers")
    return tuple(names)
