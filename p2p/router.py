"""Answers calls: the serving side of a protocol of requests and responses.

One stream carries many calls at once, answered by id in any order. A caller can lose its own
stream, never the program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import structlog
import trio

from p2p.channel import Channel
from p2p.codec import Codec
from p2p.errors import (
    DeadlineError,
    FrameTooLargeError,
    LocalProtocolError,
    MessageInvalidError,
    P2PError,
    RemoteFailureError,
    RemoteProtocolError,
    StreamClosedError,
    StreamResetError,
)
from p2p.framing import Frame, FrameLimits
from p2p.identifiers import PeerId
from p2p.network import Network, Stream
from p2p.protocols import Failure, Request, Response
from p2p.tasks import take_slot

C = TypeVar("C")
A = TypeVar("A")

Tell = Callable[[Any, bytes], Awaitable[None]]
"""Sends one message of an answer, and its body; waits while the caller takes nothing."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer of several messages, all with the number of the call. What it raises is the last of them."""

    run: Callable[[Tell], Awaitable[None]]


@dataclass(slots=True)
class BodyRoom:
    """What bodies may take up here while they arrive and are worked on, in bytes. Small ones are free."""

    is_known: Callable[[PeerId], bool]
    """Others may send small ones only."""
    of_caller: int = 512 << 20
    of_all: int = 2 << 30
    small: int = 64 << 10
    _used: Counter[PeerId] = field(default_factory=Counter)

    def take(self, caller: PeerId, size: int) -> int:
        """What to give back. Raises FrameTooLargeError."""
        if size <= self.small:
            return 0
        if not self.is_known(caller):
            raise FrameTooLargeError(f"body of {size} bytes of a stranger, limit {self.small}")
        if self._used[caller] + size > self.of_caller or self._used.total() + size > self.of_all:
            raise FrameTooLargeError(f"body of {size} bytes beside {self._used[caller]} of this caller")
        self._used[caller] += size
        return size

    def give_back(self, caller: PeerId, size: int) -> None:
        self._used[caller] -= size
        if not self._used[caller]:
            del self._used[caller]


CallHandler = Callable[[PeerId, C, bytes], Awaitable[A | tuple[A, bytes] | Streamed]]
Told = Callable[[Any, bytes], None]
"""Takes the answer to a call and its body, or why there is none (an exception, and nothing); once."""
CallBeginner = Callable[[PeerId, C, bytes, Told], Callable[[], None] | None]
"""Begins a call that needs no task of its own, and returns what takes it back; None for any other."""

log = structlog.get_logger(__name__)


class _Numbered(msgspec.Struct, tag="Request"):
    """As much of a bad request as is needed to refuse it by its number."""

    id: int


_NUMBERED = msgspec.msgpack.Decoder(_Numbered)


def serve_calls(
    network: Network,
    protocol_id: str,
    requests: Codec[Request[C]],
    responses: Codec[Response[Any]],
    limits: FrameLimits,
    handler: CallHandler[C, A],
    *,
    max_in_flight: int = 64,
    room: BodyRoom | None = None,
    begin: CallBeginner[C] | None = None,
) -> None:
    """Answers every call of ``protocol_id`` with what ``handler`` returns: an answer, or it and a body.

    A RemoteFailureError of the handler is answered as the Failure it names, any other error as an
    internal one. Of one stream at most ``max_in_flight`` calls run; the rest wait in the stream.
    A caller that is lost cancels its running calls: what must outlive it belongs elsewhere.
    ``begin`` is asked before ``handler``; it may not raise, and may not answer before it returns.
    """

    async def serve(stream: Stream) -> None:
        caller, held = stream.remote_peer_id, 0

        def take_body(size: int) -> None:
            nonlocal held
            if room is not None:
                held += room.take(caller, size)

        def give_back(size: int) -> None:
            nonlocal held
            if room is not None and size > room.small:
                held -= size
                room.give_back(caller, size)

        channel: Channel[Response[Any], Request[C]] = Channel(stream, responses, requests, limits, take_body)
        try:
            await _Session(channel, requests, handler, begin, max_in_flight, protocol_id, give_back).run()
        finally:
            if room is not None and held:
                room.give_back(caller, held)

    network.set_handler(protocol_id, serve)


@dataclass(frozen=True, slots=True, eq=False)
class _Begun:
    """A call that has no task."""

    take_back: Callable[[], None]


