"""Deployments at one peer against scripted partners; the models' workers are scripted too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from blake3 import blake3

from backend.workers.hosted import HostedState
from backend.workers.model_calls import ModelCalls
from backend.workers.model_server import ServerListener
from p2p.errors import RemoteFailureError
from p2p.jobs import SERVED_DTYPE, DataSummary, FileRef, JobSpec, ServingSpec
from p2p.protocols.coordinator import OfferJob, RegisterPeer, ReportFailed, ReportResult
from p2p.protocols.job import (
    JobClosed,
    JobFailed,
    JobOpened,
    PauseJob,
    ResultReady,
    SegmentFinished,
    StopJob,
)
from p2p.protocols.peer import LeaseGranted, LeaseQueued, RequestLease
from p2p.records import open_record
from peer.admission import ServingLimits
from peer.allowed import AllowList
from peer.hosting import HostedStatus, Hosting
from tests.e2e.serving.servers import linear_onnx
from tests.simulation.peer.test_direct import ask, granted
from tests.simulation.peer.test_jobs import start
from tests.simulation.peer.world import USER, JobLine, World, open_world, replace_struct, until

NO_GRAPH = b""


class ScriptedHosting(Hosting):
    """Loads nothing, and answers at once."""

    def __init__(self, directory: Path, nursery: trio.Nursery) -> None:
        super().__init__(directory, nursery)
        self.told: dict[str, ServerListener] = {}
        self.started: list[tuple[str, dict[str, Any]]] = []

    @property
    def jobs(self) -> tuple[str, ...]:
        return tuple(self.told)

    async def start(self, job_id: str, model: Path, *options: Any, **named: Any) -> None:
        await trio.lowlevel.checkpoint()
        assert await trio.Path(model).exists()
        self.started.append((job_id, named))
        self.told[job_id] = named["told"]
        named["told"].on_ready(())

    async def stop(self, job_id: str, grace_s: float = 0.0) -> None:
        await trio.lowlevel.checkpoint()
        self.told.pop(job_id, None)

    def calls(self, job_id: str) -> ModelCalls:
        if job_id not in self.told:
            raise RemoteFailureError("not_found", "not served")
        return ModelCalls()

    async def status(self, job_id: str, patience_s: float = 0) -> HostedStatus:
        await trio.lowlevel.checkpoint()
        self.calls(job_id)
        return HostedStatus(HostedState.READY, "", 0, None)


async def make_deployment(world: World, segments: int, content: bytes | None = None) -> OfferJob:
    path = world.directory / "linear.onnx"
    linear_onnx(path)
    file = await world.engine.files.add_bytes(content or path.read_bytes())
    offer = world.make_offer(segments)
    serving = ServingSpec("linear", "onnx", 1 << 20, period_s=1)
    data = DataSummary(file, 1, (), SERVED_DTYPE)
    empty, budget = blake3(NO_GRAPH).hexdigest(), offer.job.budget
    spec = JobSpec(offer.job.job_id, empty, data, budget, USER.address, segments, served=serving)
    return replace_struct(offer, job=spec)


def model_of(offer: OfferJob) -> FileRef:
    return offer.job.data.file


@asynccontextmanager
async def open_serving(directory: Path) -> AsyncIterator[tuple[World, ScriptedHosting]]:
    async with open_world(directory) as world, trio.open_nursery() as nursery:
        world.terms = replace(world.terms, serving=ServingLimits(("onnx",), 1 << 30))
        yield world, ScriptedHosting(directory / "hosted", nursery)
        nursery.cancel_scope.cancel()


async def hear_segment(line: JobLine, segment: int, file: FileRef) -> None:
    finished = await line.hear(SegmentFinished)
    assert (finished.segment, finished.checkpoint) == (segment, file)
    assert finished.metrics.step == segment + 1


async def test_a_deployment_is_served_period_by_period_and_over_when_it_is_paid(tmp_path: Path) -> None:
    async with open_serving(tmp_path) as (world, hosting), world.peer(hosting=hosting) as peer:
        (call, *_) = await until(lambda: world.coordinator.heard(RegisterPeer), "the registration")
        assert open_record(call.record, peer.services.now(), peer.network.peer_id).serves == ("onnx",)
        offer = await make_deployment(world, 2)
        job_id, served = offer.job.job_id, peer.services.served
        await world.accepted(offer)
        async with world.line(peer, offer, graph=NO_GRAPH) as line:
            await line.hear(JobOpened)
            await until(lambda: hosting.started, "the model")
            await until(lambda: peer.table.jobs()[0].prepared, "the preparation")
            with pytest.raises(RemoteFailureError, match="nothing is paid") as caught:
                served.calls(job_id)
            assert caught.value.code == "unpaid"
            [told] = (await peer.control("status", {}))["deployments"]
            assert (told["name"], told["state"], told["periods_left"]) == ("linear", "ready", 2)
            assert "nothing is paid" in told["refused"]
            await start(world, line)
            await until(lambda: peer.table.jobs()[0].allowed, "the first period")
            served.calls(job_id)
            [told] = (await peer.control("status", {}))["deployments"]
            assert told["refused"] == ""
            await hear_segment(line, 0, model_of(offer))
            (model,) = served.models
            assert model.due_at < float("inf")  # then calls wait for the voucher
            served.calls(job_id)
            await line.pay(1)
            await until(lambda: model.due_at == float("inf"), "the next period")
            result = await line.hear(ResultReady)
            assert result.result == model_of(offer)
            assert (await served.status(job_id)).state is HostedState.READY
            await line.pay(2, final=True)
            await line.hear(JobClosed)
        with pytest.raises(RemoteFailureError, match="is over: paid in full"):
            served.calls(job_id)
        assert world.coordinator.heard(ReportResult)[0].result == model_of(offer)
        assert peer.table.devices.running == 0
        assert [started for started, _ in hosting.started] == [job_id]
        assert hosting.started[0][1]["name"] == "linear"


async def test_a_deployment_is_never_paused_and_can_be_stopped(tmp_path: Path) -> None:
    async with open_serving(tmp_path) as (world, hosting), world.peer(hosting=hosting) as peer:
        offer = await make_deployment(world, 100)
        served = peer.services.served
        await world.accepted(offer)
        async with world.line(peer, offer, graph=NO_GRAPH) as line:
            await start(world, line)
            await until(lambda: peer.table.jobs() and peer.table.jobs()[0].allowed, "the first period")
            await line.channel.send(PauseJob())
            await hear_segment(line, 0, model_of(offer))
            job = peer.table.jobs()[0]
            assert not job.pause_wanted and not job.worker_paused
            served.calls(offer.job.job_id)
            await line.channel.send(StopJob())
            await line.hear(JobClosed)
        with pytest.raises(RemoteFailureError, match="is over: stopped by the user"):
            await served.status(offer.job.job_id)
        await until(lambda: not hosting.jobs, "the worker's end")


async def test_a_peer_that_crashed_goes_on_from_the_periods_that_it_finished(tmp_path: Path) -> None:
    async with open_serving(tmp_path) as (world, hosting):
        offer = await make_deployment(world, 2)
        async with world.peer(hosting=hosting) as peer:
            await world.accepted(offer)
            async with world.line(peer, offer, graph=NO_GRAPH) as line:
                await start(world, line)
                await hear_segment(line, 0, model_of(offer))
                await line.pay(1)
                await until(lambda: peer.table.jobs()[0].voucher, "the voucher")
        hosting.told.clear()
        async with world.peer(hosting=hosting) as peer:
            (report,) = await until(lambda: world.coordinator.heard(ReportFailed), "the report")
            assert (report.code, report.retryable) == ("restarted", True)
            again = world.make_offer(spec=offer.job, first_segment=1)
            await world.accepted(again)
            changes = {"graph": NO_GRAPH, "checkpoint": model_of(offer)}
            async with world.line(peer, again, **changes) as line:
                await start(world, line)
                assert (await line.hear(ResultReady)).result == model_of(offer)
                await line.pay(2, final=True)
                await line.hear(JobClosed)
            assert peer.services.artifacts.files.bytes_received == 0


async def test_a_file_that_is_not_the_model_that_was_announced_ends_the_job(tmp_path: Path) -> None:
    async with open_serving(tmp_path) as (world, hosting), world.peer(hosting=hosting) as peer:
        offer = await make_deployment(world, 2, b"no model at all")
        await world.accepted(offer)
        async with world.line(peer, offer, graph=NO_GRAPH) as line:
            failed = await line.hear(JobFailed)
        assert (failed.code, failed.retryable) == ("model", False)
        assert "served are cyxmodel, onnx, gguf" in failed.text
        assert not hosting.started


async def test_an_unpaid_extension_waits_for_what_it_continues_though_a_share_is_free(tmp_path: Path) -> None:
    async with open_serving(tmp_path) as (world, hosting):
        engine = world.engine.network
        world.allowed = AllowList(frozenset({engine.peer_id}))
        world.terms = replace(world.terms, flops_per_s=world.terms.flops_per_s * 2)
        async with world.peer(hosting=hosting, shares=2) as peer:
            first = await granted(world, peer, (await make_deployment(world, 1)).job)
            assert first.job.serving is not None
            serving = replace_struct(first.job.serving, continues=first.job.job_id)
            more = replace_struct((await make_deployment(world, 1)).job, served=serving)
            assert await ask(peer, engine, RequestLease(more, 0)) == LeaseQueued(1)
            # Nor does it keep others from what is free.
            other = await granted(world, peer, (await make_deployment(world, 1)).job)
            assert {first.device, other.device} == {0, 1}
            async with world.line(peer, first, token="", graph=NO_GRAPH) as line:
                await line.channel.send(StopJob())
                await line.hear(JobClosed)
            again = await ask(peer, engine, RequestLease(more, 0))
            assert isinstance(again, LeaseGranted) and again.device == first.device
