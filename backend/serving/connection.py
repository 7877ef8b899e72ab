"""The HTTP connections of a model's server: uvicorn's own protocol, with bounds on what it leaves open.

How long and slow the head of a request may be, how many requests wait in a pipeline, how slowly an answer
may be taken, and who gets a seat.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from backend.serving.app import Application
from backend.serving.body_budget import SMALL_BYTES
from backend.serving.seats import Seats
from backend.serving.shortcut import SCOPE_KEY

MAX_HEAD_BYTES = 64 << 10
HEAD_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 30
WRITE_TIMEOUT_S = 30.0
SENT_BYTES = 16 << 10
"""What a client must take of an answer in that time, while more than fits into its buffers waits."""
_MAX_HELD_BYTES = 64 << 10
_FRAMING = 8
"""Bytes that a byte of a body may take with the frames of its chunks."""
MAX_PIPELINED = 256
"""Requests of one client that wait for the answer to an earlier one."""
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 55\r\n"
    b'content-type: application/json\r\n\r\n{"error":{"code":"busy","text":"too many connections"}}'
)
TURNED_AWAY_AT_ONCE = 64
TURN_AWAY_S = 1.0
_UPGRADE = re.compile(rb"(?<=\n)upgrade(?=[ \t]*:)", re.IGNORECASE)
_NO_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 70\r\n"
    b"content-type: application/json\r\n\r\n"
    b'{"error":{"code":"no_http","text":"what came is no HTTP/1.1 request"}}'
)


class Corked(asyncio.Transport):
    """What one turn of the loop writes leaves in one piece: uvicorn writes head and body apart, and each
    write wakes the client. Much of it leaves at once, or the socket could not say that it is full."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, data: Any) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _MAX_HELD_BYTES:
            self._flush()

    def write_at_once(self, data: bytes) -> None:
        """A whole answer, after what is held."""
        self._flush()
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._held, self._held_bytes = [], 0
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size() + self._held_bytes

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def _flush(self) -> None:
        if self._held:
            held, self._held, self._held_bytes = self._held, [], 0
            if self._transport.is_closing():
                return
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))


