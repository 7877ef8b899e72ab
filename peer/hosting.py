"""Models that this peer serves for others: each in a sandboxed worker of its own, by its paying job.

Knows nothing of money or tokens: who calls it decides who may. Nothing of a request is logged.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog
import trio

from backend.errors import WorkerError, WorkerFailedError
from backend.formats.sniff import ModelFormat, sniff
from backend.serving.call_frames import ModelStatus
from backend.serving.messages import RuntimeOptions, ServerLimits
from backend.workers.hosted import HostedModel, HostedState
from backend.workers.model_calls import ModelCalls
from backend.workers.model_server import ModelFile, ServerListener, ServerPlan
from backend.workers.supervisor import PoolConfig
from p2p.errors import RemoteFailureError
from peer.devices import MAX_OFFERED

log = structlog.get_logger(__name__)

MAX_HOSTED = MAX_OFFERED
"""One on each device that may be offered: a lease that was paid for must not end here."""
_STALL_GRACE_S = 10.0
_HANG_S = 20.0
_STOP_MORE_S = 5.0
_SERVED = (ModelFormat.CYXMODEL, ModelFormat.ONNX, ModelFormat.GGUF)
_DEFAULT_LIMITS = ServerLimits()
_DEFAULT_OPTIONS = RuntimeOptions()


@dataclass(frozen=True, slots=True)
class HostedStatus:
    """``model`` is None while there is nobody to ask: see ``state``."""

    state: HostedState
    reason: str
    """Why the worker ended last, if it did."""
    restarts: int
    model: ModelStatus | None


@dataclass(eq=False)
class _Hosted:
    model: HostedModel
    job_id: str
    told: ServerListener
    settled: trio.Event = field(default_factory=trio.Event)
    """It answers, or will not."""
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    failure: WorkerError | None = None


class Hosting:
    """``directory`` is its own: workers live below it. ``nursery`` runs what is hosted."""

    def __init__(
        self,
        directory: Path,
        nursery: trio.Nursery,
        sandbox: str = "auto",
        limits: ServerLimits = _DEFAULT_LIMITS,
        most: int = MAX_HOSTED,
    ) -> None:
        # What a killed predecessor left: copies of models.
        shutil.rmtree(directory, ignore_errors=True)
        self._directory = directory
        self._nursery = nursery
        self._sandbox = sandbox
        self._limits = limits
        self._most = most
        self._hosted: dict[str, _Hosted] = {}

    @property
    def jobs(self) -> tuple[str, ...]:
        return tuple(self._hosted)

    async def start(
        self,
        job_id: str,
        model: Path,
        tokenizer: Path | None = None,
        options: RuntimeOptions = _DEFAULT_OPTIONS,
        device: str = "cpu",
        memory_bytes: int = 4 << 30,
        *,
        name: str = "model",
        told: ServerListener | None = None,
    ) -> None:
        """Returns once it answers. ``memory_bytes``: of the worker as a whole, the runtime included.

        ``name``: what requests call the model. ``told``: each time it answers, or its worker ends.
        Raises WorkerFailedError for a model that cannot be served, WorkerDiedError, and
        RemoteFailureError if the job is hosted already or this peer hosts as many as it may.
        """
        found = await trio.to_thread.run_sync(sniff, model)
        if found not in _SERVED:
            served = ", ".join(each.value for each in _SERVED)
            raise WorkerFailedError("model", f"the file is {found.value}, served are {served}")
        if job_id in self._hosted:
            raise RemoteFailureError("conflict", f"job {job_id} is hosted already")
        if len(self._hosted) >= self._most:
            raise RemoteFailureError(
                "busy", f"{len(self._hosted)} models are hosted here, limit {self._most}"
            )
        plan = self._plan(job_id, ModelFile(name, model, device, options, tokenizer), memory_bytes)

        def on_ready(lines: tuple[str, ...]) -> None:
            hosted.settled.set()
            hosted.told.on_ready(lines)

        def on_death(reason: str, pause_s: float) -> None:
            hosted.told.on_death(reason, pause_s)

        listener = ServerListener(on_ready, on_death)
        hosted = _Hosted(HostedModel(plan, listener), job_id, told or ServerListener())
        self._hosted[job_id] = hosted
        self._nursery.start_soon(self._run, hosted)
        try:
            await hosted.settled.wait()
        except trio.Cancelled:
            hosted.scope.cancel()
            raise
        if hosted.failure is not None:
            raise hosted.failure

    async def stop(self, job_id: str, grace_s: float = 0.0) -> None:
        """Finishes the requests in flight, ``grace_s`` at most. Nothing happens if it is not hosted."""
        hosted = self._hosted.get(job_id)
        if hosted is None:
            return
        with trio.move_on_after(grace_s + _STOP_MORE_S):
            await hosted.model.stop(grace_s)
            await hosted.ended.wait()
        hosted.scope.cancel()
        await hosted.ended.wait()

    def hand_over(self, old: str, new: str, told: ServerListener) -> bool:
        """The model of ``old`` goes on for ``new``, without a pause; False if it does not answer now."""
        hosted = self._hosted.get(old)
        if hosted is None or new in self._hosted or hosted.model.state is not HostedState.READY:
            return False
        del self._hosted[old]
        self._hosted[new] = hosted
        hosted.job_id, hosted.told = new, told
        return True

    def calls(self, job_id: str) -> ModelCalls:
        """Raises RemoteFailureError."""
        return self._find(job_id).model.calls

    async def status(self, job_id: str, patience_s: float = math.inf) -> HostedStatus:
        """A model that tells nothing of itself for ``patience_s`` is busy. Raises RemoteFailureError."""
        model = self._find(job_id).model
        told = None
        if model.state is HostedState.READY:
            try:
                with trio.move_on_after(patience_s):
                    told = await model.status()
            except WorkerError as error:
                log.info("hosted model tells no status", job_id=job_id, reason=str(error))
        return HostedStatus(model.state, model.reason, model.restarts, told)

    def _find(self, job_id: str) -> _Hosted:
        hosted = self._hosted.get(job_id)
        if hosted is None:
            raise RemoteFailureError("not_found", f"job {job_id} is no deployment that is served here now")
        return hosted

    async def _run(self, hosted: _Hosted) -> None:
        try:
            with hosted.scope:
                await hosted.model.run()
        except Exception as error:  # the boundary of its task: no model may end the peer
            hosted.failure = error if isinstance(error, WorkerError) else WorkerError(repr(error))
            log.warning("hosted model gave up", job_id=hosted.job_id, reason=repr(error))
            hosted.told.on_death(repr(error), 0.0)  # or its time would be counted on
        finally:
            if self._hosted.get(hosted.job_id) is hosted:
                del self._hosted[hosted.job_id]
            hosted.failure = hosted.failure or WorkerError("the model was stopped before it answered")
            hosted.settled.set()
            hosted.ended.set()

    def _plan(self, job_id: str, model: ModelFile, memory_bytes: int) -> ServerPlan:
        limits = msgspec.structs.replace(self._limits, memory_bytes=memory_bytes)
        pool = PoolConfig(
            directory=self._directory / job_id,  # whole: Engines choose their ids, and a pool clears its own
            memory_bytes=memory_bytes,
            wall_clock_s=float("inf"),
            sandbox=self._sandbox,
            device=model.device,
            threads=model.options.threads or 1,
            hang_s=_HANG_S,
            stall_s=limits.timeout_s + _STALL_GRACE_S,
        )
        return ServerPlan((model,), pool, limits)
