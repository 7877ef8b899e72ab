"""What the handlers of all calls share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from coordinator.admission import admit
from coordinator.database import Write
from coordinator.effects import ReadsEscrows
from coordinator.errors import IllegalTransitionError
from coordinator.gates import Gate, counted
from coordinator.job import TALKING, Cost, Grant, Job
from coordinator.leases import LeaseBook
from coordinator.ledger import Ledger
from coordinator.matcher import Match, quotes
from coordinator.matching import Matching, first_need
from coordinator.registry import Registry
from coordinator.state import Policy
from coordinator.store import RunBlocking
from coordinator.tokens import IssuedToken, TokenBook
from p2p.auth import SCOPE_JOB, Signer
from p2p.errors import RemoteFailureError
from p2p.identifiers import JobId, PeerId
from p2p.jobs import JobSpec
from p2p.limits import Rate, RateLimiter
from p2p.protocols.coordinator import ChainInfo, LeaseRef

SOFTWARE = "cyxwiz"
MAX_POLLS = 16
"""Long polls that one caller may hold open."""


@dataclass(frozen=True, slots=True)
class Limits:
    calls_per_s: float = 200.0
    burst: float = 400.0
    open_jobs: int = 200
    """Of one user."""
    metrics: int = 20_000
    """Points of one job's training curve."""


@dataclass(slots=True)
class Services:
    ledger: Ledger
    registry: Registry
    matching: Matching
    leases: LeaseBook
    chain: ReadsEscrows
    chain_info: ChainInfo
    escrow_address: Callable[[str, str, int], str]
    """(user, job id, deadline) -> address."""
    signer: Signer
    policy: Policy
    heartbeat_s: float
    lease_s: float
    run_blocking: RunBlocking
    now: Callable[[], float]
    monotonic: Callable[[], float]
    new_id: Callable[[], str]
    limits: Limits = field(default_factory=Limits)
    polls: Counter[PeerId] = field(default_factory=Counter)
    tokens: TokenBook = field(default_factory=TokenBook)
    graphs: Gate = field(default_factory=lambda: Gate("graphs"))
    questions: Gate = field(default_factory=lambda: Gate("questions about peers"))
    rates: RateLimiter = field(init=False)

    def __post_init__(self) -> None:
        self.rates = RateLimiter(Rate(self.limits.calls_per_s, self.limits.burst))

    async def admit(self, caller: PeerId, spec: JobSpec, graph: bytes) -> tuple[Cost, Match]:
        """What the job needs, and what it costs at whom.

        Raises RemoteFailureError for what cannot be trained or served.
        """
        async with self.graphs.turn(caller):
            cost: Cost = await self.run_blocking(admit, spec, graph)
            # Off the event loop too: there may be thousands of peers.
            candidates, now = self.matching.candidates(), self.now()
            found: Match = await self.run_blocking(quotes, first_need(cost, spec), candidates, now)
        return cost, found

    def long_poll(self, caller: PeerId) -> AbstractContextManager[None]:
        return counted(self.polls, caller, MAX_POLLS, "polls are waiting")

    async def own_job(self, caller: PeerId, job_id: str) -> Job:
        """A job of the Engine that asks. To everybody else it does not exist."""
        job = await self.ledger.find(JobId(job_id))
        if job is None or job.engine_id != caller:
            raise RemoteFailureError("not_found", f"you have no job {job_id}")
        return job

    def revoke_tokens(self, job_id: str, chosen: Callable[[IssuedToken], bool]) -> int:
        """How many were alive. The peers hear of it with their next heartbeat."""
        now = self.now()
        taken = self.tokens.revoke(job_id, chosen, now)
        if taken:
            self.ledger.store.enqueue(Write(now, tokens=taken))
        return len(taken)

    async def take_up_tokens(self) -> None:
        """After a start: a crash may have come between a job's change and what follows for its tokens."""
        self.tokens.forget_expired(self.now())
        for job_id in sorted(self.tokens.jobs()):
            job = await self.ledger.find(JobId(job_id))
            if job is not None:
                self.job_changed(job)

    def job_changed(self, job: Job) -> None:
        """What let an Engine talk to a peer about the job ends where that peer's part in it ends."""
        talks = job.grant is not None and job.state in TALKING
        holder = job.grant.peer_id if talks and job.grant is not None else None
        is_served = job.spec.serving is not None
        self.revoke_tokens(
            job.job_id,
            lambda token: token.audience != holder and (token.scope == SCOPE_JOB or is_served),
        )

    def leased_job(self, caller: PeerId, ref: LeaseRef) -> tuple[Job, Grant]:
        """The open job that the caller holds this very lease of."""
        job_id = self.leases.job_of(ref)
        job = self.ledger.jobs.get(job_id) if job_id is not None else None
        grant = job.grant if job is not None else None
        if job is None or grant is None or grant.ref != ref or grant.peer_id != caller:
            raise RemoteFailureError(
                "conflict", f"lease {ref.lease_id}, fencing {ref.fencing}: not yours, or it is over"
            )
        return job, grant


@contextmanager
def refusing() -> Iterator[None]:
    """An event that does not fit is the caller's mistake, or bad luck: a conflict."""
    try:
        yield
    except IllegalTransitionError as error:
        raise RemoteFailureError("conflict", str(error)) from error
