"""An endpoint that is another HTTP server: HTTP/1.1 by h11, over connections that are used again."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

import h11
import trio

from backend.serving.asked import ANSWERED_FIELDS, Asked, passed_on
from backend.serving.http import Headers
from engine_app.gateway.endpoint import EndpointStatus
from engine_app.gateway.errors import EndpointLostError

CONNECT_TIMEOUT_S = 5.0
MAX_HEAD_BYTES = 64 << 10
_READ_BYTES = 256 << 10
_MAX_IDLE = 32
_LOST = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, h11.RemoteProtocolError)


@dataclass(frozen=True, slots=True)
class Server:
    """``key``: sent with each request; of that server, never one of the gateway's own."""

    host: str
    port: int
    key: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class _Link:
    """A connection and what h11 knows of it."""

    stream: trio.SocketStream
    http: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    )

    async def send(self, asked: Asked, fields: Headers) -> None:
        request = h11.Request(method=asked.method, target=_target(asked.path), headers=list(fields))
        parts = [self.http.send(request)]
        if asked.body:
            parts.append(self.http.send(h11.Data(data=asked.body)))
        parts.append(self.http.send(h11.EndOfMessage()))
        await self.stream.send_all(b"".join(part for part in parts if part))

    async def next_event(self) -> object:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.stream.receive_some(_READ_BYTES))
        return event

    def is_stale(self) -> bool:
        """It has been closed from the other side, or says something that nobody asked."""
        poll = select.poll()
        poll.register(self.stream.socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))


class _HttpAnswer:
    def __init__(self, response: h11.Response, link: _Link) -> None:
        headers = tuple(response.headers)
        self.status = response.status_code
        self.content_type = dict(headers).get(b"content-type", b"").decode("latin-1")
        self.headers = passed_on(headers, ANSWERED_FIELDS)
        self._link = link

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while not isinstance(event := await self._link.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    yield bytes(event.data)
        except _LOST as error:
            raise EndpointLostError(f"broke off: {error}") from error


class HttpEndpoint:
    def __init__(self, name: str, server: Server) -> None:
        self._name = name
        self._server = server
        self._idle: list[_Link] = []

    @property
    def name(self) -> str:
        return self._name

    @asynccontextmanager
    async def ask(self, asked: Asked) -> AsyncIterator[_HttpAnswer]:
        link = await self._link()
        is_free = False
        try:
            answer = await self._begin(link, asked)
            yield answer
            if link.http.our_state is h11.DONE and link.http.their_state is h11.DONE:
                link.http.start_next_cycle()
                is_free = len(self._idle) < _MAX_IDLE
        finally:
            # To close a connection tells the server that nobody wants the rest of its answer.
            if is_free:
                self._idle.append(link)
            else:
                await trio.aclose_forcefully(link.stream)

    async def status(self) -> EndpointStatus:
        async with self.ask(Asked("GET", "/health")) as answer:
            async for _ in answer:
                pass
            return EndpointStatus(answer.status == 200)

    async def aclose(self) -> None:
        while self._idle:
            await trio.aclose_forcefully(self._idle.pop().stream)

    async def _begin(self, link: _Link, asked: Asked) -> _HttpAnswer:
        """Raises EndpointLostError."""
        try:
            await link.send(asked, self._fields(asked))
            event = await link.next_event()
        except _LOST as error:
            raise EndpointLostError(f"{self._server.host}:{self._server.port}: {error}") from error
        if not isinstance(event, h11.Response):
            raise EndpointLostError(f"{self._server.host}:{self._server.port} answered nothing")
        return _HttpAnswer(event, link)

    async def _link(self) -> _Link:
        """Raises EndpointLostError."""
        while self._idle:
            link = self._idle.pop()
            if not link.is_stale():
                return link
            await trio.aclose_forcefully(link.stream)
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                return _Link(await trio.open_tcp_stream(self._server.host, self._server.port))
        except (OSError, trio.TooSlowError) as error:
            raise EndpointLostError(f"{self._server.host}:{self._server.port}: {error}") from error

    def _fields(self, asked: Asked) -> Headers:
        server = self._server
        fields = [
            (b"host", f"{server.host}:{server.port}".encode()),
            (b"content-length", b"%d" % len(asked.body)),
            *asked.headers,
        ]
        if asked.content_type:
            fields.append((b"content-type", asked.content_type.encode("latin-1")))
        if server.key is not None:
            fields.append((b"authorization", b"Bearer " + server.key.encode()))
        return tuple(fields)


def _target(path: str) -> bytes:
    return quote(path, safe="/:@!$&'()*+,;=~").encode()
