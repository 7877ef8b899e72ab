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
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any

from backend.formats.tensors import Array
from backend.serving.admission import Admission
from backend.serving.body_budget import SMALL_BYTES, Bodies, Receive
from backend.serving.failures import failure
from backend.serving.host import ModelHost, Prediction
from backend.serving.http import (
    Call,
    Handler,
    Headers,
    HttpError,
    Reply,
    Stream,
    check_encoding,
    cyxwiz_error,
    fields_of,
    wording_of,
)
from backend.serving.route_table import RouteTable
from backend.serving.shortcut import SCOPE_KEY, Shortcut

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_TAKEN_BACK = (
    b'data: {"error": {"message": "the API key has been taken back", "type": "invalid_request_error", '
    b'"code": "unauthorized"}}\n\n'
)
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
    direct: Callable[[Call], Prediction | None] | None = None
    """What the request asks of a model, if it is one that needs no task of its own. Raises HttpError."""


class Application:
    """ASGI over the routes it is given. Belongs to one event loop."""

    def __init__(self, host: ModelHost, admission: Admission) -> None:
        self._routes: RouteTable[Route] = RouteTable()
        self._host = host
        self._admission = admission
        limits = host.limits
        self._bodies = Bodies(max(limits.bodies_bytes, limits.body_bytes))
        self.refused: Counter[str] = Counter()
        self.in_flight = 0

    @property
    def held_bytes(self) -> int:
        """Of large bodies that are read or answered now."""
        return self._bodies.held_bytes

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

    def begin(self, scope: Scope, shortcut: Shortcut, body: bytes) -> bool:
        """Begins to answer a whole request without a task, which takes longer than a small model.

        False, with nothing done, for all that ``__call__`` must answer: also for what is refused.
        """
        now = time.monotonic()
        try:
            headers = fields_of(scope["headers"])
            check_encoding(headers)
            route, parameters = self._routes.find(scope["method"], scope["path"])
            if route.direct is None or self._admission.needs_key:
                return False
            self._admission.check_host(headers)
            deadline = now + self._host.limits.timeout_s
            call = Call(scope["method"], scope["path"], headers, body, deadline, parameters)
            asked = route.direct(call)
            if asked is None:
                return False

            def told(outcome: dict[str, Array] | HttpError) -> None:
                self.in_flight -= 1
                _reply_at_once(self._direct_reply(route, asked, outcome), shortcut, close=False)

            begun = self._host.submit(asked.name, asked.make, deadline, told)
        except Exception:
            return False  # what it was, the long way finds too
        self.in_flight += begun
        return begun

    def _direct_reply(self, route: Route, asked: Prediction, outcome: dict[str, Array] | HttpError) -> Reply:
        found = outcome if isinstance(outcome, HttpError) else _answered(asked, outcome)
        if isinstance(found, Reply):
            return found
        self.refused[found.code] += 1
        return route.refuse(found)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        refuse = wording_of(scope["path"])
        close, key = False, None
        # The long way knows that the answer to HEAD has no body.
        shortcut: Shortcut | None = scope.get(SCOPE_KEY) if scope["method"] != "HEAD" else None
        try:
            now = time.monotonic()
            headers = fields_of(scope["headers"])
            self._admission.check_host(headers)
            route, parameters = self._routes.find(scope["method"], scope["path"])
            refuse = route.refuse
            check_encoding(headers)
            key = None if route.scope is None else self._admission.check_key(headers, route.scope, now)
            close = True  # an unread body must not be taken for the next request
            # What needs no body may need no key either.
            limit = SMALL_BYTES if route.method == "GET" else self._host.limits.body_bytes
            body = None if shortcut is None else shortcut.whole_body()
            if body is None:
                body = await self._bodies.read(headers, receive, limit)
            else:
                self._bodies.keep(body, limit)
            close = False
            try:
                deadline = now + self._host.limits.timeout_s
                call = Call(scope["method"], scope["path"], headers, body, deadline, parameters, key)
                answer = await (_unless_gone(route, call, receive) if route.long else route.handler(call))
            finally:
                self._bodies.release(body)
        except HttpError as error:
            self.refused[error.code] += 1
            answer = refuse(error)
        except MemoryError:
            self.refused["memory"] += 1
            answer = refuse(HttpError(507, "memory", "not enough memory for this request"))
        except Exception as error:
            self.refused["internal"] += 1
            answer = refuse(failure(error))
        if isinstance(answer, Stream):
            await _send_stream(answer, receive, send, partial(self._admission.still_admits, key))
        elif (
            shortcut is None or scope["method"] == "HEAD" or not _reply_at_once(answer, shortcut, close=close)
        ):
            await _send_reply(answer, send, close=close)


def _answered(asked: Prediction, outputs: dict[str, Array]) -> Reply | HttpError:
    try:
        return asked.answer(outputs)
    except HttpError as error:
        return HttpError(error.status, error.code, error.text, error.headers)  # without its frames
    except Exception as error:
        return failure(error)


def _reply_at_once(reply: Reply, shortcut: Shortcut, *, close: bool) -> bool:
    head = b"%b%d%b" % (_head(reply.status, reply.content_type), len(reply.body), _lines(reply.headers))
    return shortcut.reply(head, reply.body, close=close)


@lru_cache(maxsize=256)
def _lines(headers: Headers) -> bytes:
    lines = [name + b": " + value for name, value in headers]
    if any(b"\n" in line or b"\r" in line for line in lines):
        raise ValueError("a header of more than one line")
    return b"".join([b"\r\n" + line for line in lines])


@lru_cache(maxsize=64)
def _head(status: int, content_type: bytes) -> bytes:
    """Up to the length of the body."""
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}".encode(), b"content-type: " + content_type]
    lines += [name + b": " + value for name, value in _COMMON_HEADERS]
    return b"\r\n".join((*lines, b"content-length: "))


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
    try:
        return answering.result()
    finally:
        del answering  # what was raised holds this frame, and it the call


async def _send_stream(stream: Stream, receive: Receive, send: Send, admits: Callable[[], bool]) -> None:
    headers = [(b"content-type", stream.content_type), *_COMMON_HEADERS, *stream.headers]
    sending = asyncio.ensure_future(_send_chunks(stream, headers, send, admits))
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


async def _send_chunks(
    stream: Stream, headers: list[tuple[bytes, bytes]], send: Send, admits: Callable[[], bool]
) -> None:
    """Until ``admits`` says that the key has been taken back."""
    async with aclosing(stream.chunks) as chunks:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": stream.first, "more_body": True})
        async for chunk in chunks:
            if not admits():
                await send({"type": "http.response.body", "body": _TAKEN_BACK, "more_body": True})
                break
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
