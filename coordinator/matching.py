"""Brings waiting jobs and peers together, whenever something changed. Decides by ``matcher`` alone."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import structlog
import trio

from coordinator.errors import IllegalTransitionError
from coordinator.job import Cost, Job, OfferMade
from coordinator.ledger import Ledger
from coordinator.matcher import Candidate, Match, Need, due_for_a_try, in_turn, match
from coordinator.registry import Registry
from coordinator.state import Policy
from coordinator.store import RunBlocking
from p2p.errors import RemoteFailureError
from p2p.identifiers import JobId, PeerId
from p2p.jobs import JobSpec
from p2p.protocols.coordinator import RejectedPeer

log = structlog.get_logger(__name__)

LOOK_AGAIN_S = 1.0
"""Time alone also changes things: pauses and bans end, peers fall silent."""
MAX_REJECTED = 100
MAX_REMEMBERED_USERS = 10_000


class Matching:
    def __init__(
        self,
        ledger: Ledger,
        registry: Registry,
        policy: Policy,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
        run_blocking: RunBlocking = trio.to_thread.run_sync,
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._policy = policy
        self._new_id = new_id
        self._run_blocking = run_blocking
        self._wake = trio.Event()
        self._reserved: dict[JobId, tuple[PeerId, int]] = {}
        self._served_at: dict[PeerId, float] = {}
        """When a job of a user last found a peer; in that order, the longest ago is forgotten first."""
        self._tried_at: dict[JobId, float] = {}
        """When a waiting job was last looked at."""
        for job in ledger.jobs.values():
            self._track(job)
        ledger.listeners.job_changed.append(self._changed)

    def wake(self) -> None:
        """Something changed that may let a job go on."""
        self._wake.set()

    async def run(self) -> None:
        while True:
            with trio.move_on_after(LOOK_AGAIN_S):
                await self._wake.wait()
            self._wake = trio.Event()
            await self._match_waiting()
            await trio.lowlevel.checkpoint()

    async def _match_waiting(self) -> None:
        """One pass over waiting jobs, users in turn; everybody else gets a turn after each of them."""
        jobs = self._ledger.jobs
        waiting = [job for job in jobs.values() if job.waits_for_peer and not self._is_early(job)]
        self._tried_at = {job.job_id: self._tried_at.get(job.job_id, 0.0) for job in waiting}
        if not waiting:
            return
        running = Counter(job.engine_id for job in jobs.values() if job.live_grant is not None)
        queue = [(job.job_id, job.engine_id, job.submitted_at) for job in waiting]
        turns = in_turn(due_for_a_try(queue, self._tried_at), running, self._served_at)
        for job_id in turns:
            job = jobs.get(job_id)
            if job is not None and job.waits_for_peer:
                self._tried_at[job_id] = self._ledger.now()
                await self._try(job)

    def _is_early(self, job: Job) -> bool:
        """What it continues is still served: on another device the same time would be paid twice."""
        serving = job.spec.serving
        if serving is None or serving.continues is None:
            return False
        before = self._ledger.jobs.get(JobId(serving.continues))
        return before is not None and before.engine_id == job.engine_id and before.live_grant is not None

    async def explain(self, job: Job) -> tuple[tuple[str, ...], tuple[RejectedPeer, ...]]:
        """Why this peer, or why none yet."""
        if job.waits_for_peer:
            found = await self._match(job)
            return found.lines, found.rejected
        return job.lines, job.rejected

    async def _match(self, job: Job) -> Match:
        """Off the event loop: there may be thousands of peers."""
        found: Match = await self._run_blocking(match, need_of(job), self.candidates(), self._ledger.now())
        return found

    async def _try(self, job: Job) -> None:
        found = await self._match(job)
        if not found.offers or self._ledger.jobs.get(job.job_id) is not job:
            return  # what has changed meanwhile is looked at anew
        now, best = self._ledger.now(), found.offers[0]
        entry = best.candidate.entry
        offer = OfferMade(
            at=now,
            lease_id=self._new_id(),
            peer_id=best.candidate.peer_id,
            device=best.device,
            amount=best.amount,
            first_segment=job.segments_done,
            record=entry.signed,
            node_wallet=entry.record.node_wallet,
            payout_wallet=entry.record.payout_wallet,
            answer_before=now + self._policy.offer_s,
            lines=found.lines,
            rejected=found.rejected[:MAX_REJECTED],
        )
        try:
            self._track(self._ledger.apply_now(job.job_id, offer))
            self._note_served(job.engine_id, now)
        except (IllegalTransitionError, RemoteFailureError) as error:
            log.warning("offer not made", job_id=job.job_id, reason=str(error))

    def _note_served(self, user: PeerId, now: float) -> None:
        self._served_at.pop(user, None)
        self._served_at[user] = now
        if len(self._served_at) > MAX_REMEMBERED_USERS:
            del self._served_at[next(iter(self._served_at))]

    def candidates(self) -> list[Candidate]:
        now = self._ledger.now()
        held: dict[PeerId, set[int]] = {}
        for peer_id, device in self._reserved.values():
            held.setdefault(peer_id, set()).add(device)
        return [
            Candidate(
                entry,
                self._ledger.standing(entry.peer_id),
                self._registry.is_online(entry.peer_id, now),
                frozenset(held.get(entry.peer_id, ())),
            )
            for entry in self._registry
        ]

    def _changed(self, job: Job) -> None:
        self._track(self._ledger.jobs.get(job.job_id, job))
        self._wake.set()

    def _track(self, job: Job) -> None:
        grant = job.live_grant
        if grant is None:
            self._reserved.pop(job.job_id, None)
        else:
            self._reserved[job.job_id] = (grant.peer_id, grant.device)


def need_of(job: Job) -> Need:
    return replace(
        first_need(job.cost, job.spec),
        first_segment=job.segments_done,
        affordable=max(0, job.spec.budget - job.promised),
        excluded=job.excluded,
    )


def first_need(cost: Cost, spec: JobSpec) -> Need:
    """Of a job that no peer has worked on."""
    return Need(
        cost=cost,
        requirements=spec.requirements,
        segments=spec.segments,
        delivery=spec.data.delivery,
        serves=spec.serving.format if spec.serving is not None else "",
    )