class _Session:
    """The calls of one stream."""

    def __init__(
        self,
        channel: Channel[Response[Any], Any],
        requests: Codec[Any],
        handler: CallHandler[Any, Any],
        begin: CallBeginner[Any] | None,
        max_in_flight: int,
        protocol_id: str,
        give_back: Callable[[int], None],
    ) -> None:
        self._give_back = give_back
        self._channel = channel
        self._requests = requests
        self._handler = handler
        self._begin = begin
        self._begun: set[_Begun] = set()
        self._answered = trio.lowlevel.ParkingLot()
        self._slots = trio.Semaphore(max_in_flight)
        self._log = log.bind(protocol=protocol_id, peer_id=channel.remote_peer_id)

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._next_call, nursery)
        except* (StreamResetError, DeadlineError) as lost:
            self._log.debug("caller lost", reason=str(lost.exceptions[0]))
            await self._channel.reset()
        except* RemoteProtocolError as fault:
            self._log.warning("caller broke the protocol", reason=str(fault.exceptions[0]))
            await self._channel.reset()
        else:
            await self._channel.aclose()

    async def _next_call(self, nursery: trio.Nursery) -> None:
        """Reads one call and answers it, while another task waits for the next: no call waits for a task."""
        try:
            frame = await self._read_call(nursery)
        except BaseException:
            # One such task reads for as long as the nursery is open, so that none of these outlives it.
            for begun in self._begun:
                begun.take_back()
            self._begun.clear()
            raise
        if frame is not None:
            nursery.start_soon(self._next_call, nursery)
            await self._answer_frame(frame)

    async def _read_call(self, nursery: trio.Nursery) -> Frame | None:
        """The next call that needs a task: those that need none are begun here. None after the last one."""
        while True:
            # No deadline: a kept-open stream may be idle, and the host notices a dead caller.
            try:
                frame = await self._channel.receive_frame()
            except StreamClosedError:
                while self._begun:
                    await self._answered.park()
                return None
            await take_slot(self._slots)
            if not self._begins(frame, nursery):
                return frame

    def _begins(self, frame: Frame, nursery: trio.Nursery) -> bool:
        """False, with nothing done, for what ``_answer_frame`` must answer."""
        if self._begin is None:
            return False
        try:
            request = self._requests.decode(frame.message)
        except MessageInvalidError:
            return False
        body_bytes = len(frame.body)

        def told(answer: Any, body: bytes) -> None:
            self._begun.discard(begun)
            self._answered.unpark_all()
            if isinstance(answer, Exception):
                answer = self._failure(request, answer)
            if self._send_now(request.id, answer, body):
                self._free(body_bytes)
            else:
                nursery.start_soon(self._send_and_free, request.id, answer, body, body_bytes)

        take_back = self._begin(self._channel.remote_peer_id, request.call, frame.body, told)
        if take_back is None:
            return False
        begun = _Begun(take_back)
        self._begun.add(begun)
        return True

    def _send_now(self, number: int, answer: Any, body: bytes) -> bool:
        try:
            return self._channel.send_now(Response(number, answer), body)
        except LocalProtocolError:
            return False  # the long way says so
        except StreamResetError:
            return True  # whoever reads the next call sees it too

    async def _send_and_free(self, number: int, answer: Any, body: bytes, body_bytes: int) -> None:
        try:
            await self._send(number, answer, body)
        finally:
            self._free(body_bytes)

    def _free(self, body_bytes: int) -> None:
        self._give_back(body_bytes)
        self._slots.release()

    async def _answer_frame(self, frame: Frame) -> None:
        try:
            try:
                request = self._requests.decode(frame.message)
            except MessageInvalidError as error:
                await self._send(_number_of(frame, error), Failure("invalid", str(error)[:4096]))
                return
            await self._answer(request, frame.body)
        finally:
            self._free(len(frame.body))

    async def _answer(self, request: Request[Any], body: bytes) -> None:
        lost: P2PError | None = None

        async def tell(answer: Any, body: bytes) -> None:
            nonlocal lost
            try:
                await self._send(request.id, answer, body)
            except (StreamResetError, DeadlineError) as error:
                lost = error
                raise

        try:
            result = await self._handler(self._channel.remote_peer_id, request.call, body)
            if isinstance(result, Streamed):
                await result.run(tell)
                return
        except Exception as error:  # the boundary of the call's task
            if lost is not None:
                raise lost from error
            result = self._failure(request, error)
        answer, rest = result if isinstance(result, tuple) else (result, b"")
        await self._send(request.id, answer, rest)

    def _failure(self, request: Request[Any], error: Exception) -> Failure:
        refusal = _refusal_in(error)
        if refusal is not None:
            return Failure(refusal.code[:128], refusal.message[:4096])
        call = type(request.call).__name__
        self._log.error("call failed", call=call, exc_info=error)
        return Failure("internal", f"{call} failed: {type(error).__name__}")

    async def _send(self, number: int, answer: Any, body: bytes = b"") -> None:
        try:
            await self._channel.send(Response(number, answer), body)
        except LocalProtocolError as error:
            self._log.error("answer over the limits", reason=str(error))
            await self._channel.send(Response(number, Failure("internal", str(error)[:4096])))


def _refusal_in(error: BaseException) -> RemoteFailureError | None:
    """The refusal that a handler raised, also from inside its own nursery."""
    if isinstance(error, RemoteFailureError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_refusal_in, error.exceptions)), None)
    return None


def _number_of(frame: Frame, error: MessageInvalidError) -> int:
    """Raises ``error`` where not even the number of the request can be read."""
    try:
        return _NUMBERED.decode(frame.message).id
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise error from None
