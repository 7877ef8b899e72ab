"""Unpaid jobs of Engines that the peer's owner lets in, and what everybody else gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from p2p.channel import Channel
from p2p.client import open_client
from p2p.errors import RemoteFailureError, SourceRefusedError
from p2p.files import FileStore, fetch, serve_transfers
from p2p.identity import Identity
from p2p.jobs import DeviceKind, JobSpec, Requirements
from p2p.protocols import Failure, inference
from p2p.protocols import job as job_wire
from p2p.protocols import peer as peer_wire
from p2p.protocols.coordinator import (
    Heartbeat,
    LeaseRef,
    OfferJob,
    ReportFailed,
    ReportMetrics,
    ReportResult,
)
from p2p.protocols.job import (
    ConfirmSegments,
    GiveVoucher,
    JobClosed,
    JobFailed,
    JobOpened,
    OpenJob,
    PauseJob,
    ResultReady,
    ResumeJob,
    SegmentFinished,
    StartJob,
    StopJob,
)
from p2p.protocols.peer import DescribePeer, LeaseGranted, LeaseQueued, RequestLease
from p2p.records import open_record
from p2p.testing import MemoryNetwork
from peer.allowed import AllowList
from peer.streams import JobStreams
from tests.simulation.peer.world import (
    DEADLINE_S,
    GRAPH,
    JobLine,
    RunningPeer,
    World,
    open_world,
    replace_struct,
    until,
)

SECOND = Identity.from_seed(b"8" * 32)
DIRECT: dict[str, Any] = {"token": ""}


@asynccontextmanager
async def direct_world(directory: Path, *, second: bool = False) -> AsyncIterator[World]:
    """A world whose Engine is let in; the second one too if so said."""
    async with open_world(directory) as world:
        let_in = {world.engine.network.peer_id} | ({SECOND.peer_id} if second else set())
        world.allowed = AllowList(frozenset(let_in))
        yield world


async def ask(peer: RunningPeer, network: MemoryNetwork, call: Any) -> Any:
    async with open_client(
        network,
        peer.network.peer_id,
        peer_wire.PROTOCOL_ID,
        peer_wire.REQUESTS,
        peer_wire.RESPONSES,
        peer_wire.LIMITS,
        addresses=peer.network.addresses(),
    ) as client:
        answer, _ = await client.call(call)
        return answer


async def granted(
    world: World, peer: RunningPeer, spec: JobSpec | None = None, first_segment: int = 0, segments: int = 2
) -> OfferJob:
    """The lease, in the form that a coordinator's offer has."""
    spec = spec or world.make_offer(segments).job
    answer = await ask(peer, world.engine.network, RequestLease(spec, first_segment))
    assert isinstance(answer, LeaseGranted)
    return OfferJob(answer.lease, spec, world.engine.network.peer_id, answer.device, 0, first_segment)


async def trained(world: World, peer: RunningPeer) -> tuple[str, OfferJob, ResultReady]:
    offer = await granted(world, peer)
    async with world.line(peer, offer, **DIRECT) as line:
        result = await line.hear(ResultReady)
        await line.channel.send(ConfirmSegments(2))
        await line.hear(JobClosed)
    return result.result.blake3, offer, result


@asynccontextmanager
async def calls(network: MemoryNetwork, peer: RunningPeer) -> AsyncIterator[Any]:
    async with open_client(
        network,
        peer.network.peer_id,
        inference.PROTOCOL_ID,
        inference.REQUESTS,
        inference.RESPONSES,
        inference.LIMITS,
        addresses=peer.network.addresses(),
    ) as client:
        yield client


async def opened_by(network: MemoryNetwork, peer: RunningPeer, message: OpenJob) -> Any:
    """The first answer to an opening by whoever."""
    await network.connect(peer.network.peer_id, peer.network.addresses())
    stream = await network.open_stream(peer.network.peer_id, job_wire.PROTOCOL_ID)
    channel: Channel[Any, Any] = Channel(stream, job_wire.FROM_ENGINE, job_wire.FROM_PEER, job_wire.LIMITS)
    await channel.send(message, GRAPH)
    answer, _ = await channel.receive(DEADLINE_S)
    await channel.reset()
    return answer


