"""Calls to a hosted model, between the wire and the channel of its worker. Never logs what is in them.

Whoever calls this has checked that the caller may.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, get_args

import msgspec

from backend.errors import WorkerError
from backend.serving.asked import ASKED_FIELDS, Asked, passed_on
from backend.serving.messages import TensorSpec
from backend.serving.remote_paths import why_refused
from backend.workers.model_calls import ModelCalls, Predicted
from p2p.errors import RemoteFailureError
from p2p.protocols.inference import (
    LIMITS,
    AnswerBegun,
    AnswerEnded,
    AnswerPart,
    Ask,
    DeploymentStatus,
    Dtype,
    InferenceAnswer,
    PredictionNamed,
    PredictNamed,
    StatusOf,
    TensorGiven,
    TensorInfo,
)
from p2p.router import Tell, Told
from peer.hosting import HostedStatus

PREDICT_TIMEOUT_S = 55.0
"""Less than a caller waits."""
_DTYPES: dict[str, Dtype] = {name: name for name in get_args(Dtype)}
_TEXT_CHARACTERS = 2000


class HostedModels(Protocol):
    """What is served here; ``peer.hosting`` has it. Both raise RemoteFailureError for no such job."""

    def calls(self, job_id: str) -> ModelCalls: ...

    async def status(self, job_id: str) -> HostedStatus: ...


async def answer_about_hosted(
    hosting: HostedModels, call: PredictNamed | StatusOf, body: bytes
) -> InferenceAnswer | tuple[InferenceAnswer, bytes]:
    """Raises RemoteFailureError, WorkerError, DeadlineError."""
    if isinstance(call, StatusOf):
        return _told(await hosting.status(call.deployment))
    calls = hosting.calls(call.deployment)
    return _prediction(await calls.predict(_specs(call), body, PREDICT_TIMEOUT_S))


def begin_prediction(
    hosting: HostedModels, call: PredictNamed, body: bytes, told: Told
) -> Callable[[], None] | None:
    """The same without a task, for ``p2p.router``. Raises as it for what is refused at once."""

    def predicted(outcome: Predicted | Exception) -> None:
        try:
            answer: tuple[Any, bytes] = (
                (outcome, b"") if isinstance(outcome, Exception) else _prediction(outcome)
            )
        except (RemoteFailureError, WorkerError) as error:
            answer = (error, b"")
        told(*answer)

    calls = hosting.calls(call.deployment)
    return calls.begin_prediction(_specs(call), body, PREDICT_TIMEOUT_S, predicted)


def _specs(call: PredictNamed) -> tuple[TensorSpec, ...]:
    return tuple([TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in call.inputs])


def _prediction(predicted: Predicted) -> tuple[PredictionNamed, bytes]:
    """Raises RemoteFailureError, WorkerError."""
    if len(predicted.body) > LIMITS.body_bytes:
        size = len(predicted.body)
        raise RemoteFailureError(
            "refused", f"outputs of {size} bytes, limit {LIMITS.body_bytes}: send a smaller batch"
        )
    outputs = tuple(
        [TensorGiven(spec.name, wire_dtype(spec.dtype), spec.shape) for spec in predicted.outputs]
    )
    return PredictionNamed(outputs, predicted.duration_s), predicted.body


async def relay_ask(hosting: HostedModels, call: Ask, body: bytes, tell: Tell) -> None:
    """Part by part, each sent before the next is taken: a caller who stalls holds up its own answer only.

    Raises RemoteFailureError, WorkerError, DeadlineError, and what ``tell`` does.
    """
    refused = why_refused(call.method, call.path)
    if refused is not None:
        raise RemoteFailureError("refused", refused)
    headers = passed_on(call.headers, ASKED_FIELDS)
    asked = Asked(call.method, call.path, call.content_type, body, headers)
    async with hosting.calls(call.deployment).ask(asked) as answer:
        first = b"" if answer.is_over else await anext(answer, b"")
        is_whole = answer.is_over
        await tell(AnswerBegun(answer.status, answer.content_type, answer.headers, is_whole), first)
        if is_whole:
            return
        size_bytes = len(first)
        async for part in answer:
            size_bytes += len(part)
            await tell(AnswerPart(), part)
        await tell(AnswerEnded(size_bytes), b"")


def _told(status: HostedStatus) -> DeploymentStatus:
    about = DeploymentStatus(status.state.value, status.reason[:_TEXT_CHARACTERS], status.restarts)
    model = status.model
    if model is None:
        return about
    return msgspec.structs.replace(
        about,
        name=model.name,
        format=model.format,
        runtime=model.runtime,
        devices=model.devices,
        abilities=model.abilities,
        inputs=tensor_infos(model.inputs),
        outputs=tensor_infos(model.outputs),
        context_tokens=model.context_tokens,
        size_bytes=model.size_bytes,
        requests=model.requests,
        failed=model.failed,
        in_flight=model.in_flight,
        queue_depth=model.queue_depth,
        p50_ms=model.p50_ms,
        p95_ms=model.p95_ms,
        tokens_per_s=model.tokens_per_s,
    )


def tensor_infos(specs: tuple[TensorSpec, ...]) -> tuple[TensorInfo, ...]:
    """Raises WorkerError for a dtype that the protocol does not know."""
    return tuple(TensorInfo(spec.name, wire_dtype(spec.dtype), spec.shape) for spec in specs)


def wire_dtype(name: str) -> Dtype:
    """A dtype that the protocol knows. Raises WorkerError."""
    dtype = _DTYPES.get(name)
    if dtype is None:
        raise WorkerError(f"the worker answered with dtype {name[:40]!r}, allowed {', '.join(_DTYPES)}")
    return dtype
