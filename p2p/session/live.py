"""One job in a running Engine: its record, whoever waits for it to change, and whoever follows it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable

import structlog
import trio
from msgspec.structs import replace

from p2p.errors import P2PError
from p2p.session.direct import advance
from p2p.session.events import Event
from p2p.session.job import Job
from p2p.session.news import News
from p2p.session.plan import Told
from p2p.session.store import JobStore
from p2p.session.story import lines_about

log = structlog.get_logger(__name__)

_RECENT = 1024
"""Progress that a slow follower may miss; kept lines it never misses."""


class LiveJob:
    """``job`` is what is on disk. Only ``apply`` changes it."""

    def __init__(self, job: Job, story_length: int, store: JobStore, now: Callable[[], float]) -> None:
        self.job = job
        self.failure: P2PError | None = None
        """Why this session gave the job up, if it did."""
        self.ended = False
        self.told = Told()
        """What the peer was told on the stream that is open, or was last."""
        self.served_at = float("-inf")
        """Of a deployment, on trio's clock: when its escrow was paid or its model was last seen to answer,
        in this session."""
        self._store = store
        self._now = now
        self._told = story_length
        self._turn = trio.Lock()
        self._changed = trio.Event()
        self._recent: deque[tuple[int, News]] = deque(maxlen=_RECENT)
        self._passing = 0

    async def apply(self, event: Event) -> Job:
        """Stores what the event changes, then makes it known."""
        async with self._turn:
            after = advance(self.job, event)
            if after == self.job:
                return self.job
            lines = lines_about(event, self.job, after)
            if not lines and replace(after, updates=self.job.updates, metrics=self.job.metrics) == self.job:
                self.job = after  # a metric: after a crash it is asked for again
                self._notify()
            else:
                await self._keep(after, lines)
        return self.job

    async def tell(self, news: News) -> None:
        """A line that changes nothing in the record."""
        if news.kind.is_kept:
            async with self._turn:
                await self._keep(self.job, (news,))
        else:
            self.mention(news)

    def mention(self, news: News) -> None:
        """A passing line: progress, bytes."""
        self._passing += 1
        self._recent.append((self._passing, replace(news, job_id=self.job.job_id, at=self._now())))
        self._notify()

    def end(self, failure: P2PError | None = None) -> None:
        """No more will come in this session."""
        self.failure = failure
        self.ended = True
        self._notify()

    def begin(self) -> None:
        self.failure, self.ended = None, False

    def change(self) -> trio.Event:
        """Set at the next change; take it before looking at what may have changed."""
        return self._changed

    def touch(self) -> None:
        """Lets whoever waits look again."""
        self._notify()

    async def wait_for(self, condition: Callable[[Job], bool]) -> Job:
        while True:
            change = self.change()
            if condition(self.job):
                return self.job
            await change.wait()

    async def follow(self, after: int = 0) -> AsyncIterator[News]:
        """Kept lines from number ``after`` on and what passes by, until the job or the session ends.

        Raises what the session gave the job up for.
        """
        passed = self._passing
        while True:
            change, ended = self.change(), self.ended
            if self._told > after:
                for news in await self._store.story(self.job.job_id, after):
                    yield news
                    after = news.number
            for number, news in [item for item in self._recent if item[0] > passed]:
                yield news
                passed = number
            if ended:
                break
            await change.wait()
        if self.failure is not None:
            raise self.failure

    async def _keep(self, job: Job, lines: tuple[News, ...]) -> None:
        at = self._now()
        numbered = [
            replace(line, job_id=job.job_id, number=number, at=at)
            for number, line in enumerate(lines, start=self._told + 1)
        ]
        # Not cancelled half-way: memory must never be behind the disk.
        with trio.CancelScope(shield=True):
            await self._store.save(job, numbered)
        self.job = job
        self._told += len(numbered)
        for line in numbered:
            log.info(line.kind.value, job_id=job.job_id, text=line.text)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
