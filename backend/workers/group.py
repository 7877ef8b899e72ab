"""Workers that train one model together, one on each device: they live and die together.

Each is a sandboxed process like any other, but for connections to the others that it gets before
its sandbox closes. Whoever trains gives orders to the first alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import trio

from backend.errors import WorkerDiedError, WorkerError, WorkerFailedError
from backend.reports import Failed, Train
from backend.workers.block_nursery import open_block_nursery
from backend.workers.process import Rank, choose_sandbox
from backend.workers.sandbox import SandboxMode
from backend.workers.supervisor import PoolConfig, Worker, open_pool

MAX_RANKS = 64
CAUSE_S = 10.0
"""How long a rank that lost another one waits to hear why."""
LOST = "ranks"
"""The code of a failure that another rank's end caused."""


class TrainingWorkers:
    """One worker for each device, by rank."""

    def __init__(self, workers: tuple[Worker, ...], devices: tuple[str, ...], nursery: trio.Nursery) -> None:
        self.workers, self.devices = workers, devices
        self._nursery = nursery
        self._failure: WorkerError | None = None
        self._failed = trio.Event()

    @property
    def first(self) -> Worker:
        """The one that takes orders, reports and saves."""
        return self.workers[0]

    async def start(self, train: Train, graph: bytes) -> None:
        """Has each train on its device; the files are in all their directories. Raises WorkerDiedError."""
        for number, worker in enumerate(self.workers[1:], start=1):
            allowed = train.segments
            order = msgspec.structs.replace(train, device=self.devices[number], allowed_segments=allowed)
            await worker.send(order, graph)
            self._nursery.start_soon(self._watch, number)
        await self.first.send(msgspec.structs.replace(train, device=self.devices[0]), graph)

    @asynccontextmanager
    async def explained(self) -> AsyncIterator[None]:
        """Puts an error of the first worker down to the rank that caused it."""
        try:
            yield
        except WorkerFailedError as error:
            if error.code != LOST:
                raise
            with trio.move_on_after(CAUSE_S):
                await self._failed.wait()
            raise self._failure or error from error
        except WorkerDiedError as error:
            if len(self.workers) == 1:
                raise
            raise self._failure or WorkerDiedError(f"rank 0 on {self.devices[0]}: {error}") from error

    async def _watch(self, number: int) -> None:
        """Notes the first failure of a rank, which ends the first one's training too."""
        worker, where = self.workers[number], f"rank {number} on {self.devices[number]}"
        try:
            while True:
                event, _ = await worker.receive()
                if isinstance(event, Failed) and event.code != LOST:
                    self._fail(WorkerFailedError(event.code, f"{where}: {event.text}"))
        except WorkerDiedError as error:
            self._fail(WorkerDiedError(f"{where}: {error}"))

    def _fail(self, error: WorkerError) -> None:
        if self._failure is None:
            self._failure = error
            self._failed.set()
            for worker in self.workers[1:]:
                worker.kill()


@asynccontextmanager
async def open_training(config: PoolConfig, devices: tuple[str, ...]) -> AsyncIterator[TrainingWorkers]:
    """One worker for each device, connected with each other, until the end of the context.

    Raises WorkerError.
    """
    if not 1 <= len(devices) <= MAX_RANKS:
        raise WorkerError(f"{len(devices)} devices, allowed are 1 to {MAX_RANKS}")
    if len(devices) == 1:
        async with open_pool(replace(config, device=devices[0])) as pool, open_block_nursery() as nursery:
            yield TrainingWorkers((await pool.acquire(),), devices, nursery)
            return
    if choose_sandbox(SandboxMode(config.sandbox)) is SandboxMode.BWRAP:
        raise WorkerError("several devices need landlock: inside bubblewrap there is no network to meet in")
    config.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="worker-", dir=config.directory)).resolve()  # noqa: ASYNC240 - once
    try:
        async with _connected(config, devices, base) as workers:
            yield workers
    finally:
        shutil.rmtree(base, ignore_errors=True)


@asynccontextmanager
async def _connected(
    config: PoolConfig, devices: tuple[str, ...], base: Path
) -> AsyncIterator[TrainingWorkers]:
    meeting = base / "meeting"
    meeting.mkdir(mode=0o700)
    async with open_block_nursery() as nursery:
        made = tuple(
            _make(config, device, base, number, len(devices)) for number, device in enumerate(devices)
        )
        ready = [trio.Event() for _ in made]
        for worker, event in zip(made, ready, strict=True):
            nursery.start_soon(_run, worker, event)
        for number, worker in enumerate(made):
            await ready[number].wait()
            if not worker.is_alive:
                raise WorkerDiedError(f"rank {number} on {devices[number]}: {worker.reason}")
            worker.mark_acquired()
        yield TrainingWorkers(made, devices, nursery)


def _make(config: PoolConfig, device: str, base: Path, number: int, count: int) -> Worker:
    directory = base / f"rank-{number}"
    directory.mkdir(mode=0o700)
    rank = Rank(number, count, base / "meeting")
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) // count)
    return Worker(replace(config, device=device, threads=threads), directory, rank)


async def _run(worker: Worker, ready: trio.Event) -> None:
    try:
        await worker.run(ready.set)
    finally:
        ready.set()
