"""What our own server offers an application beside ASGI: a body that is here already, an answer in one write.

ASGI's messages for head and body, their checks and the wait for a body take longer than a small model.
An application that finds no Shortcut in its scope, or whose Shortcut declines, goes by ASGI.
"""

from __future__ import annotations

from typing import Protocol

SCOPE_KEY = "cyxwiz.shortcut"


class Shortcut(Protocol):
    """Of one request."""

    def whole_body(self) -> bytes | None:
        """The body, if all of it has come; None to receive it."""

    def reply(self, head: bytes, body: bytes, *, close: bool) -> bool:
        """Sends an answer, whose ``head`` ends before the empty line; False to send it the long way."""
