"""Yamux on trio: many streams over one secured connection; every rule is in ``p2p.yamux_core``.

Cancelling any call leaves the connection whole: frames are queued in one step or not at all, and
are written by whoever queued them, as far as the socket takes them without waiting; one task
writes the rest. A reader may stall for as long as it likes; its writer waits. A reset and a
clean end are told apart. Knows nothing of peers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
import trio

from p2p.errors import FrameTooLargeError, P2PError, StreamResetError
from p2p.yamux_core import MAX_BODY_BYTES, ConnectionEnded, StreamChanged, StreamOpened, YamuxCore
from p2p.yamux_keepalive import KeepAlive
from p2p.yamux_stream import StreamState, Use, YamuxLimits

_MAX_BATCH_BYTES = 256 * 1024
_YIELD_BYTES = 256 * 1024
_CALL_BYTES = 4096  # what a call counts for beside its data
_FLUSH_TIMEOUT_S = 2.0
_FAREWELL_TIMEOUT_S = 0.5
_DRAIN_S = 1.0
_HEARTBEAT_S = 0.2

log = structlog.get_logger(__name__)


class Transport(Protocol):
    """The secured connection underneath."""

    async def receive(self) -> Sequence[bytes] | None:
        """What has come, which may be nothing whole yet; None at the end.

        Raises StreamResetError, RemoteProtocolError.
        """

    def send(self, pieces: Sequence[bytes | memoryview]) -> bool:
        """Takes all of it; False when it must be flushed before anything else is sent.

        Raises StreamResetError.
        """

    async def flush(self) -> None:
        """Raises StreamResetError."""

    def delivered_bytes(self) -> int:
        """How many bytes have arrived at the other side, as far as is known."""

    async def close(self) -> None: ...


class Heartbeat:
    """Watches over any number of connections, in one task."""

    def __init__(self) -> None:
        self.sessions: set[YamuxSession] = set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            due_s = trio.current_time() + _HEARTBEAT_S
            await trio.sleep_until(due_s)
            now_s = trio.current_time()
            for session in tuple(self.sessions):
                session.check_alive(now_s, was_held_up=now_s - due_s > 2 * _HEARTBEAT_S)


class YamuxSession:
    """One connection. ``run`` does the work; ``on_stream`` is told of each incoming stream."""

    def __init__(
        self,
        transport: Transport,
        *,
        is_initiator: bool,
        on_stream: Callable[[YamuxStream], None],
        heartbeat: Heartbeat,
        limits: YamuxLimits,
        use: Use | None = None,
    ) -> None:
        self.core = YamuxCore(is_initiator=is_initiator, limits=limits, use=use)
        self.lost: str | None = None
        """Why the connection ended; None while it lives."""
        self.waiting = 0
        """Tasks that wait for the other side to send or to read."""
        self._transport = transport
        self._on_stream = on_stream
        self._heartbeat = heartbeat
        self._keep_alive = KeepAlive(limits, trio.current_time())
        self._pings = 0
        self._blocked = False
        self._write_error: P2PError | None = None
        self._work = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._flushed = trio.lowlevel.ParkingLot()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()

    def open_stream(self) -> YamuxStream:
        """The other side hears of it with the first bytes, or once this side waits for some.

        Raises StreamResetError after the loss of the connection.
        """
        self.check_connected()
        return YamuxStream(self, self.core.open_stream())

    async def run(self) -> None:
        """Until the connection ends, whichever side ends it; raises nothing but Cancelled."""
        reason = "closed"
        self._heartbeat.sessions.add(self)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_blocked)
                    reason = await self._read_frames()
                    nursery.cancel_scope.cancel()
        except* P2PError as error:
            reason = str(error.exceptions[0])
        except* Exception as error:  # the boundary of the connection's task
            log.error("connection failed", exc_info=error)
            reason = f"failed: {error.exceptions[0]!r}"
        finally:
            self._heartbeat.sessions.discard(self)
            self._end(reason)
            with trio.CancelScope(deadline=trio.current_time() + _FLUSH_TIMEOUT_S, shield=True):
                await self._transport.close()

    async def close(self) -> None:
        """Sends what is queued, within limits of time, and ends the connection."""
        try:
            if self.lost is None:
                self.core.go_away()
                self.pump()
                with trio.move_on_after(_FLUSH_TIMEOUT_S):
                    while self.lost is None and self._blocked:
                        await self._flushed.park()
                # Closing first would make TCP drop what the other side has not read yet.
                with trio.move_on_after(_FAREWELL_TIMEOUT_S):
                    await self._ended.wait()
        finally:
            self._end("closed")

    def abandon(self, reason: str) -> None:
        """Ends the connection at once, without a farewell."""
        self._end(reason)

    def check_alive(self, now_s: float, *, was_held_up: bool) -> None:
        """Asks a silent side for a sign of life; ends the connection when none has come."""
        try:
            waits = self.waiting > 0
            delivered = self._transport.delivered_bytes
            if self._keep_alive.must_ask(
                now_s, somebody_waits=waits, was_held_up=was_held_up, delivered_bytes=delivered
            ):
                self._pings = (self._pings + 1) & 0xFFFFFFFF
                self.core.ping(self._pings)
                self.pump()
        except StreamResetError as error:
            self._end(str(error))

    def check_connected(self) -> None:
        """Raises StreamResetError after the loss of the connection."""
        if self.lost is not None:
            raise StreamResetError(f"connection lost: {self.lost}")

    def _end(self, reason: str) -> None:
        if self.lost is None:
            self.lost = reason
            handles = [stream.handle for stream in self.core.streams.values()]
            self.core.cut_all(f"connection lost: {reason}")
            for handle in handles:
                handle.wake()
            self._room.unpark_all()
            self._flushed.unpark_all()
            self._ended.set()
        self._scope.cancel()

    # -- writing -----------------------------------------------------------------------------

    def pump(self) -> None:
        """Writes what is queued, as far as the other side takes it without waiting."""
        core = self.core
        try:
            while core.has_outgoing and not self._blocked:
                self._blocked = not self._transport.send(core.outgoing(_MAX_BATCH_BYTES))
        except P2PError as error:
            self._write_error = error
            self._blocked = True
        if self._blocked:
            self._work.unpark()
        if self._room and not core.is_full:
            self._room.unpark_all()

    async def wait_for_room(self) -> None:
        """Until the queue is shorter. Raises StreamResetError after the loss of the connection."""
        while self.core.is_full and self.lost is None:
            await self.wait(self._room)
        self.check_connected()

    async def wait(self, lot: trio.lowlevel.ParkingLot) -> None:
        """Parks; meanwhile the connection is watched closely."""
        self.waiting += 1
        try:
            await lot.park()
        finally:
            self.waiting -= 1

    async def _write_blocked(self) -> None:
        while True:
            if not self._blocked:
                self._flushed.unpark_all()
                await self._work.park()
                continue
            try:
                if self._write_error is not None:
                    raise self._write_error
                await self._transport.flush()
            except StreamResetError:
                await trio.sleep(_DRAIN_S)  # what the other side sent before it went is still read
                raise
            self._blocked = False
            self.pump()

    # -- reading -----------------------------------------------------------------------------

    async def _read_frames(self) -> str:
        """Returns why the other side ended the connection."""
        while (pieces := await self._transport.receive()) is not None:
            now_s = trio.current_time()
            self._keep_alive.heard(now_s)
            for piece in pieces:
                for event in self.core.receive(piece, now_s):
                    if isinstance(event, ConnectionEnded):
                        self.pump()
                        return event.reason
                    self._tell(event)
            if self.core.has_outgoing:
                self.pump()
        return "the other side closed the connection"

    def _tell(self, event: StreamOpened | StreamChanged) -> None:
        if isinstance(event, StreamOpened):
            self._on_stream(YamuxStream(self, event.stream))
        else:
            event.stream.handle.wake()


class YamuxStream:
    """One stream; the calls are those of ``p2p.network.Stream``."""

    def __init__(self, session: YamuxSession, state: StreamState) -> None:
        self.id = state.id
        self._session = session
        self._core = session.core
        self._state = state
        self._used_bytes = 0
        self._readable = trio.lowlevel.ParkingLot()
        self._sendable = trio.lowlevel.ParkingLot()
        state.handle = self

    @property
    def unread_bytes(self) -> int:
        """What can be read without waiting."""
        return self._state.unread_bytes

    async def send_all(self, data: bytes) -> None:
        """Returns when all of it is queued, at most a window and a queue ahead of the reader."""
        await trio.lowlevel.checkpoint_if_cancelled()
        session, core, state = self._session, self._core, self._state
        view = memoryview(bytes(data))
        core.check_sendable(state)
        while view:
            if size := core.send(state, view):
                view = view[size:]
                session.pump()
            elif not state.send_window:
                session.pump()
                await session.wait(self._sendable)
            else:
                await session.wait_for_room()
        await self._take_turns(len(data))

    def send_now(self, data: bytes) -> bool:
        """Queues and writes all of it; nothing where it would have to wait, or others are to have a turn."""
        session, core, state = self._session, self._core, self._state
        core.check_sendable(state)
        fits = len(data) <= min(state.send_window, MAX_BODY_BYTES) and not core.is_full
        if not fits or self._used_bytes + len(data) + _CALL_BYTES >= _YIELD_BYTES:
            return False
        self._used_bytes += len(data) + _CALL_BYTES
        core.send(state, memoryview(data))
        session.pump()
        return True

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """Raises StreamResetError when cut off, even if unread bytes were left."""
        state = self._state
        if state.unread_bytes:
            await trio.lowlevel.checkpoint_if_cancelled()
        while not state.unread_bytes:
            if state.received_end:
                await trio.lowlevel.checkpoint_if_cancelled()
                return b""
            if state.reset_reason is not None:
                raise StreamResetError(state.reset_reason)
            if self._core.has_outgoing:
                self._session.pump()
            await self._session.wait(self._readable)
        data = self._core.read(state, max_bytes, trio.current_time())
        if self._core.has_outgoing:
            self._session.pump()
        return data

    def hold(self, size: int) -> None:
        """See ``p2p.network.Stream``."""
        if refusal := self._core.hold(self._state, size):
            raise FrameTooLargeError(refusal)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._core.end(self._state)
        self._session.pump()
        self._sendable.unpark_all()

    async def aclose(self) -> None:
        """Ends sending, and drops what is not read yet: its sender sees a reset."""
        self._core.close(self._state)
        self._session.pump()
        self.wake()

    async def reset(self) -> None:
        self.refuse()

    def refuse(self) -> None:
        """``reset`` for callers that cannot await."""
        self._core.reset(self._state)
        self._session.pump()
        self.wake()

    def wake(self) -> None:
        """Something has changed."""
        if self._readable:
            self._readable.unpark_all()
        if self._sendable:
            self._sendable.unpark_all()

    async def _take_turns(self, sent_bytes: int) -> None:
        """A writer that never has to wait lets others run from time to time."""
        self._used_bytes += sent_bytes + _CALL_BYTES
        if self._used_bytes >= _YIELD_BYTES:
            self._used_bytes = 0
            await trio.lowlevel.cancel_shielded_checkpoint()