async def test_a_direct_job_needs_neither_coordinator_nor_chain(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        offer = await granted(world, peer, segments=3)
        async with world.line(peer, offer, **DIRECT) as line:
            await line.hear(SegmentFinished)
            second = await line.hear(SegmentFinished)  # it waited for nobody in between
            assert second.segment == 1
            result = await line.hear(ResultReady)
            assert peer.table.devices.running == 0
            assert b"segment 2" in await world.engine.fetch(peer, result.result)
            await line.channel.send(ConfirmSegments(3))
            await line.hear(JobClosed)
        assert world.chain.payments == []
        for kind in (ReportFailed, ReportMetrics, ReportResult):
            assert world.coordinator.heard(kind) == []
        assert all(beat.leases == () for beat in world.coordinator.heard(Heartbeat))


async def test_a_stranger_is_told_its_id_and_how_to_be_let_in(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        stranger = world.net.join(SECOND)
        described = await ask(peer, stranger, DescribePeer())
        assert (described.allowed, described.free) == (False, 1)
        assert open_record(described.record, peer.services.now(), peer.network.peer_id).devices
        with pytest.raises(RemoteFailureError, match=f"{SECOND.peer_id} is not on the list.*cyxpeer allow"):
            await ask(peer, stranger, RequestLease(world.make_offer().job, 0))
        assert peer.table.jobs() == []


async def test_the_lease_of_one_engine_is_nothing_to_another(tmp_path: Path) -> None:
    async with direct_world(tmp_path, second=True) as world, world.peer() as peer:
        offer = await granted(world, peer)
        other = world.net.join(SECOND)
        answer = await opened_by(other, peer, OpenJob("", offer.job, offer.lease, 0, None, 0))
        assert isinstance(answer, Failure) and answer.code == "not_found"
        assert peer.table.jobs()[0].graph is None


async def test_an_engine_that_is_let_in_reaches_no_job_file_or_model_of_another(tmp_path: Path) -> None:
    async with direct_world(tmp_path, second=True) as world, world.peer() as peer:
        model, offer, result = await trained(world, peer)
        other = world.net.join(SECOND)
        with pytest.raises(RemoteFailureError, match="in use here by another job"):
            await ask(peer, other, RequestLease(offer.job, 0))
        await other.connect(peer.network.peer_id, peer.network.addresses())
        for file in (result.result, world.engine.data):
            with pytest.raises(SourceRefusedError):
                theirs = FileStore(tmp_path / "theirs", 1 << 30)
                await fetch(other, peer.network.peer_id, file, theirs, max_bytes=1 << 20)
        async with calls(other, peer) as client:
            with pytest.raises(RemoteFailureError, match="is no direct job of this Engine"):
                await client.call(inference.AuthorizeJob(offer.job.job_id))
            own = await ask(peer, other, RequestLease(replace_struct(offer.job, job_id="e" * 64), 0))
            assert isinstance(own, LeaseGranted)
            await client.call(inference.AuthorizeJob("e" * 64))
            with pytest.raises(RemoteFailureError, match="unauthorized"):
                await client.call(inference.DescribeModel(model))


async def test_no_name_of_a_file_makes_the_peer_train_on_what_another_engine_brought(tmp_path: Path) -> None:
    async with direct_world(tmp_path, second=True) as world, world.peer() as peer:
        _, offer, result = await trained(world, peer)
        other = world.net.join(SECOND)
        serve_transfers(other, FileStore(tmp_path / "theirs", 1 << 30), lambda caller, manifest: True)
        spec = replace_struct(offer.job, job_id="e" * 64)
        for first, checkpoint in ((0, None), (1, result.result)):
            lease = (await ask(peer, other, RequestLease(spec, first))).lease
            stream = await other.open_stream(peer.network.peer_id, job_wire.PROTOCOL_ID)
            channel: Channel[Any, Any] = Channel(
                stream, job_wire.FROM_ENGINE, job_wire.FROM_PEER, job_wire.LIMITS
            )
            await channel.send(OpenJob("", spec, lease, first, checkpoint, 0), GRAPH)
            failed = await JobLine(channel, offer).hear(JobFailed)
            assert failed.code == "transfer"
            await channel.reset()
        assert world.script.started == 1  # no worker ever saw the data


async def test_a_paid_job_is_not_opened_without_its_token(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer, **DIRECT) as line:
            failure = await line.hear(Failure)
        assert failure.code == "not_found"
        assert peer.table.jobs()[0].graph is None


async def test_a_direct_job_is_not_opened_with_a_token(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        offer = await granted(world, peer)
        async with world.line(peer, offer) as line:
            assert (await line.hear(Failure)).code == "not_found"


@pytest.mark.parametrize("confirmed", [0, 1, 3])
async def test_a_paid_job_stays_paid_whatever_its_engine_confirms(tmp_path: Path, confirmed: int) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await line.start(*world.chain.create(offer.job.user_wallet, offer.job.job_id, offer.amount))
            await line.hear(SegmentFinished)
            await line.channel.send(ConfirmSegments(confirmed))
            assert (await line.hear(Failure)).code == "conflict"
        job = peer.table.jobs()[0]
        assert (job.covered, job.allowed, job.ending) == (0, 1, None)


async def test_a_paid_job_cannot_be_had_again_unpaid(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer()
        await world.accepted(offer)
        with pytest.raises(RemoteFailureError, match="in use here by another job"):
            await ask(peer, world.engine.network, RequestLease(offer.job, 0))
        assert len(peer.table.jobs()) == 1


async def test_the_model_of_a_paid_job_needs_its_token(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        offer = world.make_offer(segments=1)
        await world.accepted(offer)
        async with world.line(peer, offer) as line:
            await line.start(*world.chain.create(offer.job.user_wallet, offer.job.job_id, offer.amount))
            await line.hear(ResultReady)
        async with calls(world.engine.network, peer) as client:
            with pytest.raises(RemoteFailureError, match="is no direct job of this Engine"):
                await client.call(inference.AuthorizeJob(offer.job.job_id))


@pytest.mark.parametrize(
    "message", [StartJob("W" * 32, 9, "5" * 88), GiveVoucher("W" * 32, 1, 1, True, bytes(64))]
)
async def test_a_direct_job_takes_no_money(tmp_path: Path, message: Any) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        offer = await granted(world, peer)
        async with world.line(peer, offer, **DIRECT) as line:
            await line.hear(SegmentFinished)
            await line.channel.send(message)
            answer = None
            while not isinstance(answer, Failure):  # nothing is acknowledged: the peer closes, and would cut
                answer, _ = await line.channel.receive(DEADLINE_S)
            assert answer.code == "conflict"
        assert world.chain.payments == []


class SlowStream:
    """Sends one message at once, and further ones once the gate is open."""

    def __init__(self, stream: Any, gate: trio.Event) -> None:
        self._stream = stream
        self._gate = gate
        self.sent = 0
        """Or begun to be."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def send_now(self, data: bytes) -> bool:
        return False

    async def send_all(self, data: bytes) -> None:
        self.sent += 1
        if self.sent > 1:
            await self._gate.wait()
        await self._stream.send_all(data)


async def test_a_refusal_follows_what_is_half_sent(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        gate, slow = trio.Event(), list[SlowStream]()

        async def serve(stream: Any) -> None:
            slow.append(SlowStream(stream, gate))
            await JobStreams(peer.services, peer.table).handle(slow[0])  # type: ignore[arg-type]

        peer.network.set_handler(job_wire.PROTOCOL_ID, serve)
        offer = await granted(world, peer)
        async with world.line(peer, offer, **DIRECT) as line:
            await until(lambda: slow and slow[0].sent > 1, "a message that waits")
            await line.channel.send(GiveVoucher("W" * 32, 1, 1, True, bytes(64)))
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
            answer = None
            while not isinstance(answer, Failure):
                answer, _ = await line.channel.receive(DEADLINE_S)
            assert answer.code == "conflict"


async def test_its_model_answers_its_engine_also_after_a_restart(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world:
        async with world.peer() as peer:
            model, offer, _ = await trained(world, peer)
        async with world.peer() as peer, calls(world.engine.network, peer) as client:
            await client.call(inference.AuthorizeJob(offer.job.job_id))
            _, body = await client.call(inference.Predict(model, "uint8", (2, 2)), b"abcd")
            assert body == b"dcba"


async def test_a_result_is_held_through_a_restart_until_it_is_fetched(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world:
        async with world.peer() as peer:
            offer = await granted(world, peer)
            async with world.line(peer, offer, **DIRECT) as line:
                await line.hear(ResultReady)
        async with world.peer() as peer, world.line(peer, offer, **DIRECT) as line:
            result = await line.hear(ResultReady)
            assert await world.engine.fetch(peer, result.result)
            await line.channel.send(ConfirmSegments(2))
            await line.hear(JobClosed)


async def test_after_a_restart_another_lease_goes_on_from_the_engines_checkpoint(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world:
        async with world.peer() as peer:
            world.script.dies_in = 1
            offer = await granted(world, peer)
            async with world.line(peer, offer, **DIRECT) as line:
                finished = await line.hear(SegmentFinished)
                await world.engine.fetch(peer, finished.checkpoint)
                assert (await line.hear(JobFailed)).retryable
        world.script.dies_in = None
        async with world.peer() as peer:
            again = await granted(world, peer, offer.job, first_segment=1)
            assert again.lease.fencing > offer.lease.fencing
            async with world.line(peer, again, checkpoint=finished.checkpoint, **DIRECT) as line:
                await line.hear(ResultReady)
                assert not any(isinstance(message, SegmentFinished) for message in line.said)


async def test_a_new_lease_ends_the_one_before(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        offer = await granted(world, peer)
        async with world.line(peer, offer, **DIRECT) as line:
            await line.channel.send(PauseJob())
            again = await granted(world, peer, offer.job)
            await line.hear(JobClosed)
        assert again.lease.fencing > offer.lease.fencing
        assert [job.ending is None for job in peer.table.jobs()] == [False, True]


async def test_pause_resume_and_stop_work_without_a_token(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        offer = await granted(world, peer)
        async with world.line(peer, offer, **DIRECT) as line:
            await line.channel.send(PauseJob())
            await until(lambda: peer.table.jobs()[0].pause_wanted, "the pause")
            await line.channel.send(ResumeJob())
            await line.hear(SegmentFinished)
            await line.channel.send(StopJob())
            closed = await line.hear(JobClosed)
        assert closed.text in ("stopped by the user", "the Engine holds the model")
        assert peer.table.devices.running == 0


async def test_jobs_wait_for_a_device_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    async with direct_world(tmp_path, second=True) as world, world.peer() as peer:
        first = await granted(world, peer)
        other = world.net.join(SECOND)
        theirs, ours = world.make_offer().job, world.make_offer().job
        assert await ask(peer, other, RequestLease(theirs, 0)) == LeaseQueued(1)
        assert await ask(peer, world.engine.network, RequestLease(ours, 0)) == LeaseQueued(2)
        async with world.line(peer, first, **DIRECT) as line:
            await line.channel.send(StopJob())
            await line.hear(JobClosed)
        assert await ask(peer, world.engine.network, RequestLease(ours, 0)) == LeaseQueued(2)
        assert isinstance(await ask(peer, other, RequestLease(theirs, 0)), LeaseGranted)
        assert (await ask(peer, other, DescribePeer())).waiting == 1


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Requirements(DeviceKind.CUDA), "needs cuda with 0 bytes, offered: cpu with 1073741824 bytes"),
        (Requirements(memory_bytes=1 << 40), "needs any device with 1099511627776 bytes"),
    ],
)
async def test_what_no_device_here_has_is_refused_at_once(
    tmp_path: Path, needs: Requirements, words: str
) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        spec = replace_struct(world.make_offer().job, requirements=needs)
        with pytest.raises(RemoteFailureError, match=words):
            await ask(peer, world.engine.network, RequestLease(spec, 0))


async def test_data_over_the_limit_and_segments_that_are_not_there_are_refused(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        spec = world.make_offer().job
        large = replace_struct(
            spec, data=replace_struct(spec.data, file=replace_struct(spec.data.file, size=1 << 40))
        )
        with pytest.raises(RemoteFailureError, match="dataset of 1099511627776 bytes"):
            await ask(peer, world.engine.network, RequestLease(large, 0))
        with pytest.raises(RemoteFailureError, match="first segment 3 of 3"):
            await ask(peer, world.engine.network, RequestLease(spec, 3))
        assert peer.table.devices.running == 0


async def test_who_is_denied_loses_what_is_under_way_and_the_model_too(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        model, done, _ = await trained(world, peer)
        engine_id = world.engine.network.peer_id
        offer = await granted(world, peer)
        async with world.line(peer, offer, **DIRECT) as line, calls(world.engine.network, peer) as client:
            await line.channel.send(PauseJob())
            await client.call(inference.AuthorizeJob(done.job.job_id))
            await peer.control("deny", {"engine": engine_id})
            assert "not let in any more" in (await line.hear(JobClosed)).text
            with pytest.raises(RemoteFailureError, match="unauthorized"):
                await client.call(inference.DescribeModel(model))
            with pytest.raises(RemoteFailureError, match="not on the list"):
                await client.call(inference.AuthorizeJob(done.job.job_id))
        assert isinstance(
            await opened_by(world.engine.network, peer, OpenJob("", offer.job, offer.lease, 0, None, 0)),
            Failure,
        )
        await peer.control("allow", {"engine": engine_id})
        await granted(world, peer)


async def test_a_coordinator_has_no_say_in_a_direct_job(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        offer = await granted(world, peer)
        await peer.table.revoke(LeaseRef(offer.lease.lease_id, 2**40), "a coordinator says so")
        assert peer.table.jobs()[0].ending is None
        world.coordinator.order(replace_struct(offer, amount=5))
        [answer] = await until(
            lambda: [c for c in world.coordinator.calls if hasattr(c, "accepted")], "an answer"
        )
        assert not answer.accepted


async def test_opening_again_after_a_loss_gets_what_was_missed(tmp_path: Path) -> None:
    async with direct_world(tmp_path) as world, world.peer() as peer:
        offer = await granted(world, peer)
        async with world.line(peer, offer, **DIRECT) as line:
            await line.hear(JobOpened)
        async with world.line(peer, offer, **DIRECT) as line:
            await line.hear(ResultReady)
            assert any(isinstance(message, SegmentFinished) for message in line.said)