class CycleShortcut:
    """A Shortcut through uvicorn's cycle of request and answer."""

    __slots__ = ("_cycle", "_transport")

    def __init__(self, cycle: RequestResponseCycle, transport: Corked) -> None:
        self._cycle = cycle
        self._transport = transport

    def whole_body(self) -> bytes | None:
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected:
            return None
        body = bytes(cycle.body)
        cycle.body.clear()
        cycle.message_event.clear()
        return body

    def reply(self, head: bytes, body: bytes, *, close: bool) -> bool:
        cycle = self._cycle
        if cycle.disconnected or cycle.transport.is_closing():
            return True  # nobody is there to read it
        if cycle.flow.write_paused or cycle.response_started:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.keep_alive = cycle.keep_alive and not close
        end = b"\r\n\r\n" if cycle.keep_alive else b"\r\nconnection: close\r\n\r\n"
        self._transport.write_at_once(head + end + body)
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request head is too long, or too long in coming, or that takes no answer,
    and one for which there is no seat.

    A trailer counts as a head: it comes after a body in chunks, and no limit of bodies sees it.
    """

    waits_since: float | None = None
    """Since when it waits for its client; None while a whole request is answered."""

    _corked: Corked
    _head_bytes = 0
    _body_bytes = 0
    _in_body = False
    _may_wait = False
    _waiting: RequestResponseCycle | None = None
    """Whose request has begun, and whose answer has not."""
    _idle_since: float | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _idle_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _is_seated = False
    _answering: RequestResponseCycle | None = None
    """The request whose answer is the next to be sent; later ones wait in the pipeline."""

    def __init__(self, seats: Seats[BoundedProtocol], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seats = seats

    def connection_made(self, transport: Any) -> None:
        self._corked = Corked(transport, self.loop)
        super().connection_made(self._corked)
        now = self.waits_since = self.loop.time()
        address = self.client[0] if self.client else ""
        self._is_seated = self._seats.take(self, address, now, self._give_up)
        if not self._is_seated:
            self._turn_away()
            return
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)
        self._idle_timer = self.loop.call_later(KEEP_ALIVE_S, self._look_idle)

    def data_received(self, data: bytes) -> None:
        if not self._is_seated or self.transport.is_closing():
            return
        self._idle_since = None
        self._head_bytes += len(data)
        super().data_received(data if self._in_body else _staying(data))
        if self._waiting is not None:  # for the rest of its body, for which a task waits
            self._start_waiting()
        if self._in_body:
            if self._head_bytes > 2 * MAX_HEAD_BYTES + _FRAMING * self._body_bytes:
                self._give_up()
            return
        if not self._head_bytes:
            return
        # A head that has begun; those that come whole, nearly all, cost no timer.
        if self._head_bytes > MAX_HEAD_BYTES:
            self._give_up()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def _turn_away(self) -> None:
        """To close at once with something unread would take back what is told; a crowd gets no more."""
        self._corked.write_at_once(_FULL)
        if len(self.connections) > self._seats.limit + TURNED_AWAY_AT_ONCE:
            self._give_up()
        else:
            self._head_timer = self.loop.call_later(TURN_AWAY_S, self._give_up)

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._forget_timer()
        if len(self.pipeline) >= MAX_PIPELINED:
            self._give_up()
            raise ValueError("more requests than may wait")  # which ends the parser's work on the rest
        self._may_wait = not self.flow.write_paused
        super().on_headers_complete()
        self._may_wait = False
        if self.parser.should_upgrade():  # its parser is of no more use, see ``_staying``
            self.cycle.keep_alive = False
        self.scope[SCOPE_KEY] = CycleShortcut(self.cycle, self._corked)  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False
        self._head_bytes = self._body_bytes = 0
        if not self.cycle.response_complete:
            self.waits_since = None
        if self._waiting is not None:
            cycle = self._waiting
            scope: Any = cycle.scope
            is_small = len(cycle.body) <= SMALL_BYTES
            if is_small and self.app.begin(scope, scope[SCOPE_KEY], bytes(cycle.body)):
                self._waiting = None
            else:
                self._start_waiting()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """A request that comes in one piece may not need a task: see ``Application.begin``."""
        self._answering = cycle
        if self._may_wait and isinstance(app, Application):
            self._waiting = cycle
        else:
            super()._start_asgi_task(cycle, app)

    def _start_waiting(self) -> None:
        cycle, self._waiting = self._waiting, None
        if cycle is not None:
            super()._start_asgi_task(cycle, self.app)

    def on_response_complete(self) -> None:
        """As uvicorn's, but that one timer for all answers watches over an idle connection."""
        self.server_state.total_requests += 1
        if self._answering is not None:
            # Else both hold each other, and what came with the request, until cycles are collected.
            self._answering.scope.pop(SCOPE_KEY, None)  # type: ignore[misc]
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            # Not before: who sends faster than it is answered would fill the memory with what waits.
            self.flow.resume_reading()
            self._answering = None
            self._idle_since = self.waits_since = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """Unless it would be taken for the answer to an earlier request."""
        if self.pipeline or (self._answering is not None and self._answering is not self.cycle):
            self._give_up()
            return
        self._corked.write_at_once(_NO_HTTP)
        self._corked.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        self._forget_write_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        self._forget_write_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._seats.give_back(self)
        if self._answering is not None and self._answering is not self.cycle:
            # uvicorn tells only the newest request that its client has left.
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def _look_idle(self) -> None:
        now = self.loop.time()
        left_s = KEEP_ALIVE_S if self._idle_since is None else self._idle_since + KEEP_ALIVE_S - now
        if left_s > 0:
            self._idle_timer = self.loop.call_later(left_s, self._look_idle)
        elif not self.transport.is_closing():
            self.transport.close()

    def _watch_writing(self) -> None:
        waiting = self.transport.get_write_buffer_size()

        def look() -> None:
            if waiting - self.transport.get_write_buffer_size() < SENT_BYTES:
                self._give_up()
            else:
                self._watch_writing()

        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, look)

    def _forget_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()


def _staying(data: bytes) -> bytes:
    """A request that offers another protocol, as curl's and Java's do, without its offer: for the parser a
    body would be that protocol, and be lost."""
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]  # no search through a body, which may be large
    if b"pgrade" not in head and b"PGRADE" not in head:
        return data
    return _UPGRADE.sub(b"ignored", head) + data[len(head) :]
