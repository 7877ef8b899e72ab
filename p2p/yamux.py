"""Yamux 1.0: many streams over one secured connection, after hashicorp/yamux's spec.md.

Speaks to any other Yamux. Cancelling any call leaves the connection whole: frames enter the
queue of the one writing task in one step or not at all. A reader may stall for as long as it
likes; its writer waits. A reset and a clean end are told apart. Knows nothing of peers.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from p2p.errors import P2PError, RemoteProtocolError, StreamResetError

HEADER = struct.Struct(">BBHII")
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
INITIAL_WINDOW_BYTES = 256 * 1024

_MAX_FRAME_BYTES = 256 * 1024
_MAX_BATCH_BYTES = 512 * 1024
_MAX_OUTGOING_BYTES = 1024 * 1024
_MAX_CONTROL_FRAMES = 4096
_FLUSH_TIMEOUT_S = 2.0
_FAREWELL_TIMEOUT_S = 0.5
_DRAIN_S = 1.0

log = structlog.get_logger(__name__)


class Transport(Protocol):
    """The secured connection underneath."""

    async def receive(self) -> Sequence[bytes]:
        """At least one piece, or none after the end. Raises StreamResetError."""

    async def send(self, data: bytes) -> None:
        """Raises StreamResetError."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class YamuxLimits:
    """What one connection may cost this side."""

    incoming_streams: int = 1024
    max_window_bytes: int = 4 * 1024 * 1024
    unread_bytes: int = 64 * 1024 * 1024
    """Over all streams; the stream that goes beyond is reset."""
    keep_alive_s: float = 5.0
    """Silence after which the other side is asked for a sign of life."""
    keep_alive_timeout_s: float = 10.0


