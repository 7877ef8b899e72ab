"""The OpenAI API's requests, strictly read, and the objects that answer them. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from backend.serving.http import invalid

MAX_STOPS = 16
MAX_LOGPROBS = 20
MAX_INPUTS = 2048
MAX_CHOICES = 32
"""Answers of one request, of all its prompts together."""

_UNSUPPORTED = (
    "tools",
    "functions",
    "suffix",
    "logit_bias",
    "audio",
    "web_search_options",
    "reasoning_effort",
)
Text = Annotated[str, Meta(max_length=1 << 20)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=1 << 20)]
Stop = Annotated[str, Meta(max_length=1024)]
"""Looked for at each token, in what may be its beginning."""
Stops = Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None
Logprobs = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]


class TextPart(msgspec.Struct, frozen=True):
    type: Literal["text"]
    text: Text


class ChatMessage(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Meta(max_length=256)] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class GenerationBody(msgspec.Struct, frozen=True, kw_only=True):
    """What chat and completions share. What is not named here is ignored, but for what would mislead."""

    model: Text
    max_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    """Answers to each prompt: with a seed, the k-th has the seed plus k."""
    seed: int | None = None
    stop: Stops = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    tools: list[Any] | None = None
    best_of: int | None = None
    suffix: str | None = None
    response_format: dict[str, Any] | None = None
    logit_bias: dict[str, float] | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    reasoning_effort: str | None = None

    def check(self) -> None:
        """Raises HttpError for what this server cannot do and what would mislead if it were ignored."""
        if self.best_of not in (None, self.n or 1):
            raise invalid("best_of may only be as many as n: answers are not weighed against each other")
        for name in _UNSUPPORTED:
            if getattr(self, name):
                raise invalid(f"{name} is not supported")
        if self.modalities not in (None, [], ["text"]):
            raise invalid("modalities may be text only")
        if self.response_format is not None and self.response_format.get("type") != "text":
            raise invalid("response_format may be text only")

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatBody(GenerationBody, frozen=True, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=1024)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None


class CompletionBody(GenerationBody, frozen=True, kw_only=True):
    prompt: Text | Annotated[list[Any], Meta(min_length=1, max_length=1 << 20)]
    """A text or its token ids, or a list of either."""
    logprobs: Logprobs | None = None
    echo: bool | None = None


class EmbeddingsBody(msgspec.Struct, frozen=True):
    model: Text
    input: Text | Annotated[list[Any], Meta(min_length=1, max_length=1 << 14)]
    """A text or its token ids, or a list of either."""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    """As many of the first numbers, brought to length one again."""


def prompts_of(body: CompletionBody) -> list[str | list[int]]:
    """The prompts, each a text or token ids. Raises HttpError."""
    return _texts_or_ids(body.prompt, "prompt")


def inputs_of(body: EmbeddingsBody) -> list[str | list[int]]:
    """The inputs, each a text or token ids. Raises HttpError."""
    found = _texts_or_ids(body.input, "input")
    if len(found) > MAX_INPUTS:
        raise invalid(f"{len(found)} inputs, limit {MAX_INPUTS}")
    return found


def _texts_or_ids(given: str | list[Any], name: str) -> list[str | list[int]]:
    """Raises HttpError."""
    if isinstance(given, str):
        return [given]
    if all(type(each) is int for each in given):
        return [given]
    for each in given:
        if not isinstance(each, str) and not (
            isinstance(each, list) and all(type(token) is int for token in each)
        ):
            raise invalid(f"{name} may be a text, token ids, or a list of either")
    return given


def plain_messages(messages: list[ChatMessage]) -> list[dict[str, str]]:
    """Content as one text each; templates know no more. Raises HttpError."""
    return [{"role": message.role, "content": _text_of(message)} for message in messages]


def _text_of(message: ChatMessage) -> str:
    content = message.content
    if content is None:
        raise invalid(f"a message of {message.role} has no content, and calls of tools are not supported")
    return content if isinstance(content, str) else "".join(part.text for part in content)


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
