"""The line to the coordinator: connects, says hello, calls, and comes back after every loss.

A peer works on while the line is down; what it has to report waits here. Decides nothing.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
import trio

from p2p.backoff import Backoff
from p2p.chain.errors import ChainNotTrustedError
from p2p.client import CONNECT_TIMEOUT_S, CallClient, open_client
from p2p.errors import (
    LOST,
    ConnectionFailedError,
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
    CoordinatorAnswer,
    CoordinatorCall,
    Hello,
    Role,
    Welcome,
)

A = TypeVar("A")
Client = CallClient[CoordinatorCall, CoordinatorAnswer]
Session = Callable[[Welcome], Awaitable[None]]

LOSSES = (*LOST, RemoteProtocolError)
CALL_TIMEOUT_S = 10.0
DISCONNECT_TIMEOUT_S = 2.0
FIRST_PAUSE_S = 0.1
HEALTHY_S = 5.0
"""What took longer before it was lost, or failed, is tried again at once."""

log = structlog.get_logger(__name__)


class CoordinatorLink:
    """``run`` keeps it up; ``call`` may be used at any time and waits while it is down."""

    def __init__(
        self,
        network: Network,
        peer_id: PeerId,
        addresses: tuple[str, ...],
        software: str,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.coordinator_id = peer_id
        self.attempted = trio.Event()
        """Set once the first attempt to connect and register has ended, well or not."""
        self.is_up = False
        self._network = network
        self._addresses = addresses
        self._software = software
        self._draw = draw
        self._client: Client | None = None
        self._changed = trio.Event()

    async def run(self, session: Session) -> None:
        """Runs ``session`` in each connection, until it raises a loss; then connects again."""
        try:
            await self._keep_up(session)
        finally:
            await self._hang_up()

    async def _keep_up(self, session: Session) -> None:
        backoff = Backoff(self._draw, FIRST_PAUSE_S)
        while True:
            started_at = trio.current_time()
            try:
                await self._run_once(session)
            except* LOSSES as group:
                log.info("coordinator lost", reason=str(_first(group)))
                await self._hang_up()
            except* RemoteFailureError as group:
                # The connection itself is well, and others use it: circuits lead through it.
                log.warning("coordinator refuses", reason=str(_first(group)))
            except* ChainNotTrustedError as group:
                log.error("coordinator is not trusted", reason=str(_first(group)))
            self.attempted.set()
            if trio.current_time() - started_at > HEALTHY_S:
                backoff.reset()
            await trio.sleep(backoff.pause_s())

    async def call(self, call: CoordinatorCall, expected: type[A]) -> A:
        """The answer, however often the line has to come back for it.

        Every call of a peer may be repeated without harm. Raises RemoteFailureError, RemoteProtocolError.
        """
        while True:
            while self._client is None or not self.is_up:
                await self._changed.wait()
            client = self._client
            try:
                return await self.ask(call, expected)
            except LOST as error:
                log.info("call goes out again", call=type(call).__name__, reason=str(error))
                if self._client is client:
                    await trio.sleep(FIRST_PAUSE_S)

    async def ask(self, call: CoordinatorCall, expected: type[A], timeout_s: float = CALL_TIMEOUT_S) -> A:
        """One attempt on the line as it is. Raises P2PError."""
        if self._client is None:
            raise ConnectionFailedError("not connected to the coordinator")
        answer, _ = await self._client.call(call, timeout_s=timeout_s)
        if not isinstance(answer, expected):
            raise RemoteProtocolError(
                f"coordinator answered {type(answer).__name__} to {type(call).__name__}, "
                f"allowed is {expected.__name__}"
            )
        return answer

    async def _run_once(self, session: Session) -> None:
        try:
            await self._network.connect(self.coordinator_id, self._addresses, CONNECT_TIMEOUT_S)
            async with open_client(
                self._network, self.coordinator_id, PROTOCOL_ID, REQUESTS, RESPONSES, LIMITS
            ) as client:
                self._client = client
                welcome = await self.ask(Hello(Role.PEER, PROTOCOL_VERSION, self._software), Welcome)
                log.info("coordinator connected", coordinator_id=self.coordinator_id)
                await session(welcome)
        finally:
            self._client, self.is_up = None, False

    async def _hang_up(self) -> None:
        deadline = trio.current_time() + DISCONNECT_TIMEOUT_S
        with trio.CancelScope(deadline=deadline, shield=True):
            await self._network.disconnect(self.coordinator_id)

    def mark_up(self) -> None:
        """The peer is registered: calls may go out."""
        self.is_up = True
        self.attempted.set()
        self._changed.set()
        self._changed = trio.Event()


def _first(group: BaseExceptionGroup[P2PError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
