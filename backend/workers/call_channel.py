"""The channel to a model's worker: frames out and in, and what has come of each request.

Small frames leave at once, without a task in between. What a worker sends is checked as if it came from
another machine.
"""

from __future__ import annotations

import itertools
import math
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from backend.errors import DeadlineError, WorkerDiedError, WorkerError, WorkerFailedError
from backend.serving.call_frames import (
    MAX_HEAD_BYTES,
    PART_BYTES,
    WINDOW_BYTES,
    CallFrame,
    CallFrames,
    FailedHead,
    Kind,
    decode_head,
    encode_frame,
    encode_head,
    encode_whole,
    head_decoder,
)

_READ_BYTES = 256 << 10
_UNSENT_BYTES = 1 << 20
"""Beyond it the next part of a body waits, and small requests go first."""
_TAKEN_BYTES = WINDOW_BYTES // 4
_FAILED = head_decoder(FailedHead)


class Timed(Protocol):
    """What has to be over by its deadline."""

    @property
    def deadline(self) -> float: ...

    def expire(self) -> None: ...


class Deadlines:
    """Of the predictions of one worker: one task watches over all, so that none costs a timer."""

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._watched: set[Timed] = set()

    def add(self, prediction: Timed) -> None:
        self._watched.add(prediction)
        if prediction.deadline < self._scope.deadline:
            self._scope.deadline = prediction.deadline

    def discard(self, prediction: Timed) -> None:
        self._watched.discard(prediction)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            with self._scope:
                await trio.sleep_forever()
            self._scope = trio.CancelScope()
            now_s = trio.current_time()
            for prediction in tuple(self._watched):
                if prediction.deadline <= now_s:
                    prediction.expire()
            self._scope.deadline = min((each.deadline for each in self._watched), default=math.inf)


class Call:
    """One request, from this side."""

    __slots__ = (
        "_changed",
        "_event",
        "_head",
        "_is_ended",
        "_kind",
        "_parts",
        "_taken",
        "_unread",
        "channel",
        "failure",
        "number",
    )

    def __init__(
        self, channel: CallChannel, number: int, kind: Kind, changed: Callable[[], None] | None
    ) -> None:
        """``changed``: called after each frame and failure, in place of waking a task."""
        self.channel = channel
        self.number = number
        self.failure: WorkerError | None = None
        self._kind = kind
        self._head: bytes | None = None
        self._parts: list[bytes] = []
        self._unread = 0
        self._taken = 0
        self._is_ended = False
        self._changed = self._wake if changed is None else changed
        self._event: trio.Event | None = None

    @property
    def is_ended(self) -> bool:
        return self._is_ended

    @property
    def is_over(self) -> bool:
        return self._is_ended and self.failure is None and not self._parts

    async def send(self, head: bytes, body: bytes, patience_s: float) -> None:
        """Raises WorkerFailedError for a head that is too long, DeadlineError."""
        if len(head) > MAX_HEAD_BYTES:
            raise WorkerFailedError("too_large", f"head of {len(head)} bytes, limit {MAX_HEAD_BYTES}")
        for frame in encode_whole(self.number, self._kind, head, body):
            if not self.channel.has_room:
                with trio.move_on_after(patience_s) as scope:
                    await self.channel.wait_for_room()
                if scope.cancelled_caught:
                    raise _silent(patience_s)
            if self._is_ended:  # refused before it was whole
                return
            self.channel.write(frame)

    async def head(self, patience_s: float) -> bytes:
        """Of the answer. Raises WorkerFailedError, WorkerDiedError, DeadlineError."""
        while self._head is None:
            await self._change(patience_s)
        return self._head

    @property
    def begun(self) -> bytes:
        """The head of an answer that has begun."""
        return self._head or b""

    async def next_part(self, patience_s: float) -> bytes | None:
        """All that is here, or the next that comes; None after the last one. Raises as ``head``."""
        while not self._parts:
            if self.is_over:
                return None
            await self._change(patience_s)
        return self.take_parts()

    def take_parts(self) -> bytes:
        """All that is here; the worker may send so much more."""
        part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._unread = 0
        self._taken += len(part)
        if self._taken >= _TAKEN_BYTES and not self._is_ended:
            self.channel.write(encode_frame(self.number, Kind.TAKEN, encode_head(self._taken)))
            self._taken = 0
        return part

    def take(self, frame: CallFrame) -> None:
        """Raises WorkerError for what the worker may not send."""
        if self._is_ended:
            raise WorkerError(f"frame {frame.kind.name} after the end of an answer")
        match frame.kind:
            case Kind.BEGIN if self._head is None:
                self._head = frame.head
            case Kind.PART if self._head is not None:
                pass
            case Kind.FAILED:
                failed = decode_head(_FAILED, frame.head)
                self.fail(WorkerFailedError(failed.code, failed.text))
                return
            case kind:
                raise WorkerError(f"frame {kind.name} in this place")
        if frame.data:
            self._parts.append(frame.data)
            self._unread += len(frame.data)
            if self._unread > WINDOW_BYTES:
                raise WorkerError(f"{self._unread} bytes sent beyond a window of {WINDOW_BYTES}")
        self._is_ended = frame.is_last
        self._changed()

    def fail(self, error: WorkerError) -> None:
        if not self._is_ended:
            self.failure = error
            self._is_ended = True
            self._changed()

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()
            self._event = None

    async def _change(self, patience_s: float) -> None:
        if self.failure is not None:
            raise self.failure
        if self._event is None:
            self._event = trio.Event()
        with trio.move_on_after(patience_s) as scope:
            await self._event.wait()
        if scope.cancelled_caught:
            raise _silent(patience_s)
        if self.failure is not None:
            raise self.failure


