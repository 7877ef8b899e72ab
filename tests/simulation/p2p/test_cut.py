"""A network cut of 30 s at any moment of a job: nothing is lost, nothing is done twice, nobody is blamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from p2p.identifiers import PeerId
from p2p.jobs import JobState
from p2p.protocols import Done
from p2p.protocols import inference as wire
from p2p.router import serve_calls
from p2p.session.inference import Tensor
from p2p.session.news import News, NewsKind
from tests.simulation.p2p.session_world import COORDINATOR, ENGINE, PeerScript, World, open_world
from tests.simulation.p2p.test_session import BUDGET, COST, GRAPH, START

pytestmark = pytest.mark.virtual_clock

CUT_S = 30.0
SEGMENTS = 3
RECONNECT_S = 12.0
"""Until everybody is back after a cut: an attempt to dial that began before its end, and a pause."""
FEW, MORE = [0.3, 1.8, 4.0], [0.0, 0.55, 0.65, 0.9, 1.3, 2.4, 3.1, 3.7]
MOMENTS = [*FEW, *(pytest.param(at, marks=pytest.mark.slow) for at in MORE)]
"""Seconds after the submission: accepted, paid, data, each segment, voucher, result, settlement."""


async def cut_and_heal(world: World, partners: tuple[str, ...], at: float, notice_s: float) -> None:
    await trio.sleep(at)
    ids = {"peer": world.peers[0].peer_id, "coordinator": COORDINATOR.peer_id}
    for partner in partners:
        world.net.cut(ENGINE.peer_id, ids[partner], notice_s)
    await trio.sleep(CUT_S)
    for partner in partners:
        world.net.heal(ENGINE.peer_id, ids[partner])


@pytest.mark.parametrize("at", MOMENTS)
@pytest.mark.parametrize("partners", [("peer",), ("coordinator",), ("peer", "coordinator")], ids="+".join)
async def test_a_cut_of_30_s_loses_nothing(tmp_path: Path, partners: tuple[str, ...], at: float) -> None:
    seed = int(at * 100)
    async with (
        open_world(tmp_path, seed=seed, latency_s=(0.01, 0.03)) as world,
        world.engine() as (engine, _),
    ):
        began = trio.current_time()
        job = await engine.submit(GRAPH, world.data, BUDGET, segments=SEGMENTS)
        world.nursery.start_soon(cut_and_heal, world, partners, at, 2.5)
        with trio.fail_after(CUT_S + 60):
            story = [news async for news in engine.follow(job)]
        assert engine.job(job).state is JobState.SETTLED
        assert trio.current_time() - began < 6 + CUT_S + RECONNECT_S
        assert world.coordinator.complaints == []
        assert world.coordinator.submissions == 1
        assert len(world.ledger.escrows) == 1
        assert (world.ledger.paid_out, world.ledger.tokens) == (COST, START - COST)
        in_sequence_and_once(story)
        earned = [voucher.earned for voucher in world.peers[0].vouchers]
        assert earned == sorted(earned)
        # A coordinator that has the last one settles it; the peer may then never see it.
        [last] = world.coordinator.vouchers.values()
        assert sorted({*earned, last.earned}) == [COST // 3, 2 * COST // 3, COST]


def in_sequence_and_once(story: list[News]) -> None:
    kept = [news.number for news in story if news.number]
    assert kept == list(range(1, len(kept) + 1))
    kinds = [news.kind for news in story]
    assert kinds.count(NewsKind.PROGRESS) == SEGMENTS  # each number of the peer's log once
    assert kinds.count(NewsKind.CHECKPOINT) == 2 * (SEGMENTS - 1)  # announced, then proven
    assert kinds.count(NewsKind.RESULT) == 2


async def test_a_cut_that_the_network_gets_over_in_time_is_not_even_noticed(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await engine.submit(GRAPH, world.data, BUDGET, segments=SEGMENTS)
        world.nursery.start_soon(cut_and_heal, world, ("peer", "coordinator"), 1.3, 60.0)
        with trio.fail_after(CUT_S + 60):
            in_sequence_and_once([news async for news in engine.follow(job)])
        assert len(world.peers[0].opened) == 1


async def test_after_a_cut_the_stream_is_back_within_seconds(tmp_path: Path) -> None:
    async with open_world(tmp_path, (PeerScript(segment_s=60.0),)) as world, world.engine() as (engine, _):
        job = await engine.submit(GRAPH, world.data, BUDGET, segments=SEGMENTS)
        world.nursery.start_soon(cut_and_heal, world, ("peer", "coordinator"), 5.0, 2.5)
        began = trio.current_time()
        with trio.fail_after(600):
            in_sequence_and_once([news async for news in engine.follow(job)])
        healed_at = began + 5.0 + CUT_S
        [again] = [at - healed_at for at in world.peers[0].opened_at[1:]]
        assert 0 < again < 10


async def test_a_peer_that_was_silent_for_long_is_not_blamed_for_a_cut(tmp_path: Path) -> None:
    async with open_world(tmp_path, (PeerScript(segment_s=600.0),)) as world, world.engine() as (engine, _):
        job = await engine.submit(GRAPH, world.data, BUDGET, segments=SEGMENTS)
        world.nursery.start_soon(cut_and_heal, world, ("peer",), 400.0, 2.5)
        with trio.fail_after(7200):
            assert [news async for news in engine.follow(job)]
        assert engine.job(job).state is JobState.SETTLED
        assert world.coordinator.complaints == []


async def test_a_call_to_a_model_outlasts_a_cut(tmp_path: Path) -> None:
    async with open_world(tmp_path, latency_s=(0.01, 0.03)) as world, world.engine() as (engine, _):
        job = await engine.submit(GRAPH, world.data, BUDGET, segments=1)
        with trio.fail_after(60):
            assert [news async for news in engine.follow(job)]
        asked: list[float] = []

        async def answer(caller: PeerId, call: object, body: bytes) -> object:
            if isinstance(call, wire.Authorize):
                return Done()
            asked.append(trio.current_time())
            await trio.sleep(1.0)
            return wire.Prediction("uint8", (1, 2), 0.001), body[::-1]

        peer = world.peers[0]
        serve_calls(peer.network, wire.PROTOCOL_ID, wire.REQUESTS, wire.RESPONSES, wire.LIMITS, answer)
        result = engine.job(job).result
        assert result is not None
        began = trio.current_time()
        world.nursery.start_soon(cut_and_heal, world, ("peer", "coordinator"), 0.5, 2.5)
        answered = await engine.predict(peer.peer_id, result.blake3, Tensor("uint8", (1, 2), b"ab"))
        assert answered.data == b"ba"
        assert len(asked) == 2
        assert trio.current_time() - began < CUT_S + RECONNECT_S
