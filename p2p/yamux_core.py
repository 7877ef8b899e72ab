"""Yamux 1.0 without IO, after hashicorp/yamux's spec.md: bytes in and events out, calls in and bytes out.

Every frame is checked before it changes anything: one that breaks the protocol ends the
connection, one that is only unwelcome costs its stream. What a hostile side can make this one
hold or send is bounded by ``YamuxLimits``, whatever it sends.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

from p2p.errors import LocalProtocolError, RemoteProtocolError, StreamResetError
from p2p.yamux_stream import INITIAL_WINDOW_BYTES, StreamState, Use, YamuxLimits

HEADER = struct.Struct(">BBHII")
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

MAX_BODY_BYTES = 4 * 65519
"""Of one frame: four full Noise records, which then hold nothing else."""

_MAX_U32 = 2**32 - 1
_ALL_FLAGS = SYN | ACK | FIN | RST
_GROWTH_S = 1.0
_AFTERMATH_FRAMES = 4
_SMALL_BODY_BYTES = 1024
_REMEMBERED_RESETS = 256
_GO_AWAY_REASONS = ("closed", "found a protocol error", "failed")


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """By the other side."""

    stream: StreamState


@dataclass(frozen=True, slots=True)
class StreamChanged:
    """There is something to read, an end, a reset, or room to send."""

    stream: StreamState


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """The other side has left, or broken the protocol; the last event."""

    reason: str


Event = StreamOpened | StreamChanged | ConnectionEnded


class YamuxCore:
    """One connection. ``now_s`` is any clock that does not go back."""

    def __init__(self, *, is_initiator: bool, limits: YamuxLimits, use: Use | None = None) -> None:
        """``use`` is what the other connections of the same peer count in too."""
        self.streams: dict[int, StreamState] = {}
        self.use = use if use is not None else Use()
        self.outgoing_bytes = 0
        self._limits = limits
        self._is_initiator = is_initiator
        self._next_id = 1 if is_initiator else 2
        self._queue: deque[tuple[bytes, memoryview | None]] = deque()
        self._control: deque[bytes] = deque()
        self._resets: deque[int] = deque(maxlen=_REMEMBERED_RESETS)
        self._credit = float(limits.idle_frames)
        self._credit_s = float("-inf")
        self._partial_header = b""
        self._body_stream: StreamState | None = None
        self._body_bytes = self._body_flags = 0
        self._ended = False
        self._events: list[Event] = []

    # -- bytes in, events out ----------------------------------------------------------------

    def receive(self, piece: bytes, now_s: float) -> list[Event]:
        """Frames and parts of frames, cut anywhere; bodies are not copied.

        Nothing after the end of the connection is looked at.
        """
        self._refill(now_s)
        events: list[Event] = []
        self._events = events
        if self._partial_header:
            piece, self._partial_header = self._partial_header + piece, b""
        try:
            self._take_frames(piece)
        except RemoteProtocolError as error:
            self._ended = True
            self.go_away(protocol_error=True)
            events.append(ConnectionEnded(str(error)))
        return events

    def _take_frames(self, piece: bytes) -> None:
        at, size = 0, len(piece)
        while at < size and not self._ended:
            if self._body_bytes:
                end = min(at + self._body_bytes, size)
                self._take_body(piece, at, end)
                at = end
            elif size - at < HEADER.size:
                self._partial_header = piece[at:]
                break
            else:
                self._take_header(*HEADER.unpack_from(piece, at))
                at += HEADER.size

    def _take_header(self, version: int, kind: int, flags: int, stream_id: int, value: int) -> None:
        if version != 0 or kind > GO_AWAY:
            raise RemoteProtocolError(
                f"yamux frame of version {version} and type {kind}, allowed 0 and 0 to 3"
            )
        if flags & ~_ALL_FLAGS:
            raise RemoteProtocolError(f"yamux frame with flags {flags:#x}, allowed {_ALL_FLAGS:#x}")
        if (stream_id == 0) != (kind >= PING):
            raise RemoteProtocolError(f"yamux frame of type {kind} for stream {stream_id}")
        if kind == DATA:
            self._take_data(flags, stream_id, value)
        elif kind == WINDOW:
            self._take_window(flags, stream_id, value)
        elif kind == PING:
            self._take_ping(flags, value)
        else:
            self._ended = True
            reason = _GO_AWAY_REASONS[value] if value < len(_GO_AWAY_REASONS) else f"left with code {value}"
            self._events.append(ConnectionEnded(f"the other side {reason}"))

    def _take_data(self, flags: int, stream_id: int, size: int) -> None:
        """Looks at everything but the body, which may be far away still."""
        stream = self._stream_of(stream_id, flags)
        if stream is None:
            self._take_stray(stream_id, flags, size)
        elif size > stream.receive_window:
            raise RemoteProtocolError(f"yamux data of {size} bytes, window {stream.receive_window}")
        elif size and stream.received_end:
            self._cut(stream, "data after the end of the stream")
        else:
            stream.receive_window -= size
            if not size and not flags & ~ACK:
                self._charge("empty frames")
        self._body_stream, self._body_bytes, self._body_flags = stream, size, flags
        if stream is not None and not size:
            self._take_flags(stream, flags)

    def _take_stray(self, stream_id: int, flags: int, size: int) -> None:
        """Data for a stream that is over: its sender is told, once."""
        if size < _SMALL_BODY_BYTES:
            self._charge("frames for no stream")
        if not flags & RST and stream_id not in self._resets:
            self._refuse(stream_id)

    def _take_body(self, piece: bytes, at: int, end: int) -> None:
        self._body_bytes -= end - at
        stream = self._body_stream
        if stream is None:
            return
        if stream.reset_reason is None:
            if reason := self.use.refusal(end - at, self._limits):
                self._cut(stream, reason)
            else:
                stream.append(piece, at, end)
                self.use.keep(end - at)
                self._changed(stream)
        if self._body_flags and not self._body_bytes:
            self._take_flags(stream, self._body_flags)

    def _take_window(self, flags: int, stream_id: int, more: int) -> None:
        stream = self._stream_of(stream_id, flags)
        if stream is None:
            if not flags & SYN:
                self._charge("frames for no stream")
            return
        if stream.send_window + more > _MAX_U32:
            raise RemoteProtocolError(
                f"yamux window of {stream.send_window + more} bytes, allowed {_MAX_U32}"
            )
        if not more and not flags & ~ACK:
            self._charge("empty frames")
        stream.send_window += more
        if more:
            self._changed(stream)
        self._take_flags(stream, flags)

    def _take_ping(self, flags: int, value: int) -> None:
        self._charge("pings")
        if flags & SYN:
            self._check_reading()
            self._put_control(PING, ACK, 0, value)

    def _take_flags(self, stream: StreamState, flags: int) -> None:
        if flags & FIN and stream.reset_reason is None:
            if stream.received_end:
                self._charge("ends of one stream")
            stream.received_end = True
            self._changed(stream)
            self._forget_when_over(stream)
        if flags & RST:
            self._charge("resets")
            self._reset_state(stream, "reset by the other side")
            self._changed(stream)

    def _stream_of(self, stream_id: int, flags: int) -> StreamState | None:
        if not flags & SYN:
            return self.streams.get(stream_id)
        if stream_id in self.streams or (stream_id % 2 == 1) == self._is_initiator:
            raise RemoteProtocolError(f"yamux stream {stream_id} opened twice or with our number")
        allowed = self._limits.incoming_streams
        if self.use.incoming_streams >= allowed or self.use.held_streams >= 2 * allowed:
            self._charge("streams over the limit")
            self._refuse(stream_id)
            return None
        self._check_reading()
        stream = self.streams[stream_id] = StreamState(stream_id, incoming=True)
        self.use.incoming_streams += 1
        self.use.held_streams += 1
        self._put_control(WINDOW, ACK, stream_id, 0)
        self._events.append(StreamOpened(stream))
        return stream

    def _changed(self, stream: StreamState) -> None:
        last = self._events[-1] if self._events else None
        if not isinstance(last, StreamChanged) or last.stream is not stream:
            self._events.append(StreamChanged(stream))

    # -- what frames that move nothing may cost ------------------------------------------------

    def _refill(self, now_s: float) -> None:
        if now_s > self._credit_s:
            gained = (now_s - self._credit_s) * self._limits.idle_frames_per_s
            self._credit = min(self._credit + gained, self._limits.idle_frames)
            self._credit_s = now_s

    def _charge(self, what: str) -> None:
        self._credit -= 1
        if self._credit < 0:
            raise RemoteProtocolError(f"too many {what}, allowed {self._limits.idle_frames_per_s:g} a second")

    def _check_reading(self) -> None:
        many = len(self._control) >= self._limits.control_frames
        if many or self.outgoing_bytes > 2 * self._limits.outgoing_bytes:
            raise RemoteProtocolError("the other side goes on asking and does not read the answers")

    # -- calls in, bytes out ------------------------------------------------------------------

    @property
    def has_outgoing(self) -> bool:
        return bool(self._queue or self._control)

    @property
    def is_full(self) -> bool:
        """Writers are to wait."""
        return self.outgoing_bytes >= self._limits.outgoing_bytes

    def outgoing(self, max_bytes: int) -> list[bytes | memoryview]:
        """The next frames to write: as many as fit, one at least; none where nothing is queued."""
        pieces: list[bytes | memoryview] = list(self._control)
        self._control.clear()
        size = 0
        while self._queue:
            header, body = self._queue[0]
            frame_bytes = len(header) + (len(body) if body is not None else 0)
            if pieces and size + frame_bytes > max_bytes:
                break
            self._queue.popleft()
            pieces.append(header)
            if body is not None:
                pieces.append(body)
            size += frame_bytes
        self.outgoing_bytes -= size
        return pieces

    def open_stream(self) -> StreamState:
        """Raises LocalProtocolError when a connection's two thousand million numbers are used up."""
        if self._next_id > _MAX_U32:
            raise LocalProtocolError("all stream numbers of the connection are used up")
        stream = self.streams[self._next_id] = StreamState(self._next_id, incoming=False)
        self._next_id += 2
        self._put(WINDOW, SYN, stream.id, 0)
        self._credit += _AFTERMATH_FRAMES
        return stream

    def send(self, stream: StreamState, data: memoryview) -> int:
        """How many of the bytes are queued: none where the window is used up or the queue full.

        Raises StreamResetError when the stream cannot be sent on.
        """
        self.check_sendable(stream)
        size = 0 if self.is_full else min(len(data), stream.send_window, MAX_BODY_BYTES)
        if size:
            stream.send_window -= size
            self._put(DATA, 0, stream.id, size, data[:size])
        return size

    def check_sendable(self, stream: StreamState) -> None:
        """Raises StreamResetError when the stream was cut, or ended on this side."""
        if stream.reset_reason is not None:
            raise StreamResetError(stream.reset_reason)
        if stream.sent_end:
            raise StreamResetError("this side has ended the stream")

    def read(self, stream: StreamState, max_bytes: int, now_s: float) -> bytes:
        """What has arrived, none where nothing has; opens the window for what was taken."""
        data = stream.pop(max_bytes)
        self.use.keep(-len(data))
        if more := stream.consume(len(data)):
            more += self._growth(stream, now_s)
            stream.receive_window += more
            self._put_control(WINDOW, 0, stream.id, more)
        return data

    def hold(self, stream: StreamState, size: int) -> str | None:
        """So many more bytes that were read wait for the rest of a message, or fewer; why they may not."""
        if stream.reset_reason is not None:
            return None
        stream.held_bytes += size
        self.use.hold(size)
        return self.use.refusal_to_hold(self._limits) if size > 0 else None

    def _growth(self, stream: StreamState, now_s: float) -> int:
        """A reader that keeps up is given a larger window, as long as there is memory for all to stall."""
        soon = now_s - stream.window_opened_s < _GROWTH_S
        stream.window_opened_s = now_s
        larger = min(2 * stream.window_bytes, self._limits.max_window_bytes)
        growth = larger - stream.window_bytes
        if not soon or growth <= 0 or self.use.grown_bytes + growth > self._limits.unread_bytes // 2:
            return 0
        stream.window_bytes = larger
        self.use.grown_bytes += growth
        return growth

    def end(self, stream: StreamState) -> None:
        """No more will be sent on the stream; receiving goes on."""
        if stream.sent_end or stream.reset_reason is not None:
            return
        stream.sent_end = True
        self._put(WINDOW, FIN, stream.id, 0)
        self._forget_when_over(stream)

    def close(self, stream: StreamState) -> None:
        """Ends sending, and drops what is not read yet: its sender sees a reset."""
        self.end(stream)
        if stream.reset_reason is None:
            if stream.unread_bytes and not stream.received_end:
                self._put_reset(stream.id)  # a sender without window would wait for ever
            stream.reset_reason = "closed on this side"
        self._drop_unread(stream)
        self._release(stream)

    def reset(self, stream: StreamState) -> None:
        """Cuts the stream on both sides."""
        if stream.reset_reason is None and stream.id in self.streams:
            self._put_reset(stream.id)
        self._reset_state(stream, "reset on this side")
        self._drop_unread(stream)
        self._release(stream)

    def ping(self, value: int) -> None:
        """Asks for a sign of life."""
        self._put_control(PING, SYN, 0, value)

    def go_away(self, *, protocol_error: bool = False) -> None:
        """Says that this side leaves: the other is to expect nothing more."""
        self._put(GO_AWAY, 0, 0, int(protocol_error))

    def cut_all(self, reason: str) -> None:
        """The connection is lost: resets every stream, and forgets what was to be sent."""
        for stream in tuple(self.streams.values()):
            self._reset_state(stream, reason)
        self._queue.clear()
        self._control.clear()
        self.outgoing_bytes = 0

    # -- bookkeeping --------------------------------------------------------------------------

    def _put(self, kind: int, flags: int, stream_id: int, value: int, body: memoryview | None = None) -> None:
        """Queues a frame in the order of calls."""
        self._queue.append((HEADER.pack(0, kind, flags, stream_id, value), body))
        self.outgoing_bytes += HEADER.size + (len(body) if body is not None else 0)

    def _put_control(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Queues a frame that may overtake data."""
        self._control.append(HEADER.pack(0, kind, flags, stream_id, value))

    def _put_reset(self, stream_id: int) -> None:
        # Among the data, not before it: it must overtake neither the frame that opened the
        # stream nor the bytes and the end that were sent on it.
        self._resets.append(stream_id)
        self._put(WINDOW, RST, stream_id, 0)

    def _refuse(self, stream_id: int) -> None:
        self._check_reading()
        self._put_reset(stream_id)

    def _cut(self, stream: StreamState, reason: str) -> None:
        """Resets a stream that broke a rule of its own."""
        self._refuse(stream.id)
        self._reset_state(stream, reason)
        self._changed(stream)

    def _reset_state(self, stream: StreamState, reason: str) -> None:
        """What arrived whole, with its end, stays readable; anything less is dropped."""
        if stream.reset_reason is None:
            stream.reset_reason = reason
            self._let_go(stream)
            if not stream.received_end:
                self._drop_unread(stream)
        self._forget(stream)

    def _drop_unread(self, stream: StreamState) -> None:
        """Who reads on sees a cut, not an end."""
        if dropped := stream.drop_unread():
            self.use.keep(-dropped)
            stream.received_end = False

    def _forget_when_over(self, stream: StreamState) -> None:
        if stream.sent_end and stream.received_end:
            self._credit += _AFTERMATH_FRAMES
            self._forget(stream)

    def _forget(self, stream: StreamState) -> None:
        if self.streams.pop(stream.id, None) is not None:
            self.use.grown_bytes -= stream.window_bytes - INITIAL_WINDOW_BYTES
            self.use.incoming_streams -= stream.incoming

    def _let_go(self, stream: StreamState) -> None:
        """What waits for the rest of its message waits in vain."""
        self.use.hold(-stream.held_bytes)
        stream.held_bytes = 0

    def _release(self, stream: StreamState) -> None:
        """Nobody on this side holds the stream any more.

        Streams that are over count until then: a side that opens streams and resets them at once
        would else start a handler for each.
        """
        self._forget(stream)
        if not stream.released:
            stream.released = True
            self._let_go(stream)
            self.use.held_streams -= stream.incoming