def _silent(seconds: float) -> DeadlineError:
    return DeadlineError(f"the model's worker said nothing for {seconds:g} s")


class CallChannel:
    """The requests to one worker. Small frames leave at once, without a task in between."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._frames = CallFrames()
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._unsent: deque[bytes | memoryview] = deque()
        self._unsent_bytes = 0
        self._more = trio.Event()
        self._waiting = trio.lowlevel.ParkingLot()
        self._is_lost = False
        self.deadlines = Deadlines()

    @property
    def has_room(self) -> bool:
        return self._unsent_bytes < _UNSENT_BYTES

    def takes_at_once(self, head: bytes, body: bytes) -> bool:
        """A request that is one frame."""
        return len(head) <= MAX_HEAD_BYTES and len(body) <= PART_BYTES and self.has_room

    async def wait_for_room(self) -> None:
        while not self.has_room and not self._is_lost:
            await self._waiting.park()

    def open(self, kind: Kind, changed: Callable[[], None] | None = None) -> Call:
        number = next(self._numbers) & 0xFFFFFFFF
        call = self._calls[number] = Call(self, number, kind, changed)
        if self._is_lost:
            call.fail(WorkerDiedError("the model's worker has ended"))
        return call

    def close(self, call: Call) -> None:
        self._calls.pop(call.number, None)
        if not call.is_ended:
            self.write(encode_frame(call.number, Kind.CANCEL))

    def write(self, frame: bytes) -> None:
        if self._is_lost:
            return
        rest: bytes | memoryview = frame
        if not self._unsent:
            try:
                sent = self._end.send(frame)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the reader sees the end too
            if sent == len(frame):
                return
            rest = memoryview(frame)[sent:]
        self._unsent.append(rest)
        self._unsent_bytes += len(rest)
        self._more.set()

    async def run(self) -> None:
        """Until the worker's end is closed. Raises WorkerError."""
        failure: WorkerError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_rest)
            nursery.start_soon(self.deadlines.run)
            try:
                await self._read()
            except WorkerError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def end(self) -> None:
        self._is_lost = True
        self._waiting.unpark_all()
        for call in tuple(self._calls.values()):
            call.fail(WorkerDiedError("the model's worker ended before its answer was whole"))

    async def _read(self) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(self._end.fileno())
                data = self._end.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                return
            if not data:
                return
            for frame in self._frames.receive(data):
                call = self._calls.get(frame.number)
                if call is not None:  # else its caller has left
                    call.take(frame)

    async def _write_rest(self) -> None:
        while True:
            await self._more.wait()
            while self._unsent:
                try:
                    await trio.lowlevel.wait_writable(self._end.fileno())
                    self._sent(self._end.send(self._unsent[0]))
                except BlockingIOError:
                    continue
                except (OSError, trio.ClosedResourceError):
                    return
            self._more = trio.Event()

    def _sent(self, count: int) -> None:
        first = self._unsent.popleft()
        if count < len(first):
            self._unsent.appendleft(memoryview(first)[count:])
        self._unsent_bytes -= count
        if self.has_room:
            self._waiting.unpark_all()
