"""Deployments at peers behind a gateway: they come, move and end, and see nothing that they may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio

from backend.serving.asked import Asked
from backend.serving.http import HttpError
from engine_app.gateway import remote
from engine_app.gateway.deployments import Choice, Deployment
from engine_app.gateway.endpoint import Place
from engine_app.gateway.errors import EndpointBusyError, EndpointLostError
from engine_app.gateway.pool import Pool
from engine_app.gateway.remote import RemoteModel, RemoteModels
from p2p.errors import ConnectionFailedError, P2PError, RemoteFailureError, StreamResetError
from p2p.framing import FrameLimits
from p2p.session.errors import JobUnknownError
from tests.unit.engine_app.gateway.gateways import Told as Answered
from tests.unit.engine_app.gateway.gateways import until

ONE = Deployment("ab" * 32, "chat", "Peer-1", True)
TWO = Deployment("cd" * 32, "chat", "Peer-2", True)
ASKED = Asked("POST", "/v1/completions", "application/json", b'{"model":"m"}')


@dataclass(frozen=True)
class Status:
    state: str = "ready"
    name: str = "as-hosted"
    queue_depth: int = 3


@dataclass
class FarModel:
    """``trouble`` is raised for whatever is asked; ``breaks`` within an answer."""

    trouble: P2PError | None = None
    breaks: P2PError | None = None
    state: str = "ready"
    asked: list[Asked] = field(default_factory=list)

    @asynccontextmanager
    async def ask(self, asked: Asked) -> AsyncIterator[Any]:
        self.asked.append(asked)
        await trio.lowlevel.checkpoint()
        if self.trouble is not None:
            raise self.trouble
        yield _Breaking(self.breaks) if self.breaks is not None else Answered((b"part",))

    async def status(self) -> Status:
        await trio.lowlevel.checkpoint()
        if self.trouble is not None:
            raise self.trouble
        return Status(self.state)


@dataclass
class _Breaking:
    error: P2PError
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"half"
        raise self.error


class World:
    """The deployments of a session, and what a gateway makes of them."""

    def __init__(self, *deployments: Deployment) -> None:
        self.deployments = list(deployments)
        self.models: dict[tuple[str, str], FarModel] = {}
        self.forbidden: set[str] = set()
        self.unknown = False
        self.heard: list[tuple[str, str | None]] = []
        self.pool = Pool(self.lets, lambda: 0.5, lambda member: None)
        told = remote.Told(*(self._hear(what) for what in ("joined", "left", "not allowed")))
        self.remote = RemoteModels(
            self.pool, Choice(every=True), lambda: self.deployments, self.at, told, self.lets
        )

    def lets(self, place: Place) -> bool:
        return place.peer_id not in self.forbidden

    def at(self, deployment: str, peer: str) -> FarModel:
        if self.unknown:
            raise JobUnknownError("no job of that name")
        return self.models.setdefault((deployment, peer), FarModel())

    def _hear(self, what: str) -> Any:
        return lambda place: self.heard.append((what, place.peer_id))


@pytest.mark.virtual_clock
async def test_deployments_come_move_and_end() -> None:
    world = World(ONE)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.remote.run)
        (member,) = world.pool.of("chat")
        assert (member.place.own_name, member.place.peer_id) == ("as-hosted", "Peer-1")
        world.deployments = [ONE, TWO]
        await until(lambda: len(world.pool.of("chat")) == 2)
        assert all(member.load.queue_depth == 3 for member in world.pool.members)
        world.deployments = [replace(ONE, peer_id="Peer-3")]
        await until(lambda: [each.place.peer_id for each in world.pool.members] == ["Peer-3"])
        world.deployments = []
        await until(lambda: world.pool.members == [])
        nursery.cancel_scope.cancel()
    assert world.heard[0] == ("joined", "Peer-1")
    assert world.heard[-1] == ("left", "Peer-3")


@pytest.mark.virtual_clock
async def test_a_peer_that_is_not_allowed_is_not_even_asked_how_it_is() -> None:
    world = World(ONE, TWO)
    world.forbidden = {"Peer-1"}
    async with trio.open_nursery() as nursery:
        await nursery.start(world.remote.run)
        assert [key[1] for key in world.models] == ["Peer-2"]
        assert world.heard == [("not allowed", "Peer-1"), ("joined", "Peer-2")]
        world.forbidden = {"Peer-2"}
        assert [each.place.peer_id for each in world.pool.of("chat")] == [], "from that moment"
        await until(lambda: [each.place.peer_id for each in world.pool.of("chat")] == ["Peer-1"])
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_a_deployment_that_does_not_answer_joins_once_it_does() -> None:
    world = World(ONE)
    far = world.at(ONE.id, ONE.peer_id)
    far.trouble = ConnectionFailedError("nobody there")
    async with trio.open_nursery() as nursery:
        await nursery.start(world.remote.run)
        assert world.pool.members == []
        far.trouble, world.unknown = None, True
        await trio.sleep(3 * remote.LOOK_EVERY_S)
        assert world.pool.members == []
        world.unknown = False
        await until(lambda: len(world.pool.members) == 1)
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_a_deployment_whose_model_is_loading_is_asked_nothing_until_it_is_ready() -> None:
    world = World(ONE)
    far = world.at(ONE.id, ONE.peer_id)
    far.state = "loading"
    async with trio.open_nursery() as nursery:
        await nursery.start(world.remote.run)
        assert world.pool.ready() == {"chat": False}
        assert world.pool.choose("chat", set()) is None
        far.state = "ready"
        await world.pool.wait_until_up("chat")
        assert world.pool.choose("chat", set()) is not None
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RemoteFailureError("busy", "full"), EndpointBusyError),
        (RemoteFailureError("too_large", "body of 9 bytes"), HttpError),
        (RemoteFailureError("internal", "failed"), EndpointLostError),
        (RemoteFailureError("not_found", "no such deployment"), EndpointLostError),
        (ConnectionFailedError("nobody there"), EndpointLostError),
    ],
)
async def test_a_peers_refusals_are_understood(error: P2PError, expected: type[Exception]) -> None:
    with pytest.raises(expected):
        async with RemoteModel("far", FarModel(trouble=error)).ask(ASKED):
            raise AssertionError("nothing was answered")


async def test_a_body_beyond_what_a_peer_takes_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LIMITS", FrameLimits(body_bytes=len(ASKED.body)))
    far = FarModel()
    async with RemoteModel("far", far).ask(ASKED):
        pass
    with pytest.raises(HttpError, match=r"14 bytes, limit 13 at a peer"):
        async with RemoteModel("far", far).ask(replace(ASKED, body=ASKED.body + b" ")):
            raise AssertionError("nothing was answered")
    assert len(far.asked) == 1


async def test_an_answer_that_breaks_off_is_lost_and_not_whole() -> None:
    seen = []
    with pytest.raises(EndpointLostError):
        async with RemoteModel("far", FarModel(breaks=StreamResetError("cut"))).ask(ASKED) as answer:
            async for part in answer:
                seen.append(part)
    assert seen == [b"half"]
