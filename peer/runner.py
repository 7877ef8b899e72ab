"""Runs one job: asks the plan, starts tasks, feeds events, keeps the numbered log for the Engine.

Every change of the job's facts is on disk before it is told to anybody or acted on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import get_args

import structlog
import trio

from backend.errors import WorkerError
from p2p.errors import ChainError, P2PError, RemoteFailureError
from p2p.jobs import JobMetrics
from p2p.progress import ProgressLog
from p2p.protocols import Done
from p2p.protocols.coordinator import ReportMetrics
from peer.errors import IllegalTransitionError, JobError
from peer.events import (
    Event,
    Progressed,
    SegmentsConfirmed,
    SegmentStored,
    VoucherReceived,
    WorkFailed,
)
from peer.job import (
    Job,
    Phase,
    ending_announcement,
    transition,
)
from peer.plan import Moment, Task, Work, gives_up_at, plan
from peer.services import Services
from peer.work import JobWork

log = structlog.get_logger(__name__)

RETRY_PAUSE_S = 2.0
METRICS_EVERY_S = 1.0
MAX_METRICS = 1000
KEEP_DIRECT_CHECKPOINTS = 2
"""A direct job does not wait for its Engine, which finds the newest ones here when it comes."""
SHORTEST_WAIT_S = 0.05


class JobRunner:
    """The shell around one ``Job``."""

    def __init__(
        self,
        services: Services,
        job: Job,
        on_end: Callable[[JobRunner], None],
        take_up: Callable[[JobRunner], None],
    ) -> None:
        """``take_up`` runs it again: a voucher may come late, when nothing was left to do."""
        self.job = job
        self.log = ProgressLog()
        self.is_offer_answered = False
        """The coordinator knows that this peer took the job: from here on the lease is renewed."""
        self._services = services
        self._on_end = on_end
        self._take_up = take_up
        self._is_running = True
        """Or about to."""
        self._doing: dict[type[Task], trio.CancelScope] = {}
        self._changed = trio.Event()
        self._feeding = trio.Lock()
        self._metrics: deque[JobMetrics] = deque(maxlen=MAX_METRICS)
        self.token = ""
        """The newest by which the Engine speaks with this peer, and this peer with the Engine."""
        self._work = JobWork(services, self.feed, lambda: self.token)
        self._tell_last_word(job)

    async def run(self) -> None:
        """Until nothing is left to do for the job."""
        async with trio.open_nursery() as nursery:
            if not self.job.is_direct:
                nursery.start_soon(self._report_metrics)
            while not self.job.is_retired:
                moment = Moment(self._services.now(), self._services.terms.patience)
                task = plan(self.job, self._doing, moment)
                if task is None:
                    await self._wait_for_change()
                    continue
                scope = self._doing[type(task)] = trio.CancelScope()
                nursery.start_soon(self._perform, task, scope)
            self._is_running = False
            nursery.cancel_scope.cancel()
        if self.job.phase is Phase.CLOSED:
            self._services.artifacts.drop_checkpoints(self.job)
        self._services.artifacts.end_job(self.job)
        log.info("job retired", job_id=self.job.job_id, phase=self.job.phase.value)

    async def feed(self, event: Event) -> None:
        """Raises IllegalTransitionError."""
        async with self._feeding:
            before = self.job
            after, messages = transition(before, event)
            if after != before:
                await self._services.store.save_job(after, self._services.now())
                self.job = after
            for message in messages:
                self.log.add(message)
            if before.occupies_device and not after.occupies_device:
                self._end_work()
            self.wake()
            if not self._is_running and not after.is_retired:
                self._is_running = True
                self._take_up(self)
        await self._follow_up(event, before)

    async def wait_changed(self) -> None:
        """Until the job or its log may have changed."""
        await self._changed.wait()

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def rebase_log(self, after: int) -> bool:
        """After a restart the log goes on from the last number that the Engine has; False if it cannot."""
        if self.log.latest != 0 or not self._is_restored:
            return False
        self.log = ProgressLog(latest=after)
        self._tell_last_word(self.job)
        return True

    def abandon(self) -> None:
        """The peer shuts down: ends what runs, keeps the facts."""
        self._work.end(self.job)

    def _tell_last_word(self, job: Job) -> None:
        word = ending_announcement(job)
        self._is_restored = word is not None
        if word is not None:
            self.log.add(word)

    async def _follow_up(self, event: Event, before: Job) -> None:
        """What an event means for metrics and files."""
        if isinstance(event, Progressed):
            self._metrics.append(event.metrics)
        if isinstance(event, VoucherReceived) and self.job.voucher is not before.voucher:
            self._services.artifacts.drop_checkpoints(self.job, keep=1)
            if event.voucher.final:
                await self._services.artifacts.mark_fetched(self.job, self._services.now())
        if isinstance(event, SegmentStored) and self.job.is_direct:
            self._services.artifacts.drop_checkpoints(self.job, keep=KEEP_DIRECT_CHECKPOINTS)
        if isinstance(event, SegmentsConfirmed) and self.job.ending is not before.ending:
            await self._services.artifacts.mark_fetched(self.job, self._services.now())

    def _end_work(self) -> None:
        for kind, scope in self._doing.items():
            if issubclass(kind, get_args(Work)):
                scope.cancel()
        self._work.end(self.job)
        self._services.artifacts.end_work(self.job)
        self._on_end(self)

    async def _perform(self, task: Task, scope: trio.CancelScope) -> None:
        """The boundary of a task: whatever it raises ends the job or is tried again, never the peer."""
        with scope:
            try:
                await self._work.perform(self.job, task)
            except JobError as error:
                await self._fail(error.code, error.text, error.retryable)
            except WorkerError as error:
                await self._fail("worker_died", str(error), True)
            except ChainError as error:
                log.warning("chain trouble, trying again", job_id=self.job.job_id, reason=str(error))
                await trio.sleep(RETRY_PAUSE_S)
            except Exception as error:
                log.error("task failed", job_id=self.job.job_id, task=type(task).__name__, exc_info=error)
                await self._fail("internal", f"{type(task).__name__}: {type(error).__name__}", True)
                await trio.sleep(RETRY_PAUSE_S)
        del self._doing[type(task)]
        self.wake()

    async def _fail(self, code: str, text: str, retryable: bool) -> None:
        log.warning("job failed", job_id=self.job.job_id, code=code, reason=text)
        try:
            await self.feed(WorkFailed(code, text, retryable))
        except IllegalTransitionError as error:
            log.error("failure refused", job_id=self.job.job_id, reason=str(error))

    async def _wait_for_change(self) -> None:
        due = gives_up_at(self.job, self._services.terms.patience)
        if due is None:
            await self._changed.wait()
            return
        with trio.move_on_after(max(SHORTEST_WAIT_S, due - self._services.now())):
            await self._changed.wait()

    async def _report_metrics(self) -> None:
        """What cannot be sent now is sent with the next, the oldest given up beyond a bound."""
        while True:
            await trio.sleep(METRICS_EVERY_S)
            batch = tuple(self._metrics)
            if not batch or not self._services.link.is_up:
                continue
            self._metrics.clear()
            try:
                await self._services.link.ask(ReportMetrics(self.job.lease, batch), Done)
            except RemoteFailureError as error:
                log.debug("metrics refused", job_id=self.job.job_id, reason=str(error))
            except P2PError:
                self._metrics = deque((*batch, *self._metrics), maxlen=MAX_METRICS)
