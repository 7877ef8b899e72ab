"""Models that give their memory back and come again, one change after the other."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from backend.errors import WorkerError
from backend.serving.http import HttpError
from engine_app.gateway.endpoint import Place
from engine_app.gateway.loading import Loading
from engine_app.gateway.pool import Pool
from tests.unit.engine_app.gateway.gateways import Fake


class Worker:
    def __init__(self, done: list[str], failure: str = "") -> None:
        self.done = done
        self.failure = failure
        self.go = trio.Event()

    async def load(self) -> None:
        await self.go.wait()
        if self.failure:
            raise WorkerError(self.failure)
        self.done.append("load")

    async def unload(self) -> None:
        await self.go.wait()
        self.done.append("unload")


def pool_of_one() -> Pool:
    pool = Pool(lambda place: True, lambda: 0.5, lambda member: None)
    pool.add(Fake("m-1"), Place("m", "m"))
    return pool


async def test_loading_waits_for_unloading_to_end() -> None:
    pool, done = pool_of_one(), list[str]()
    worker = Worker(done)
    loading = Loading(pool, lambda model: [worker], lambda model, is_loaded: done.append(str(is_loaded)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loading.unload, "m")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(loading.load, "m")
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        assert pool.is_withdrawn("m"), "at once, so that nothing more is sent there"
        worker.go.set()
    assert done == ["unload", "False", "load", "True"]
    assert not pool.is_withdrawn("m")


async def test_a_model_one_of_whose_workers_does_not_start_stays_unloaded() -> None:
    pool, done = pool_of_one(), list[str]()
    workers = [Worker(done), Worker(done, "no memory")]
    for worker in workers:
        worker.go.set()
    loading = Loading(pool, lambda model: workers)
    await loading.unload("m")
    with pytest.raises(HttpError, match="no memory"):
        await loading.load("m")
    assert pool.is_withdrawn("m")
    assert done == ["unload", "unload", "load"]
