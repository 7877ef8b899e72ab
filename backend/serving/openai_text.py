"""/v1/chat/completions and /v1/completions: one generation, whole or streamed as it comes."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from backend.errors import BackendError
from backend.runtime.base import Sampling, Token
from backend.serving.batching import QueueFullError
from backend.serving.failures import failure
from backend.serving.generation import Generations
from backend.serving.host import ModelHost, Resident
from backend.serving.http import Call, HttpError, Reply, Stream, decode_json, invalid, json_reply
from backend.serving.openai_wire import (
    MAX_CHOICES,
    ChatBody,
    CompletionBody,
    GenerationBody,
    plain_messages,
    prompts_of,
    usage,
)
from backend.serving.text_stream import TextStream

_CHAT = msgspec.json.Decoder(ChatBody)
_COMPLETION = msgspec.json.Decoder(CompletionBody)
_DONE = b"data: [DONE]\n\n"
_COMPLETION_TOKENS = 16
"""What the API gives where nobody says."""


@dataclass(frozen=True, slots=True)
class _Prompt:
    ids: list[int]
    echo: str = ""
    """What is said before the text that is generated."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """One of the answers that were asked for."""

    index: int
    prompt: _Prompt
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class _Order:
    """Generations that were asked for. ``chat`` decides how their pieces are worded."""

    body: GenerationBody
    chat: bool
    prompts: list[_Prompt]
    choices: list[_Choice]
    id: str
    created: int

    @property
    def prompt_tokens(self) -> int:
        """Of each prompt once, however many answers it has."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def tells_usage(self) -> bool:
        options = self.body.stream_options
        return options is not None and options.include_usage

    def envelope(self, choices: list[dict[str, Any]], *, streamed: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if streamed else "chat.completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.body.model,
            "choices": choices,
        }


