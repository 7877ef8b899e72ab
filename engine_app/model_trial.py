"""What a model on this machine answers to one question, in a sandboxed worker like those of peers.

So that the Engine knows what the peer that it pays has to answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from backend.errors import BackendError
from backend.serving.messages import TensorSpec
from backend.workers.hosted import HostedModel
from backend.workers.model_calls import ModelCalls
from backend.workers.model_server import ModelFile, ServerListener, ServerPlan
from backend.workers.supervisor import PoolConfig
from p2p.errors import P2PError
from p2p.protocols.inference import ITEM_BYTES, Dtype, TensorGiven, TensorInfo
from p2p.session.errors import EvaluationFailedError
from p2p.session.inference import Tensor
from p2p.session.model_at_peer import cut
from p2p.session.trial import MAX_BYTES, NUDGE, Trial, expected_from, question
from p2p.tasks import background_tasks, deadline

TIMEOUT_S = 180.0
MEMORY_BYTES = 4 << 30


async def try_model(model: Path, workspace: Path, seed: int) -> Trial:
    """Of one that takes tensors. ``workspace`` is an empty directory.

    Raises EvaluationFailedError.
    """
    settled, failures = trio.Event(), list[BackendError]()

    async def run() -> None:
        try:
            await hosted.run()
        except BackendError as error:
            failures.append(error)
            settled.set()

    pool = PoolConfig(directory=workspace / "workers", memory_bytes=MEMORY_BYTES, threads=1)
    told = ServerListener(on_ready=lambda lines: settled.set())
    hosted = HostedModel(ServerPlan((ModelFile("model", model),), pool), told)
    try:
        with deadline(TIMEOUT_S, "a try of the model"):
            async with background_tasks() as nursery:
                nursery.start_soon(run)
                await settled.wait()
                if failures:
                    raise failures[0]
                return await _tried(hosted.calls, seed)
    except (BackendError, P2PError) as error:
        raise EvaluationFailedError(str(error)) from error


async def _tried(calls: ModelCalls, seed: int) -> Trial:
    status = await calls.status()
    inputs = tuple(TensorInfo(spec.name, _wire_dtype(spec), spec.shape) for spec in status.inputs)
    if not inputs:
        raise EvaluationFailedError("takes no tensors")
    answers = [await _answer(calls, question(inputs, seed, nudge)) for nudge in (1.0, NUDGE)]
    return Trial(seed, inputs, expected_from(*answers))


async def _answer(calls: ModelCalls, asked: Sequence[tuple[TensorGiven, bytes]] | None) -> dict[str, Tensor]:
    if asked is None:
        raise EvaluationFailedError(f"takes more than {MAX_BYTES} bytes, which is not tried here")
    specs = tuple(TensorSpec(given.name, given.dtype, given.shape) for given, _ in asked)
    predicted = await calls.predict(specs, b"".join(data for _, data in asked))
    outputs = (TensorGiven(spec.name, _wire_dtype(spec), spec.shape) for spec in predicted.outputs)
    return cut(tuple(outputs), predicted.body)


def _wire_dtype(spec: TensorSpec) -> Dtype:
    if spec.dtype not in ITEM_BYTES:
        raise EvaluationFailedError(f"{spec.name} is {spec.dtype}, allowed are {', '.join(ITEM_BYTES)}")
    return spec.dtype  # type: ignore[return-value]
