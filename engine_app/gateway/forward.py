"""A request goes to an endpoint of its model, and to another one where that is right; its answer comes back
part by part, as fast as the client takes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from backend.serving.asked import ANSWERED_FIELDS, passed_on
from backend.serving.http import Headers, HttpError, busy
from engine_app.gateway.endpoint import Answer
from engine_app.gateway.errors import EndpointBusyError, EndpointLostError
from engine_app.gateway.pool import Member, Pool, Use
from engine_app.gateway.retry import BUSY, Outcome, Tries, goes_elsewhere
from engine_app.gateway.wanted import Wanted

EVENTS = "text/event-stream"
HELD_BYTES = 64 << 10
"""Of an answer, so that a short one has a length, and one that breaks off at once can come from elsewhere."""
_COME_BACK_S = 2.0
_CONTENT_TYPES = frozenset(
    {
        EVENTS,
        "application/json",
        "application/octet-stream",
        "application/vnd.safetensors",
        "application/x-npy",
        "text/plain",
    }
)
_PRINTABLE = re.compile(rb"[\x20-\x7e]*")
_NOT_STORED: Headers = ((b"cache-control", b"no-store"),)
_BROKEN_OFF = (
    b'data: {"error": {"message": "the endpoint went away before the answer was whole", '
    b'"type": "server_error", "code": "endpoint_lost"}}\n\n'
)


class Sink(Protocol):
    """Where an answer goes. Each raises ClientGoneError, or HttpError for a client that may not have it."""

    async def start(self, status: int, content_type: str, headers: Headers, length: int | None) -> None:
        """``length`` None: not known yet."""

    async def send(self, data: bytes) -> None: ...

    async def end(self, whole: bool) -> None:
        """Not ``whole``: the client must see that something is missing."""


@dataclass(slots=True)
class _Patience:
    """How long an endpoint may take for the next part of an answer; the client's time does not count."""

    scope: trio.CancelScope
    timeout_s: float

    async def next_part(self, parts: AsyncIterator[bytes]) -> bytes | None:
        """None after the last one."""
        self.scope.deadline = trio.current_time() + self.timeout_s
        try:
            return await anext(parts, None)
        finally:
            self.scope.deadline = math.inf


