"""Deployments here, and which of them answer: stands between callers and the hosted models.

A call passes while its deployment is paid for; otherwise it is told why not. Decides nothing about
money: ``peer.serving`` says when a period begins and ends.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec
import structlog
import trio

from backend.errors import WorkerError
from backend.workers.hosted import HostedState
from backend.workers.model_calls import ModelCalls
from backend.workers.model_server import ServerListener
from p2p.errors import RemoteFailureError
from p2p.jobs import ServingSpec
from peer.hosting import HostedStatus, Hosting
from peer.job import Job

log = structlog.get_logger(__name__)

LINGER_S = 60.0
"""How long a model whose time is up stays loaded for a deployment that continues it, which gets its lease
once this one is settled. Whoever else gets the device clears it at once."""
STOP_GRACE_S = 2.0
MAX_OVER = 256
"""Deployments whose end callers are told of."""
MAX_TEXT = 1000
LATE_CALLS = 60
"""Of each period whose voucher is late."""
UNPAID = "unpaid"
"""Code of a call that is refused until a voucher comes."""
_LOADING = RemoteFailureError("busy", "the model is being loaded")


@dataclass(eq=False)
class ServedModel:
    """One deployment, from its preparation to its end."""

    job: Job
    """As it was when the preparation began: what is used of it does not change."""
    device: str
    refusal: RemoteFailureError | None = field(default=_LOADING)
    """Why no call is answered, but for what follows."""
    due_at: float = float("inf")
    """From this moment of trio's clock on a voucher is late, and calls wait for it."""
    late_calls: int = 0
    """How many may pass all the same, one after each look at the status: its Engine asks before it pays."""
    is_looked_at: bool = False

    @property
    def serving(self) -> ServingSpec:
        serving = self.job.offer.job.serving
        assert serving is not None
        return serving

    def why_refused(self) -> RemoteFailureError | None:
        if self.refusal is not None:
            return self.refusal
        if trio.current_time() >= self.due_at:
            return RemoteFailureError(
                UNPAID, "unpaid: the last period has no voucher; calls are answered again once it is here"
            )
        return None

    def take_late_call(self) -> bool:
        if self.refusal is not None or not self.is_looked_at or self.late_calls == 0:
            return False
        self.is_looked_at = False
        self.late_calls -= 1
        return True

    def is_continued_by(self, other: ServedModel) -> bool:
        """For the same Engine, with the same files, on the same device, and loaded in the same way."""
        return (
            other.serving.continues == self.job.job_id
            and other.job.engine_id == self.job.engine_id
            and other.job.is_direct == self.job.is_direct
            and other.job.offer.job.data.file == self.job.offer.job.data.file
            and other.device == self.device
            and _as_loaded(other.serving) == _as_loaded(self.serving)
        )


def _as_loaded(serving: ServingSpec) -> ServingSpec:
    return msgspec.structs.replace(serving, continues=None, period_s=1)


class ServedModels:
    """``nursery`` outlives the jobs: what ends a model runs in it."""

    def __init__(self, hosting: Hosting, nursery: trio.Nursery) -> None:
        self.hosting = hosting
        self._nursery = nursery
        self._models: dict[str, ServedModel] = {}
        self._leaving: dict[str, ServedModel] = {}
        """Over, but still loaded."""
        self._over: OrderedDict[str, str] = OrderedDict()

    @property
    def models(self) -> tuple[ServedModel, ...]:
        return tuple(self._models.values())

    def begin(self, job: Job, device: str) -> ServedModel:
        """Its calls are refused until it has a period to serve."""
        self._over.pop(job.job_id, None)
        model = self._models[job.job_id] = ServedModel(job, device)
        return model

    def end(self, model: ServedModel, text: str, *, lingers: bool = False) -> None:
        """Its calls are told ``text`` from now on; the model itself goes, or stays for a moment."""
        job_id = model.job.job_id
        if self._models.get(job_id) is not model:
            return
        del self._models[job_id]
        self._over[job_id] = text[:MAX_TEXT]
        while len(self._over) > MAX_OVER:
            self._over.popitem(last=False)
        self._leaving[job_id] = model
        self._nursery.start_soon(self._leave, model, LINGER_S if lingers else 0.0)

    def take_over(self, model: ServedModel, told: ServerListener) -> bool:
        """Goes on with the model of the deployment that ``model`` continues, where it is still loaded."""
        old_id = model.serving.continues
        old = None if old_id is None else self._leaving.get(old_id)
        if old_id is None or old is None or not old.is_continued_by(model):
            return False
        if not self.hosting.hand_over(old_id, model.job.job_id, told):
            return False
        del self._leaving[old_id]
        log.info("deployment continued", job_id=model.job.job_id, before=old_id)
        return True

    async def clear(self, device: int) -> None:
        """Returns once nothing that is over takes up that offered device any more."""
        for job_id, model in tuple(self._leaving.items()):
            if model.job.offer.device == device:
                await self.hosting.stop(job_id)

    def calls(self, job_id: str) -> ModelCalls:
        """Raises RemoteFailureError, also while the deployment may not answer."""
        self._check_known(job_id)
        model = self._models.get(job_id)
        refusal = None if model is None else model.why_refused()
        if model is not None and refusal is not None and not model.take_late_call():
            raise RemoteFailureError(refusal.code, refusal.message)
        return self.hosting.calls(job_id)

    async def status(self, job_id: str, patience_s: float = math.inf) -> HostedStatus:
        """Of the model itself, paid or not: its Engine asks before it pays. Raises RemoteFailureError."""
        self._check_known(job_id)
        if (model := self._models.get(job_id)) is not None:
            model.is_looked_at = True
            if job_id not in self.hosting.jobs:
                return HostedStatus(HostedState.LOADING, "", 0, None)
        return await self.hosting.status(job_id, patience_s)

    def _check_known(self, job_id: str) -> None:
        if (text := self._over.get(job_id)) is not None:
            raise RemoteFailureError("not_found", f"deployment {job_id} is over: {text}")

    async def _leave(self, model: ServedModel, after_s: float) -> None:
        job_id = model.job.job_id
        await trio.sleep(after_s)
        if self._leaving.get(job_id) is not model:
            return  # handed over
        try:
            await self.hosting.stop(job_id, STOP_GRACE_S)
        except (WorkerError, OSError) as error:  # the boundary of a task that outlives its job
            log.warning("hosted model not stopped well", job_id=job_id, reason=str(error))
        finally:
            if self._leaving.get(job_id) is model:
                del self._leaving[job_id]