@dataclass(slots=True)
class _Told:
    """What has been generated so far of one answer."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    choice: _Choice
    text: str
    tokens: list[Token]
    finish: str | None = None


class TextApi:
    def __init__(self, host: ModelHost) -> None:
        self._host = host

    async def chat(self, call: Call) -> Reply | Stream:
        body: ChatBody = decode_json(call.body, _CHAT)
        body.check()
        top = (body.top_logprobs or 0) if body.logprobs else None
        if body.top_logprobs is not None and not body.logprobs:
            raise invalid("top_logprobs needs logprobs")
        longest = body.max_completion_tokens or body.max_tokens or 1 << 20
        return await self._answer(call, body, _sampling(body, longest, top), chat=True)

    async def completion(self, call: Call) -> Reply | Stream:
        body: CompletionBody = decode_json(call.body, _COMPLETION)
        body.check()
        if body.echo and body.logprobs is not None:
            raise invalid("echo with logprobs is not supported: none are worked out for a prompt")
        longest = body.max_tokens or _COMPLETION_TOKENS
        return await self._answer(call, body, _sampling(body, longest, body.logprobs), chat=False)

    async def _answer(
        self, call: Call, body: GenerationBody, sampling: Sampling, *, chat: bool
    ) -> Reply | Stream:
        async with AsyncExitStack() as stack:
            resident = await stack.enter_async_context(self._host.use(body.model, call.deadline))
            generations = _generations(resident)
            prompts = await resident.decode(lambda: _prompts(generations, body), call.deadline)
            choices = _choices(body, prompts, sampling)
            kind = "chatcmpl" if chat else "cmpl"
            order = _Order(body, chat, prompts, choices, f"{kind}-{secrets.token_hex(12)}", int(time.time()))
            pieces = _pieces(generations, order, call.deadline, self._host.limits.timeout_s)
            if body.stream:
                # The model stays in use until the stream is closed. What fails before the first token is
                # refused with a status of its own.
                events = _events(order, pieces, stack.pop_all())
                return Stream(await anext(events), events)
            told = [_Told() for _ in choices]
            async with aclosing(pieces):
                async for piece in pieces:
                    _tell(told[piece.choice.index], piece)
            return json_reply(_whole(order, told))


async def _pieces(
    generations: Generations, order: _Order, deadline: float, timeout_s: float
) -> AsyncGenerator[_Piece]:
    """Of one answer after the other: a model makes one at a time.

    The first must begin by the ``deadline``; each other one has ``timeout_s`` to get a turn, however long
    those before it took: what is made already would be lost.
    """
    for choice in order.choices:
        async with aclosing(_generated(generations, choice, order.body.stops, deadline)) as pieces:
            async for piece in pieces:
                yield piece
        deadline = time.monotonic() + timeout_s


async def _generated(
    generations: Generations, choice: _Choice, stops: tuple[str, ...], deadline: float
) -> AsyncGenerator[_Piece]:
    """Text as it may be shown; the last piece says why it ends."""
    text = TextStream(stops)
    count, before = 0, choice.prompt.echo
    run = generations.run(choice.prompt.ids, choice.sampling, deadline, goes_on=choice.index > 0)
    async with aclosing(run):
        async for token in run:
            count += 1
            shown, before = before + text.add(token.piece), ""
            yield _Piece(choice, shown, [token])
            if text.stopped:
                break
    full = count >= choice.sampling.max_tokens or len(choice.prompt.ids) + count >= generations.context
    yield _Piece(choice, before + text.end(), [], "length" if full and not text.stopped else "stop")


async def _events(
    order: _Order, pieces: AsyncGenerator[_Piece], model: AsyncExitStack
) -> AsyncGenerator[bytes]:
    """Server-sent events; an error on the way is the last one."""
    count, index, offset = 0, -1, 0
    async with model, aclosing(pieces):
        begun = await anext(pieces)
        try:
            async for piece in _with(begun, pieces):
                if piece.choice.index != index:
                    index, offset = piece.choice.index, 0
                    if order.chat:
                        yield _event(order, _opening(index))
                count += len(piece.tokens)
                if piece.text or piece.finish or piece.choice.sampling.top_logprobs is not None:
                    yield _event(order, _choice(order, piece, offset))
                offset += len(piece.text)
        except (BackendError, QueueFullError) as error:
            yield _failed(str(error))
            return
        except Exception as error:
            yield _failed(failure(error).text)
            return
        if order.tells_usage:
            last = order.envelope([], streamed=True) | {"usage": usage(order.prompt_tokens, count)}
            yield b"data: " + msgspec.json.encode(last) + b"\n\n"
        yield _DONE


def _failed(text: str) -> bytes:
    error = {"error": {"message": text, "type": "server_error", "code": "generation"}}
    return b"data: " + msgspec.json.encode(error) + b"\n\n"


async def _with(begun: _Piece, pieces: AsyncGenerator[_Piece]) -> AsyncGenerator[_Piece]:
    yield begun
    async for piece in pieces:
        yield piece


def _event(order: _Order, choice: dict[str, Any]) -> bytes:
    event = order.envelope([choice], streamed=True)
    if order.tells_usage:
        event["usage"] = None  # of all but the last, as the API says
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _opening(index: int) -> dict[str, Any]:
    return {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}


def _choice(order: _Order, piece: _Piece, offset: int) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": piece.choice.index, "finish_reason": piece.finish}
    if order.chat:
        choice["delta"] = {"content": piece.text} if piece.text else {}
    else:
        choice["text"] = piece.text
    choice["logprobs"] = _logprobs(order, piece.choice, piece.tokens, offset)
    return choice


def _tell(told: _Told, piece: _Piece) -> None:
    told.text += piece.text
    told.tokens += piece.tokens
    told.finish = piece.finish


def _whole(order: _Order, told: list[_Told]) -> dict[str, Any]:
    choices = [_whole_choice(order, *each) for each in zip(order.choices, told, strict=True)]
    used = usage(order.prompt_tokens, sum(len(each.tokens) for each in told))
    return order.envelope(choices, streamed=False) | {"usage": used}


def _whole_choice(order: _Order, choice: _Choice, told: _Told) -> dict[str, Any]:
    found: dict[str, Any] = {"index": choice.index, "finish_reason": told.finish}
    found["logprobs"] = _logprobs(order, choice, told.tokens, 0)
    if order.chat:
        found["message"] = {"role": "assistant", "content": told.text, "refusal": None}
    else:
        found["text"] = told.text
    return found


def _logprobs(order: _Order, choice: _Choice, tokens: list[Token], offset: int) -> dict[str, Any] | None:
    if choice.sampling.top_logprobs is None:
        return None
    if order.chat:
        return {"content": [_chat_logprob(token) for token in tokens], "refusal": None}
    words = [token.piece.decode(errors="replace") for token in tokens]
    offsets = []
    for word in words:
        offsets.append(offset)
        offset += len(word)
    return {
        "tokens": words,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {piece.decode(errors="replace"): logprob for piece, logprob in token.others} for token in tokens
        ],
        "text_offset": offsets,
    }


def _chat_logprob(token: Token) -> dict[str, Any]:
    others = [_logprob(piece, logprob) for piece, logprob in token.others]
    return _logprob(token.piece, token.logprob) | {"top_logprobs": others}


def _logprob(piece: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}


def _generations(resident: Resident) -> Generations:
    """Raises HttpError."""
    if resident.generations is None:
        raise HttpError(400, "invalid", f"model {resident.model.name!r} does not generate text")
    return resident.generations


def _prompts(generations: Generations, body: GenerationBody) -> list[_Prompt]:
    """Raises InputError, HttpError."""
    if isinstance(body, ChatBody):
        return [_Prompt(generations.generator.tokenize_chat(plain_messages(body.messages)))]
    assert isinstance(body, CompletionBody)
    given = prompts_of(body)
    _check_count(body, len(given))  # before the work: a million texts fit into a body
    return [_prompt(generations, each, bool(body.echo)) for each in given]


def _check_count(body: GenerationBody, prompts: int) -> None:
    """Raises HttpError."""
    each = body.n or 1
    if each * prompts > MAX_CHOICES:
        raise invalid(f"{each} answers to {prompts} prompts, limit {MAX_CHOICES} in all")


def _prompt(generations: Generations, given: str | list[int], echo: bool) -> _Prompt:
    """Raises InputError, HttpError."""
    if isinstance(given, str):
        return _Prompt(generations.generator.tokenize(given), given if echo else "")
    if echo:
        raise invalid("echo needs prompts that are texts")
    return _Prompt(generations.checked(given))


def _choices(body: GenerationBody, prompts: list[_Prompt], sampling: Sampling) -> list[_Choice]:
    seeds = [None if sampling.seed is None else sampling.seed + k for k in range(body.n or 1)]
    ordered = [(prompt, replace(sampling, seed=seed)) for prompt in prompts for seed in seeds]
    return [_Choice(index, *each) for index, each in enumerate(ordered)]


def _sampling(body: GenerationBody, max_tokens: int, top_logprobs: int | None) -> Sampling:
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=body.top_p or 1.0,
        seed=body.seed,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        top_logprobs=top_logprobs,
    )
