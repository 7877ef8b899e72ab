"""Does a peer serve what it is paid for? A period is signed for once the model answers that follows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.errors import RemoteFailureError
from p2p.identifiers import PeerId
from p2p.jobs import FileRef, ServingSpec
from p2p.session.errors import ModelRefusedError
from p2p.session.inference import JobCaller
from p2p.session.job import Escrow
from p2p.session.live import LiveJob
from p2p.session.model_at_peer import ModelAtPeer
from p2p.session.news import News, NewsKind

if TYPE_CHECKING:
    from p2p.session.steps import Engine

ANSWERS = "ready"
"""State of a deployment that answers."""
ASK_AGAIN_S = 1.0
PATIENCE_S = 240.0
"""For a model that is not ready: longer than a peer itself waits for its worker."""
DENIALS = frozenset({"not_found", "refused", "unauthorized", "invalid"})
"""Codes by which a peer says itself that it does not serve what it claims."""


async def period_over(live: LiveJob, serving: ServingSpec, escrow: Escrow) -> bool:
    """Waits until the period can be over: a peer that claims it early is paid no earlier.

    It began when the one before it was over, or later. False if meanwhile the escrow is the job's no longer.
    """
    with trio.move_on_at(live.served_at + serving.period_s) as scope:
        await live.wait_for(lambda job: job.escrow is None or job.escrow.address != escrow.address)
    return scope.cancelled_caught


async def check_served(engine: Engine, live: LiveJob, file: FileRef, peer_id: str) -> float:
    """Returns once the deployment answers: when it was asked, on trio's clock.

    Raises ModelRefusedError for another file than the model, a peer that knows no such deployment, or
    one that says for too long that the model comes; and what a call raises that may be repeated.
    """
    model = live.job.spec.data.file
    if file != model:
        raise ModelRefusedError(f"announced {file.blake3}, allowed is the model {model.blake3}")
    caller = JobCaller(engine, PeerId(peer_id), lambda: live.job)
    deployment = ModelAtPeer(live.job.job_id, lambda: caller)
    gives_up_at = trio.current_time() + PATIENCE_S
    try:
        while True:
            asked_at = trio.current_time()
            status = await deployment.status()
            if status.state == ANSWERS:
                return asked_at
            if trio.current_time() >= gives_up_at:
                raise ModelRefusedError(f"says for {PATIENCE_S:.0f} s that the model is {status.state}")
            live.mention(News(NewsKind.STAGE, f"the model is {status.state} at its peer"))
            await trio.sleep(ASK_AGAIN_S)
    except RemoteFailureError as error:
        if error.code in DENIALS:
            raise ModelRefusedError(f"claims to serve the model, and answers: {error}") from error
        raise
    finally:
        await caller.streams.aclose()
