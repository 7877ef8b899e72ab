"""Calls to a hosted model over the wire: who may, what streams, what is taken back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import trio

from backend.runtime.base import Runtime
from backend.workers.hosted import HostedState
from backend.workers.model_calls import ModelCalls
from p2p.client import CallClient, open_client
from p2p.errors import RemoteFailureError
from p2p.protocols.inference import (
    LIMITS,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    Authorize,
    PredictNamed,
    StatusOf,
    TensorGiven,
)
from p2p.session.asking import Asked, CallStreams
from p2p.session.chat import ChatOptions, Chatted
from p2p.session.inference import Tensor
from p2p.session.model_at_peer import ModelAtPeer
from peer.hosting import HostedStatus
from peer.inference import InferenceService
from tests.simulation.peer.world import RunningPeer, World, open_world
from tests.unit.backend.serving.called import Served, open_served
from tests.unit.backend.serving.server import Counter, Doubler

T = TypeVar("T")
JOB, OTHER = "ab" * 32, "cd" * 32
HELLO = [{"role": "user", "content": "a"}]


class OneHosted:
    """``JOB`` is served, and nothing else."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def calls(self, job_id: str) -> ModelCalls:
        if job_id != JOB:
            raise RemoteFailureError("not_found", "no such deployment")
        return self._served.model_calls

    async def status(self, job_id: str) -> HostedStatus:
        return HostedStatus(HostedState.READY, "", 2, await self.calls(job_id).status())


class Holder:
    """A caller with a token of ``job``."""

    def __init__(self, world: World, peer: RunningPeer, client: CallClient[Any, Any], job: str) -> None:
        self.streams = CallStreams(world.engine.network, peer.network.peer_id)
        self._client = client
        self.token = world.coordinator.token(world.engine.network.peer_id, peer.network.peer_id, job, "infer")

    async def call(self, call: Any, body: bytes = b"") -> tuple[Any, bytes]:
        return await self.repeat(lambda: self._client.call(call, body))

    async def repeat(self, attempt: Callable[[], Awaitable[T]]) -> T:
        if self.token:
            await self._client.call(Authorize(self.token))
        return await attempt()


class Deployed:
    def __init__(self, world: World, holder: Holder, client: CallClient[Any, Any], peer: RunningPeer) -> None:
        self.world = world
        self.holder = holder
        self.client = client
        self.peer = peer
        self.model = ModelAtPeer(JOB, lambda: holder)


@asynccontextmanager
async def deployed(tmp_path: Path, runtime: Runtime, job: str = JOB) -> AsyncIterator[Deployed]:
    async with open_served(runtime) as served, open_world(tmp_path) as world, world.peer() as peer:
        services = peer.services
        InferenceService(
            peer.network,
            services.access,
            services.store,
            services.artifacts,
            services.deployments,
            OneHosted(served),
            services.now,
        ).serve()
        async with open_client(
            world.engine.network,
            peer.network.peer_id,
            PROTOCOL_ID,
            REQUESTS,
            RESPONSES,
            LIMITS,
            addresses=peer.network.addresses(),
        ) as client:
            holder = Holder(world, peer, client, job)
            yield Deployed(world, holder, client, peer)


async def test_tensors_and_requests_are_answered_to_who_holds_the_token(tmp_path: Path) -> None:
    async with deployed(tmp_path, Doubler()) as found:
        ones = Tensor("float32", (2, 3), np.ones((2, 3), "<f4").tobytes())
        outputs = await found.model.predict({"x": ones, "y": ones})
        assert np.frombuffer(outputs["sum"].data, "<f4").tolist() == [6.0, 6.0]
        assert outputs["double"].shape == (2, 3)
        rows = json.dumps({"inputs": {"x": [[1, 2, 3]], "y": [[1, 1, 1]]}}).encode()
        for _ in range(2):  # the second goes over the same stream
            async with found.model.ask(Asked("POST", "/v1/predict", "application/json", rows)) as answer:
                assert json.loads(await answer.read())["outputs"]["sum"] == [9]
        status = await found.model.status()
        assert (status.state, status.restarts, status.requests) == ("ready", 2, 3)
        assert [info.shape for info in status.inputs] == [(-1, 3), (-1, 3)]


async def test_nobody_else_may_ask(tmp_path: Path) -> None:
    given = (TensorGiven("x", "float32", (1, 3)),)
    async with deployed(tmp_path, Doubler(), job=OTHER) as found:
        with pytest.raises(RemoteFailureError, match="send Authorize first"):
            await found.client.call(StatusOf(JOB))
        for call in (StatusOf(JOB), PredictNamed(JOB, given)):
            with pytest.raises(RemoteFailureError, match="not for deployment") as caught:
                await found.holder.call(call)
            assert caught.value.code == "unauthorized"
        with pytest.raises(RemoteFailureError, match="not for deployment"):
            async with found.model.ask(Asked("GET", "/health")):
                pass
        with pytest.raises(RemoteFailureError, match="no such deployment"):
            await found.holder.call(StatusOf(OTHER))


async def test_a_token_that_was_taken_back_opens_nothing(tmp_path: Path) -> None:
    async with deployed(tmp_path, Doubler()) as found:
        await found.model.status()
        claims = found.peer.services.access.check_token(
            found.holder.streams._network.peer_id, found.holder.token, "infer"
        )
        found.world.coordinator.revoked.add(claims.jti)
        with trio.fail_after(60):
            while not found.peer.services.access.is_revoked(claims.jti):
                await trio.lowlevel.checkpoint()  # the heartbeat brings it
        found.holder.token = ""
        with pytest.raises(RemoteFailureError, match="no valid token"):
            async with found.model.ask(Asked("GET", "/health")):
                pass


@pytest.mark.parametrize("path", ["/openapi.json", "/v2/repository/models/m/load", "/v1/../page.js"])
async def test_what_manages_a_model_is_refused_at_the_peer(tmp_path: Path, path: str) -> None:
    async with deployed(tmp_path, Doubler()) as found:
        with pytest.raises(RemoteFailureError, match="to ask, not to manage"):
            async with found.model.ask(Asked("POST", path)):
                pass
        async with found.model.ask(Asked("GET", "/health")) as answer:  # the stream is still good
            assert answer.status == 200


async def test_a_conversation_streams_and_can_be_stopped(tmp_path: Path) -> None:
    model = Counter(free=3)
    async with deployed(tmp_path, model) as found:
        async with aclosing(found.model.chat(HELLO)) as pieces:
            assert await anext(pieces) == "0 "
            assert await anext(pieces) == "1 "
        await trio.to_thread.run_sync(model.ended.wait)
        model.go_on.set()
        told: list[Chatted] = []
        said = [piece async for piece in found.model.chat(HELLO, ChatOptions(max_tokens=4), told.append)]
        assert "".join(said) == "0 1 2 3 "
        assert (told[0].tokens, told[0].finish_reason) == (4, "length")
        assert await found.model.say(HELLO, ChatOptions(max_tokens=2)) == "0 1 "
        with pytest.raises(RemoteFailureError, match="temperature"):
            await found.model.say(HELLO, ChatOptions(temperature=-3.0))
