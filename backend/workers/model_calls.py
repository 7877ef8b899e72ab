"""Requests to a model in a worker, without any listening socket: the supervisor's end of their channel.

What a worker sends is checked as if it came from another machine. Whoever leaves before its answer is whole
takes its request back; what it leaves unread is never more than a window.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from backend.errors import DeadlineError, WorkerError, WorkerFailedError
from backend.serving.asked import Asked
from backend.serving.call_frames import (
    AnswerHead,
    AskHead,
    Kind,
    ModelStatus,
    PredictedHead,
    PredictHead,
    decode_head,
    encode_frame,
    encode_head,
    head_decoder,
)
from backend.serving.http import Headers
from backend.serving.messages import TensorSpec
from backend.workers.call_channel import Call, CallChannel

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

_STATUS_PATIENCE_S = 10.0
_PATIENCE_MORE_S = 5.0
_ANSWER = head_decoder(AnswerHead)
_PREDICTED = head_decoder(PredictedHead)
_STATUS = head_decoder(ModelStatus)


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What all callers together may have under way."""

    in_flight: int = 512
    body_bytes: int = 64 << 20
    bodies_bytes: int = 256 << 20
    """Of requests and of predictions' answers."""
    patience_s: float = 65.0
    """For each part of an answer: longer than the worker itself gives a request."""


_LIMITS = CallLimits()


class CalledWorker(Protocol):
    calls: socket.socket | None

    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Predicted:
    outputs: tuple[TensorSpec, ...]
    body: bytes
    """One after the other, C order, little-endian."""
    duration_s: float
    """Inside the worker, its queue included."""


class Answer:
    """Iterating gives the body as it comes; raises WorkerError or DeadlineError where it breaks off."""

    def __init__(self, call: Call, head: AnswerHead, patience_s: float) -> None:
        self.status = head.status
        self.content_type = head.content_type
        self.headers: Headers = head.headers
        self._call = call
        self._patience_s = patience_s

    @property
    def is_over(self) -> bool:
        """Nothing is left of it."""
        return self._call.is_over

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> bytes:
        part = await self._call.next_part(self._patience_s)
        if part is None:
            raise StopAsyncIteration
        return part

    async def read(self) -> bytes:
        """The rest of it. Raises as iterating does."""
        return b"".join([part async for part in self])


class ModelCalls:
    """Outlives its workers: between two of them, requests are refused as busy."""

    def __init__(self, limits: CallLimits = _LIMITS) -> None:
        self.limits = limits
        self._channel: CallChannel | None = None
        self._in_flight = 0
        self._bodies_bytes = 0

    @property
    def in_flight(self) -> int:
        return self._in_flight

    async def run(
        self, worker: CalledWorker, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """For as long as ``worker`` lives; kills it if it breaks the protocol or closes its end."""
        assert worker.calls is not None
        channel = self._channel = CallChannel(worker.calls)
        task_status.started()
        try:
            await channel.run()
        except WorkerError as error:
            log.warning("model's worker broke the protocol", reason=str(error))
        finally:
            self._channel = None
            channel.end()
        worker.kill()

    @asynccontextmanager
    async def ask(self, asked: Asked) -> AsyncIterator[Answer]:
        """Leaving the block early takes the request back in the worker.

        Raises WorkerFailedError (code busy, refused, too_large, ...), WorkerDiedError, DeadlineError.
        """
        head = AskHead(asked.method, asked.path, asked.content_type, asked.headers, len(asked.body))
        with _Use(self, Kind.ASK, len(asked.body)) as use:
            call = use.call
            await call.send(encode_head(head), asked.body, self.limits.patience_s)
            answered = decode_head(_ANSWER, await call.head(self.limits.patience_s))
            yield Answer(call, answered, self.limits.patience_s)

    async def predict(
        self, inputs: tuple[TensorSpec, ...], body: bytes, timeout_s: float = 60.0
    ) -> Predicted:
        """All outputs for all inputs, which lie one after the other in ``body``.

        Where a model takes one input its name may be empty. Raises as ``ask``.
        """
        head = encode_head(PredictHead(inputs, len(body), timeout_s))
        answered = trio.Event()
        outcomes: list[Predicted | Exception] = []

        def told(outcome: Predicted | Exception) -> None:
            outcomes.append(outcome)
            answered.set()

        patience_s = timeout_s + _PATIENCE_MORE_S
        prediction = _Prediction(self, len(body), patience_s, told)
        try:
            await prediction.call.send(head, body, patience_s)
            await answered.wait()
        finally:
            prediction.give_up()
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]
        return outcomes[0]

    def begin_prediction(
        self,
        inputs: tuple[TensorSpec, ...],
        body: bytes,
        timeout_s: float,
        told: Callable[[Predicted | Exception], None],
    ) -> Callable[[], None] | None:
        """As ``predict``, but needs no task: ``told`` is called later, once, and may not raise.

        What is returned takes the request back, if ``told`` was not called yet. None, with nothing done,
        for a request that does not go out in one piece. Raises as ``ask`` for what is refused at once.
        """
        head = encode_head(PredictHead(inputs, len(body), timeout_s))
        if self._channel is None or not self._channel.takes_at_once(head, body):
            return None
        prediction = _Prediction(self, len(body), timeout_s + _PATIENCE_MORE_S, told)
        self._channel.write(encode_frame(prediction.call.number, Kind.PREDICT, head, body))
        return prediction.give_up

    async def status(self) -> ModelStatus:
        """Raises as ``ask``."""
        with _Use(self, Kind.STATUS, 0) as use:
            call = use.call
            call.channel.write(encode_frame(call.number, Kind.STATUS))
            return decode_head(_STATUS, await call.head(_STATUS_PATIENCE_S))

    def enter(self, kind: Kind, body_bytes: int, changed: Callable[[], None] | None = None) -> Call:
        """Raises WorkerFailedError."""
        if self._channel is None:
            raise WorkerFailedError("busy", "the model is being started: try again soon")
        if self._in_flight >= self.limits.in_flight:
            text = f"{self._in_flight} requests are under way, limit {self.limits.in_flight}"
            raise WorkerFailedError("busy", text)
        self.count(body_bytes)
        self._in_flight += 1
        return self._channel.open(kind, changed)

    def count(self, body_bytes: int) -> None:
        """Raises WorkerFailedError where that is too much, alone or with those under way."""
        limits = self.limits
        if body_bytes > limits.body_bytes:
            raise WorkerFailedError("too_large", f"body of {body_bytes} bytes, limit {limits.body_bytes}")
        if self._bodies_bytes + body_bytes > limits.bodies_bytes:
            raise WorkerFailedError("busy", f"bodies of {limits.bodies_bytes} bytes are under way already")
        self._bodies_bytes += body_bytes

    def leave(self, bodies_bytes: int) -> None:
        self._in_flight -= 1
        self._bodies_bytes -= bodies_bytes


