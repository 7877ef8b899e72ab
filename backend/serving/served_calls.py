"""The worker's end of a channel of requests: each becomes a direct call of the application, or a prediction.

On the event loop of the server, so that a request of the channel and one over HTTP are batched together.
No HTTP is parsed. A reader who stalls holds up its own answer and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any

from backend.errors import BackendError, InputError, WorkerError
from backend.formats.tensors import Array
from backend.runtime.base import Runtime
from backend.serving.app import Application
from backend.serving.asked import ANSWERED_FIELDS, passed_on
from backend.serving.call_frames import (
    MAX_IN_FLIGHT,
    PART_BYTES,
    WINDOW_BYTES,
    AnswerHead,
    AskHead,
    CallFrame,
    CallFrames,
    FailedHead,
    Kind,
    ModelStatus,
    PredictedHead,
    PredictHead,
    decode_count,
    decode_head,
    encode_frame,
    encode_head,
    head_decoder,
)
from backend.serving.failures import failure
from backend.serving.host import ModelHost, Resident
from backend.serving.http import HttpError
from backend.serving.messages import TensorSpec
from backend.serving.predict_api import abilities
from backend.serving.remote_paths import why_refused
from backend.serving.tensor_body import pack_body, unpack_body
from backend.serving.tensors_in import all_fitted

_ASK = head_decoder(AskHead)
_PREDICT = head_decoder(PredictHead)
_HOST_HEADER = (b"host", b"localhost")


class _GoneError(Exception):
    """Nobody waits for the answer any more."""


class _Request:
    """One of the channel's, from its first frame to the end of its answer."""

    def __init__(self, number: int, head: AskHead | PredictHead, transport: asyncio.Transport) -> None:
        self.number = number
        self.head = head
        self.parts: list[bytes] = []
        self.received = 0
        self.has_begun = False
        self._transport = transport
        self._window = WINDOW_BYTES
        self._changed: asyncio.Future[None] | None = None
        self._gone = False

    @property
    def body(self) -> bytes:
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    def take(self, data: bytes) -> None:
        """Raises WorkerError for more than was announced."""
        self.received += len(data)
        if self.received > self.head.body_bytes:
            raise WorkerError(f"body of {self.received} bytes, announced {self.head.body_bytes}")
        self.parts.append(data)

    def widen(self, count: int) -> None:
        self._window += count
        self._wake()

    def leave(self) -> None:
        self._gone = True
        self._wake()

    async def gone(self) -> None:
        while not self._gone:
            await self._change()

    def write_now(self, kind: Kind, head: bytes, data: bytes) -> bool:
        """A whole answer in one frame; False where it needs parts. Nothing for somebody who has left."""
        if len(data) > min(self._window, PART_BYTES):
            return False
        if not self._gone:
            self._transport.write(encode_frame(self.number, kind, head, data))
        return True

    async def write(self, kind: Kind, head: bytes, data: bytes | memoryview, *, is_last: bool) -> None:
        """In parts, each once there is room in the window for it. Raises _GoneError."""
        view = memoryview(data)
        while True:
            part = view[:PART_BYTES]
            while not self._gone and len(part) > self._window:
                await self._change()
            if self._gone:
                raise _GoneError
            view = view[len(part) :]
            self._window -= len(part)
            ends = is_last and not len(view)
            self._transport.write(encode_frame(self.number, kind, head, part, is_last=ends))
            if not len(view):
                return
            kind, head = Kind.PART, b""

    def fail(self, code: str, text: str) -> None:
        if not self._gone:
            head = encode_head(FailedHead(code[:64], text[:4096]))
            self._transport.write(encode_frame(self.number, Kind.FAILED, head))

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set_result(None)


