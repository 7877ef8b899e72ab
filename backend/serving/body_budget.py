"""Reads the bodies of requests: each within its own limit, all that are held together within a budget."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from backend.serving.http import HttpError, busy

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

TIMEOUT_S = 30.0
SMALL_BYTES = 64 << 10
"""Bodies up to here are never refused for the sake of others: connections, which are counted, bound them."""
_RETRY_S = 2.0


class Bodies:
    """``limit_bytes``: of all bodies above ``SMALL_BYTES`` that are read or being answered."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    async def read(self, headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
        """A whole body, held until ``release``. Raises HttpError 408, 413, 503."""
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and (len(declared) > 15 or int(declared) > limit):
            raise HttpError(413, "too_large", f"body of {declared[:20].decode()} bytes, limit {limit}")
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._read_parts(receive, limit)
        except TimeoutError:
            raise HttpError(408, "slow_body", f"the body took more than {TIMEOUT_S:g} s") from None

    def keep(self, body: bytes, limit: int) -> None:
        """Counts a body that came whole, as ``read`` does. Raises HttpError 413, 503."""
        if len(body) > limit:
            raise HttpError(413, "too_large", f"body of {len(body)} bytes, limit {limit}")
        self._take(_counted(len(body)))

    def release(self, body: bytes) -> None:
        """Once, of a body that ``read`` gave or ``keep`` took."""
        self.held_bytes -= _counted(len(body))

    async def _read_parts(self, receive: Receive, limit: int) -> bytes:
        body = bytearray()
        held = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise HttpError(400, "cut_off", "the body was cut off")
                part = message.get("body", b"")
                size = len(body) + len(part)
                if size > limit:
                    raise HttpError(413, "too_large", f"body above its limit of {limit} bytes")
                held += self._take(_counted(size) - held)
                if not message.get("more_body", False):
                    return bytes(body + part if body else part)
                body += part
        except BaseException:
            self.held_bytes -= held
            raise

    def _take(self, size: int) -> int:
        """Raises HttpError 503."""
        if size and self.held_bytes + size > self._limit_bytes:
            raise busy("the bodies of other requests take all the room for such", _RETRY_S)
        self.held_bytes += size
        return size


def _counted(size: int) -> int:
    return size if size > SMALL_BYTES else 0
