"""Makes happen what time alone makes happen: deadlines of jobs and payments, leases without heartbeats."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import structlog
import trio

from coordinator.errors import IllegalTransitionError
from coordinator.job import Job, JobEvent, LeaseLost
from coordinator.leases import LeaseBook
from coordinator.ledger import Ledger
from coordinator.state import Policy, next_due
from p2p.errors import RemoteFailureError
from p2p.identifiers import JobId

log = structlog.get_logger(__name__)

LONGEST_SLEEP_S = 5.0
"""The wall clock may jump; it is looked at this often."""


class Timers:
    def __init__(
        self, ledger: Ledger, policy: Policy, leases: LeaseBook, monotonic: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._policy = policy
        self._leases = leases
        self._monotonic = monotonic
        self._due: list[tuple[float, JobId]] = []
        self._wake = trio.Event()
        for job in ledger.jobs.values():
            self._changed(job)
        ledger.listeners.job_changed.append(self._changed)

    async def run(self) -> None:
        while True:
            self._fire()
            with trio.move_on_after(self._pause_s()):
                await self._wake.wait()
            self._wake = trio.Event()

    async def watch_leases(self, period_s: float) -> None:
        while True:
            await trio.sleep(period_s)
            for lease in self._leases.expired(self._monotonic()):
                log.info("lease lost", job_id=lease.job_id, peer_id=lease.peer_id)
                self._apply(lease.job_id, LeaseLost(self._ledger.now(), lease.ref))
                job = self._ledger.jobs.get(lease.job_id)
                if job is not None:
                    self._leases.track(job, self._monotonic())

    def _changed(self, job: Job) -> None:
        current = self._ledger.jobs.get(job.job_id, job)
        self._leases.track(current, self._monotonic())
        due = next_due(current, self._policy)
        if due is not None:
            heapq.heappush(self._due, (due[0], job.job_id))
            self._wake.set()

    def _fire(self) -> None:
        now = self._ledger.now()
        while self._due and self._due[0][0] <= now:
            _, job_id = heapq.heappop(self._due)
            job = self._ledger.jobs.get(job_id)
            due = next_due(job, self._policy) if job is not None else None
            if due is None:
                continue
            if due[0] <= now:
                self._apply(job_id, due[1])
            else:
                heapq.heappush(self._due, (due[0], job_id))

    def _apply(self, job_id: JobId, event: JobEvent) -> None:
        try:
            self._ledger.apply_now(job_id, event)
        except IllegalTransitionError as error:
            log.warning("nothing was due", job_id=job_id, reason=str(error))
        except RemoteFailureError:
            heapq.heappush(self._due, (self._ledger.now() + 1.0, job_id))

    def _pause_s(self) -> float:
        if not self._due:
            return LONGEST_SLEEP_S
        return min(LONGEST_SLEEP_S, max(0.005, self._due[0][0] - self._ledger.now()))
