"""An Engine and a peer of the same network, both as they are, and no coordinator: unpaid jobs, end to end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from p2p.disk import run_inline
from p2p.files import FileStore
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.jobs import DataPart, Delivery, JobState
from p2p.lan import Enough, Peers
from p2p.session.checks import ExpectedModel, Prepared
from p2p.session.coordinator_link import NoCoordinator
from p2p.session.engine import JobEngine, run_engine
from p2p.session.engine_parts import Engine, Limits
from p2p.session.errors import JobEndedError, JobRefusedError, ModelRefusedError, SetupError
from p2p.session.inference import Tensor
from p2p.session.news import NewsKind
from p2p.session.own_data import OwnData
from p2p.session.owner import Score
from p2p.session.store import open_store
from p2p.session.treasury import NoTreasury
from peer.allowed import AllowList
from tests.simulation.p2p.session_world import DyingStore, Killed, ScriptedOwner, ScriptedSamples
from tests.simulation.peer.world import GRAPH, SAMPLES, World, dataset, open_world, until

ENGINE = Identity.from_seed(b"9" * 32)
SECOND = Identity.from_seed(b"8" * 32)
SEGMENTS = 3
DEADLINE_S = 30.0


class Checks:
    """A scripted worker's model says after which segment it was made."""

    def prepare(self, graph: bytes, data: Path, workspace: Path) -> Prepared:
        copy = workspace / "data"
        copy.write_bytes(data.read_bytes())
        return Prepared(
            graph,
            blake3(graph).hexdigest(),
            "lan",
            copy,
            SAMPLES,
            (1, 16, 16),
            "uint8",
            4,
            10**9,
            1 << 20,
            9,
            30,
        )

    def check_start(self, graph: bytes, start: Path | None) -> None:
        pass

    def check_model(self, path: Path, expected: ExpectedModel) -> None:
        wanted = f"weights after segment {expected.segments_done - 1}".encode()
        if not path.read_bytes().startswith(wanted):
            raise ModelRefusedError(f"found {path.read_bytes()[:24]!r}, allowed {wanted!r}")


class Samples(ScriptedSamples):
    """Of 16 x 16 bytes and a class number."""

    def read(self, part: DataPart, epoch: int, first: int, count: int) -> bytes:
        return bytes(count * (16 * 16 + 8))


class Owner(ScriptedOwner):
    def open_samples(self, graph: bytes, data: Path) -> Samples:
        return Samples()

    async def evaluate(self, model: Path, part: Path, workspace: Path) -> Score:
        return Score(20, 0.25, 0.75)


