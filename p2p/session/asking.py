"""Calls to models at a peer, HTTP requests among them, over streams that are kept for the next one.

One call at a time on a stream: its caller reads the answer itself, its window holds the peer back while
nobody does, and its reset takes the call back. The end of an answer is always a message with its length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import trio

from p2p.channel import Channel
from p2p.errors import (
    ConnectionFailedError,
    RemoteFailureError,
    RemoteProtocolError,
    StreamClosedError,
    StreamResetError,
)
from p2p.identifiers import PeerId
from p2p.network import Network
from p2p.protocols import Failure, Request, Response
from p2p.protocols.inference import (
    LIMITS,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    AnswerBegun,
    AnswerEnded,
    AnswerPart,
    Ask,
    InferenceAnswer,
    InferenceCall,
)
from p2p.tasks import deadline, take_slot

CallChannel = Channel[Any, Response[Any]]
Headers = tuple[tuple[bytes, bytes], ...]
MAX_STREAMS = 64
"""To one peer, of the 256 that a connection may have."""
PART_TIMEOUT_S = 75.0
"""For each part of an answer; a model at work gives a request less."""
_NUMBER = 1


class AskedLike(Protocol):
    """A request to a model. Paths begin with /v1/ or /v2/, or are /health or /metrics."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def content_type(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def headers(self) -> Headers: ...


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    content_type: str = ""
    body: bytes = b""
    headers: Headers = ()
    """Names in lower case; those that mean nothing to a model are not passed on."""


class Answer:
    """Iterating gives the body as it comes.

    Raises StreamResetError or DeadlineError where it breaks off, RemoteFailureError where the peer says so.
    """

    def __init__(self, channel: CallChannel, begun: AnswerBegun, first: bytes) -> None:
        self.status = begun.status
        self.content_type = begun.content_type
        self.headers: Headers = begun.headers
        self.is_over = begun.is_whole
        """The stream is free for another question."""
        self.channel = channel
        self._first = first
        self._size_bytes = len(first)

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self.is_over:
            raise StopAsyncIteration
        message, body = await self.channel.receive(PART_TIMEOUT_S)
        match _answer_of(message):
            case AnswerPart() if body:
                self._size_bytes += len(body)
                return body
            case AnswerEnded(size_bytes):
                if size_bytes != self._size_bytes:
                    raise RemoteProtocolError(f"answer of {self._size_bytes} bytes, announced {size_bytes}")
                self.is_over = True
                raise StopAsyncIteration
            case Failure(code, text):
                self.is_over = True
                raise RemoteFailureError(code, text)
            case other:
                raise RemoteProtocolError(
                    f"peer sent {type(other).__name__} of {len(body)} bytes within an answer"
                )

    async def read(self, limit: int = LIMITS.body_bytes) -> bytes:
        """The rest of it. Raises as iterating does, and RemoteProtocolError for more than ``limit`` bytes."""
        parts, size = [], 0
        async for part in self:
            parts.append(part)
            size += len(part)
            if size > limit:
                raise RemoteProtocolError(f"answer of more than {limit} bytes")
        return b"".join(parts)


class CallStreams:
    """The streams to one peer. Nothing that has been asked is repeated here."""

    def __init__(self, network: Network, peer_id: PeerId) -> None:
        self._network = network
        self._peer_id = peer_id
        self._free: list[CallChannel] = []
        self._slots = trio.Semaphore(MAX_STREAMS)

    async def call(
        self, call: InferenceCall, body: bytes = b"", timeout_s: float = PART_TIMEOUT_S
    ) -> tuple[InferenceAnswer, bytes]:
        """Of a call that has one answer.

        Raises RemoteFailureError, ConnectionFailedError, StreamResetError, DeadlineError, and
        RemoteProtocolError.
        """
        channel, answer, rest = await self._exchange(call, body, timeout_s)
        self._give_back(channel)
        return answer, rest

    async def begin(self, call: Ask, body: bytes) -> Answer:
        """An answer that has begun, and must be ended. Raises as ``call``."""
        channel, answer, first = await self._exchange(call, body, PART_TIMEOUT_S)
        if not isinstance(answer, AnswerBegun):
            await self._cut(channel)
            raise RemoteProtocolError(f"peer answered {type(answer).__name__} to Ask")
        return Answer(channel, answer, first)

    async def end(self, answer: Answer) -> None:
        """Takes the question back, where the answer is not over."""
        if answer.is_over:
            self._give_back(answer.channel)
        else:
            await self._cut(answer.channel)

    async def aclose(self) -> None:
        """Ends the streams that are free; those in use become free and stay."""
        others, self._free = self._free, []
        with trio.CancelScope(shield=True):
            for each in others:
                await each.aclose()

    async def _exchange(
        self, call: InferenceCall, body: bytes, timeout_s: float
    ) -> tuple[CallChannel, InferenceAnswer, bytes]:
        await take_slot(self._slots)
        channel: CallChannel | None = None
        try:
            with deadline(timeout_s, f"{type(call).__name__} to {self._peer_id}"):
                channel = self._free.pop() if self._free else await self._new()
                await channel.send(Request(_NUMBER, call), body, None)
                message, rest = await channel.receive()
            answer = _answer_of(message)
        except (StreamResetError, StreamClosedError, ConnectionFailedError):
            others, self._free = self._free, []
            await self._cut(channel, *others)  # those were on the same connection
            raise
        except BaseException:
            await self._cut(channel)
            raise
        if isinstance(answer, Failure):
            self._give_back(channel)
            raise RemoteFailureError(answer.code, answer.message)
        return channel, answer, rest

    def _give_back(self, channel: CallChannel) -> None:
        self._free.append(channel)
        self._slots.release()

    async def _cut(self, channel: CallChannel | None, *others: CallChannel) -> None:
        self._slots.release()
        with trio.CancelScope(shield=True):
            for each in (channel, *others):
                if each is not None:
                    await each.reset()

    async def _new(self) -> CallChannel:
        stream = await self._network.open_stream(self._peer_id, PROTOCOL_ID)
        return Channel(stream, REQUESTS, RESPONSES, LIMITS)


def _answer_of(message: Response[Any]) -> Any:
    """Raises RemoteProtocolError for the answer to something else."""
    if message.id != _NUMBER:
        raise RemoteProtocolError(f"answer to call {message.id}, asked was {_NUMBER}")
    return message.answer
