"""The coordinator among Engines and peers that crash, on a network that loses, dying at every write."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from blake3 import blake3

from coordinator import show
from coordinator.admission import admit
from coordinator.config import Config
from coordinator.control import control_handler
from coordinator.database import Database
from coordinator.gates import MAX_OF_CALLER
from coordinator.matcher import quotes
from coordinator.state import replay
from p2p.chain.escrow_codec import EscrowStatus
from p2p.errors import RemoteFailureError
from p2p.identifiers import JobId
from p2p.identity import Identity
from p2p.jobs import DataSummary, FileRef, JobState, Requirements, ServingSpec
from p2p.protocols import coordinator as wire
from p2p.records import sign_record
from tests.simulation.coordinator.world import CONFIG, GRAPH, Engine, World, now, open_world

pytestmark = pytest.mark.virtual_clock


def check_invariants(world: World) -> None:
    """What holds after any history."""
    for address, escrow in world.chain.escrows.items():
        assert escrow.status is not EscrowStatus.OPEN, "nobody's money stays locked"
        assert escrow.earned + world.chain.returned.get(address, 0) == escrow.amount, "money is conserved"
        signed = [engine.signed.get(address) for engine in world.engines.values()]
        promised = max((voucher.earned for voucher in signed if voucher is not None), default=0)
        assert escrow.earned <= promised, "nothing is paid that its user did not sign"
    changes = Counter(change for _, change in world.chain.executed)
    assert all(count == 1 for count in changes.values()), "nothing happens twice under different keys"
    database = Database(world.path)
    try:
        for job in database.jobs(None, 1000):
            assert replay(event for _, event in database.events(job.job_id)) == job
        assert database.load().effects == (), "no effect is left over"
        assert database.load().jobs == (), "no job is left open"
    finally:
        database.close()


def check_followed(world: World) -> None:
    for engine in world.engines.values():
        for numbers in engine.updates.values():
            assert numbers == list(range(1, len(numbers) + 1)), "a follower gets every line, once"


async def test_a_job_is_settled_and_its_curve_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_world(tmp_path) as world, world.engine("engine") as engine:
        await world.start_peer("peer")
        spec = engine.spec(1)
        with trio.fail_after(120):
            assert await engine.run_job(spec) is JobState.SETTLED
        states = list(dict.fromkeys(engine.states[spec.job_id]))
        assert states == [
            JobState.SUBMITTED,
            JobState.MATCHED,
            JobState.AWAITING_FUNDS,
            JobState.FUNDED,
            JobState.RUNNING,
            JobState.RESULT_READY,
            JobState.SETTLED,
        ]
        await world.until_money_rests()
        assert world.services is not None
        updates = world.services.ledger.store.database.updates(spec.job_id, 0, 100)
        assert [update.metrics.step for update in updates if update.metrics is not None][:3] == [1, 2, 3]
        ask = control_handler(world.services, engine.network, None, None)
        show.output(await ask("metrics", {"job": spec.job_id}), False, show.metrics)
        assert re.search("step +epoch +loss .*\n1 +", capsys.readouterr().out)
        check_followed(world)
    check_invariants(world)


async def one_job_with_crashes(directory: Path, when: str, number: int, seed: int = 0) -> World:
    async with open_world(directory, seed) as world, world.engine("engine") as engine:
        world.crash_when = lambda write: when if write == number else ""
        await world.start_peer("peer")
        with trio.fail_after(300):
            assert await engine.run_job(engine.spec(1)) is JobState.SETTLED
        await world.until_money_rests()
        check_followed(world)
    check_invariants(world)
    return world


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_write_loses_no_job_and_pays_nothing_twice(tmp_path: Path, when: str) -> None:
    number = 0
    while True:
        number += 1
        directory = tmp_path / str(number)
        directory.mkdir()
        world = await one_job_with_crashes(directory, when, number)
        if world.crashes == 0:
            break
    assert number > 8, "there were writes to crash at"


@pytest.mark.parametrize("seed", range(6))
async def test_jobs_end_well_over_a_network_that_loses_and_a_coordinator_that_crashes(
    tmp_path: Path, seed: int
) -> None:
    async with open_world(tmp_path, seed, loss=0.01) as world, world.engine("engine") as engine:
        world.crash_when = lambda write: ("before", "after")[write % 2] if write % (7 + seed) == 0 else ""
        for name in ("one", "two", "three"):
            await world.start_peer(name)
        ends: list[JobState] = []

        async def run(number: int) -> None:
            ends.append(await engine.run_job(engine.spec(number)))

        with trio.fail_after(3000):
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(run, number)
            await world.until_money_rests()
        assert ends == [JobState.SETTLED] * 4
        assert world.crashes > 0
        check_followed(world)
        world.crash_when = lambda write: ""
        await trio.sleep(60)
    check_invariants(world)


async def test_a_dead_peer_is_replaced_and_only_what_it_proved_is_paid(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine("engine") as engine:
        first = await world.start_peer("first")
        spec = engine.spec(1)

        async def kill_it_after_one_segment() -> None:
            await first.has_worked.wait()
            await trio.sleep(0.5)
            first.crash()
            await world.start_peer("second")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_it_after_one_segment)
            with trio.fail_after(300):
                assert await engine.run_job(spec) is JobState.SETTLED
        await world.until_money_rests()
        assert JobState.RETRYING in engine.states[spec.job_id]
        second = next(peer for peer in world.peers.values() if peer.name == "second")
        assert second.worked == [f"{spec.job_id}/2", f"{spec.job_id}/3"]
        escrows = sorted(world.chain.escrows.values(), key=lambda escrow: escrow.deadline)
        assert [escrow.status for escrow in escrows] == [EscrowStatus.REFUNDED, EscrowStatus.SETTLED]
        assert escrows[0].earned == escrows[0].amount // 3
        assert world.services is not None
        assert world.services.ledger.standing(first.peer_id).strikes == 1
    check_invariants(world)


async def test_a_job_without_any_peer_left_is_refunded(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine("engine") as engine:
        only = await world.start_peer("only")

        async def kill_it() -> None:
            await only.has_worked.wait()
            only.crash()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_it)
            with trio.fail_after(600):
                assert await engine.run_job(engine.spec(1)) is JobState.REFUNDED
        await world.until_money_rests()
    check_invariants(world)


async def test_a_peer_that_restarted_is_used_again_when_nobody_else_is_left(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine("engine") as engine:
        only = await world.start_peer("only")

        async def restart_it() -> None:
            await only.has_worked.wait()
            only.crash()
            await trio.sleep(1.0)
            await world.start_peer("only")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart_it)
            with trio.fail_after(600):
                assert await engine.run_job(engine.spec(1)) is JobState.SETTLED
        await world.until_money_rests()
    check_invariants(world)


async def test_a_partition_costs_a_retry_and_nothing_else(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine("engine") as engine:
        cut = await world.start_peer("cut")

        async def cut_it_off() -> None:
            await cut.has_worked.wait()
            world.net.partition(cut.peer_id, world.identity.peer_id)
            await world.start_peer("other")
            await trio.sleep(30)
            world.net.heal(cut.peer_id, world.identity.peer_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut_it_off)
            with trio.fail_after(600):
                assert await engine.run_job(engine.spec(1)) is JobState.SETTLED
        await world.until_money_rests()
    check_invariants(world)


async def test_a_cut_of_30_s_leaves_a_lease_of_default_length_alone(tmp_path: Path) -> None:
    config = replace(CONFIG, lease_s=Config(Path()).lease_s)
    async with open_world(tmp_path, config=config) as world, world.engine("engine") as engine:
        cut = await world.start_peer("cut")

        spec = engine.spec(1)

        async def cut_it_off() -> None:
            await cut.has_worked.wait()
            world.net.cut(cut.peer_id, world.identity.peer_id)
            await world.start_peer("other")
            await trio.sleep(30)
            world.net.heal(cut.peer_id, world.identity.peer_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut_it_off)
            with trio.fail_after(600):
                assert await engine.run_job(spec) is JobState.SETTLED
        assert world.services is not None
        job = await world.services.ledger.find(JobId(spec.job_id))
        assert job is not None
        assert (job.served_by, job.retries, job.fencing) == (cut.peer_id, 0, 1)
        await world.until_money_rests()
    check_invariants(world)


async def test_a_burst_of_one_user_does_not_starve_another(tmp_path: Path) -> None:
    async with (
        open_world(tmp_path) as world,
        world.engine("greedy") as greedy,
        world.engine("modest") as modest,
    ):
        with trio.fail_after(600):
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(greedy.run_job, greedy.spec(number))
                await trio.sleep(1.0)
                nursery.start_soon(modest.run_job, modest.spec(1))
                await trio.sleep(1.0)
                await world.start_peer("peer")
        place = world.finished.index(modest.spec(1).job_id)
        assert place <= 1, f"the modest user's only job came {place + 1}. of {len(world.finished)}"
        await world.until_money_rests()
    check_invariants(world)


async def test_a_user_sees_and_touches_only_what_is_theirs(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine("owner") as owner, world.engine("other") as other:
        spec = owner.spec(1)
        await owner.ask(wire.SubmitJob(spec), GRAPH)
        assert (await other.ask(wire.ListJobs())).jobs == ()
        assert len((await owner.ask(wire.ListJobs())).jobs) == 1
        for call in (
            wire.PollJob(spec.job_id, 0, 0),
            wire.CancelJob(spec.job_id),
            wire.ExplainJob(spec.job_id),
            wire.RequestToken(spec.job_id, "job"),
            wire.ReportPeer(spec.job_id, wire.LeaseRef("x", 1), "unreachable", ""),
        ):
            with pytest.raises(RemoteFailureError, match="not_found"):
                await other.ask(call)
        with pytest.raises(RemoteFailureError, match="is taken"):
            await other.ask(wire.SubmitJob(spec), GRAPH)
        with pytest.raises(RemoteFailureError, match="other terms"):
            await owner.ask(wire.SubmitJob(owner.spec(1, budget=5)), GRAPH)
        lines = (await owner.ask(wire.ExplainJob(spec.job_id))).lines
        assert "still waiting: no peer is registered" in lines
        await owner.ask(wire.CancelJob(spec.job_id))
    check_invariants(world)


async def test_one_caller_cannot_take_every_place_where_graphs_wait(tmp_path: Path) -> None:
    async with (
        open_world(tmp_path) as world,
        world.engine("greedy") as greedy,
        world.engine("other") as other,
    ):
        assert world.services is not None
        run_blocking = world.services.run_blocking
        told, refused = trio.Event(), trio.Event()
        refusals: list[str] = []
        worked: set[Callable[..., Any]] = set()

        async def once_told(work: Callable[..., Any], *arguments: Any) -> Any:
            await told.wait()
            worked.add(work)
            return await run_blocking(work, *arguments)

        async def estimate(number: int) -> None:
            try:
                await greedy.once(wire.EstimateJob(greedy.spec(number)), GRAPH)
            except RemoteFailureError as error:
                refusals.append(str(error))
                refused.set()

        world.services.run_blocking = once_told
        async with trio.open_nursery() as nursery:
            for number in range(MAX_OF_CALLER + 1):
                nursery.start_soon(estimate, number)
            await refused.wait()
            nursery.start_soon(other.once, wire.EstimateJob(other.spec(1)), GRAPH)
            told.set()
        limit = MAX_OF_CALLER
        assert refusals == [f"busy: {limit} graphs of yours wait, limit {limit}"]
        assert worked == {admit, quotes}, "neither keeps the event loop from others"
        await greedy.once(wire.EstimateJob(greedy.spec(1)), GRAPH)


async def test_questions_about_thousands_of_peers_keep_the_event_loop_from_nobody(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine("engine") as engine:
        assert world.services is not None
        run_blocking = world.services.run_blocking
        worked: set[str] = set()

        async def noting(work: Callable[..., Any], *arguments: Any) -> Any:
            worked.add(work.__name__)
            return await run_blocking(work, *arguments)

        world.services.run_blocking = world.services.matching._run_blocking = noting
        await engine.once(wire.FindPeers(Requirements()))
        assert worked == {"_peers_for"}
        worked.clear()
        spec = engine.spec(1)
        await engine.once(wire.SubmitJob(spec), GRAPH)
        await engine.once(wire.ExplainJob(spec.job_id))
        assert worked == {"admit", "quotes", "match"}


async def test_a_job_that_comes_twice_and_is_over_meanwhile_stays_in_nobodys_memory(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine("engine") as engine:
        assert world.services is not None
        run_blocking = world.services.run_blocking
        spec = engine.spec(1)
        admitted = trio.Event()

        async def slow(work: Callable[..., Any], *arguments: Any) -> Any:
            if work is quotes and not admitted.is_set():
                admitted.set()
                await trio.sleep(5)
            return await run_blocking(work, *arguments)

        world.services.run_blocking = slow
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.once, wire.SubmitJob(spec), GRAPH)
            await admitted.wait()
            await engine.once(wire.SubmitJob(spec), GRAPH)
            await engine.once(wire.CancelJob(spec.job_id))
        assert (await engine.once(wire.PollJob(spec.job_id, 0, 0))).state is JobState.CANCELLED
        assert not world.services.ledger.jobs


async def test_what_continues_a_deployment_waits_for_its_end_also_where_a_device_is_free(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path) as world, world.engine("engine") as engine:
        peer = await world.start_peer("peer")
        await trio.sleep(1)
        peer.record = msgspec.structs.replace(
            peer.record, devices=2 * peer.record.devices, serves=("onnx",), sequence=peer.record.sequence + 1
        )
        await peer.ask(wire.RegisterPeer(sign_record(peer.record, peer.identity.sign)))

        async def deploy(number: int, continues: int | None = None) -> None:
            served = ServingSpec("digits", "onnx", 1 << 30)
            if continues is not None:
                served = msgspec.structs.replace(served, continues=engine.spec(continues).job_id)
            data = DataSummary(FileRef("a" * 64, "b" * 64, 1000), 1, (), "model")
            nothing = blake3(b"").hexdigest()
            await engine.ask(
                wire.SubmitJob(engine.spec(number, graph_hash=nothing, data=data, served=served)), b""
            )
            await trio.sleep(2)

        def served() -> list[int]:
            return sorted(int(offer.job.job_id[-24:], 16) for offer, _ in peer.leases.values())

        await deploy(1)
        await deploy(2, continues=1)
        assert served() == [1]
        await deploy(3)
        assert served() == [1, 3]
        await engine.ask(wire.CancelJob(engine.spec(1).job_id))
        await trio.sleep(5)
        assert served() == [2, 3]


async def test_peers_with_records_as_long_as_they_may_be_hide_nobody(tmp_path: Path) -> None:
    """Together they are more than one answer holds."""
    async with open_world(tmp_path) as world, world.engine("engine") as engine:
        peer = await world.start_peer("peer")
        long = peer.record.devices[0].name.ljust(128, "\U0001f600")
        assert world.services is not None
        for number in range(80):
            stranger = Identity.from_seed(f"stranger {number}".encode().ljust(32))
            devices = peer.record.devices + (msgspec.structs.replace(peer.record.devices[0], name=long),) * 63
            addresses = ("\U0001f600" * 256,) * 22
            record = msgspec.structs.replace(
                peer.record, peer_id=stranger.peer_id, devices=devices, addresses=addresses
            )
            signed = sign_record(record, stranger.sign)
            world.services.registry.register(stranger.peer_id, signed, now())
        found = (await engine.once(wire.FindPeers(Requirements()))).peers
        assert 30 < len(found) < 80 and sum(len(each.record.payload) for each in found) < 4 << 20


async def test_a_token_of_a_job_that_moved_on_is_taken_back_at_the_peer_before(tmp_path: Path) -> None:
    """Also when the coordinator died between the job's change and what follows for its tokens."""
    async with open_world(tmp_path) as world, world.engine("engine") as engine:
        await world.start_peer("first")
        spec = engine.spec(1)
        await engine.ask(wire.SubmitJob(spec), GRAPH)
        await _until_talking(engine, spec.job_id)
        assert isinstance(await engine.ask(wire.RequestToken(spec.job_id, "job")), wire.AccessToken)
        assert world.services is not None
        [issued] = world.services.ledger.store.database.tokens()
        writes = world.writes
        world.crash_when = lambda write: "after" if write == writes + 1 else ""
        await engine.ask(wire.CancelJob(spec.job_id))
        await trio.sleep(3.0)
        assert world.crashes == 1 and world.services is not None
        kept = world.services.ledger.store.database.tokens()
        # What has expired meanwhile needs no taking back, and is forgotten.
        assert kept or now() >= issued.expires_at, f"{issued} is lost at {now()}"
        assert all(token.revoked for token in kept)


