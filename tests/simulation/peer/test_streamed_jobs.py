"""Whole jobs of one peer whose data stays with the Engine."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from p2p.jobs import DataPart, Delivery
from p2p.protocols.coordinator import AnswerOffer, OfferJob, RegisterPeer, ReportFailed, ReportMetrics
from p2p.protocols.job import JobFailed, JobOpened, JobStage, RefreshToken, SegmentFinished
from p2p.records import open_record
from peer.plan import Patience
from peer.runner import JobRunner
from tests.simulation.peer.test_jobs import run_to_result, start
from tests.simulation.peer.world import RunningPeer, World, open_world, until


def streamed(world: World, **changes: Any) -> OfferJob:
    offer = world.make_offer()
    fields = {"delivery": Delivery.STREAM, "private": (DataPart.TEST,), **changes}
    spec = replace(offer.job, data=replace(offer.job.data, **fields))
    return replace(offer, job=spec)


def found(peer: RunningPeer, offer: OfferJob) -> JobRunner:
    runner = peer.table.find(offer.lease.lease_id)
    assert runner is not None
    return runner


async def stage(line: Any, name: str) -> JobStage:
    while True:
        heard = await line.hear(JobStage)
        if heard.stage == name:
            assert isinstance(heard, JobStage)
            return heard


async def test_a_job_is_trained_without_its_file(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        world.engine.keep_data()
        offer = streamed(world)
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            result = await run_to_result(world, peer, line)
            assert result.metrics.sample_wait_s == 0.5
            await line.pay(3, final=True)
        assert world.script.fed == [0, 1, 2]
        assert world.engine.files.bytes_sent == 0
        assert peer.services.artifacts.files.bytes_received == 0
        assert peer.services.artifacts.files.path(world.engine.data.blake3) is None
        reports = await until(lambda: world.coordinator.heard(ReportMetrics), "metrics")
        assert reports[0].metrics[0].sample_wait_s == 0.5


async def test_an_engine_that_gives_no_samples_is_waited_for_by_name(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        world.engine.keep_data()
        world.engine.gives = False
        offer = streamed(world)
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await line.hear(JobOpened)
            await start(world, line)
            await stage(line, "waiting for samples")
            runner = found(peer, offer)
            assert runner.job.samples_missed and runner.job.waiting_since is not None
            world.engine.gives = True
            assert (await stage(line, "training")).text == "samples come again"
            await line.hear(SegmentFinished)
            assert not runner.job.samples_missed


async def test_patience_with_an_engine_that_gives_no_samples_ends(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        world.terms = dataclasses.replace(world.terms, patience=Patience(engine_s=2))
        async with world.peer() as peer:
            world.engine.keep_data()
            world.engine.gives = False
            offer = streamed(world)
            await world.accepted(offer)
            async with world.line(peer, offer) as line:
                await line.hear(JobOpened)
                await start(world, line)
                failed = await line.hear(JobFailed)
                assert (failed.code, failed.retryable) == ("engine_absent", True)
            await until(lambda: world.coordinator.heard(ReportFailed), "the report")


async def test_the_newest_token_opens_the_next_stream(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        world.engine.keep_data()
        offer = streamed(world)
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await until(lambda: world.engine.tokens, "the first stream")
            engine = world.engine.network
            newer = world.coordinator.token(
                engine.peer_id, peer.network.peer_id, offer.job.job_id, "job", jti="token-id-2"
            )
            await line.channel.send(RefreshToken(newer))
            await until(lambda: found(peer, offer).token == newer, "the token")
            await engine.disconnect(peer.network.peer_id)
            await engine.connect(peer.network.peer_id, peer.network.addresses())
            await until(lambda: len(world.engine.tokens) > 1, "the second stream")
        assert world.engine.tokens[-1] == newer != world.engine.tokens[0]


async def test_facts_that_differ_from_the_submitted_ones_end_the_job(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        world.engine.keep_data()
        offer = streamed(world, samples=41)
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            failed = await line.hear(JobFailed)
            assert (failed.code, failed.retryable) == ("dataset", False)
            assert "allowed (41," in failed.text


@pytest.mark.parametrize("streams", [True, False])
async def test_a_peer_says_whether_it_streams_and_keeps_to_it(tmp_path: Path, streams: bool) -> None:
    async with open_world(tmp_path) as world:
        world.terms = dataclasses.replace(world.terms, streams=streams)
        async with world.peer():
            [register] = await until(lambda: world.coordinator.heard(RegisterPeer), "the record")
            record = open_record(register.record, time.time())
            assert (Delivery.STREAM in record.deliveries) == streams
            world.coordinator.order(streamed(world))
            [answer] = await until(lambda: world.coordinator.heard(AnswerOffer), "an answer")
            assert answer.accepted == streams
            assert streams or answer.reason == "data comes as stream, allowed is file"


async def test_a_sample_too_large_for_one_answer_is_refused(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer():
        world.coordinator.order(streamed(world, sample_shape=(3, 2000, 2000)))
        [answer] = await until(lambda: world.coordinator.heard(AnswerOffer), "an answer")
        assert not answer.accepted
        assert answer.reason == "a sample of 12000008 bytes, limit 4194304"
