"""Deployments as their user sees them: what to ask for, and how each stands. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from blake3 import blake3

from p2p.jobs import (
    MAX_SEGMENTS,
    SERVED_DTYPE,
    DataSummary,
    FileRef,
    JobSpec,
    JobState,
    Requirements,
    ServingSpec,
)
from p2p.session.checks import ServedModel
from p2p.session.errors import JobRefusedError
from p2p.session.job import Job

DEFAULT_MINUTES = 60
MINUTE_S = 60


@dataclass(frozen=True, slots=True)
class DeploymentOrder:
    """A model to be served. ``memory_bytes``: of its worker; 0: what the model seems to need."""

    model: Path
    name: str
    tokenizer: Path | None = None
    periods: int = DEFAULT_MINUTES
    period_s: int = MINUTE_S
    """Each is paid once it was served."""
    memory_bytes: int = 0
    gpu_layers: int = 0
    context: int = 0
    continues: str | None = None
    """The deployment that this one takes over from, at its peer."""


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """Those of one ``name`` are replicas of one model."""

    id: str
    name: str
    format: str
    state: JobState
    is_running: bool
    """It answers, or does so again as soon as its worker is back."""
    peer_id: str | None
    given_to: frozenset[str]
    """Peers that the user chose for it, or saw it begin at: where it moves by itself is not among them."""
    moved: bool
    """It is at none of those now: it is asked there only where its peer is named."""
    served_s: int
    """Proven and paid."""
    left_s: int
    ends_at: float | None
    """If it goes on as now; None while it does not run."""
    paid: int
    """Units."""
    budget: int
    text: str
    proof: str
    """How a period is proven before it is paid; empty for an unpaid one, and before that is known."""
    continues: str | None


def view(job: Job, now: float) -> DeploymentView:
    """Of a job with ``spec.serving``."""
    serving = job.spec.serving
    assert serving is not None
    is_running = job.state is JobState.RUNNING
    left_s = (job.spec.segments - job.segments_done) * serving.period_s
    first = job.holds[-1].peer_id if job.holds else None
    chosen = job.spec.requirements.allow or ((job.direct.wanted,) if job.direct and job.direct.wanted else ())
    given_to = frozenset(chosen) or (frozenset((first,)) if first is not None else frozenset())
    return DeploymentView(
        id=job.job_id,
        name=serving.name,
        format=serving.format,
        state=job.state,
        is_running=is_running,
        peer_id=job.peer_id,
        given_to=given_to,
        moved=job.peer_id is not None and bool(given_to) and job.peer_id not in given_to,
        served_s=job.segments_done * serving.period_s,
        left_s=0 if job.is_over else left_s,
        ends_at=now + left_s if is_running else None,
        paid=job.spent,
        budget=job.spec.budget,
        text=job.text,
        proof=proof_of(job),
        continues=serving.continues,
    )


def proof_of(job: Job) -> str:
    if job.direct is not None or job.trial is None:
        return ""
    if job.trial.untried:
        return f"any answer counts: {job.trial.untried}"
    return "each period a new question, answered as by the model here"


def serving_of(order: DeploymentOrder, found: ServedModel, tokenizer: FileRef | None) -> ServingSpec:
    """Raises JobRefusedError, naming what was found and what is allowed."""
    if not 1 <= order.periods <= MAX_SEGMENTS:
        raise JobRefusedError(
            f"{order.periods} periods of {order.period_s} s, allowed 1 to {MAX_SEGMENTS}; extend it later"
        )
    terms = ServingSpec(
        name=order.name,
        format=found.format,
        memory_bytes=order.memory_bytes or found.memory_bytes,
        period_s=order.period_s,
        tokenizer=tokenizer,
        gpu_layers=order.gpu_layers,
        context=order.context,
        continues=order.continues,
    )
    try:
        return msgspec.convert(msgspec.to_builtins(terms), ServingSpec)
    except msgspec.ValidationError as error:
        raise JobRefusedError(f"deployment: {error}") from error


def spec_of(
    job_id: str,
    order: DeploymentOrder,
    model: FileRef,
    serving: ServingSpec,
    budget: int,
    needs: Requirements,
    wallet: str,
) -> JobSpec:
    return JobSpec(
        job_id=job_id,
        graph_hash=blake3(b"").hexdigest(),
        data=DataSummary(model, 1, (), SERVED_DTYPE),
        budget=budget,
        user_wallet=wallet,
        segments=order.periods,
        requirements=needs,
        served=serving,
    )