@pytest.mark.parametrize("by", ["job", "engine"])
async def test_the_operator_takes_back_the_tokens_of_a_job_or_an_engine(tmp_path: Path, by: str) -> None:
    async with open_world(tmp_path) as world, world.engine("engine") as engine:
        peer = await world.start_peer("peer")
        spec = engine.spec(1)
        await engine.ask(wire.SubmitJob(spec), GRAPH)
        await _until_talking(engine, spec.job_id)
        await engine.ask(wire.RequestToken(spec.job_id, "job"))
        assert world.services is not None
        ask = control_handler(world.services, engine.network, None, None)
        whose = spec.job_id[:50] if by == "job" else engine.peer_id
        assert await ask("revoke", {"whose": whose}) == {"revoked": 1}
        assert await ask("revoke", {"whose": whose}) == {"revoked": 0}
        assert len((await peer.ask(wire.Heartbeat(0, 1, ()))).revoked) == 1
        with pytest.raises(RemoteFailureError, match="no jobs begin with 'nobody'"):
            await ask("revoke", {"whose": "nobody"})


async def _until_talking(engine: Engine, job_id: str) -> None:
    after = 0
    while True:
        answer = await engine.ask(wire.PollJob(job_id, after, 5_000))
        if answer.state is JobState.AWAITING_FUNDS:
            return
        after = answer.updates[-1].sequence if answer.updates else after
