"""What a model on this machine answers to questions, in a sandboxed worker like those of peers.

So that the Engine knows what the peer that it pays has to answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio
from msgspec.structs import replace

from backend.errors import BackendError, WorkerFailedError
from backend.serving.asked import Asked
from backend.serving.call_frames import ModelStatus
from backend.serving.messages import RuntimeOptions, TensorSpec
from backend.workers.hosted import HostedModel
from backend.workers.model_calls import ModelCalls
from backend.workers.model_server import ModelFile, ServerListener, ServerPlan
from backend.workers.supervisor import PoolConfig
from p2p.errors import P2PError
from p2p.protocols.inference import ITEM_BYTES, Dtype, TensorGiven, TensorInfo
from p2p.session.errors import EvaluationFailedError
from p2p.session.inference import Tensor
from p2p.session.model_at_peer import cut
from p2p.session.trial import MAX_BYTES, NUDGE, Question, Trial, are_settled, expected_from, forms, question
from p2p.session.trial_text import expected_text, only_embeds, read_answer, text_question
from p2p.tasks import background_tasks, deadline

TIMEOUT_S = 180.0
ASKING_S = 20.0
"""After which no further question is begun: there are fewer then, and they are used up earlier."""
MEMORY_BYTES = 4 << 30
CONTEXT_TOKENS = 512
REFUSED = "invalid"
"""Code of a worker whose model does not take what it was given."""


async def try_model(model: Path, workspace: Path, seeds: Sequence[int]) -> Trial:
    """Its answers to as many of the questions as do not take long, one at least. ``workspace``: empty.

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
    options = RuntimeOptions(context=CONTEXT_TOKENS)
    told = ServerListener(on_ready=lambda lines: settled.set())
    hosted = HostedModel(ServerPlan((ModelFile("model", model, options=options),), pool), told)
    try:
        with deadline(TIMEOUT_S, "a try of the model"):
            async with background_tasks() as nursery:
                nursery.start_soon(run)
                await settled.wait()
                if failures:
                    raise failures[0]
                return await _tried(hosted.calls, seeds)
    except (BackendError, P2PError) as error:
        raise EvaluationFailedError(str(error)) from error


async def _tried(calls: ModelCalls, seeds: Sequence[int]) -> Trial:
    status = await calls.status()
    until = trio.current_time() + ASKING_S
    trial, found = await _first(calls, status, seeds[0]), list[Question]()
    for seed in () if trial.untried else seeds:
        if not found or trio.current_time() < until:
            found.append(await _ask(calls, status, trial, seed))
    return replace(trial, questions=tuple(found))


async def _first(calls: ModelCalls, status: ModelStatus, seed: int) -> Trial:
    """How the model is asked: the first form to which all it gives is settled, else one that it answers.

    Untried where it refuses them all.
    """
    if status.format == "gguf":  # in words, as its peer is, also where it takes tensors too
        return Trial()
    inputs = tuple(TensorInfo(spec.name, _wire_dtype(spec), spec.shape) for spec in status.inputs)
    answered: Trial | None = None
    failure: WorkerFailedError | EvaluationFailedError | None = None
    for settled, span in forms(inputs):
        trial = Trial(inputs=settled, span=span)
        try:
            asked = await _ask(calls, status, trial, seed)
        except (WorkerFailedError, EvaluationFailedError) as error:
            failure = error
            continue
        answered = answered or trial
        if are_settled(asked.outputs):
            return trial
    if answered is not None:
        return answered
    if isinstance(failure, WorkerFailedError) and failure.code == REFUSED:
        return Trial(untried=f"refuses the questions here, too: {failure.text}"[:4000])
    raise failure or EvaluationFailedError("takes no tensors")


async def _ask(calls: ModelCalls, status: ModelStatus, trial: Trial, seed: int) -> Question:
    if not trial.inputs:
        return await _ask_text(calls, status, seed)
    answers = [
        await _answer(calls, question(trial.inputs, seed, nudge, trial.span)) for nudge in (1.0, NUDGE)
    ]
    return Question(seed, expected_from(*answers))


async def _ask_text(calls: ModelCalls, status: ModelStatus, seed: int) -> Question:
    asked = text_question(status.name, seed, embeds=only_embeds(status.abilities))
    async with calls.ask(Asked("POST", asked.path, "application/json", asked.body)) as answer:
        body = await answer.read()
    if answer.status != 200:
        raise EvaluationFailedError(f"answers {asked.path} with status {answer.status}")
    try:
        return expected_text(seed, read_answer(body))
    except ValueError as error:
        raise EvaluationFailedError(f"answers {asked.path} with what is no answer: {error}") from error


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
