"""What Engines ask: estimate, submit, follow, cancel, tokens, explanations. Each sees its own jobs only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from coordinator.answers import as_many_as_fit
from coordinator.database import Write
from coordinator.errors import IllegalTransitionError
from coordinator.escrows import is_wallet
from coordinator.job import TALKING, CancelRequested, Job, JobRevived, JobSubmitted, PeerReported
from coordinator.matcher import Candidate, Offer
from coordinator.reputation import score, tier
from coordinator.services import Services, refusing
from coordinator.tokens import MAX_ALIVE, IssuedToken
from p2p.auth import MAX_LIFETIME_S, SCOPE_INFER, SCOPE_JOB, issue_token
from p2p.errors import RemoteFailureError
from p2p.identifiers import JobId, PeerId
from p2p.jobs import JobSpec, JobState, Requirements
from p2p.pricing import format_tokens
from p2p.protocols import Done
from p2p.protocols.coordinator import (
    AccessToken,
    CancelJob,
    Estimate,
    EstimateJob,
    ExplainJob,
    Explanation,
    FindPeers,
    JobList,
    JobSummary,
    JobUpdates,
    ListJobs,
    Peers,
    PeerSummary,
    PollJob,
    RejectedPeer,
    ReportPeer,
    RequestToken,
    SubmitJob,
    Submitted,
)

MAX_UPDATES = 500
MAX_PEERS = 1000


async def estimate_job(services: Services, caller: PeerId, call: EstimateJob, body: bytes) -> Estimate:
    cost, found = await services.admit(caller, call.job, body)
    return Estimate(
        parameters=cost.parameters,
        training_flops=cost.training_flops,
        memory_bytes=cost.memory_bytes,
        quotes=tuple(offer.quote for offer in found.offers[:MAX_PEERS]),
        rejected=as_many_as_fit(found.rejected[:MAX_PEERS]),
    )


async def submit_job(services: Services, caller: PeerId, call: SubmitJob, body: bytes) -> Submitted:
    """The same job again is answered the same, and goes on if it waited for its user."""
    job_id = JobId(call.job.job_id)
    known = await services.ledger.find(job_id)
    if known is None:
        known = await _admit(services, caller, call.job, body)
    _check_same(known, caller, call.job)
    if known.state is JobState.WAITING_FOR_USER:
        with refusing():
            await services.ledger.apply(job_id, JobRevived(services.now()))
    await services.ledger.store.settle()
    return Submitted(job_id, services.ledger.latest(job_id))


async def _admit(services: Services, caller: PeerId, spec: JobSpec, body: bytes) -> Job:
    _check_spec(services, caller, spec)
    cost, found = await services.admit(caller, spec, body)
    _check_budget(spec, found.offers)
    job_id = JobId(spec.job_id)
    try:
        return await services.ledger.apply(job_id, JobSubmitted(services.now(), caller, spec, cost))
    except IllegalTransitionError:
        known = await services.ledger.find(job_id)
        if known is None:
            raise
        return known  # the same call has come twice


def _check_spec(services: Services, caller: PeerId, spec: JobSpec) -> None:
    if not is_wallet(spec.user_wallet):
        raise RemoteFailureError("invalid", f"user wallet {spec.user_wallet!r} is no Solana public key")
    if spec.budget < 1:
        raise RemoteFailureError("refused", "budget of 0 units, must be at least 1")
    mine = sum(job.engine_id == caller and not job.state.is_final for job in services.ledger.jobs.values())
    if mine >= services.limits.open_jobs:
        raise RemoteFailureError("busy", f"{mine} jobs of yours are open, limit {services.limits.open_jobs}")


def _check_budget(spec: JobSpec, offers: Sequence[Offer]) -> None:
    if offers and spec.budget < offers[0].amount:
        raise RemoteFailureError(
            "refused",
            f"budget {format_tokens(spec.budget)}, the cheapest acceptable quote is "
            f"{format_tokens(offers[0].amount)} by {offers[0].candidate.peer_id}",
        )


def _check_same(known: Job, caller: PeerId, spec: JobSpec) -> None:
    if known.engine_id != caller:
        raise RemoteFailureError("conflict", f"job id {spec.job_id} is taken")
    if known.spec != spec:
        raise RemoteFailureError("conflict", f"job {spec.job_id} was submitted with other terms before")


async def poll_job(services: Services, caller: PeerId, call: PollJob) -> JobUpdates:
    """Answered as soon as there is something new; empty after ``wait_ms`` without."""
    await services.own_job(caller, call.job_id)
    bell, key = services.ledger.bell, f"job/{call.job_id}"
    with services.long_poll(caller), bell.listening(key), trio.move_on_after(call.wait_ms / 1000):
        while True:
            waiter = bell.waiter(key)
            job = await services.own_job(caller, call.job_id)
            updates = await _updates(services, job, call.after)
            if updates.updates or job.is_closed:
                return updates
            await waiter.wait()
    return await _updates(services, await services.own_job(caller, call.job_id), call.after)


async def _updates(services: Services, job: Job, after: int) -> JobUpdates:
    store = services.ledger.store
    updates = as_many_as_fit(await store.read(store.database.updates, job.job_id, after, MAX_UPDATES))
    if not updates:
        return JobUpdates(job.state, (), after)
    return JobUpdates(updates[-1].state, updates, updates[-1].sequence)


async def list_jobs(services: Services, caller: PeerId, call: ListJobs) -> JobList:
    store = services.ledger.store
    jobs = await store.read(store.database.jobs, caller, call.limit)
    return JobList(as_many_as_fit(summary(job) for job in jobs))


def summary(job: Job) -> JobSummary:
    peer_id = job.grant.peer_id if job.grant is not None else job.served_by
    return JobSummary(
        job.job_id, job.engine_id, job.state, job.submitted_at, job.spec.budget, peer_id, job.text
    )


async def cancel_job(services: Services, caller: PeerId, call: CancelJob) -> Done:
    job = await services.own_job(caller, call.job_id)
    with refusing():
        await services.ledger.apply(job.job_id, CancelRequested(services.now()))
    return Done()


async def report_peer(services: Services, caller: PeerId, call: ReportPeer) -> Done:
    job = await services.own_job(caller, call.job_id)
    event = PeerReported(services.now(), call.lease, call.code, call.text)
    with refusing():
        await services.ledger.apply(job.job_id, event)
    return Done()


async def request_token(services: Services, caller: PeerId, call: RequestToken) -> AccessToken:
    """``job`` while a peer has accepted it; ``infer`` once there is a result, or while a model is served."""
    job = await services.own_job(caller, call.job_id)
    audience = _audience(job, call.scope)
    now = services.now()
    issued = IssuedToken(
        services.new_id(), caller, audience, job.job_id, call.scope, float(int(now) + MAX_LIFETIME_S)
    )
    if not services.tokens.issue(issued, now):
        raise RemoteFailureError("busy", f"{MAX_ALIVE} tokens for this are alive already")
    token = issue_token(
        services.signer,
        subject=caller,
        audience=audience,
        job_id=job.job_id,
        scope=call.scope,
        now=now,
        jti=issued.jti,
        lifetime_s=MAX_LIFETIME_S,
    )
    # On disk first: what is not known after a crash could not be taken back.
    await services.ledger.store.enqueue(Write(now, tokens=(issued,))).wait()
    return AccessToken(token, issued.expires_at)


def _audience(job: Job, scope: str) -> PeerId:
    if scope == SCOPE_JOB or (scope == SCOPE_INFER and job.spec.serving is not None):
        if job.grant is None or not job.grant.accepted or job.state not in TALKING:
            raise RemoteFailureError("conflict", f"no peer holds the job: it is {job.state.value}")
        return job.grant.peer_id
    if scope == SCOPE_INFER:
        if job.served_by is None:
            raise RemoteFailureError("conflict", f"the job has no result: it is {job.state.value}")
        return job.served_by
    raise RemoteFailureError("invalid", f"scope {scope!r}, allowed {SCOPE_JOB}, {SCOPE_INFER}")


async def explain_job(services: Services, caller: PeerId, call: ExplainJob) -> Explanation:
    job = await services.own_job(caller, call.job_id)
    async with services.questions.turn(caller):
        return explanation(job, *await services.matching.explain(job))


def explanation(job: Job, lines: Sequence[str], rejected: Sequence[RejectedPeer]) -> Explanation:
    passed = tuple(f"passed over {entry.peer_id}: {entry.reason}" for entry in job.excluded)
    told = (f"{job.state.value}: {job.text}", *lines, *passed)
    return Explanation(tuple(line[:4096] for line in told)[:1000], as_many_as_fit(rejected[:1000]))


async def find_peers(services: Services, caller: PeerId, call: FindPeers) -> Peers:
    """Everybody who has such a device at such a price; who is online and best known first."""
    async with services.questions.turn(caller):
        candidates, now = services.matching.candidates(), services.now()
        found: Peers = await services.run_blocking(_peers_for, call.requirements, candidates, now)
    return found


def _peers_for(wanted: Requirements, candidates: Iterable[Candidate], now: float) -> Peers:
    fitting = (candidate for candidate in candidates if _fits(candidate, wanted))
    return Peers(as_many_as_fit(peer_summaries(fitting, now)[:MAX_PEERS]))


def _fits(candidate: Candidate, wanted: Requirements) -> bool:
    record = candidate.entry.record
    if candidate.peer_id in wanted.deny or (wanted.allow and candidate.peer_id not in wanted.allow):
        return False
    return record.price_per_hour <= wanted.price_ceiling and any(
        wanted.device in (None, device.kind) and device.memory_bytes >= wanted.memory_bytes
        for device in record.devices
    )


def peer_summaries(candidates: Iterable[Candidate], now: float) -> list[PeerSummary]:
    summaries = [
        PeerSummary(
            peer_id=candidate.peer_id,
            record=candidate.entry.signed,
            reputation=score(candidate.standing, now),
            tier=tier(candidate.standing, now).value,
            running=len(candidate.reserved),
            online=candidate.online,
            banned_until=candidate.standing.banned_until,
        )
        for candidate in candidates
    ]
    return sorted(summaries, key=lambda entry: (not entry.online, -entry.reputation, entry.peer_id))
