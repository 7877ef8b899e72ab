"""Runs one job: keeps every step that ``plan`` names under way until the job is finished.

Holds no decision. One task polls the coordinator, one speaks with the peer, one for each step.
"""

from __future__ import annotations

import structlog
import trio

from p2p.backoff import Backoff
from p2p.chain.errors import ChainUnavailableError, PaymentPendingError
from p2p.errors import LOST, P2PError, RemoteFailureError
from p2p.protocols.coordinator import JobUpdates, PollJob
from p2p.session import events, plan
from p2p.session.coordinator_link import (
    TEMPORARY_CODES,
    until_done,
)
from p2p.session.direct_steps import DirectSteps
from p2p.session.engine_parts import Engine
from p2p.session.errors import SessionError
from p2p.session.live import LiveJob
from p2p.session.peer_stream import PeerTalk
from p2p.session.served import watch_periods
from p2p.session.steps import Steps
from p2p.tasks import background_tasks

log = structlog.get_logger(__name__)

POLL_SLACK_S = 10.0
_PASSING = (*LOST, ChainUnavailableError, PaymentPendingError)


class JobRunner:
    """``run`` returns when the job is finished, or has failed for this session."""

    def __init__(self, engine: Engine, live: LiveJob) -> None:
        self._engine = engine
        self._live = live
        self._steps = Steps(engine, live) if live.job.direct is None else DirectSteps(engine, live)
        self._under_way: set[plan.Step] = set()
        self._failure: P2PError | None = None

    async def run(self) -> None:
        """Never raises P2PError: the job's followers get it."""
        self._live.begin()
        try:
            async with background_tasks() as nursery:
                if self._live.job.direct is None:
                    nursery.start_soon(self._guard, self._poll)
                nursery.start_soon(self._guard, self._talk)
                await self._drive(nursery)
        finally:
            self._live.end(self._failure)

    async def _drive(self, nursery: trio.Nursery) -> None:
        while self._failure is None:
            change = self._live.change()
            if plan.is_finished(self._live.job):
                return
            for step in plan.next_steps(self._live.job):
                if step not in self._under_way:
                    self._under_way.add(step)
                    nursery.start_soon(self._guard, self._perform, step)
            await change.wait()

    async def _guard(self, task: object, *arguments: object) -> None:
        try:
            await task(*arguments)  # type: ignore[operator]
        except P2PError as error:
            self._fail(error)
        except OSError as error:
            self._fail(SessionError(f"this machine's disk refuses: {error}"))

    def _fail(self, error: P2PError) -> None:
        self._failure = self._failure or error
        self._live.touch()

    async def _perform(self, step: plan.Step) -> None:
        """Until it is done, however often it takes; then ``plan`` looks again."""
        backoff = Backoff(self._engine.draw)
        while step in plan.next_steps(self._live.job):
            try:
                await self._steps.perform(step)
                break
            except _PASSING as error:
                reason: P2PError = error
            except RemoteFailureError as error:
                if error.code not in TEMPORARY_CODES:
                    raise
                reason = error
            log.info("step again", step=type(step).__name__, reason=str(reason))
            await trio.sleep(backoff.pause_s())
        self._under_way.discard(step)
        self._live.touch()

    async def _poll(self) -> None:
        """Every update of the coordinator, in order, each on disk before the next."""
        await self._live.wait_for(lambda job: job.accepted)
        while not self._live.job.state.is_final:
            await until_done(self._poll_once, "PollJob", self._engine.draw)

    async def _poll_once(self) -> None:
        job, wait_ms = self._live.job, self._engine.limits.poll_ms
        call = PollJob(job.job_id, job.updates, wait_ms)
        answer = await self._engine.coordinator.ask(call, JobUpdates, timeout_s=wait_ms / 1000 + POLL_SLACK_S)
        for update in answer.updates:
            await self._live.apply(events.JobUpdated(update))

    async def _talk(self) -> None:
        """With the peer of the current lease, whichever that is."""
        while True:
            job = await self._live.wait_for(lambda job: plan.peer_to_talk_to(job) is not None)
            lease, hold = plan.peer_to_talk_to(job), job.hold
            assert lease is not None and hold is not None
            async with background_tasks() as nursery:
                nursery.start_soon(self._guard, PeerTalk(self._engine, self._live, lease, hold).run)
                nursery.start_soon(self._guard, watch_periods, self._engine, self._live, lease)
                await self._live.wait_for(lambda job, held=lease: plan.peer_to_talk_to(job) != held)  # type: ignore[misc]
