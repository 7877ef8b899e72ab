"""Keeps deployments going while a gateway runs: it is their Engine, which signs for what was served."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

import structlog
import trio

from p2p.errors import P2PError

log = structlog.get_logger(__name__)

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0


class Line(Protocol):
    """Of a job's story."""

    @property
    def number(self) -> int: ...


class Keeper:
    """``follow``: a job's story from a line on, which goes on with the job; it ends when the job is over.

    ``on_trouble``: the job, and why this Engine cannot go on with it now.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        follow: Callable[[str, int], AsyncIterator[Line]],
        on_trouble: Callable[[str, str], None],
    ) -> None:
        self._nursery = nursery
        self._follow = follow
        self._on_trouble = on_trouble
        self._kept: set[str] = set()

    def keep(self, jobs: Iterable[str]) -> None:
        """From now on, each until it is over."""
        for job_id in jobs:
            if job_id not in self._kept:
                self._kept.add(job_id)
                self._nursery.start_soon(self._go_on, job_id)

    async def _go_on(self, job_id: str) -> None:
        newest, pause_s = 0, FIRST_PAUSE_S
        while True:
            try:
                async for line in self._follow(job_id, newest):
                    newest, pause_s = line.number, FIRST_PAUSE_S
                return
            except P2PError as error:
                log.warning("deployment is stuck", job_id=job_id, reason=str(error))
                self._on_trouble(job_id, str(error))
            await trio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
