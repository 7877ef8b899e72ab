"""Calls to the model of a finished job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from p2p.client import CallClient, open_client
from p2p.errors import RemoteFailureError
from p2p.identity import Identity
from p2p.protocols.inference import (
    LIMITS,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    Authorize,
    DescribeModel,
    Predict,
)
from p2p.protocols.job import JobClosed, ResultReady, SegmentFinished
from tests.simulation.peer.world import RunningPeer, World, open_world, until


async def trained(world: World, peer: RunningPeer) -> tuple[str, str]:
    """The model of a job that is paid, and the job."""
    offer = world.make_offer(segments=2)
    await world.accepted(offer)
    async with world.line(peer, offer) as line:
        escrow = world.chain.create(offer.job.user_wallet, offer.job.job_id, offer.amount)
        await line.start(*escrow)
        await line.hear(SegmentFinished)
        await line.pay(1)
        result = await line.hear(ResultReady)
        await line.pay(2, final=True)
        await line.hear(JobClosed)
    return result.result.blake3, offer.job.job_id


@asynccontextmanager
async def calls(world: World, peer: RunningPeer) -> AsyncIterator[CallClient[Any, Any]]:
    async with open_client(
        world.engine.network,
        peer.network.peer_id,
        PROTOCOL_ID,
        REQUESTS,
        RESPONSES,
        LIMITS,
        addresses=peer.network.addresses(),
    ) as client:
        yield client


def token(world: World, peer: RunningPeer, job_id: str, **changes: Any) -> str:
    return world.coordinator.token(
        world.engine.network.peer_id, peer.network.peer_id, job_id, "infer", **changes
    )


PREDICT = {"dtype": "uint8", "shape": (2, 2)}


async def test_the_worker_that_trained_a_model_answers_calls_to_it(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        model, job_id = await trained(world, peer)
        async with calls(world, peer) as client:
            await client.call(Authorize(token(world, peer, job_id)))
            described, _ = await client.call(DescribeModel(model))
            assert described.inputs[0].shape == (-1, 2)
            answer, body = await client.call(Predict(model, **PREDICT), b"abcd")
            assert (answer.shape, body) == ((2, 2), b"dcba")
        assert world.script.started == 1


async def test_after_a_restart_the_model_is_loaded_into_a_new_worker(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        async with world.peer() as peer:
            model, job_id = await trained(world, peer)
        async with world.peer() as peer, calls(world, peer) as client:
            await client.call(Authorize(token(world, peer, job_id)))
            _, body = await client.call(Predict(model, **PREDICT), b"abcd")
            assert body == b"dcba"
        assert world.script.started == 2


async def test_a_worker_that_dies_while_serving_is_replaced(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        model, job_id = await trained(world, peer)
        async with calls(world, peer) as client:
            await client.call(Authorize(token(world, peer, job_id)))
            await client.call(Predict(model, **PREDICT), b"abcd")
            session = peer.services.deployments._deployments[model].session
            await session.worker.aclose()
            await until(lambda: session.death, "the death")
            _, body = await client.call(Predict(model, **PREDICT), b"abcd")
            assert body == b"dcba"


async def test_a_call_without_token_is_refused(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        model, _ = await trained(world, peer)
        async with calls(world, peer) as client:
            with pytest.raises(RemoteFailureError, match="unauthorized: no valid token"):
                await client.call(Predict(model, **PREDICT), b"abcd")


@pytest.mark.parametrize("fault", ["expired", "stolen", "scope"])
async def test_a_token_that_does_not_hold_authorizes_nothing(tmp_path: Path, fault: str) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        _, job_id = await trained(world, peer)
        thief = Identity.from_seed(b"7" * 32).peer_id
        engine, there = world.engine.network.peer_id, peer.network.peer_id
        bad = {
            "expired": lambda: token(world, peer, job_id, now=1e9),
            "stolen": lambda: world.coordinator.token(thief, there, job_id, "infer"),
            "scope": lambda: world.coordinator.token(engine, there, job_id, "job"),
        }[fault]()
        async with calls(world, peer) as client:
            with pytest.raises(RemoteFailureError, match="unauthorized"):
                await client.call(Authorize(bad))


async def test_a_token_opens_only_the_models_of_its_job(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        model, _ = await trained(world, peer)
        async with calls(world, peer) as client:
            await client.call(Authorize(token(world, peer, "f" * 64)))
            with pytest.raises(RemoteFailureError, match="not for the job that made model"):
                await client.call(Predict(model, **PREDICT), b"abcd")
            with pytest.raises(RemoteFailureError, match="not_found"):
                await client.call(Predict("0" * 64, **PREDICT), b"abcd")


async def test_a_body_that_does_not_fit_its_shape_is_refused_before_the_worker(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        model, job_id = await trained(world, peer)
        async with calls(world, peer) as client:
            await client.call(Authorize(token(world, peer, job_id)))
            with pytest.raises(RemoteFailureError, match=r"body of 3 bytes, uint8 of shape \(2, 2\) has 4"):
                await client.call(Predict(model, **PREDICT), b"abc")


async def test_a_token_that_was_taken_back_answers_no_more_calls(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.peer() as peer:
        model, job_id = await trained(world, peer)
        async with calls(world, peer) as client:
            await client.call(Authorize(token(world, peer, job_id, jti="token-id-9")))
            await client.call(Predict(model=model, **PREDICT), b"abcd")
            world.coordinator.revoked.add("token-id-9")
            await until(lambda: peer.services.access.is_revoked("token-id-9"), "the heartbeat")
            with pytest.raises(RemoteFailureError, match="no valid token"):
                await client.call(Predict(model=model, **PREDICT), b"abcd")