class EverybodyHears:
    """The local network of a world: who runs is heard of."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def look(
        self,
        timeout_s: float,
        enough: Enough = lambda _: False,
        wanted: PeerId | None = None,
    ) -> Peers:
        await trio.lowlevel.checkpoint()
        peer = self._world.net._nodes.get(self._world.peer_identity.peer_id)
        return {peer.peer_id: tuple(peer.addresses())} if peer is not None else {}


@asynccontextmanager
async def lan(directory: Path, *let_in: Identity) -> AsyncIterator[World]:
    (directory / "graph.json").write_bytes(GRAPH)
    (directory / "data.safetensors").write_bytes(dataset())
    async with open_world(directory) as world:
        world.allowed = AllowList(frozenset(identity.peer_id for identity in let_in or (ENGINE,)))
        yield world


@asynccontextmanager
async def engine_on(
    world: World, identity: Identity = ENGINE, *, dies_at: int | None = None, after: bool = True
) -> AsyncIterator[JobEngine]:
    """An Engine without wallet, coordinator or chain; may be started again after it ended."""
    home = world.directory / f"engine of {identity.peer_id}"
    home.mkdir(exist_ok=True)
    network = world.net.join(identity)
    try:
        with open_store(home / "jobs.sqlite", run_inline) as inner:
            files, store = FileStore(home / "store", 1 << 30, run_inline), DyingStore(inner, dies_at, after)
            parts = Engine(
                network=network,
                coordinator=NoCoordinator(),
                treasury=NoTreasury("no wallet"),
                files=files,
                checks=Checks(),
                store=store,
                data=OwnData(Owner(), files, store, home / "workspace", run_inline),
                now=time.time,
                chain=None,
                lan=EverybodyHears(world),
                limits=Limits(peer_patience_s=2.0),
                run_blocking=run_inline,
            )
            async with run_engine(parts, home / "workspace") as engine:
                yield engine
    finally:
        world.net.crash(network)


async def submit(world: World, engine: JobEngine, peer: str = "any") -> str:
    data = world.directory / "data.safetensors"
    return await engine.submit(GRAPH, data, segments=SEGMENTS, peer=peer)


async def to_the_end(engine: JobEngine, job: str) -> list[str]:
    with trio.fail_after(DEADLINE_S):
        return [news.text async for news in engine.follow(job) if news.kind is not NewsKind.PROGRESS]


async def until_kept(engine: JobEngine, job: str, segment: int) -> None:
    with trio.fail_after(DEADLINE_S):
        async for news in engine.follow(job):
            if news.text == f"checkpoint of segment {segment} fetched and checked":
                return


@pytest.mark.parametrize("wanted", ["any", "id", "address"])
async def test_a_job_needs_nobody_but_engine_and_peer(tmp_path: Path, wanted: str) -> None:
    async with lan(tmp_path) as world, world.peer() as peer, engine_on(world) as engine:
        name = {"any": "any", "id": peer.network.peer_id, "address": peer.network.addresses()[0]}[wanted]
        job = await submit(world, engine, name)
        story = await to_the_end(engine, job)
        record = engine.job(job)
        assert (record.state, record.segments_done, record.spent) == (JobState.COMPLETED, SEGMENTS, 0)
        assert f"peer {peer.network.peer_id} trains it, unpaid" in story
        path = await engine.fetch(job, tmp_path / "out.cyxmodel")
        assert path.read_bytes().startswith(b"weights after segment 2")
        assert record.result is not None
        tensor = Tensor("uint8", (2, 2), b"abcd")
        answer = await engine.predict(peer.network.peer_id, record.result.blake3, tensor)
        assert answer.data == b"dcba"
        await until(lambda: peer.table.jobs()[0].is_retired, "the end at the peer")
        assert world.chain.payments == []


async def test_the_model_of_a_streamed_job_is_evaluated_on_what_its_peer_never_saw(tmp_path: Path) -> None:
    async with lan(tmp_path) as world, world.peer(), engine_on(world) as engine:
        data = world.directory / "data.safetensors"
        job = await engine.submit(GRAPH, data, segments=SEGMENTS, peer="any", delivery=Delivery.STREAM)
        story = await to_the_end(engine, job)
        assert any("evaluated here on private test samples" in line for line in story)
        assert engine.job(job).state is JobState.COMPLETED
        assert engine.engine.files.bytes_sent == 0


async def test_neighbours_say_what_they_have_and_whom_they_let_in(tmp_path: Path) -> None:
    async with lan(tmp_path) as world, world.peer() as peer:
        async with engine_on(world) as engine:
            [found] = await engine.neighbours()
            assert (found.peer_id, found.allowed, found.free) == (peer.network.peer_id, True, 1)
        async with engine_on(world, SECOND) as engine:
            [found] = await engine.neighbours()
            assert not found.allowed and found.record.devices[0].flops_per_s == 10**12


async def test_who_is_not_let_in_is_told_its_id_and_has_no_job(tmp_path: Path) -> None:
    async with lan(tmp_path) as world, world.peer(), engine_on(world, SECOND) as engine:
        with pytest.raises(JobRefusedError, match=f"{SECOND.peer_id} is not on the list.*cyxpeer allow"):
            await submit(world, engine)
        assert engine.jobs() == []


async def test_without_any_peer_a_job_is_refused_with_what_to_do(tmp_path: Path) -> None:
    async with lan(tmp_path) as world, engine_on(world) as engine:
        with pytest.raises(JobRefusedError, match=f"no peer answers.*--lan --allow {ENGINE.peer_id}"):
            await submit(world, engine)
        with pytest.raises(JobRefusedError, match=f"peer {SECOND.peer_id} does not answer"):
            await submit(world, engine, SECOND.peer_id)


@pytest.mark.parametrize("name", ["", "nobody", "/ip4/127.0.0.1/tcp/1", "/p2p/Qmabc"])
async def test_what_names_no_peer_is_refused(tmp_path: Path, name: str) -> None:
    async with lan(tmp_path) as world, engine_on(world) as engine:
        with pytest.raises(JobRefusedError, match="allowed is any, a peer's id, or an address"):
            await submit(world, engine, name)


async def test_a_paid_job_still_needs_its_coordinator(tmp_path: Path) -> None:
    async with lan(tmp_path) as world, world.peer(), engine_on(world) as engine:
        data = world.directory / "data.safetensors"
        with pytest.raises(SetupError, match="no wallet"):
            await engine.submit(GRAPH, data, 10**9)
        with pytest.raises(JobRefusedError, match="must be positive"):
            await engine.submit(GRAPH, data)
        with pytest.raises(JobRefusedError, match="a job that nobody is paid for"):
            await engine.submit(GRAPH, data, 10**9, peer="any")
        with pytest.raises(SetupError, match="no coordinator is known yet"):
            await engine.estimate(GRAPH, data)


@pytest.mark.parametrize("wanted", ["any", "id"])
async def test_a_peer_that_is_killed_and_comes_back_goes_on_from_the_engines_checkpoint(
    tmp_path: Path, wanted: str
) -> None:
    async with lan(tmp_path) as world, engine_on(world) as engine:
        name = "any" if wanted == "any" else world.peer_identity.peer_id
        world.script.stalls_in = 1
        async with world.peer():
            job = await submit(world, engine, name)
            await until_kept(engine, job, 1)
        world.script.stalls_in = None
        async with world.peer() as peer:
            story = await to_the_end(engine, job)
            assert engine.job(job).state is JobState.COMPLETED
            assert any("the peer restarted; 1 of 3 segments were finished" in line for line in story)
            [again] = [item for item in peer.table.jobs() if item.offer.first_segment == 1]
            assert again.kind.value == "direct"


async def test_a_peer_that_is_killed_holding_the_result_hands_it_over_later(tmp_path: Path) -> None:
    async with lan(tmp_path) as world:
        async with world.peer() as peer, engine_on(world) as engine:
            job = await submit(world, engine)
            await until(lambda: peer.table.jobs() and peer.table.jobs()[0].graph, "the job")
        async with world.peer() as peer:
            if peer.table.jobs():
                await until(lambda: peer.table.jobs()[0].result or peer.table.jobs()[0].ending, "the peer")
            async with engine_on(world) as engine:
                await to_the_end(engine, job)
                assert engine.job(job).state is JobState.COMPLETED


async def test_the_peer_trains_on_while_its_engine_is_away(tmp_path: Path) -> None:
    async with lan(tmp_path) as world, world.peer() as peer:
        async with engine_on(world) as engine:
            job = await submit(world, engine)
            await until(lambda: peer.table.jobs()[0].data_held, "the data")
        await until(lambda: peer.table.jobs()[0].result, "the result")
        assert peer.table.devices.running == 0
        async with engine_on(world) as engine:
            await to_the_end(engine, job)
            assert engine.job(job).state is JobState.COMPLETED


async def killed_at(world: World, dies_at: int, after: bool) -> bool:
    """Whether the Engine died on its way; the job that it leaves is gone on with by the caller."""
    died = False
    try:
        async with engine_on(world, dies_at=dies_at, after=after) as engine:
            known = engine.jobs()
            job = known[0].job_id if known else await submit(world, engine)
            await to_the_end(engine, job)
            assert engine.job(job).state is JobState.COMPLETED
    except* Killed:
        died = True
    return died


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
async def test_an_engine_killed_at_any_write_ends_with_one_model(tmp_path: Path, after: bool) -> None:
    for dies_at in range(1, 60):
        directory = tmp_path / str(dies_at)
        directory.mkdir()
        async with lan(directory) as world, world.peer() as peer:
            died = await killed_at(world, dies_at, after)
            if died:
                assert not await killed_at(world, 10_000, after)
            await until(lambda: peer.table.devices.running == 0, "the device")
        if not died:
            break
    assert 8 < dies_at < 59


async def test_pause_resume_and_cancel_reach_the_peer(tmp_path: Path) -> None:
    async with lan(tmp_path) as world, world.peer() as peer, engine_on(world) as engine:
        world.script.stalls_in = 1
        job = await submit(world, engine)
        await until_kept(engine, job, 1)
        await engine.pause(job)
        await until(lambda: peer.table.jobs()[0].worker_paused, "the pause")
        await engine.resume(job)
        await until(lambda: not peer.table.jobs()[0].pause_wanted, "the resumption")
        await engine.cancel(job)
        assert engine.job(job).state is JobState.CANCELLED
        assert peer.table.devices.running == 0
        with pytest.raises(JobEndedError, match="is cancelled and has no model"):
            await engine.fetch(job)


async def test_a_job_is_cancelled_though_its_peer_is_gone(tmp_path: Path) -> None:
    async with lan(tmp_path) as world, engine_on(world) as engine:
        world.script.stalls_in = 0
        async with world.peer():
            job = await submit(world, engine)
            await until(lambda: engine.job(job).state is JobState.RUNNING, "the lease")
        await engine.cancel(job)
        assert engine.job(job).state is JobState.CANCELLED


async def test_a_job_waits_in_the_queue_and_is_done_when_its_turn_comes(tmp_path: Path) -> None:
    async with (
        lan(tmp_path, ENGINE, SECOND) as world,
        world.peer(),
        engine_on(world) as first,
        engine_on(world, SECOND) as second,
    ):
        world.script.stalls_in = 0
        one = await submit(world, first)
        two = await submit(world, second)
        assert "number 1 in the queue of peer" in second.job(two).text
        world.script.stalls_in = None
        await first.cancel(one)
        await to_the_end(second, two)
        assert second.job(two).state is JobState.COMPLETED


async def test_an_engine_that_is_denied_half_way_is_told_why(tmp_path: Path) -> None:
    async with lan(tmp_path) as world, world.peer() as peer, engine_on(world) as engine:
        world.script.stalls_in = 1
        job = await submit(world, engine)
        await until_kept(engine, job, 1)
        await peer.control("deny", {"engine": ENGINE.peer_id})
        with pytest.raises(JobRefusedError, match="is not on the list of this peer"):
            await to_the_end(engine, job)
        world.script.stalls_in = None
        await peer.control("allow", {"engine": ENGINE.peer_id})
        await to_the_end(engine, job)
        assert engine.job(job).state is JobState.COMPLETED


async def test_a_worker_that_always_dies_ends_the_job(tmp_path: Path) -> None:
    async with lan(tmp_path) as world, world.peer(), engine_on(world) as engine:
        world.script.dies_in = 1
        job = await submit(world, engine)
        await to_the_end(engine, job)
        record = engine.job(job)
        assert record.state is JobState.FAILED and "worker_died" in record.text
        with pytest.raises(JobEndedError, match="is failed and has no model"):
            await engine.fetch(job)


async def test_a_cut_of_the_network_loses_nothing(tmp_path: Path) -> None:
    async with lan(tmp_path) as world, world.peer() as peer, engine_on(world) as engine:
        world.script.stalls_in = 1
        job = await submit(world, engine, world.peer_identity.peer_id)
        await until_kept(engine, job, 1)
        world.net.partition(ENGINE.peer_id, world.peer_identity.peer_id)
        await trio.sleep(0.5)
        world.net.heal(ENGINE.peer_id, world.peer_identity.peer_id)
        world.script.stalls_in = None
        await engine.pause(job)
        await until(lambda: peer.table.jobs()[0].worker_paused, "the pause")
        await engine.resume(job)
        await to_the_end(engine, job)
        assert engine.job(job).state is JobState.COMPLETED
        assert len(peer.table.jobs()) == 1  # the same lease