class _Use:
    """One request's place among all. No generator: this is on the path of every prediction."""

    __slots__ = ("_bodies_bytes", "_calls", "call")

    def __init__(self, calls: ModelCalls, kind: Kind, body_bytes: int) -> None:
        self.call = calls.enter(kind, body_bytes)
        self._calls = calls
        self._bodies_bytes = body_bytes

    def __enter__(self) -> _Use:
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.leave(self._bodies_bytes)
        self.call.channel.close(self.call)


class _Prediction:
    """One prediction, whose answer is gathered as it comes, by whoever reads the channel."""

    __slots__ = ("_bodies_bytes", "_calls", "_found", "_parts", "_received", "_told", "call", "deadline")

    def __init__(
        self,
        calls: ModelCalls,
        body_bytes: int,
        patience_s: float,
        told: Callable[[Predicted | Exception], None],
    ) -> None:
        """Raises WorkerFailedError."""
        self.call = calls.enter(Kind.PREDICT, body_bytes, self._gather)
        self.deadline = trio.current_time() + patience_s
        self._calls = calls
        self._bodies_bytes = body_bytes
        self._told: Callable[[Predicted | Exception], None] | None = told
        self._found: PredictedHead | None = None
        self._parts: list[bytes] = []
        self._received = 0
        self.call.channel.deadlines.add(self)

    def give_up(self) -> None:
        """Nobody is told any more; the worker hears of it."""
        if self._told is not None:
            self._told = None
            self._calls.leave(self._bodies_bytes)
            self.call.channel.deadlines.discard(self)
            self.call.channel.close(self.call)

    def expire(self) -> None:
        self._end(DeadlineError("the model's worker has not answered within its time"))

    def _end(self, outcome: Predicted | Exception) -> None:
        told = self._told
        self.give_up()
        if told is not None:
            told(outcome)

    def _gather(self) -> None:
        """Called at each change of the call."""
        try:
            predicted = self._whole()
        except WorkerError as error:
            self._end(error)
        else:
            if predicted is not None:
                self._end(predicted)

    def _whole(self) -> Predicted | None:
        """None while there is more to come. Raises WorkerError."""
        call, found = self.call, self._found
        if call.failure is not None:
            raise call.failure
        if found is None:
            found = self._found = decode_head(_PREDICTED, call.begun)
            self._calls.count(found.body_bytes)
            self._bodies_bytes += found.body_bytes
        if part := call.take_parts():
            self._parts.append(part)
            self._received += len(part)
        if self._received > found.body_bytes or (call.is_ended and self._received < found.body_bytes):
            raise WorkerError(f"answer of {self._received} bytes, announced {found.body_bytes}")
        if not call.is_ended:
            return None
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        return Predicted(found.outputs, body, found.duration_s)
