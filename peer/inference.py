"""/cyxwiz/infer/1 on the peer: checks who asks and for what, and passes tensors to a worker.

Never logs a tensor. A caller may use the models of the job that its token names, and no others.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from backend.errors import DeadlineError as LateError
from backend.errors import WorkerDiedError, WorkerError, WorkerFailedError
from backend.serving.messages import ModelLoaded
from p2p.auth import SCOPE_INFER
from p2p.errors import RemoteFailureError
from p2p.identifiers import PeerId
from p2p.network import Network
from p2p.protocols import Done
from p2p.protocols.inference import (
    ITEM_BYTES,
    LIMITS,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    Ask,
    Authorize,
    AuthorizeJob,
    DescribeModel,
    InferenceAnswer,
    InferenceCall,
    ModelDescription,
    Predict,
    Prediction,
    PredictNamed,
    StatusOf,
    TensorInfo,
)
from p2p.router import BodyRoom, Streamed, Tell, Told, serve_calls
from peer.access import Access
from peer.artifacts import Artifacts
from peer.deployments import Deployments
from peer.hosted_calls import (
    HostedModels,
    answer_about_hosted,
    begin_prediction,
    relay_ask,
    tensor_infos,
    wire_dtype,
)
from peer.store import Store

MAX_CALLERS = 1024
OWNER_LIFETIME_S = 900.0
MAX_JOBS_OF_CALLER = 64
FAILURES = (WorkerError, LateError, trio.TooSlowError)
_CODES = {
    "input": "invalid",
    "invalid": "invalid",
    "model": "invalid",
    "busy": "busy",
    "too_late": "busy",
    "memory": "refused",
    "refused": "refused",
    "too_large": "refused",
    "not_found": "not_found",
}
"""Of a worker's failures, and what they are called on the wire; others are internal."""


@dataclass(frozen=True, slots=True)
class _Permission:
    until: float
    token_id: str = ""
    """Empty without a token: an owner of a direct job."""