class ServedCalls(asyncio.Protocol):
    """A channel. Belongs to one event loop; ends the process's work when the other end is closed."""

    def __init__(self, app: Application, host: ModelHost, *, is_alone: bool = False) -> None:
        """``is_alone``: requests come by no other way, so that what one read brings is a whole turn's."""
        self._app = app
        self._is_alone = is_alone
        self._host = host
        self._frames = CallFrames()
        self._requests: dict[int, _Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._idle: asyncio.Future[None] | None = None
        self._is_closing = False

    @property
    def in_flight(self) -> int:
        return len(self._requests)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport  # of uvloop too, which knows no asyncio.Transport

    def connection_lost(self, error: Exception | None) -> None:
        for request in self._requests.values():
            request.leave()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.receive(data):
                self._obey(frame)
            if self._is_alone:
                self._host.hurry()
        except WorkerError:
            # Our own supervisor said what it never says: nothing of it can be trusted any more.
            assert self._transport is not None
            self._transport.abort()

    async def drain(self, grace_s: float) -> int:
        """Takes no more requests; those that are unanswered after the grace period are counted."""
        self._is_closing = True
        if self._requests:
            self._idle = self._loop.create_future()
            await asyncio.wait((self._idle,), timeout=grace_s)
        return len(self._requests)

    def _obey(self, frame: CallFrame) -> None:
        match frame.kind:
            case Kind.ASK:
                self._open(frame, decode_head(_ASK, frame.head))
            case Kind.PREDICT:
                self._open(frame, decode_head(_PREDICT, frame.head))
            case Kind.BODY:
                request = self._requests.get(frame.number)
                if request is not None and not request.has_begun:
                    request.take(frame.data)
                    self._begin_if_whole(request, frame.is_last)
            case Kind.TAKEN:
                if (request := self._requests.get(frame.number)) is not None:
                    request.widen(decode_count(frame.head))
            case Kind.CANCEL:
                if (request := self._requests.get(frame.number)) is not None:
                    request.leave()
                    if not request.has_begun:
                        self._forget(request)
            case Kind.STATUS:
                assert self._transport is not None
                head = encode_head(model_status(self._host))
                self._transport.write(encode_frame(frame.number, Kind.BEGIN, head))
            case _:
                raise WorkerError(f"frame of kind {frame.kind.name}")

    def _open(self, frame: CallFrame, head: AskHead | PredictHead) -> None:
        if frame.number in self._requests:
            raise WorkerError(f"request {frame.number} twice")
        assert self._transport is not None
        request = _Request(frame.number, head, self._transport)
        limit = self._host.limits.body_bytes
        if self._is_closing:
            request.fail("busy", "the model is being stopped")
        elif len(self._requests) >= MAX_IN_FLIGHT:
            request.fail("busy", f"{len(self._requests)} requests are under way, limit {MAX_IN_FLIGHT}")
        elif head.body_bytes > limit:
            request.fail("too_large", f"body of {head.body_bytes} bytes, limit {limit}")
        else:
            self._requests[frame.number] = request
            request.take(frame.data)
            self._begin_if_whole(request, frame.is_last)

    def _begin_if_whole(self, request: _Request, is_last: bool) -> None:
        if is_last:
            request.has_begun = True
            head = request.head
            if isinstance(head, AskHead):
                self._start(request, self._ask(request, head))
            elif not self._predicts_at_once(request, head):
                self._start(request, self._predict(request, head))

    def _start(self, request: _Request, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(self._answer(request, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: _Request, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            _refuse(request, error)
        finally:
            self._forget(request)

    def _forget(self, request: _Request) -> None:
        self._requests.pop(request.number, None)
        if self._idle is not None and not self._requests and not self._idle.done():
            self._idle.set_result(None)

    async def _ask(self, request: _Request, head: AskHead) -> None:
        refused = why_refused(head.method, head.path)
        if refused is not None:
            raise HttpError(403, "refused", refused)
        headers = [_HOST_HEADER, *head.headers]
        if head.content_type:
            headers.append((b"content-type", head.content_type.encode()))
        scope = {"type": "http", "method": head.method, "path": head.path, "headers": headers}
        exchange = _Exchange(request)
        await self._app(scope, exchange.receive, exchange.send)

    def _predicts_at_once(self, request: _Request, head: PredictHead) -> bool:
        """Begins without a task, which takes longer than a small model. False, with nothing done, else."""
        began_at = time.monotonic()

        def told(outcome: dict[str, Array] | HttpError) -> None:
            self._answer_at_once(request, outcome, began_at)

        try:
            make = _inputs_of(request, head)
            return self._host.submit(self._host.default, make, self._deadline(head, began_at), told)
        except Exception:
            return False  # what it was, the long way finds too

    def _answer_at_once(
        self, request: _Request, outcome: dict[str, Array] | HttpError, began_at: float
    ) -> None:
        """May not raise: the batcher calls it."""
        try:
            if isinstance(outcome, HttpError):
                _refuse(request, outcome)
            elif not self._write_at_once(request, *_predicted(outcome, began_at)):
                return
        except Exception as error:  # such as no memory for the answer
            _refuse(request, error)
        self._forget(request)

    def _write_at_once(self, request: _Request, head: bytes, body: bytes) -> bool:
        """False where a task has to go on with it."""
        if request.write_now(Kind.BEGIN, head, body):
            return True
        self._start(request, request.write(Kind.BEGIN, head, body, is_last=True))
        return False

    async def _predict(self, request: _Request, head: PredictHead) -> None:
        began_at = time.monotonic()
        make = _inputs_of(request, head)
        outputs = await self._host.predict(self._host.default, make, self._deadline(head, began_at))
        await request.write(Kind.BEGIN, *_predicted(outputs, began_at), is_last=True)

    def _deadline(self, head: PredictHead, began_at: float) -> float:
        return began_at + min(head.timeout_s, self._host.limits.timeout_s)


def _refuse(request: _Request, error: Exception) -> None:
    match error:
        case _GoneError():
            pass
        case HttpError(code=code, text=text):
            request.fail(code, text)
        case InputError():
            request.fail("invalid", str(error))
        case BackendError():
            request.fail("model", str(error))
        case _:
            refused = failure(error)
            request.fail(refused.code, refused.text)


def _inputs_of(request: _Request, head: PredictHead) -> Callable[[Resident], dict[str, Array]]:
    """For whichever model is there by then. Raises InputError, as what it returns does."""
    arrays = unpack_body(head.inputs, request.body)
    return lambda resident: all_fitted(_named(arrays, resident.runtime), resident.runtime.inputs)


def _predicted(outputs: dict[str, Array], began_at: float) -> tuple[bytes, bytes]:
    """The head of the answer, and its body."""
    specs, body = pack_body(outputs)
    return encode_head(PredictedHead(specs, len(body), time.monotonic() - began_at)), body


def _named(arrays: dict[str, Array], runtime: Runtime) -> dict[str, Array]:
    if arrays.keys() == {""} and len(runtime.inputs) == 1:
        return {runtime.inputs[0].name: arrays[""]}
    return arrays


class _Exchange:
    """One request as the application sees it."""

    def __init__(self, request: _Request) -> None:
        self._request = request
        self._is_read = False
        self._head: bytes | None = None

    async def receive(self) -> MutableMapping[str, Any]:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self._request.gone()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = tuple(message["headers"])
            content_type = dict(headers).get(b"content-type", b"").decode("latin-1")
            answer = AnswerHead(message["status"], content_type, passed_on(headers, ANSWERED_FIELDS))
            self._head = encode_head(answer)  # leaves with the first part of the body
            return
        kind, head = (Kind.PART, b"") if self._head is None else (Kind.BEGIN, self._head)
        self._head = None
        await self._request.write(
            kind, head, message.get("body", b""), is_last=not message.get("more_body", False)
        )


def model_status(host: ModelHost) -> ModelStatus:
    """Of the first model."""
    reading = next(each for each in host.readings() if each.name == host.default)
    resident = host.resident(host.default)
    facts = None if resident is None else resident.runtime.facts
    seconds = reading.stats.percentiles_s()
    total = reading.stats.requests.total()
    inputs: tuple[TensorSpec, ...] = () if resident is None else resident.runtime.inputs
    outputs: tuple[TensorSpec, ...] = () if resident is None else resident.runtime.outputs
    return ModelStatus(
        name=reading.name[:128],
        format="" if facts is None else facts.format,
        runtime="" if facts is None else facts.runtime[:128],
        devices=() if facts is None else facts.devices[:16],
        abilities=() if resident is None else tuple(abilities(resident)),  # type: ignore[arg-type]
        inputs=inputs,
        outputs=outputs,
        context_tokens=None if facts is None else facts.context_tokens,
        size_bytes=reading.size_bytes,
        requests=total,
        failed=total - reading.stats.requests["ok"] - reading.stats.requests["left"],
        in_flight=reading.in_flight,
        queue_depth=reading.queue_depth,
        p50_ms=1000 * seconds.get("p50", 0.0),
        p95_ms=1000 * seconds.get("p95", 0.0),
        tokens_per_s=reading.tokens_per_s,
    )
