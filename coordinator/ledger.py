"""The live state: every open job and every peer's standing. The one place where state changes.

``apply`` decides on the newest state, also if that is not on disk yet, and returns once its own change
is. What others are shown (updates, orders, effects) is published only after the commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
import trio

from coordinator import reputation
from coordinator.database import Kept, Write
from coordinator.errors import IllegalTransitionError
from coordinator.job import Effect, Job, JobEvent, NoteEvidence, SendOrder, Tell
from coordinator.payments import OpenClaimWindow, PaymentEffect, ReturnRest, SettleEscrow
from coordinator.reputation import Standing
from coordinator.state import transition
from coordinator.store import Store, Ticket
from p2p.errors import RemoteFailureError
from p2p.identifiers import JobId, PeerId
from p2p.jobs import JobMetrics
from p2p.protocols.coordinator import JobUpdate

log = structlog.get_logger(__name__)

MAX_OPEN_JOBS = 100_000
_PAYMENT_EFFECTS = (SettleEscrow, OpenClaimWindow, ReturnRest)


class Bell:
    """Wakes whoever waits for a key. Take ``waiter`` before looking at what may have changed.

    Keys come from strangers: one is remembered only while somebody is ``listening``.
    """

    def __init__(self) -> None:
        self._events: dict[str, trio.Event] = {}
        self._listeners: Counter[str] = Counter()

    @contextmanager
    def listening(self, key: str) -> Iterator[None]:
        self._listeners[key] += 1
        try:
            yield
        finally:
            self._listeners[key] -= 1
            if not self._listeners[key]:
                del self._listeners[key]
                self._events.pop(key, None)

    def waiter(self, key: str) -> trio.Event:
        return self._events.setdefault(key, trio.Event())

    def ring(self, key: str) -> None:
        event = self._events.pop(key, None)
        if event is not None:
            event.set()


@dataclass(slots=True)
class Listeners:
    """Called after a commit, in order; must not block."""

    job_changed: list[Callable[[Job], None]] = field(default_factory=list)
    effect_due: list[Callable[[JobId, PaymentEffect], None]] = field(default_factory=list)


class Ledger:
    def __init__(self, store: Store, kept: Kept, now: Callable[[], float]) -> None:
        self.store = store
        self.now = now
        self.bell = Bell()
        self.listeners = Listeners()
        self.jobs: dict[JobId, Job] = {job.job_id: job for job in kept.jobs}
        self.standings: dict[PeerId, Standing] = {entry.peer_id: entry for entry in kept.standings}
        self._latest = dict(kept.latest)
        self._loading: dict[JobId, trio.Event] = {}

    async def apply(self, job_id: JobId, event: JobEvent, *, effect_done: str | None = None) -> Job:
        """Raises IllegalTransitionError; then nothing was changed."""
        await self.load(job_id)
        try:
            job, ticket = self._stage(job_id, event, effect_done)
        except IllegalTransitionError:
            self._forget_if_closed(self.jobs.get(job_id))
            raise
        await ticket.wait()
        self._forget_if_closed(job)
        return job

    def apply_now(self, job_id: JobId, event: JobEvent) -> Job:
        """As ``apply`` for an open job, without waiting for the disk: for what nobody is answered about."""
        return self._stage(job_id, event, None)[0]

    async def find(self, job_id: JobId) -> Job | None:
        """Open or closed; as it is on disk."""
        if job_id not in self.jobs:
            return await self.store.read(self.store.database.job, job_id)
        await self.store.settle()
        return self.jobs.get(job_id) or await self.store.read(self.store.database.job, job_id)

    async def load(self, job_id: JobId) -> Job | None:
        """Brings a closed job back into memory, so that an event can be applied to it."""
        while (loading := self._loading.get(job_id)) is not None:
            await loading.wait()
        if job_id in self.jobs:
            return self.jobs[job_id]
        done = self._loading[job_id] = trio.Event()
        try:
            job = await self.store.read(self.store.database.job, job_id)
            if job is not None and job_id not in self.jobs:
                self._latest[job_id] = await self.store.read(self.store.database.latest, job_id)
                self.jobs[job_id] = job
            return job
        finally:
            del self._loading[job_id]
            done.set()

    async def add_metrics(self, job_id: JobId, metrics: Iterable[JobMetrics]) -> None:
        """Points of the training curve: numbered and kept like updates, but no events."""
        job = self.jobs[job_id]
        at = self.now()
        told = [Tell(job.state, "training", metrics=point) for point in metrics]
        updates = self._numbered(job_id, at, told)
        ticket = self.store.enqueue(Write(at, job=job, updates=updates), lambda: self._ring(job_id))
        await ticket.wait()

    def standing(self, peer_id: PeerId) -> Standing:
        return self.standings.get(peer_id) or Standing(peer_id)

    def latest(self, job_id: JobId) -> int:
        return self._latest.get(job_id, 0)

    def _stage(self, job_id: JobId, event: JobEvent, effect_done: str | None) -> tuple[Job, Ticket]:
        before = self.jobs.get(job_id)
        self._check_room(before)
        job, effects = transition(before, event)
        if job is before and not effects and effect_done is None:
            return job, self.store.enqueue(Write(event.at))
        payments = tuple(effect for effect in effects if isinstance(effect, _PAYMENT_EFFECTS))
        write = Write(
            at=event.at,
            job=job,
            event=event,
            updates=self._numbered(job_id, event.at, effects),
            effects=payments,
            effect_done=effect_done,
            orders=tuple((it.peer_id, it.order) for it in effects if isinstance(it, SendOrder)),
            standings=self._judge(effects, event.at),
        )
        self.jobs[job_id] = job
        ticket = self.store.enqueue(write, lambda: self._published(job, write))
        return job, ticket

    def _check_room(self, before: Job | None) -> None:
        if before is None and len(self.jobs) >= MAX_OPEN_JOBS:
            raise RemoteFailureError("busy", f"{len(self.jobs)} jobs are open, limit {MAX_OPEN_JOBS}")
        if self.store.is_full:
            raise RemoteFailureError("busy", "the disk cannot keep up; try again")

    def _numbered(self, job_id: JobId, at: float, effects: Iterable[Effect]) -> tuple[JobUpdate, ...]:
        updates = []
        for told in effects:
            if isinstance(told, Tell):
                number = self._latest[job_id] = self._latest.get(job_id, 0) + 1
                updates.append(
                    JobUpdate(
                        sequence=number,
                        at=at,
                        state=told.state,
                        text=told.text,
                        lease=told.lease,
                        metrics=told.metrics,
                        result=told.result,
                        signature=told.signature,
                    )
                )
        return tuple(updates)

    def _judge(self, effects: Iterable[Effect], at: float) -> tuple[Standing, ...]:
        changed: dict[PeerId, Standing] = {}
        for effect in effects:
            if isinstance(effect, NoteEvidence):
                standing = reputation.note(self.standing(effect.peer_id), effect.evidence, at)
                self.standings[effect.peer_id] = changed[effect.peer_id] = standing
        return tuple(changed.values())

    def _published(self, job: Job, write: Write) -> None:
        if write.updates:
            log.info("job", job_id=job.job_id, state=job.state.value, text=write.updates[-1].text)
        self._ring(job.job_id)
        for peer_id in {peer_id for peer_id, _ in write.orders}:
            self.bell.ring(f"orders/{peer_id}")
        for effect in write.effects:
            for due in self.listeners.effect_due:
                due(job.job_id, effect)
        for changed in self.listeners.job_changed:
            changed(job)
        self._forget_if_closed(job)

    def _forget_if_closed(self, job: Job | None) -> None:
        """Closed jobs live on disk only. Not one that has changed again since."""
        if job is not None and job.is_closed and self.jobs.get(job.job_id) is job:
            del self.jobs[job.job_id]
            self._latest.pop(job.job_id, None)

    def _ring(self, job_id: JobId) -> None:
        self.bell.ring(f"job/{job_id}")