class YamuxSession:
    """One connection. ``run`` does the work; ``on_stream`` is told of each incoming stream."""

    def __init__(
        self,
        transport: Transport,
        *,
        is_initiator: bool,
        on_stream: Callable[[YamuxStream], None],
        limits: YamuxLimits = YamuxLimits(),
    ) -> None:
        self.limits = limits
        self.lost: str | None = None
        """Why the connection ended; None while it lives."""
        self._transport = transport
        self._is_initiator = is_initiator
        self._next_id = 1 if is_initiator else 2
        self._on_stream = on_stream
        self._streams: dict[int, YamuxStream] = {}
        self._incoming = 0
        self._unread_bytes = 0
        self._queue: deque[bytes | memoryview] = deque()
        self._control: deque[bytes] = deque()
        self._outgoing_bytes = 0
        self._writing = False
        self._work = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._flushed = trio.lowlevel.ParkingLot()
        self._ended = trio.Event()
        self._gone_away = False
        self._partial_header = b""
        self._body_stream: YamuxStream | None = None
        self._body_bytes = self._body_flags = 0
        self._last_received = 0.0
        self._scope = trio.CancelScope()

    def open_stream(self) -> YamuxStream:
        """Raises StreamResetError after the loss of the connection."""
        self._check_alive()
        stream = YamuxStream(self, self._next_id, incoming=False)
        self._next_id += 2
        self._streams[stream.id] = stream
        self._put(HEADER.pack(0, WINDOW, SYN, stream.id, 0))
        return stream

    async def run(self) -> None:
        """Until the connection ends, whichever side ends it; raises nothing but Cancelled."""
        self._last_received = trio.current_time()
        reason = "closed"
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_frames)
                    nursery.start_soon(self._keep_alive)
                    await self._read_frames()
                    nursery.cancel_scope.cancel()
                reason = "the other side closed the connection"
        except* P2PError as error:
            reason = str(error.exceptions[0])
        except* Exception as error:  # the boundary of the connection's task
            log.error("connection failed", exc_info=error)
            reason = f"failed: {error.exceptions[0]!r}"
        finally:
            self._end(reason)
            with trio.CancelScope(deadline=trio.current_time() + _FLUSH_TIMEOUT_S, shield=True):
                await self._transport.close()

    async def close(self) -> None:
        """Sends what is queued, within limits of time, and ends the connection."""
        try:
            if self.lost is None:
                self._put(HEADER.pack(0, GO_AWAY, 0, 0, 0))
                with trio.move_on_after(_FLUSH_TIMEOUT_S):
                    while self.lost is None and (self._queue or self._control or self._writing):
                        await self._flushed.park()
                # Closing first would make TCP drop what the other side has not read yet.
                with trio.move_on_after(_FAREWELL_TIMEOUT_S):
                    await self._ended.wait()
        finally:
            self._end("closed")

    def abandon(self, reason: str) -> None:
        """Ends the connection at once, without a farewell."""
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self.lost is None:
            self.lost = reason
            for stream in tuple(self._streams.values()):
                stream._reset_by(f"connection lost: {reason}")
            self._streams.clear()
            self._room.unpark_all()
            self._flushed.unpark_all()
            self._ended.set()
        self._scope.cancel()

    def _check_alive(self) -> None:
        if self.lost is not None:
            raise StreamResetError(f"connection lost: {self.lost}")

    # -- writing -----------------------------------------------------------------------------

    def _put(self, header: bytes, body: memoryview | None = None) -> None:
        """Queues one frame; headers and bodies are never separated."""
        self._queue.append(header)
        self._outgoing_bytes += len(header)
        if body is not None:
            self._queue.append(body)
            self._outgoing_bytes += len(body)
        self._work.unpark()

    def _put_control(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Queues a frame that may overtake data."""
        if self.lost is None:
            self._control.append(HEADER.pack(0, kind, flags, stream_id, value))
            self._work.unpark()

    async def _wait_for_room(self) -> None:
        while self._outgoing_bytes >= _MAX_OUTGOING_BYTES and self.lost is None:
            await self._room.park()
        self._check_alive()

    async def _write_frames(self) -> None:
        while True:
            if not (self._queue or self._control):
                self._flushed.unpark_all()
                await self._work.park()
                continue
            self._writing = True
            try:
                await self._transport.send(self._take_batch())
            except StreamResetError:
                await trio.sleep(_DRAIN_S)  # what the other side sent before it went is still read
                raise
            self._writing = False

    def _take_batch(self) -> bytes:
        pieces: list[bytes | memoryview] = list(self._control)
        self._control.clear()
        size = 0
        while self._queue and size < _MAX_BATCH_BYTES:
            piece = self._queue.popleft()
            pieces.append(piece)
            size += len(piece)
        # A header that waits for its body would let a control frame slip between the two.
        if pieces and self._queue and isinstance(self._queue[0], memoryview):
            pieces.append(self._queue.popleft())
            size += len(pieces[-1])
        self._outgoing_bytes -= size
        if self._outgoing_bytes < _MAX_OUTGOING_BYTES:
            self._room.unpark_all()
        return b"".join(pieces)

    async def _keep_alive(self) -> None:
        silence_s, patience_s = self.limits.keep_alive_s, self.limits.keep_alive_timeout_s
        while True:
            await trio.sleep(silence_s)
            if trio.current_time() - self._last_received < silence_s:
                continue
            asked_at = trio.current_time()
            self._put_control(PING, SYN, 0, 0)
            await trio.sleep(patience_s)
            waited_s = trio.current_time() - asked_at
            # When this very process was held up, the answer may wait unread: ask again.
            if self._last_received < asked_at and waited_s < 1.5 * patience_s:
                raise StreamResetError(
                    f"no sign of life for {trio.current_time() - self._last_received:.1f} s"
                )

    # -- reading -----------------------------------------------------------------------------

    async def _read_frames(self) -> None:
        """Returns when the other side closes the connection or says that it will."""
        while not self._gone_away and (pieces := await self._transport.receive()):
            self._last_received = trio.current_time()
            for piece in pieces:
                self._take_bytes(self._partial_header + piece if self._partial_header else piece)

    def _take_bytes(self, data: bytes) -> None:
        """Frames and parts of frames, cut anywhere; bodies are not copied."""
        self._partial_header = b""
        view, at, size = memoryview(data), 0, len(data)
        while at < size and not self._gone_away:
            if self._body_bytes:
                taken = min(self._body_bytes, size - at)
                self._take_body(view[at : at + taken])
                at += taken
            elif size - at < HEADER.size:
                self._partial_header = data[at:]
                return
            else:
                self._take_header(*HEADER.unpack_from(data, at))
                at += HEADER.size

    def _take_header(self, version: int, kind: int, flags: int, stream_id: int, value: int) -> None:
        if version != 0 or kind > GO_AWAY:
            raise RemoteProtocolError(f"yamux frame of version {version} and type {kind}")
        if kind == DATA:
            self._body_stream = self._data_announced(stream_id, flags, value)
            self._body_bytes, self._body_flags = value, flags
        elif kind == GO_AWAY:
            self._gone_away = True
        else:
            self._take_control(kind, flags, stream_id, value)

    def _data_announced(self, stream_id: int, flags: int, size: int) -> YamuxStream | None:
        """The stream that the body belongs to, or None where it is to be dropped."""
        stream = self._stream_of(stream_id, flags)
        if stream is None:
            if size and not flags & RST:
                self._refuse(stream_id)
            return None
        if size > stream._receive_window:
            raise RemoteProtocolError(f"yamux data of {size} bytes, window {stream._receive_window}")
        stream._receive_window -= size
        if not size:
            self._take_flags(stream, flags)
        return stream

    def _take_body(self, part: memoryview) -> None:
        self._body_bytes -= len(part)
        stream = self._body_stream
        if stream is None:
            return
        if stream._reset_reason is None:
            if self._unread_bytes + len(part) > self.limits.unread_bytes:
                self._refuse(stream.id)
                stream._reset_by(f"over {self.limits.unread_bytes} unread bytes on one connection")
            else:
                stream._take_body(part)
        if not self._body_bytes:
            self._take_flags(stream, self._body_flags)

    def _take_control(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        if kind == PING:
            if flags & SYN:
                self._check_reading()
                self._put_control(PING, ACK, 0, value)
            return
        stream = self._stream_of(stream_id, flags)
        if stream is not None:
            stream._take_window(value)
            self._take_flags(stream, flags)

    def _take_flags(self, stream: YamuxStream, flags: int) -> None:
        if flags & FIN:
            stream._end_of_data()
        if flags & RST:
            stream._reset_by("reset by the other side")

    def _stream_of(self, stream_id: int, flags: int) -> YamuxStream | None:
        if not flags & SYN:
            return self._streams.get(stream_id)
        if stream_id in self._streams or stream_id == 0 or (stream_id % 2 == 1) == self._is_initiator:
            raise RemoteProtocolError(f"yamux stream {stream_id} opened twice or with our number")
        if self._incoming >= self.limits.incoming_streams:
            self._refuse(stream_id)
            return None
        self._check_reading()
        stream = YamuxStream(self, stream_id, incoming=True)
        self._streams[stream_id] = stream
        self._incoming += 1
        self._put_control(WINDOW, ACK, stream_id, 0)
        self._on_stream(stream)
        return stream

    def _refuse(self, stream_id: int) -> None:
        self._check_reading()
        self._put_reset(stream_id)

    def _put_reset(self, stream_id: int) -> None:
        # Among the data, not before it: it must overtake neither the frame that opened the
        # stream nor the bytes and the end that were sent on it.
        if self.lost is None:
            self._put(HEADER.pack(0, WINDOW, RST, stream_id, 0))

    def _check_reading(self) -> None:
        if len(self._control) > _MAX_CONTROL_FRAMES or self._outgoing_bytes > 2 * _MAX_OUTGOING_BYTES:
            raise RemoteProtocolError("the other side goes on asking and does not read the answers")

    def _forget(self, stream: YamuxStream) -> None:
        if self._streams.pop(stream.id, None) is not None and stream._incoming:
            self._incoming -= 1


class YamuxStream:
    """One stream; the calls are those of ``p2p.network.Stream``."""

    def __init__(self, session: YamuxSession, stream_id: int, *, incoming: bool) -> None:
        self.id = stream_id
        self._session = session
        self._incoming = incoming
        self._chunks: deque[memoryview] = deque()
        self._send_window = INITIAL_WINDOW_BYTES
        self._receive_window = INITIAL_WINDOW_BYTES
        self._window_bytes = INITIAL_WINDOW_BYTES
        self._consumed = 0
        self._sent_end = self._received_end = False
        self._reset_reason: str | None = None
        self._readable = trio.lowlevel.ParkingLot()
        self._sendable = trio.lowlevel.ParkingLot()

    async def send_all(self, data: bytes) -> None:
        """Returns when all of it is queued, at most a window and a queue ahead of the reader."""
        await trio.lowlevel.checkpoint()
        view = memoryview(bytes(data))
        while True:
            self._check_sendable()
            if not view:
                return
            if not self._send_window:
                await self._sendable.park()
                continue
            if self._session._outgoing_bytes >= _MAX_OUTGOING_BYTES:
                await self._session._wait_for_room()
                continue
            size = min(len(view), self._send_window, _MAX_FRAME_BYTES)
            self._send_window -= size
            self._session._put(HEADER.pack(0, DATA, 0, self.id, size), view[:size])
            view = view[size:]

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """Raises StreamResetError when cut off, even if unread bytes were left."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._chunks:
            if self._received_end:
                return b""
            if self._reset_reason is not None:
                raise StreamResetError(self._reset_reason)
            await self._readable.park()
        data = self._pop(max_bytes)
        self._session._unread_bytes -= len(data)
        self._open_window(len(data))
        return data

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._end_sending()

    async def aclose(self) -> None:
        """Ends sending, and drops what is not read yet: its sender sees a reset."""
        self._end_sending()
        if self._reset_reason is None:
            self._reset_reason = "closed on this side"
            if self._chunks and not self._received_end:
                self._session._put_reset(self.id)  # a sender without window would wait for ever
        self._drop_unread()
        self._wake()
        self._session._forget(self)

    async def reset(self) -> None:
        self.refuse()

    def refuse(self) -> None:
        """``reset`` for callers that cannot await."""
        if self._reset_reason is None:
            self._session._put_reset(self.id)
        self._reset_by("reset on this side")

    def _end_sending(self) -> None:
        if self._sent_end or self._reset_reason is not None or self._session.lost is not None:
            return
        self._sent_end = True
        self._session._put(HEADER.pack(0, WINDOW, FIN, self.id, 0))
        self._sendable.unpark_all()
        self._forget_when_over()

    def _check_sendable(self) -> None:
        if self._reset_reason is not None:
            raise StreamResetError(self._reset_reason)
        if self._sent_end:
            raise StreamResetError("this side has ended the stream")

    def _pop(self, max_bytes: int) -> bytes:
        first = self._chunks.popleft()
        if len(first) > max_bytes:
            self._chunks.appendleft(first[max_bytes:])
            return bytes(first[:max_bytes])
        if not self._chunks:
            return bytes(first)
        parts, room = [first], max_bytes - len(first)
        while self._chunks and len(self._chunks[0]) <= room:
            room -= len(self._chunks[0])
            parts.append(self._chunks.popleft())
        return b"".join(parts)

    def _open_window(self, size: int) -> None:
        """Lets the other side send on; a reader that keeps up is given a larger window."""
        self._consumed += size
        if self._consumed < self._window_bytes // 2 or self._received_end or self._reset_reason is not None:
            return
        larger = min(2 * self._window_bytes, self._session.limits.max_window_bytes)
        more = self._consumed + larger - self._window_bytes
        self._window_bytes = larger
        self._consumed = 0
        self._receive_window += more
        self._session._put_control(WINDOW, 0, self.id, more)

    def _take_body(self, body: memoryview) -> None:
        self._chunks.append(body)
        self._session._unread_bytes += len(body)
        self._readable.unpark_all()

    def _take_window(self, size: int) -> None:
        self._send_window += size
        if size:
            self._sendable.unpark_all()

    def _end_of_data(self) -> None:
        self._received_end = True
        self._readable.unpark_all()
        self._forget_when_over()

    def _reset_by(self, reason: str) -> None:
        """What arrived whole, with its end, stays readable; anything less is dropped."""
        if self._reset_reason is None:
            self._reset_reason = reason
            if not self._received_end:
                self._drop_unread()
        self._wake()
        self._session._forget(self)

    def _drop_unread(self) -> None:
        self._session._unread_bytes -= sum(map(len, self._chunks))
        self._chunks.clear()

    def _forget_when_over(self) -> None:
        if self._sent_end and self._received_end:
            self._session._forget(self)

    def _wake(self) -> None:
        self._readable.unpark_all()
        self._sendable.unpark_all()
