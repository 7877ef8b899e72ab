"""The peer with real worker processes: what happens to one must not happen to the peer."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.serialize import dump_graph, load_graph
from backend.workers.supervisor import PoolConfig, Worker, WorkerPool, open_pool
from p2p.client import open_client
from p2p.protocols import inference as infer_wire
from p2p.protocols.job import JobClosed, JobFailed, JobProgress, ResultReady, SegmentFinished
from tests.simulation.peer.world import GRAPH, RunningPeer, World, open_world

pytestmark = pytest.mark.e2e


class WatchedPool:
    """Notes which workers were handed out, so that a test can hurt them."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self.workers: list[Worker] = []

    async def acquire(self, timeout_s: float = 60) -> Worker:
        self.workers.append(await self._pool.acquire(timeout_s))
        return self.workers[-1]


@asynccontextmanager
async def real_peer(tmp_path: Path, **limits: Any) -> AsyncIterator[tuple[World, RunningPeer, WatchedPool]]:
    config = PoolConfig(tmp_path / "pool", threads=1, refill_delay_s=0.1, **limits)
    async with open_world(tmp_path) as world, open_pool(config) as pool:
        watched = WatchedPool(pool)
        async with world.peer(watched) as peer:
            yield world, peer, watched


def graph(*, epochs: int = 2, units: int | None = None) -> bytes:
    parsed = load_graph(GRAPH)
    nodes = parsed.nodes
    if units is not None:
        wide = next(node for node in nodes if node.id == "dense")
        extra = replace(wide, id="wide", parameters={"units": units})
        nodes = (*nodes, extra)
        links = tuple(
            replace(link, target_node="wide") if link.target_node == "dense" else link
            for link in parsed.links
        )
        bridge = replace(
            links[0], source_node="wide", source_port="output", target_node="dense", target_port="input"
        )
        parsed = replace(parsed, nodes=nodes, links=(*links, bridge))
    return dump_graph(replace(parsed, training=replace(parsed.training, epochs=epochs)))


@asynccontextmanager
async def started(world: World, peer: RunningPeer, document: bytes, segments: int = 2) -> AsyncIterator[Any]:
    spec = world.engine.spec(f"{len(world.coordinator.orders) + 1:064x}", segments, document)
    offer = world.make_offer(segments, spec=spec, amount=10**15)
    await world.accepted(offer)
    async with world.line(peer, offer, graph=document) as line:
        await line.start(*world.chain.create(spec.user_wallet, spec.job_id, offer.amount))
        yield line


async def finish(line: Any) -> str:
    await line.hear(SegmentFinished)
    await line.pay(1)
    result = await line.hear(ResultReady)
    await line.pay(2, final=True)
    await line.hear(JobClosed)
    return str(result.result.blake3)


async def test_a_real_worker_trains_and_then_serves_the_model(tmp_path: Path) -> None:
    async with real_peer(tmp_path) as (world, peer, pool):
        async with started(world, peer, graph()) as line:
            model = await finish(line)
        engine = world.engine.network
        token = world.coordinator.token(engine.peer_id, peer.network.peer_id, line.offer.job.job_id, "infer")
        async with open_client(
            engine,
            peer.network.peer_id,
            infer_wire.PROTOCOL_ID,
            infer_wire.REQUESTS,
            infer_wire.RESPONSES,
            infer_wire.LIMITS,
        ) as client:
            await client.call(infer_wire.Authorize(token))
            call = infer_wire.Predict(model, "uint8", (3, 1, 16, 16))
            answer, body = await client.call(call, bytes(3 * 256))
        assert (answer.shape, len(body)) == ((3, 4), 3 * 4 * 4)
        assert len(pool.workers) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_worker_that_is_killed_fails_its_job_and_the_peer_does_the_next(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with real_peer(tmp_path) as (world, peer, pool):
        async with started(world, peer, graph(epochs=100_000)) as line:
            await line.hear(JobProgress)
            os.kill(pool.workers[0].pid, number)
            failed = await line.hear(JobFailed)
        assert (failed.code, failed.retryable) == ("worker_died", True)
        assert number.name in failed.text
        async with started(world, peer, graph()) as line:
            await finish(line)


async def test_a_worker_that_hangs_fails_its_job(tmp_path: Path) -> None:
    async with real_peer(tmp_path, hang_s=5) as (world, peer, pool):
        async with started(world, peer, graph(epochs=100_000)) as line:
            await line.hear(JobProgress)
            os.kill(pool.workers[0].pid, signal.SIGSTOP)
            failed = await line.hear(JobFailed)
        assert "hangs" in failed.text and failed.retryable
        with trio.fail_after(60):
            while pool.workers[0].is_alive:
                await trio.lowlevel.checkpoint()


async def test_a_worker_that_outgrows_its_memory_fails_its_job(tmp_path: Path) -> None:
    async with real_peer(tmp_path, memory_bytes=1 << 30) as (world, peer, _):
        async with started(world, peer, graph(units=1_000_000)) as line:
            failed = await line.hear(JobFailed)
        assert "memory" in f"{failed.code} {failed.text}" and failed.retryable
        async with started(world, peer, graph()) as line:
            await finish(line)
