"""Deployments at peers as endpoints: they come, move and end while the gateway runs.

What is asked goes to the peer that was looked up in the allow list and to no other: a deployment that
moved meanwhile is lost to its endpoint, and a new one, with the new peer's id, takes its place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from backend.serving.asked import Asked
from backend.serving.http import HttpError
from engine_app.gateway.deployments import Choice, Deployment, changes, places
from engine_app.gateway.endpoint import Answer, EndpointStatus, Place, RelayedAnswer
from engine_app.gateway.errors import EndpointBusyError, EndpointLostError
from engine_app.gateway.pool import Member, Pool
from p2p.errors import P2PError, RemoteFailureError
from p2p.protocols.inference import LIMITS

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 2.0
STATUS_TIMEOUT_S = 10.0
READY = "ready"
_REFUSALS = {"invalid": 400, "refused": 403, "too_large": 413, "memory": 507}
"""What a peer refuses in its own name; anything else is its failure, as when it has no such deployment."""


class RemoteStatus(Protocol):
    @property
    def state(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def queue_depth(self) -> int: ...


class ModelThere(Protocol):
    """A deployment at one peer; see ``p2p.session.model_at_peer``. Both raise P2PError."""

    def ask(self, asked: Asked) -> AbstractAsyncContextManager[Answer]: ...
    async def status(self) -> RemoteStatus: ...


class RemoteModel:
    """An endpoint."""

    def __init__(self, name: str, model: ModelThere) -> None:
        self._name = name
        self._model = model

    @property
    def name(self) -> str:
        return self._name

    @asynccontextmanager
    async def ask(self, asked: Asked) -> AsyncIterator[Answer]:
        # Not sent, since that would fail as if the peer were lost.
        if len(asked.body) > LIMITS.body_bytes:
            text = f"body of {len(asked.body)} bytes, limit {LIMITS.body_bytes} at a peer"
            raise HttpError(413, "too_large", text)
        try:
            async with self._model.ask(asked) as answer:
                yield RelayedAnswer(answer, P2PError)
        except P2PError as error:
            raise _worded(error) from error

    async def status(self) -> EndpointStatus:
        status = await self.told()
        return EndpointStatus(status.state == READY, status.queue_depth)

    async def told(self) -> RemoteStatus:
        """Raises EndpointLostError."""
        try:
            return await self._model.status()
        except P2PError as error:
            raise EndpointLostError(str(error)) from error


def _worded(error: P2PError) -> Exception:
    """As the gateway understands it."""
    if isinstance(error, RemoteFailureError):
        if error.code == "busy":
            return EndpointBusyError(str(error))
        if error.code in _REFUSALS:
            return HttpError(_REFUSALS[error.code], error.code, error.message)
    return EndpointLostError(str(error))


@dataclass(frozen=True, slots=True)
class Told:
    """What the owner of a gateway hears of deployments; each may be called again and again."""

    joined: Callable[[Place], None]
    left: Callable[[Place], None]
    not_allowed: Callable[[Place], None]


@dataclass(slots=True, eq=False)
class _Joined:
    place: Place
    member: Member
    watching: trio.CancelScope = field(default_factory=trio.CancelScope)


class RemoteModels:
    """Keeps the pool in step with the deployments that there are.

    ``find``: those of the session. ``at``: a deployment's model, at that peer only; raises P2PError.
    """

    def __init__(
        self,
        pool: Pool,
        choice: Choice,
        find: Callable[[], Sequence[Deployment]],
        at: Callable[[str, str], ModelThere],
        told: Told,
        is_allowed: Callable[[Place], bool],
    ) -> None:
        self._pool = pool
        self._choice = choice
        self._find = find
        self._at = at
        self._told = told
        self._is_allowed = is_allowed
        self._known: dict[Place, _Joined] = {}
        self._said: set[Place] = set()

    async def run(self, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Never returns. Started once each deployment that runs has been asked once."""
        async with trio.open_nursery() as nursery:
            await self.look(nursery)
            task_status.started()
            while True:
                await trio.sleep(LOOK_EVERY_S)
                await self.look(nursery)

    async def look(self, nursery: trio.Nursery) -> None:
        """Once. Those that are not allowed are not asked anything, not even how they are."""
        wanted = places(self._find(), self._choice)
        allowed = {place for place in wanted if self._is_allowed(place)}
        for place in sorted(wanted - allowed - self._said, key=str):
            self._told.not_allowed(place)
        self._said = wanted - allowed
        added, gone = changes(self._known, allowed)
        for joined in gone:
            self._leave(joined)
        async with trio.open_nursery() as asking:
            for place in added:
                asking.start_soon(self._join, place, nursery)

    async def _join(self, place: Place, nursery: trio.Nursery) -> None:
        """Once it says how it calls its model; else it is asked again at the next look."""
        assert place.peer_id is not None
        assert place.deployment is not None
        name = f"{place.model}@{place.peer_id[-8:]}/{place.deployment[:8]}"
        try:
            endpoint = RemoteModel(name, self._at(place.deployment, place.peer_id))
            with trio.fail_after(STATUS_TIMEOUT_S):
                status = await endpoint.told()
        except (EndpointLostError, P2PError, trio.TooSlowError) as error:
            log.info("deployment does not answer yet", endpoint=name, reason=str(error))
            return
        place_there = replace(place, own_name=status.name or place.own_name)
        member = self._pool.add(endpoint, place_there, is_ready=status.state == READY)
        joined = self._known[place] = _Joined(place, member)
        nursery.start_soon(self._watch, joined)
        self._told.joined(place)

    async def _watch(self, joined: _Joined) -> None:
        with joined.watching:
            await self._pool.watch(joined.member)

    def _leave(self, joined: _Joined) -> None:
        del self._known[joined.place]
        joined.watching.cancel()
        self._pool.remove(joined.member)
        self._told.left(joined.place)