class InferenceService:
    """Answers calls of authorised Engines."""

    def __init__(
        self,
        network: Network,
        access: Access,
        store: Store,
        artifacts: Artifacts,
        deployments: Deployments,
        hosting: HostedModels,
        now: Callable[[], float],
    ) -> None:
        self._network = network
        self._access = access
        self._store = store
        self._artifacts = artifacts
        self._deployments = deployments
        self._hosting = hosting
        self._now = now
        self._callers: OrderedDict[PeerId, dict[str, _Permission]] = OrderedDict()
        """Caller to the jobs it may use, each with the end of its token."""

    def serve(self) -> None:
        room = BodyRoom(self._is_let_in)
        serve_calls(
            self._network, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, self.answer, room=room, begin=self.begin
        )

    async def answer(
        self, caller: PeerId, call: InferenceCall, body: bytes
    ) -> InferenceAnswer | tuple[InferenceAnswer, bytes] | Streamed:
        if isinstance(call, Ask):
            self._check_job(caller, call.deployment)
            return Streamed(partial(self._stream, call, body))
        try:
            match call:
                case Authorize(token):
                    claims = self._access.check_token(caller, token, SCOPE_INFER)
                    return self._let_in(caller, claims.job, _Permission(float(claims.exp), claims.jti))
                case AuthorizeJob(job_id):
                    return await self._authorize_owner(caller, job_id)
                case DescribeModel(model):
                    self._check_allowed(caller, model)
                    return await self._describe(model)
                case Predict():
                    self._check_allowed(caller, call.model)
                    return await self._predict(call, body)
                case PredictNamed(deployment) | StatusOf(deployment):
                    self._check_job(caller, deployment)
                    return await answer_about_hosted(self._hosting, call, body)
        except FAILURES as error:
            raise _worded(error) from error

    def begin(
        self, caller: PeerId, call: InferenceCall, body: bytes, told: Told
    ) -> Callable[[], None] | None:
        """Begins a prediction of a hosted model that goes to its worker in one piece."""
        if not isinstance(call, PredictNamed):
            return None

        def answered(answer: Any, body: bytes) -> None:
            told(_worded(answer) if isinstance(answer, FAILURES) else answer, body)

        try:
            self._check_job(caller, call.deployment)
            return begin_prediction(self._hosting, call, body, answered)
        except (RemoteFailureError, *FAILURES):
            return None  # what it was, the long way finds too

    async def _stream(self, call: Ask, body: bytes, tell: Tell) -> None:
        try:
            await relay_ask(self._hosting, call, body, tell)
        except FAILURES as error:
            raise _worded(error) from error

    async def _authorize_owner(self, caller: PeerId, job_id: str) -> Done:
        """Only for direct jobs: of a paid one the coordinator's token alone opens the model."""
        self._access.check_allowed(caller)
        if not await self._store.is_direct(job_id, caller):
            raise RemoteFailureError("unauthorized", f"job {job_id} is no direct job of this Engine")
        return self._let_in(caller, job_id, _Permission(self._now() + OWNER_LIFETIME_S))

    def turn_out(self, caller: PeerId) -> None:
        """It has to authorize itself again."""
        self._callers.pop(caller, None)

    def _let_in(self, caller: PeerId, job_id: str, permission: _Permission) -> Done:
        jobs = self._callers.setdefault(caller, {})
        jobs[job_id] = permission
        self._callers.move_to_end(caller)
        while len(jobs) > MAX_JOBS_OF_CALLER:
            del jobs[min(jobs, key=lambda job_id: jobs[job_id].until)]
        while len(self._callers) > MAX_CALLERS:
            self._callers.popitem(last=False)
        return Done()

    def _is_let_in(self, caller: PeerId) -> bool:
        now = self._now()
        return any(permission.until > now for permission in self._callers.get(caller, {}).values())

    def _jobs_of(self, caller: PeerId) -> list[str]:
        """That its tokens are for. Raises RemoteFailureError where there is none."""
        now = self._now()
        jobs = [
            job_id
            for job_id, permission in self._callers.get(caller, {}).items()
            if permission.until > now and not self._access.is_revoked(permission.token_id)
        ]
        if not jobs:
            raise RemoteFailureError(
                "unauthorized", "no valid token on this connection: send Authorize first"
            )
        return jobs

    def _check_job(self, caller: PeerId, job_id: str) -> None:
        if job_id not in self._jobs_of(caller):
            raise RemoteFailureError("unauthorized", f"the token is not for deployment {job_id}")

    def _check_allowed(self, caller: PeerId, model: str) -> None:
        jobs = self._jobs_of(caller)
        if any(self._artifacts.is_result_of(model, job_id, caller) for job_id in jobs):
            return
        if not self._artifacts.has_result(model):
            raise RemoteFailureError("not_found", f"no model {model} here")
        raise RemoteFailureError("unauthorized", f"the token is not for the job that made model {model}")

    async def _describe(self, model: str) -> ModelDescription:
        was_loaded = self._deployments.is_loaded(model)
        loaded = await self._deployments.describe(model)
        return ModelDescription(model, "cyxmodel", *_tensors(loaded), was_loaded)

    async def _predict(self, call: Predict, body: bytes) -> tuple[Prediction, bytes]:
        wanted = math.prod(call.shape) * ITEM_BYTES[call.dtype]
        if len(body) != wanted:
            raise RemoteFailureError(
                "invalid", f"body of {len(body)} bytes, {call.dtype} of shape {call.shape} has {wanted}"
            )
        predicted, output = await self._deployments.predict(call.model, call.dtype, call.shape, body)
        first = predicted.outputs[0]
        dtype = wire_dtype(first.dtype)
        output = output[: math.prod(first.shape) * ITEM_BYTES[dtype]]
        if len(output) > LIMITS.body_bytes:
            raise RemoteFailureError(
                "refused", f"output of {len(output)} bytes, limit {LIMITS.body_bytes}: send a smaller batch"
            )
        return Prediction(dtype, first.shape, predicted.duration_s), output


def _worded(error: Exception) -> RemoteFailureError:
    """What a worker failed at, in the words of the wire."""
    match error:
        case WorkerFailedError(code=code, text=text):
            return RemoteFailureError(_CODES.get(code, "internal"), text)
        case WorkerDiedError():
            return RemoteFailureError("internal", f"the worker ended: {error}")
    return RemoteFailureError("busy", f"no worker: {error}")


def _tensors(loaded: ModelLoaded) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    return tensor_infos(loaded.inputs), tensor_infos(loaded.outputs)
