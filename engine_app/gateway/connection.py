"""One client's connection: HTTP/1.1 by h11, one request after the other, each wait bounded. Logs nothing.

A client that leaves takes back what it asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

import h11
import trio

from backend.serving.http import Headers, HttpError, Reply, cyxwiz_error, fields_of
from engine_app.gateway.bodies import BodyBudget, Share
from engine_app.gateway.errors import ClientGoneError

MAX_HEAD_BYTES = 64 << 10
HEAD_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 30.0
BODY_TIMEOUT_S = 30.0
SLOWEST_BYTES_PER_S = 64 << 10
"""What a body beyond that time must bring on average."""
WRITE_TIMEOUT_S = 30.0
"""In which a client must take a piece of its answer."""
PIECE_BYTES = 64 << 10
LINGER_S = 1.0
LINGER_BYTES = 256 << 10
"""What is read and dropped after a refusal, so that the client reads it instead of a reset."""
_READ_BYTES = 256 << 10
_COMMON_HEADERS: Headers = ((b"x-content-type-options", b"nosniff"), (b"server", b"cyxwiz"))


@dataclass(frozen=True, slots=True)
class Head:
    """``path`` is decoded and without its query; header names are lower case."""

    method: str
    path: str
    headers: dict[bytes, bytes]


class Exchange:
    """One request, and the sink of its answer."""

    def __init__(self, connection: Connection, head: Head, budget: BodyBudget) -> None:
        self.head = head
        self._connection = connection
        self._budget = budget
        self._share: Share | None = None
        self._has_read = False
        self.has_begun = False
        """Something of an answer has been sent."""
        self.admits: Callable[[], bool] = lambda: True
        """Whether its key has not been taken back."""

    async def read_body(self, limit_bytes: int) -> bytes:
        """All of it. Raises HttpError 400, 408, 413, 503, ClientGoneError."""
        self._share = Share(self._budget, limit_bytes, _declared(self.head.headers))
        body = await self._connection.read_body(self._share)
        self._has_read = True
        return body

    async def while_client_stays(self, work: Callable[[], Awaitable[None]]) -> None:
        """Cancels ``work`` when the client leaves. Raises what it raises, ClientGoneError."""
        await self._connection.while_client_stays(work)

    async def start(self, status: int, content_type: str, headers: Headers, length: int | None) -> None:
        """Raises HttpError 401 once the key has been taken back."""
        self._check_key()
        fields = [(b"content-type", content_type.encode("latin-1")), *_COMMON_HEADERS, *headers]
        if length is not None:
            fields.append((b"content-length", b"%d" % length))
        # A body that nobody reads must not be taken for the next request.
        if not self._has_read or self._connection.is_last:
            fields.append((b"connection", b"close"))
        self.has_begun = True
        self._connection.queue(h11.Response(status_code=status, headers=fields))

    async def send(self, data: bytes) -> None:
        """Raises HttpError 401 once the key has been taken back, ClientGoneError."""
        self._check_key()
        await self._connection.send_data(data)

    def _check_key(self) -> None:
        if not self.admits():
            raise HttpError(401, "unauthorized", "the API key has been taken back")

    async def end(self, whole: bool) -> None:
        if whole:
            self._connection.queue(h11.EndOfMessage())
            await self._connection.flush()
        else:
            self._connection.cut()

    async def reply(self, reply: Reply) -> None:
        await self.start(reply.status, reply.content_type.decode("latin-1"), reply.headers, len(reply.body))
        if reply.body:
            await self.send(reply.body)
        await self.end(whole=True)

    def close(self) -> None:
        if self._share is not None:
            self._share.close()


Answerer = Callable[[Exchange], Awaitable[None]]


class Connection:
    """``run`` returns when it is over. ``is_idle``: no request has begun on it. ``waits_since``: None while
    a whole request is answered, else since when it waits for its client."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, budget: BodyBudget, answer: Answerer) -> None:
        self._stream = stream
        self._budget = budget
        self._answer = answer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._queued: list[bytes] = []
        self._is_cut = False
        self._is_bodiless = False
        self._has_answered = False
        self.is_idle = True
        self.waits_since: float | None = trio.current_time()
        self.is_last = False
        """After the request that it is busy with it ends."""

    async def run(self) -> None:
        """Ends quietly, whatever the client does."""
        try:
            while (head := await self._next_head()) is not None:
                await self._exchange(head)
                if self.is_last or not self._may_go_on():
                    break
            if not self._is_cut and self._http.their_state is not h11.DONE:
                await self._linger()
        except HttpError as error:
            with suppress(ClientGoneError, trio.BrokenResourceError, trio.ClosedResourceError):
                await self._refuse_unread(error)
        except (ClientGoneError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(self._stream)

    async def while_client_stays(self, work: Callable[[], Awaitable[None]]) -> None:
        """Cancels ``work`` when the client leaves. Raises what it raises, ClientGoneError."""
        trouble: HttpError | ClientGoneError | None = None
        is_gone = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_gone, nursery.cancel_scope)
            try:
                await work()
            except (HttpError, ClientGoneError) as error:
                trouble = error
            is_gone = False
            nursery.cancel_scope.cancel()
        # Out of the nursery, which would wrap it in a group.
        if trouble is not None:
            raise trouble
        if is_gone:
            raise ClientGoneError("left before its answer was whole")

    async def read_body(self, share: Share) -> bytes:
        """Raises HttpError 400, 408, 413, 503, ClientGoneError."""
        if self._http.they_are_waiting_for_100_continue:
            self.queue(h11.InformationalResponse(status_code=100, headers=[]))
            await self.flush()
        # One piece of memory: a body of single bytes would else cost a hundred times what is counted.
        body = bytearray()
        patience_ends = trio.current_time() + BODY_TIMEOUT_S
        with trio.CancelScope(deadline=patience_ends) as scope:
            while not isinstance(event := await self._next_event(), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    raise ClientGoneError("left before its body was whole")
                share.add(len(event.data))
                body += event.data
                scope.deadline = patience_ends + len(body) / SLOWEST_BYTES_PER_S
                await trio.lowlevel.checkpoint()  # of what came at once there may be ten thousands
            self.waits_since = None
            return bytes(body)
        raise HttpError(408, "slow_body", f"{len(body)} bytes of a body came within {BODY_TIMEOUT_S:g} s")

    async def send_data(self, data: bytes) -> None:
        """Piece by piece, so that a client that takes nothing is noticed. Raises ClientGoneError."""
        if self._is_bodiless:
            return
        whole = memoryview(data)
        for at in range(0, len(data), PIECE_BYTES):
            self.queue(h11.Data(data=whole[at : at + PIECE_BYTES]))  # type: ignore[arg-type]
            await self.flush()

    def queue(self, event: h11.Event) -> None:
        self._queued.append(self._http.send(event) or b"")

    async def flush(self) -> None:
        """Raises ClientGoneError."""
        data = b"".join(self._queued)
        self._queued.clear()
        if not data:
            return
        try:
            with trio.fail_after(WRITE_TIMEOUT_S):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise ClientGoneError("takes nothing of its answer") from error

    def cut(self) -> None:
        """Ends the connection so that the client sees that something is missing."""
        self._is_cut = True

    async def _next_head(self) -> Head | None:
        """None once the client has left, or is silent for too long. Raises HttpError for what is no HTTP."""
        has_begun = bool(self._http.trailing_data[0])
        wait_s = KEEP_ALIVE_S if self._has_answered and not has_begun else HEAD_TIMEOUT_S
        with trio.CancelScope(deadline=trio.current_time() + wait_s) as scope:

            def came() -> None:
                nonlocal has_begun
                if not has_begun:
                    has_begun = True
                    scope.deadline = trio.current_time() + HEAD_TIMEOUT_S

            event = await self._next_event(came)
            if isinstance(event, h11.Request):
                self.is_idle = False
                return _head(event)
        return None

    async def _next_event(self, came: Callable[[], None] = lambda: None) -> object:
        """``came`` is called for whatever arrives. Raises HttpError 400, 431, ClientGoneError."""
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                data = await self._receive()
                if not data:
                    return None
                came()
                self._http.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise HttpError(error.error_status_hint, "no_http", str(error)[:200]) from error
        return event

    async def _receive(self) -> bytes:
        """Empty at the end. Raises ClientGoneError."""
        try:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientGoneError("left") from error

    async def _until_gone(self, working: trio.CancelScope) -> None:
        try:
            data = await self._receive()
        except ClientGoneError:
            data = b""
        if data:
            self._http.receive_data(data)  # the next request; that it leaves shows when it is answered
        else:
            working.cancel()

    async def _exchange(self, head: Head) -> None:
        self._is_bodiless = head.method == "HEAD"
        exchange = Exchange(self, head, self._budget)
        try:
            await self._answer(exchange)
        finally:
            exchange.close()

    def _may_go_on(self) -> bool:
        if self._is_cut or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self._has_answered = True
        self.is_idle = True
        self.waits_since = trio.current_time()
        return True

    async def _refuse_unread(self, error: HttpError) -> None:
        """What is no request at all."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        reply = cyxwiz_error(error)
        fields = [
            (b"content-type", reply.content_type),
            (b"content-length", b"%d" % len(reply.body)),
            (b"connection", b"close"),
            *_COMMON_HEADERS,
        ]
        for event in (
            h11.Response(status_code=reply.status, headers=fields),
            h11.Data(data=reply.body),
            h11.EndOfMessage(),
        ):
            self.queue(event)
        await self.flush()
        await self._linger()

    async def _linger(self) -> None:
        """Reads on for a moment: to close at once with something unread would take back what was sent."""
        with trio.move_on_after(LINGER_S):
            await self._stream.send_eof()
            dropped = 0
            while dropped < LINGER_BYTES and (data := await self._receive()):
                dropped += len(data)


def _head(request: h11.Request) -> Head:
    """Raises HttpError 400."""
    target = request.target.partition(b"?")[0]
    if not target.startswith(b"/"):
        raise HttpError(400, "no_http", f"target {target[:80]!r}, allowed is a path")
    path = unquote(target.decode("latin-1"), errors="replace")
    headers = fields_of(request.headers)
    if b"transfer-encoding" in headers and b"content-length" in headers:
        # A proxy before us that goes by the other one would take our next request for this one's body.
        raise HttpError(400, "no_http", "a transfer-encoding and a content-length, allowed is one of them")
    return Head(request.method.decode("latin-1"), path, headers)


def _declared(headers: dict[bytes, bytes]) -> int | None:
    """h11 has let it through: digits only, and no more than twenty."""
    length = headers.get(b"content-length")
    return None if length is None else int(length)
