"""The Engine's calls to its coordinator: greets, repeats what may be repeated, waits out a restart."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog
import trio

from p2p.backoff import Backoff
from p2p.client import CallClient, open_client
from p2p.errors import (
    LOST,
    P2PError,
    RemoteFailureError,
    RemoteProtocolError,
)
from p2p.identifiers import PROTOCOL_VERSION, PeerId
from p2p.network import Network
from p2p.protocols.coordinator import (
    LIMITS,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    AccessToken,
    CoordinatorAnswer,
    CoordinatorCall,
    Hello,
    RequestToken,
    Role,
    Welcome,
)
from p2p.session.errors import SetupError

A = TypeVar("A")
T = TypeVar("T")

TEMPORARY_CODES = frozenset({"busy", "internal"})
CALL_TIMEOUT_S = 15.0

log = structlog.get_logger(__name__)


class CoordinatorLink:
    """Open it with ``open_coordinator``. ``welcome`` is the coordinator's newest greeting, if any."""

    def __init__(
        self, client: CallClient[CoordinatorCall, CoordinatorAnswer], software: str, now: Callable[[], float]
    ) -> None:
        self.peer_id = client.peer_id
        self.welcome: Welcome | None = None
        self._client = client
        self._software = software
        self._now = now
        self._greeted = False
        self._greeting = trio.Lock()
        self._tokens: dict[tuple[str, str], AccessToken] = {}

    async def ask(
        self,
        call: CoordinatorCall,
        answer_type: type[A],
        body: bytes = b"",
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> A:
        """One try. Raises RemoteFailureError, one of LOST, or RemoteProtocolError for another answer."""
        try:
            await self._greet()
            answer, _ = await self._client.call(call, body, timeout_s)
        except LOST:
            self._greeted = False
            raise
        if not isinstance(answer, answer_type):
            raise RemoteProtocolError(
                f"coordinator answered {type(answer).__name__} to {type(call).__name__}, "
                f"expected {answer_type.__name__}"
            )
        return answer

    async def token(self, job_id: str, scope: str) -> AccessToken:
        """A token with at least two minutes, or half of its life, left. One try, as ``ask``."""
        known = self._tokens.get((job_id, scope))
        if known is None or known.expires_at - self._now() < 120:
            known = await self.ask(RequestToken(job_id, scope), AccessToken)
            self._tokens[job_id, scope] = known
        return known

    def forget_token(self, job_id: str, scope: str) -> None:
        """After a peer refused it, or the job moved to another peer."""
        self._tokens.pop((job_id, scope), None)

    async def greet(self) -> Welcome:
        """Raises as ``ask``, and SetupError for a coordinator of another version."""
        await self._greet()
        assert self.welcome is not None
        return self.welcome

    async def _greet(self) -> None:
        async with self._greeting:
            if self._greeted:
                return
            hello = Hello(Role.ENGINE, PROTOCOL_VERSION, self._software)
            answer, _ = await self._client.call(hello, timeout_s=CALL_TIMEOUT_S)
            if not isinstance(answer, Welcome):
                raise RemoteProtocolError(f"coordinator answered {type(answer).__name__} to Hello")
            if answer.protocol_version != PROTOCOL_VERSION:
                raise SetupError(
                    f"coordinator speaks protocol version {answer.protocol_version}, "
                    f"this program {PROTOCOL_VERSION}"
                )
            self.welcome = answer
            self._greeted = True


NO_COORDINATOR = "no coordinator is known yet: name its address with --coordinator"


class NoCoordinator(CoordinatorLink):
    """Where none is known: for what needs none. Whatever asks it is told so."""

    def __init__(self) -> None:
        self.peer_id = PeerId("")
        self.welcome = None
        self._tokens = {}

    async def ask(
        self,
        call: CoordinatorCall,
        answer_type: type[A],
        body: bytes = b"",
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> A:
        raise SetupError(NO_COORDINATOR)

    async def greet(self) -> Welcome:
        raise SetupError(NO_COORDINATOR)


async def until_done(
    attempt: Callable[[], Awaitable[T]], what: str, draw: Callable[[], float] = random.random
) -> T:
    """Repeats ``attempt`` with growing pauses while it fails for a reason that passes."""
    backoff = Backoff(draw)
    while True:
        try:
            return await attempt()
        except LOST as error:
            reason: P2PError = error
        except RemoteFailureError as error:
            if error.code not in TEMPORARY_CODES:
                raise
            reason = error
        log.info("trying again", what=what, reason=str(reason))
        await trio.sleep(backoff.pause_s())


@asynccontextmanager
async def open_coordinator(
    network: Network, peer_id: PeerId, addresses: Sequence[str], software: str, now: Callable[[], float]
) -> AsyncIterator[CoordinatorLink]:
    """Connects at the first call, and again after a loss."""
    async with open_client(
        network, peer_id, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS, addresses=addresses
    ) as client:
        yield CoordinatorLink(client, software, now)
