"""The HTTP application of a model server: admission, routes, bodies, refusals. Logs nothing.

An ASGI application without a framework: the path of a prediction is measured in microseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from backend.serving.admission import Admission
from backend.serving.host import ModelHost
from backend.serving.http import Call, Handler, Headers, HttpError, Reply, Stream, cyxwiz_error
from backend.serving.route_table import RouteTable

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_TIMEOUT_S = 30.0
SMALL_BODY_BYTES = 64 << 10
"""Of requests that need no body, some of which need no key either."""
_COMMON_HEADERS: Headers = ((b"x-content-type-options", b"nosniff"), (b"server", b"cyxwiz"))


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    """Parts in braces match up to the next slash."""
    handler: Handler
    summary: str
    scope: str | None = "predict"
    """What a key must be for; None for everybody."""
    refuse: Callable[[HttpError], Reply] = cyxwiz_error
    long: bool = False
    """Takes long enough to be given up when the client leaves."""


class Application:
    """ASGI over the routes it is given. Belongs to one event loop."""

    def __init__(self, host: ModelHost, admission: Admission) -> None:
        self._routes: RouteTable[Route] = RouteTable()
        self._host = host
        self._admission = admission
        self.refused: Counter[str] = Counter()
        self.in_flight = 0

    def route(self, routes: tuple[Route, ...]) -> None:
        self._routes.add(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.in_flight += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self.in_flight -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse: Callable[[HttpError], Reply] = cyxwiz_error
        close = False
        try:
            now = time.monotonic()
            headers = dict(scope["headers"])
            self._admission.check_host(headers)
            route, parameters = self._routes.find(scope["method"], scope["path"])
            refuse = route.refuse
            key = None if route.scope is None else self._admission.check_key(headers, route.scope, now)
            close = True  # an unread body must not be taken for the next request
            limit = SMALL_BODY_BYTES if route.method == "GET" else self._host.limits.body_bytes
            body = await _read_body(headers, receive, limit)
            close = False
            deadline = now + self._host.limits.timeout_s
            call = Call(scope["method"], scope["path"], headers, body, deadline, parameters, key)
            answer = await (_unless_gone(route, call, receive) if route.long else route.handler(call))
        except HttpError as error:
            self.refused[error.code] += 1
            answer = refuse(error)
        except Exception as error:
            self.refused["internal"] += 1
            answer = refuse(HttpError(500, "internal", f"{type(error).__name__}: {str(error)[:300]}"))
        if isinstance(answer, Stream):
            await _send_stream(answer, receive, send)
        else:
            await _send_reply(answer, send, close=close)


async def _read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """Raises HttpError 413, 408."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and (len(declared) > 15 or int(declared) > limit):
        raise HttpError(413, "too_large", f"body of {declared[:20].decode()} bytes, limit {limit}")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read_parts(receive, limit)
    except TimeoutError:
        raise HttpError(408, "slow_body", f"the body took more than {BODY_TIMEOUT_S:g} s") from None


async def _read_parts(receive: Receive, limit: int) -> bytes:
    message = await receive()
    if not message.get("more_body", False):
        return bytes(message.get("body", b""))
    body = bytearray(message.get("body", b""))
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HttpError(400, "cut_off", "the body was cut off")
        body += message.get("body", b"")
        if len(body) > limit:
            raise HttpError(413, "too_large", f"body above its limit of {limit} bytes")
    return bytes(body)


async def _send_reply(reply: Reply, send: Send, *, close: bool) -> None:
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        *_COMMON_HEADERS,
        *reply.headers,
    ]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


async def _unless_gone(route: Route, call: Call, receive: Receive) -> Reply | Stream:
    """The answer. Raises HttpError, for nobody to read, when the client has left."""
    answering = asyncio.ensure_future(route.handler(call))
    leaving = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not answering.done():
            answering.cancel()
        await asyncio.wait((answering, leaving))
    if answering.cancelled():
        raise HttpError(499, "left", "the client has left")
    return answering.result()


async def _send_stream(stream: Stream, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", stream.content_type), *_COMMON_HEADERS, *stream.headers]
    sending = asyncio.ensure_future(_send_chunks(stream, headers, send))
    leaving = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not sending.done():
            sending.cancel()
        await asyncio.wait((sending, leaving))
    if not sending.cancelled():
        sending.result()


async def _send_chunks(stream: Stream, headers: list[tuple[bytes, bytes]], send: Send) -> None:
    async with aclosing(stream.chunks) as chunks:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": stream.first, "more_body": True})
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