class Forwarder:
    """``timeout_s``: for each part of an answer to come. ``wait_s``: for an endpoint, where none answers:
    as long as a worker that ended takes to be replaced."""

    def __init__(self, pool: Pool, timeout_s: float, wait_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._wait_s = wait_s

    def model_of(self, wanted: Wanted) -> str:
        """Raises HttpError 404."""
        ready = self._pool.ready()
        name = wanted.model if wanted.model is not None else next(iter(ready), None)
        if name is None:
            raise HttpError(404, "not_found", "this gateway has no model")
        if name not in ready:
            here = ", ".join(ready)[:200] or "none"
            raise HttpError(404, "not_found", f"no model {name[:80]!r} here, but {here}")
        if self._pool.is_withdrawn(name):
            raise HttpError(404, "not_found", f"model {name!r} has been unloaded")
        return name

    async def forward(self, wanted: Wanted, sink: Sink) -> None:
        """Raises HttpError where no endpoint gives an answer, ClientGoneError."""
        model = self.model_of(wanted)
        tried: set[str] = set()
        tries, outcome = Tries(), Outcome.LOST
        if not self._pool.is_up(model):
            with trio.move_on_after(self._wait_s):
                await self._pool.wait_until_up(model)
        while (member := self._pool.choose(model, tried)) is not None:
            tried.add(member.endpoint.name)
            relay = _Relay(wanted, sink, self._timeout_s, partial(self._may_go_on, model, tried, tries))
            outcome = await relay.run(member, self._pool)
            tries = tries.and_then(outcome)
            if relay.has_begun or outcome is Outcome.ANSWERED:
                return
            if not goes_elsewhere(outcome, tries):
                break
            member.retried += 1
        raise _refusal(outcome, model, tries)

    def _may_go_on(self, model: str, tried: set[str], tries: Tries) -> bool:
        """Whether an endpoint that has no room may be left for another one."""
        goes = goes_elsewhere(Outcome.BUSY, tries.and_then(Outcome.BUSY))
        return goes and self._pool.choose(model, tried) is not None


class _Relay:
    """One request at one endpoint. ``may_leave``: whether another one could be asked instead."""

    def __init__(self, wanted: Wanted, sink: Sink, timeout_s: float, may_leave: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._sink = sink
        self._timeout_s = timeout_s
        self._may_leave = may_leave
        self._is_stream = False
        self.has_begun = False
        """The client has seen something of the answer."""

    async def run(self, member: Member, pool: Pool) -> Outcome:
        """Raises HttpError for what the endpoint refuses, ClientGoneError."""
        asked = self._wanted.for_name(member.place.own_name)
        with pool.use(member) as use:
            use.scope.deadline = trio.current_time() + self._timeout_s
            with use.scope:
                try:
                    async with member.endpoint.ask(asked) as answer:
                        return await self._pass_on(answer, use, _Patience(use.scope, self._timeout_s))
                except HttpError as refusal:
                    use.answered(refusal.status)
                    raise
                except EndpointBusyError:
                    use.busy()
                    outcome = Outcome.BUSY
                except EndpointLostError:
                    use.lost()
                    outcome = Outcome.LOST
            if use.is_given_up:
                outcome = Outcome.LOST
            elif use.scope.cancelled_caught:
                use.late()
                outcome = Outcome.LATE
        if self.has_begun:
            await self._break_off()
        return outcome

    async def _pass_on(self, answer: Answer, use: Use, patience: _Patience) -> Outcome:
        status, content_type = _checked(answer)
        if status in BUSY and self._may_leave():
            use.busy()
            return Outcome.BUSY
        self._is_stream = content_type == EVENTS
        parts = aiter(answer)
        held, is_whole = await self._hold(parts, patience)
        if use.is_given_up:
            raise EndpointLostError("its endpoint was gone when its answer came")
        use.answered(status)
        self.has_begun = True
        headers = _clean(answer.headers) + (_NOT_STORED if self._is_stream else ())
        await self._sink.start(status, content_type, headers, len(held) if is_whole else None)
        await self._sink.send(held)
        if not is_whole:
            while (part := await patience.next_part(parts)) is not None:
                await self._sink.send(part)
        await self._sink.end(whole=True)
        return Outcome.ANSWERED

    async def _hold(self, parts: AsyncIterator[bytes], patience: _Patience) -> tuple[bytes, bool]:
        """The beginning of an answer, and whether that is all of it. Of a stream only its first part."""
        held: list[bytes] = []
        size = 0
        while size <= HELD_BYTES:
            part = await patience.next_part(parts)
            if part is None:
                return b"".join(held), True
            held.append(part)
            size += len(part)
            if self._is_stream:
                break
        return b"".join(held), False

    async def _break_off(self) -> None:
        if self._is_stream:
            await self._sink.send(_BROKEN_OFF)
        await self._sink.end(whole=self._is_stream)


def _checked(answer: Answer) -> tuple[int, str]:
    """Status and content type. A peer's answer must not make a page of ours. Raises EndpointLostError."""
    if answer.status != 200 and not 400 <= answer.status <= 599:
        raise EndpointLostError(f"answer of status {answer.status}, allowed are 200 and 400 to 599")
    kind = answer.content_type.partition(";")[0].strip().lower()
    return answer.status, kind if kind in _CONTENT_TYPES else "application/octet-stream"


def _clean(headers: Headers) -> Headers:
    return tuple(
        (name, value) for name, value in passed_on(headers, ANSWERED_FIELDS) if _PRINTABLE.fullmatch(value)
    )


def _refusal(outcome: Outcome, model: str, tries: Tries) -> HttpError:
    if outcome is Outcome.LATE:
        return HttpError(504, "too_late", f"model {model!r} did not answer within its time")
    if not tries.made:
        return busy(f"no endpoint of model {model!r} answers now", _COME_BACK_S)
    if outcome is Outcome.BUSY:
        return busy(f"no endpoint of model {model!r} has room now", _COME_BACK_S)
    return HttpError(502, "endpoint_lost", f"the endpoint of model {model!r} went away: nothing was answered")
