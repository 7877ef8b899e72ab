"""A conversation with a model in the words of the OpenAI API: the question, the text of its events. Pure.

What a model at a peer answers is a stranger's: bounded, checked, and never taken for more than text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from p2p.errors import RemoteFailureError, RemoteProtocolError

PATH = "/v1/chat/completions"
MAX_EVENT_BYTES = 64 << 10
MAX_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """None: as the model's server has it."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None


_AS_IT_IS = ChatOptions()


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    message: str = ""
    code: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    error: _Error | None = None
    usage: _Usage | None = None


class _Refusal(msgspec.Struct):
    error: _Error | str


_EVENT = msgspec.json.Decoder(_Event)
_REFUSAL = msgspec.json.Decoder(_Refusal)


@dataclass(slots=True)
class Chatted:
    """What is known once the answer is over."""

    finish_reason: str = ""
    prompt_tokens: int = 0
    tokens: int = 0


def chat_body(model: str, messages: Iterable[Mapping[str, str]], options: ChatOptions = _AS_IT_IS) -> bytes:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message["role"], "content": message["content"]} for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for name in ("max_tokens", "temperature", "top_p", "seed"):
        if (value := getattr(options, name)) is not None:
            body[name] = value
    return msgspec.json.encode(body)


class ChatText:
    """Bytes of server-sent events, cut anywhere, to pieces of text."""

    def __init__(self) -> None:
        self.told = Chatted()
        self.is_done = False
        """The last event has come; without it the answer was cut off."""
        self._rest = b""

    def receive(self, data: bytes) -> Iterator[str]:
        """Raises RemoteFailureError for an error that the model tells, RemoteProtocolError for no events."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise RemoteProtocolError(f"event of more than {MAX_EVENT_BYTES} bytes")
        for event in events:
            for line in event.splitlines():
                if line.startswith(b"data:") and not self.is_done:
                    yield from self._data(line[5:].strip())

    def _data(self, data: bytes) -> Iterator[str]:
        if data == b"[DONE]":
            self.is_done = True
            return
        event = _decoded(_EVENT, data)
        if event.error is not None:
            raise RemoteFailureError("internal", event.error.message[:MAX_SHOWN])
        if event.usage is not None:
            self.told.prompt_tokens = event.usage.prompt_tokens
            self.told.tokens = event.usage.completion_tokens
        for choice in event.choices[:1]:
            if choice.finish_reason is not None:
                self.told.finish_reason = choice.finish_reason[:40]
            if choice.delta.content:
                yield choice.delta.content


_CODES: dict[int, Literal["invalid", "not_found", "busy", "refused"]] = {
    400: "invalid",
    404: "not_found",
    413: "refused",
    429: "busy",
    503: "busy",
    504: "busy",
    507: "refused",
}


def refusal(status: int, body: bytes) -> RemoteFailureError:
    """What an answer other than 200 says."""
    try:
        error = _REFUSAL.decode(body).error
        text = error if isinstance(error, str) else error.message
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = ""
    return RemoteFailureError(
        _CODES.get(status, "internal"), text[:MAX_SHOWN] or f"the model answered {status}"
    )


def _decoded(decoder: msgspec.json.Decoder[_Event], data: bytes) -> _Event:
    try:
        return decoder.decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"event of {len(data)} bytes: {error}") from error
