"""A deployment of one Engine against scripted partners: paid period by period, for as long as it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import trio

from p2p.jobs import JobState
from p2p.session.control import Control
from p2p.session.deployments import DeploymentOrder
from p2p.session.engine import JobEngine
from p2p.session.errors import JobEndedError, JobRefusedError
from p2p.session.served import PATIENCE_S
from p2p.session.trial import QUESTIONS, question
from tests.simulation.p2p.session_world import IMAGE, Killed, PeerScript, World, open_world

pytestmark = pytest.mark.virtual_clock

BUDGET = 100 * 10**9
PERIOD = 5 * 10**9
"""Units of five seconds, at one token a second."""
START = 100 * 10**9


def order(world: World, periods: int = 3, **changes: object) -> DeploymentOrder:
    return DeploymentOrder(world.data, "digits", None, periods, 5, **changes)  # type: ignore[arg-type]


async def to_the_end(engine: JobEngine, job: str) -> list[str]:
    with trio.fail_after(3600):
        return [news.text async for news in engine.follow(job)]


async def test_each_period_is_paid_once_the_model_answers_after_it(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await engine.deploy(order(world), BUDGET)
        assert world.coordinator.graph == b""
        await to_the_end(engine, job)
        peer = world.peers[0]
        assert engine.job(job).state is JobState.SETTLED
        assert [voucher.earned for voucher in peer.vouchers] == [PERIOD, 2 * PERIOD, 3 * PERIOD]
        assert (world.ledger.paid_out, world.ledger.tokens) == (3 * PERIOD, START - 3 * PERIOD)
        assert peer.data == world.data.read_bytes()
        assert (peer.asked, peer.called) == (3, 3)
        (view,) = engine.deployments()
        assert (view.name, view.format, view.served_s, view.left_s, view.paid) == (
            "digits",
            "onnx",
            15,
            0,
            3 * PERIOD,
        )
        assert (view.given_to, view.moved) == ({peer.peer_id}, False)


async def test_what_is_stopped_is_paid_as_far_as_it_was_served(tmp_path: Path) -> None:
    async with open_world(tmp_path, [PeerScript(segment_s=10)]) as world, world.engine() as (engine, _):
        job = await engine.deploy(order(world, 10), BUDGET)
        await trio.sleep(25)
        (view,) = engine.deployments()
        assert view.is_running
        assert (view.served_s, view.left_s) == (10, 40)
        with pytest.raises(JobRefusedError, match="stop it, deploy it again"):
            await engine.pause(job)
        await engine.cancel(job)
        await to_the_end(engine, job)
        assert engine.job(job).state is JobState.CANCELLED
        assert (world.ledger.paid_out, world.ledger.tokens) == (2 * PERIOD, START - 2 * PERIOD)


async def test_a_model_whose_worker_comes_back_is_waited_for(tmp_path: Path) -> None:
    async with open_world(tmp_path, [PeerScript(ready_at=60)]) as world, world.engine() as (engine, _):
        job = await engine.deploy(order(world), BUDGET)
        await to_the_end(engine, job)
        assert trio.current_time() > 60
        assert world.ledger.paid_out == 3 * PERIOD


async def test_periods_are_not_paid_faster_than_time_passes(tmp_path: Path) -> None:
    async with open_world(tmp_path, [PeerScript(segment_s=0.01)]) as world, world.engine() as (engine, _):
        began_at = trio.current_time()
        job = await engine.deploy(order(world, 10), BUDGET)
        await to_the_end(engine, job)
        assert trio.current_time() - began_at >= 10 * 5
        assert world.ledger.paid_out == 10 * PERIOD


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (PeerScript(denies=True), "unanswered"),
        (PeerScript(serves_another=True), "corrupt_checkpoint"),
        (PeerScript(ready_at=2 * PATIENCE_S), "unanswered"),
        (PeerScript(calls="another model"), "corrupt_checkpoint"),
        (PeerScript(calls="nonsense"), "corrupt_checkpoint"),
        (PeerScript(calls="nothing"), "corrupt_checkpoint"),
        (PeerScript(calls="busy"), "unanswered"),
    ],
)
async def test_a_peer_that_does_not_serve_is_reported_and_not_paid(
    tmp_path: Path, script: PeerScript, code: str
) -> None:
    async with open_world(tmp_path, [script, PeerScript()]) as world, world.engine() as (engine, _):
        job = await engine.deploy(order(world), BUDGET)
        await to_the_end(engine, job)
        assert not world.peers[0].vouchers
        assert [complaint.code for complaint in world.coordinator.complaints] == [code]
        assert [voucher.earned for voucher in world.peers[1].vouchers] == [PERIOD, 2 * PERIOD, 3 * PERIOD]
        assert world.peers[1].data == world.data.read_bytes()
        # What one was asked tells the next one nothing.
        assert set(world.peers[0].questions).isdisjoint(world.peers[1].questions)


async def test_a_peer_that_keeps_an_answer_and_drops_the_model_is_paid_for_one_period(tmp_path: Path) -> None:
    scripts = [PeerScript(calls="the first answer"), PeerScript()]
    async with open_world(tmp_path, scripts) as world, world.engine() as (engine, _):
        job = await engine.deploy(order(world), BUDGET)
        await to_the_end(engine, job)
        (complaint,) = world.coordinator.complaints
        assert (complaint.code, "serves another model: y is" in complaint.text) == (
            "corrupt_checkpoint",
            True,
        )
        assert [voucher.segments_done for voucher in world.peers[0].vouchers] == [1]
        assert world.ledger.paid_out == 3 * PERIOD


@pytest.mark.parametrize("questions", [1, QUESTIONS])
async def test_no_question_is_asked_twice_however_few_are_known_at_a_time(
    tmp_path: Path, questions: int
) -> None:
    asked = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        async with open_world(tmp_path / name) as world, world.engine() as (engine, _):
            world.owner.questions = questions
            job = await engine.deploy(order(world, 20), BUDGET)
            await to_the_end(engine, job)
            assert engine.job(job).state is JobState.SETTLED
            assert (
                engine.deployments()[0].proof == "each period a new question, answered as by the model here"
            )
            asked.append(world.peers[0].questions)
    assert len(set(asked[0])) == len(asked[0]) == 20
    assert asked[0] == asked[1]  # drawn from the world's seed


async def test_a_question_that_comes_after_its_period_takes_no_better_one_away(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await engine.deploy(order(world, 20), BUDGET)
        await trio.sleep(2 * world.owner.tries_s)
        world.owner.tries_s, world.owner.questions = 12, 1
        await to_the_end(engine, job)
        foretold = {question((IMAGE,), period)[0][1] for period in range(20)}  # type: ignore[index]
        assert foretold.isdisjoint(world.peers[0].questions)
        assert engine.job(job).state is JobState.SETTLED


@pytest.mark.parametrize("idles_at", [0, 1])
async def test_a_peer_that_ends_no_period_is_reported_and_followed_by_another(
    tmp_path: Path, idles_at: int
) -> None:
    scripts = [PeerScript(idles_at=idles_at), PeerScript()]
    async with open_world(tmp_path, scripts) as world, world.engine() as (engine, _):
        job = await engine.deploy(order(world), BUDGET)
        await to_the_end(engine, job)
        (complaint,) = world.coordinator.complaints
        assert complaint.code == "overdue" and "no period of 5 s is over" in complaint.text
        assert [voucher.segments_done for voucher in world.peers[0].vouchers] == list(range(1, idles_at + 1))
        assert world.ledger.paid_out == 3 * PERIOD


@pytest.mark.parametrize("calls", ["answers", "another model"])
async def test_where_the_model_cannot_be_tried_here_any_answer_counts(
    tmp_path: Path, calls: Literal["answers", "another model"]
) -> None:
    async with open_world(tmp_path, [PeerScript(calls=calls)]) as world, world.engine() as (engine, _):
        world.owner.fails = "no runtime for it"
        job = await engine.deploy(order(world), BUDGET)
        story = await to_the_end(engine, job)
        assert story.count("answers of the peer are not compared with the model here: no runtime for it") == 1
        assert engine.deployments()[0].proof == "any answer counts: no runtime for it"
        assert world.ledger.paid_out == 3 * PERIOD


@pytest.mark.parametrize("fixed", [False, True])
async def test_to_refuse_what_the_models_file_allows_proves_nothing(tmp_path: Path, fixed: bool) -> None:
    async with open_world(tmp_path, [PeerScript(calls="invalid"), PeerScript()]) as world:
        world.owner.fails, world.owner.fixed = "no runtime for it", fixed
        async with world.engine() as (engine, _):
            job = await engine.deploy(order(world), BUDGET)
            await to_the_end(engine, job)
        complaints = [complaint.text for complaint in world.coordinator.complaints]
        refused = "claims to serve the model, and answers: invalid: input of (1, 4), allowed is another"
        assert complaints == [refused] * fixed
        assert [len(peer.vouchers) for peer in world.peers] == ([0, 3] if fixed else [3, 0])


async def test_a_call_that_is_refused_until_the_voucher_comes_is_made_again(tmp_path: Path) -> None:
    script = PeerScript(calls="unpaid once")
    async with open_world(tmp_path, [script]) as world, world.engine() as (engine, _):
        job = await engine.deploy(order(world), BUDGET)
        await to_the_end(engine, job)
        assert (world.peers[0].asked, world.peers[0].called) == (4, 4)
        assert world.ledger.paid_out == 3 * PERIOD


async def test_an_engine_that_dies_before_it_knows_its_model_tries_it_again(tmp_path: Path) -> None:
    script = PeerScript(calls="another model")
    async with open_world(tmp_path, [script, PeerScript()]) as world:
        world.owner.tries_s = 3600.0
        async with world.engine() as (engine, _):
            job = await engine.deploy(order(world), BUDGET)
            await trio.sleep(20)
            assert not world.peers[0].vouchers
        world.owner.tries_s = 1.0
        async with world.engine() as (engine, _):
            await to_the_end(engine, job)
        assert not world.peers[0].vouchers
        assert world.ledger.paid_out == 3 * PERIOD


async def test_a_peer_that_vanishes_is_followed_by_another(tmp_path: Path) -> None:
    scripts = [PeerScript(dies_at=1), PeerScript()]
    async with open_world(tmp_path, scripts) as world, world.engine() as (engine, _):
        job = await engine.deploy(order(world), BUDGET)
        async for _ in engine.follow(job):
            if world.peers[1].vouchers:
                break
        with pytest.raises(JobEndedError, match="moved by itself"):
            await engine.deployment(job).status()
        where, status = await engine.deployment_status(job)
        assert (where.peer_id, status.state) == (world.peers[1].peer_id, "ready")
        [told] = [each async for each in await Control(engine)("deployment_status", {"deployment": job})]
        assert (told["state"], told["moved"], told["peer_id"]) == ("ready", True, world.peers[1].peer_id)
        assert told["ask_with"] == f"--peer {told['peer_id']}"
        await to_the_end(engine, job)
        assert [voucher.segments_done for voucher in world.peers[0].vouchers] == [1]
        assert [voucher.segments_done for voucher in world.peers[1].vouchers] == [2, 3]
        (view,) = engine.deployments()
        assert view.peer_id == world.peers[1].peer_id
        assert (view.given_to, view.moved) == ({world.peers[0].peer_id}, True)


async def test_more_time_is_another_deployment_at_the_same_peer(tmp_path: Path) -> None:
    async with open_world(tmp_path, [PeerScript(segment_s=10)]) as world, world.engine() as (engine, _):
        job = await engine.deploy(order(world, 4), BUDGET)
        await trio.sleep(15)
        world.coordinator.spec = None
        more = await engine.extend(job, 7, BUDGET)
        spec = engine.job(more).spec
        assert spec.serving is not None
        assert (spec.serving.continues, spec.segments) == (job, 7)
        assert spec.requirements.allow == (world.peers[0].peer_id,)
        assert spec.data.file == engine.job(job).spec.data.file
        # Both have one name, as replicas have: it is the one that has a peer.
        assert engine.deployment(spec.serving.name).deployment == job
        await engine.cancel(job)
        assert engine.job(more).cancelling  # and not served, and paid, once the first one is over


async def test_what_cannot_be_deployed_or_extended_is_named(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        with pytest.raises(JobRefusedError, match="1001 periods of 5 s, allowed 1 to 1000"):
            await engine.deploy(order(world, 1001), BUDGET)
        with pytest.raises(JobRefusedError, match="name"):
            await engine.deploy(DeploymentOrder(world.data, "a b/c"), BUDGET)
        with pytest.raises(JobRefusedError, match="must be positive"):
            await engine.deploy(order(world), 0)
        job = await engine.deploy(order(world), BUDGET)
        await to_the_end(engine, job)
        with pytest.raises(JobEndedError, match="deploy the model again"):
            await engine.extend(job, 5, BUDGET)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
async def test_an_engine_killed_at_any_write_of_a_deployment_pays_each_period_once(
    tmp_path: Path, after: bool
) -> None:
    for dies_at in range(1, 100):
        directory = tmp_path / str(dies_at)
        directory.mkdir()
        async with open_world(directory) as world:
            died = await killed_at(world, dies_at, after)
            async with world.engine() as (engine, _):
                job = (
                    engine.jobs()[0].job_id if engine.jobs() else await engine.deploy(order(world, 2), BUDGET)
                )
                await to_the_end(engine, job)
                assert engine.job(job).state is JobState.SETTLED
            assert len(world.ledger.escrows) == 1, dies_at
            assert (world.ledger.paid_out, world.ledger.tokens) == (2 * PERIOD, START - 2 * PERIOD), dies_at
        if not died:
            break
    assert 15 < dies_at < 99


async def killed_at(world: World, dies_at: int, after: bool) -> bool:
    """Whether the Engine died on its way."""
    died = False
    try:
        async with world.engine(dies_at=dies_at, after=after) as (engine, _):
            await to_the_end(engine, await engine.deploy(order(world, 2), BUDGET))
    except* Killed:
        died = True
    return died
