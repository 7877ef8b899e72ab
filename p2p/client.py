"""Makes calls: the asking side of a protocol of requests and responses.

One kept-open stream, many calls in flight; after a loss the next call opens a new stream.
Never repeats a call by itself: whether that is safe only the caller knows.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import trio

from p2p.channel import Channel
from p2p.codec import Codec
from p2p.errors import P2PError, RemoteFailureError, StreamResetError
from p2p.framing import FrameLimits
from p2p.identifiers import PeerId
from p2p.network import Network
from p2p.protocols import Failure, Request, Response
from p2p.tasks import background_tasks, deadline

C = TypeVar("C")
A = TypeVar("A")

CONNECT_TIMEOUT_S = 6.0
"""Short, so that the first attempt after a cut is not one that began long before it ended."""
_QUEUED_CALLS = 64
_SEND_TIMEOUT_S = 30.0


class CallClient(Generic[C, A]):
    """Made by ``open_client``. ``addresses`` may be replaced when the peer moves."""

    def __init__(
        self,
        network: Network,
        peer_id: PeerId,
        protocol_id: str,
        requests: Codec[Request[C]],
        responses: Codec[Response[A]],
        limits: FrameLimits,
        addresses: Sequence[str],
        nursery: trio.Nursery,
    ) -> None:
        self.peer_id = peer_id
        self.addresses = addresses
        self._network = network
        self._protocol_id = protocol_id
        self._codecs = (requests, responses)
        self._limits = limits
        self._nursery = nursery
        self._session: _Session[C, A] | None = None
        self._opening = trio.Lock()

    async def call(self, call: C, body: bytes = b"", timeout_s: float = 15.0) -> tuple[A, bytes]:
        """The answer and its body.

        Raises RemoteFailureError when the other side refuses, DeadlineError,
        ConnectionFailedError, StreamResetError when the stream is cut before the answer, and
        LocalProtocolError for a call over the limits. A call that is cancelled or late costs
        other calls nothing.
        """
        with deadline(timeout_s, f"{type(call).__name__} to {self.peer_id}"):
            session = await self._ready_session()
            return await session.call(call, body)

    async def _ready_session(self) -> _Session[C, A]:
        if self._session is not None and self._session.lost is None:
            return self._session
        async with self._opening:
            if self._session is None or self._session.lost is not None:
                self._session = await self._open_session()
            return self._session

    async def _open_session(self) -> _Session[C, A]:
        if self.addresses and not self._network.is_connected(self.peer_id):
            await self._network.connect(self.peer_id, self.addresses, CONNECT_TIMEOUT_S)
        stream = await self._network.open_stream(self.peer_id, self._protocol_id)
        channel: Channel[Request[C], Response[A]] = Channel(stream, *self._codecs, self._limits)
        session = _Session(channel)
        self._nursery.start_soon(session.run)
        return session


class _Session(Generic[C, A]):
    """The calls of one stream, from its opening to its loss."""

    def __init__(self, channel: Channel[Request[C], Response[A]]) -> None:
        self.lost: str | None = None
        self._channel = channel
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending[A]] = {}
        self._queue, self._queued = trio.open_memory_channel[bytes](_QUEUED_CALLS)

    async def call(self, call: C, body: bytes) -> tuple[A, bytes]:
        number = next(self._numbers)
        frame = self._channel.encode(Request(number, call), body)
        pending = self._pending[number] = _Pending()
        try:
            # Sent by the session's own task: a caller that gives up never cuts a frame in two.
            await self._queue.send(frame)
            if self.lost is None:
                await pending.answered.wait()
        except trio.BrokenResourceError:
            pass
        finally:
            del self._pending[number]
        return pending.result(self.lost)

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_calls)
                await self._receive_answers()
        except* P2PError as lost:
            self.lost = self.lost or str(lost.exceptions[0])
        finally:
            self._end()
            with trio.CancelScope(shield=True):
                await self._channel.reset()

    async def _send_calls(self) -> None:
        async for frame in self._queued:
            await self._channel.send_encoded(frame, _SEND_TIMEOUT_S)

    async def _receive_answers(self) -> None:
        while True:
            response, body = await self._channel.receive()
            pending = self._pending.get(response.id)
            if pending is not None:  # else its caller gave up
                pending.give(response.answer, body)

    def _end(self) -> None:
        self.lost = self.lost or "the client was closed"
        self._queued.close()
        for pending in self._pending.values():
            pending.answered.set()


class _Pending(Generic[A]):
    """One call that waits for its answer."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self._answer: tuple[A, bytes] | None = None

    def give(self, answer: A, body: bytes) -> None:
        self._answer = (answer, body)
        self.answered.set()

    def result(self, lost: str | None) -> tuple[A, bytes]:
        if self._answer is None:
            raise StreamResetError(f"no answer: {lost}")
        answer = self._answer[0]
        if isinstance(answer, Failure):
            raise RemoteFailureError(answer.code, answer.message)
        return self._answer


@asynccontextmanager
async def open_client(
    network: Network,
    peer_id: PeerId,
    protocol_id: str,
    requests: Codec[Any],
    responses: Codec[Any],
    limits: FrameLimits,
    *,
    addresses: Sequence[str] = (),
) -> AsyncIterator[CallClient[Any, Any]]:
    """A client of one protocol of one peer; its stream is opened by the first call.

    With ``addresses`` it also connects, and again after a loss.
    """
    async with background_tasks() as nursery:
        yield CallClient(network, peer_id, protocol_id, requests, responses, limits, addresses, nursery)
