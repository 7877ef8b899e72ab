"""Does a peer serve what it is paid for? A period is signed for once the model answers that follows it.

Its own word is not enough: one real call is made for each period, and its answer compared with the one of
the Engine's own copy, where that could be had.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from p2p.errors import LOST, RemoteFailureError, RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.jobs import FileRef, JobState, ServingSpec
from p2p.protocols.coordinator import Lease
from p2p.protocols.inference import LIMITS, DeploymentStatus, TensorGiven
from p2p.session import trial as trials
from p2p.session.asking import Asked
from p2p.session.chat import refusal
from p2p.session.engine_parts import Engine
from p2p.session.errors import ModelRefusedError, ModelSilentError
from p2p.session.events import PeerAccused
from p2p.session.inference import HastyCaller, JobCaller, Tensor
from p2p.session.job import Escrow, Job, lease_ref
from p2p.session.live import LiveJob
from p2p.session.model_at_peer import ModelAtPeer
from p2p.session.news import News, NewsKind
from p2p.session.trial import Question
from p2p.session.trial_text import only_embeds, read_answer, text_fault, text_question
from p2p.tasks import deadline

ANSWERS = "ready"
"""State of a deployment that answers."""
ASK_AGAIN_S = 1.0
ASK_PATIENCE_S = 5.0
"""Of each question, over lost connections."""
CALL_TIMEOUT_S = 75.0
PATIENCE_S = 240.0
"""For a model that is not ready: longer than a peer itself waits for its worker."""
PAID = frozenset({JobState.FUNDED, JobState.RUNNING})
OVERDUE_S = 1800.0
"""Beyond a period: for the model to travel and to be loaded, and for a worker that ends."""
DENIALS = frozenset({"not_found", "refused", "unauthorized", "invalid"})
"""Codes by which a peer says itself that it does not serve what it claims."""
MAX_TEXT_ANSWER_BYTES = 1 << 20


async def watch_periods(engine: Engine, live: LiveJob, lease: Lease) -> None:
    """Reports a peer that holds the deployment and ends no period that can be paid; ends with the lease."""
    serving = live.job.spec.serving
    if serving is None or live.job.direct is not None:
        return
    await live.wait_for(lambda job: job.state in PAID)
    overdue_s = serving.period_s + OVERDUE_S
    while True:
        done = live.job.segments_done
        with trio.move_on_after(overdue_s) as scope:
            await live.wait_for(lambda job, before=done: job.segments_done != before)  # type: ignore[misc]
        # Without the coordinator nobody can be asked, nor reported.
        if scope.cancelled_caught and engine.network.is_connected(engine.coordinator.peer_id):
            text = f"no period of {serving.period_s} s is over and proven after {overdue_s:.0f} s"
            await live.apply(PeerAccused(lease_ref(lease), "overdue", text))
            return


async def period_over(live: LiveJob, serving: ServingSpec, escrow: Escrow) -> bool:
    """Waits until the period can be over: a peer that claims it early is paid no earlier.

    It began when the one before it was over, or later. False if meanwhile the escrow is the job's no longer.
    """
    with trio.move_on_at(live.served_at + serving.period_s) as scope:
        await live.wait_for(lambda job: job.escrow is None or job.escrow.address != escrow.address)
    return scope.cancelled_caught


async def check_served(engine: Engine, live: LiveJob, file: FileRef, peer_id: str) -> float:
    """Returns once the deployment answers a call as it has to, or its lease is over: when it was asked,
    on trio's clock.

    Raises ModelRefusedError for another file than the model, or what the model does not answer, and
    ModelSilentError for a peer that knows no such deployment, or does not answer for too long; and what a
    call raises that may be repeated.
    """
    model, lease = live.job.spec.data.file, live.job.lease
    if file != model:
        raise ModelRefusedError(f"announced {file.blake3}, allowed is the model {model.blake3}")
    caller = JobCaller(engine, PeerId(peer_id), lambda: live.job)
    deployment = ModelAtPeer(live.job.job_id, lambda: HastyCaller(caller, ASK_PATIENCE_S))
    gives_up_at = trio.current_time() + PATIENCE_S
    try:
        while True:
            asked_at = trio.current_time()
            reason = await _why_not(deployment, live)
            if reason is None or live.job.lease != lease:
                return asked_at
            if trio.current_time() >= gives_up_at:
                raise ModelSilentError(f"does not answer for {PATIENCE_S:.0f} s: {reason}")
            live.mention(News(NewsKind.STAGE, f"waiting for the model at its peer: {reason}"))
            await trio.sleep(ASK_AGAIN_S)
    except RemoteFailureError as error:
        if error.code in DENIALS:
            raise ModelSilentError(f"claims to serve the model, and answers: {error}") from error
        raise
    except RemoteProtocolError as error:
        raise ModelRefusedError(f"claims to serve the model: {error}") from error
    finally:
        await caller.streams.aclose()


async def _why_not(deployment: ModelAtPeer, live: LiveJob) -> str | None:
    """Why the model does not answer just now; None once it did. Raises as ``check_served``."""
    status = await deployment.status()
    if status.state != ANSWERS:
        return f"it is {status.state}"
    serving = live.job.spec.serving
    if serving is None or live.job.direct is not None:
        return None  # nobody is paid for it
    try:
        with deadline(CALL_TIMEOUT_S, "a call to the model"):
            if serving.format == "gguf":
                await _ask_text(deployment, status, serving.name, live.job)
            else:
                await _ask_tensors(deployment, status, live.job)
    except LOST as error:
        return f"it says it is ready, and a call is lost: {error}"
    except RemoteFailureError as error:
        if error.code in DENIALS:
            raise
        return str(error)
    return None


async def _ask_tensors(deployment: ModelAtPeer, status: DeploymentStatus, job: Job) -> None:
    trial, known = job.trial, job.question
    if trial is None or known is None:
        await _ask_untried(deployment, status, job)
    elif asked := trials.question(trial.inputs, known.seed, span=trial.span):
        await _predict(deployment, asked, known)


async def _ask_untried(deployment: ModelAtPeer, status: DeploymentStatus, job: Job) -> None:
    """In each way that fits what the peer says that the model takes, until one is answered."""
    refused: RemoteFailureError | None = None
    for inputs, span in trials.forms(status.inputs):
        asked = trials.question(inputs, job.segments_done, span=span, limit=LIMITS.body_bytes)
        if asked is None:
            continue
        try:
            await _predict(deployment, asked, None)
            return
        except RemoteFailureError as error:
            if error.code != "invalid":
                raise
            refused = error
    if job.trial is None or not job.trial.takes_all:
        return  # what this model takes cannot be told from its shapes alone
    raise refused or ModelRefusedError(f"takes more than a call can carry, {LIMITS.body_bytes} bytes")


async def _predict(
    deployment: ModelAtPeer, asked: Sequence[tuple[TensorGiven, bytes]], known: Question | None
) -> None:
    tensors = {given.name: Tensor(given.dtype, given.shape, data) for given, data in asked}
    reason = trials.fault(known, await deployment.predict(tensors))
    if reason is not None:
        raise ModelRefusedError(f"serves another model: {reason}")


async def _ask_text(deployment: ModelAtPeer, status: DeploymentStatus, name: str, job: Job) -> None:
    known = job.question
    if known is not None:
        asked = text_question(name, known.seed, embeds=bool(known.outputs))
    else:
        embeds = only_embeds(status.abilities)
        asked = text_question(name, job.segments_done, embeds=embeds, tokens=1)
    call = Asked("POST", asked.path, "application/json", asked.body)
    async with deployment.ask(call) as answer:
        text = await answer.read(MAX_TEXT_ANSWER_BYTES)
    if answer.status != 200:
        raise refusal(answer.status, text)
    try:
        reason = text_fault(known, read_answer(text))
    except ValueError as error:
        raise ModelRefusedError(f"answers {asked.path} with what is no answer: {error}") from error
    if reason is not None:
        raise ModelRefusedError(f"serves another model: {reason}")
