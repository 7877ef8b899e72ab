"""Generations over HTTP: whole, streamed, refused, and given up by who asked."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from backend.errors import DeadlineError
from backend.formats.tensors import Array
from backend.runtime.base import Sampling, Token
from backend.serving.generation import Generations
from backend.serving.keys import make_key
from backend.serving.messages import ServerLimits
from backend.serving.stats import ModelStats
from tests.unit.backend.serving.server import Counter, Doubler, Server, Single, talk, until

ORDER = {"model": "m", "prompt": "count", "max_tokens": 3}


def events(body: bytes) -> list[Any]:
    parts = body.decode().split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def test_a_generation_is_whole_or_streamed_and_the_same() -> None:
    async def work(server: Server) -> None:
        whole = (await server.ask("POST", "/v1/completions", ORDER)).json
        assert whole["choices"][0]["text"] == "0 1 2 "
        assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        streamed = await server.ask("POST", "/v1/completions", ORDER | {"stream": True})
        assert streamed.headers["content-type"] == "text/event-stream"
        told = events(streamed.body)
        assert "".join(each["choices"][0]["text"] for each in told) == "0 1 2 "
        assert told[-1]["choices"][0]["finish_reason"] == "length"

    talk(work, {"m": Counter()})


def test_a_stop_sequence_ends_the_generation_in_the_model_too() -> None:
    model = Counter()

    async def work(server: Server) -> None:
        order = ORDER | {"max_tokens": 40, "stop": ["4"]}
        answer = (await server.ask("POST", "/v1/completions", order)).json
        assert answer["choices"][0]["text"] == "0 1 2 3 "
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert model.ended.is_set()

    talk(work, {"m": model})


def _frees_the_model(stream: bool, leaves_after: int | None) -> None:
    """``leaves_after`` None: when the generation has begun."""
    model = Counter(free=1)

    async def work(server: Server) -> None:
        order = ORDER | {"max_tokens": 40, "stream": stream}
        when = model.begun.is_set if leaves_after is None else None
        await server.ask("POST", "/v1/completions", order, leaves_after=leaves_after, leaves_when=when)
        assert model.begun.is_set() == model.ended.is_set()
        (reading,) = server.host.readings()
        assert (reading.in_flight, reading.queue_depth) == (0, 0)
        model.go_on.set()
        assert (await server.ask("POST", "/v1/completions", ORDER)).status == 200

    talk(work, {"m": model})


def test_whoever_leaves_a_stream_frees_the_model() -> None:
    _frees_the_model(stream=True, leaves_after=2)


def test_whoever_leaves_before_the_stream_begins_frees_the_model() -> None:
    _frees_the_model(stream=True, leaves_after=1)
    _frees_the_model(stream=True, leaves_after=0)
    _frees_the_model(stream=True, leaves_after=None)


def test_whoever_leaves_while_the_whole_answer_is_made_frees_the_model() -> None:
    _frees_the_model(stream=False, leaves_after=0)
    _frees_the_model(stream=False, leaves_after=None)


def test_more_than_may_wait_is_refused_with_a_status_even_as_a_stream() -> None:
    model = Counter(free=1)

    async def work(server: Server) -> None:
        first = asyncio.ensure_future(server.ask("POST", "/v1/completions", ORDER))
        await until(lambda: server.host.readings()[0].in_flight == 1)
        second = asyncio.ensure_future(server.ask("POST", "/v1/completions", ORDER))
        await until(lambda: server.host.readings()[0].queue_depth == 1)
        refused = await server.ask("POST", "/v1/completions", ORDER | {"stream": True})
        assert (refused.status, refused.json["error"]["code"]) == (503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        model.go_on.set()
        assert [answer.status for answer in await asyncio.gather(first, second)] == [200, 200]

    talk(work, {"m": model}, ServerLimits(waiting=1))


def test_a_turn_that_never_comes_is_told_by_the_deadline() -> None:
    model = Counter(free=1)

    async def work(server: Server) -> None:
        first = asyncio.ensure_future(server.ask("POST", "/v1/completions", ORDER))
        await until(lambda: server.host.readings()[0].in_flight == 1)
        assert (await server.ask("POST", "/v1/completions", ORDER)).status == 504
        model.go_on.set()
        assert (await first).status == 200

    talk(work, {"m": model}, ServerLimits(timeout_s=0.2))


async def _two_answers_while_another_waits(server: Server, model: Counter, lasts_s: float) -> list[int]:
    """The statuses of both. The first answer takes so long."""
    first = asyncio.ensure_future(server.ask("POST", "/v1/completions", ORDER | {"n": 2}))
    await until(model.begun.is_set)
    ends_at = time.monotonic() + lasts_s
    await until(lambda: time.monotonic() >= ends_at)
    second = asyncio.ensure_future(server.ask("POST", "/v1/completions", ORDER))
    await until(lambda: server.host.readings()[0].queue_depth == 1)
    model.go_on.set()
    return [answer.status for answer in await asyncio.gather(first, second)]


def test_a_second_answer_has_room_to_wait_however_many_do() -> None:
    model = Counter(free=1)

    async def work(server: Server) -> None:
        assert await _two_answers_while_another_waits(server, model, 0) == [200, 200]

    talk(work, {"m": model}, ServerLimits(waiting=1))


def test_a_second_answer_has_time_to_wait_however_long_the_first_took() -> None:
    model = Counter(free=1)

    async def work(server: Server) -> None:
        assert await _two_answers_while_another_waits(server, model, 0.5) == [200, 200]

    talk(work, {"m": model}, ServerLimits(timeout_s=0.5))


def test_a_stream_ends_once_its_key_is_taken_back() -> None:
    model = Counter(free=2)
    text, kept = make_key("k", ("predict",), 0, ("id", "secret"), "")
    other_text, other = make_key("other", ("predict",), 0, ("other", "secret"), "")

    async def work(server: Server) -> None:
        order = ORDER | {"max_tokens": 40, "stream": True}
        asked = asyncio.ensure_future(
            server.ask("POST", "/v1/completions", order, authorization=f"Bearer {text}")
        )
        await until(model.begun.is_set)
        server.keys.replace((other,))
        model.go_on.set()
        told = (await asked).body.decode().split("\n\n")
        assert "has been taken back" in told[-2]
        assert len(told) < 10
        assert model.ended.is_set()
        again = await server.ask("POST", "/v1/completions", order, authorization=f"Bearer {other_text}")
        assert len(events(again.body)) > 40

    talk(work, {"m": model}, keys=(kept, other))


class Reader(Counter):
    """Notes what it makes tokens of."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def tokenize(self, prompt: str) -> list[int]:
        self.read.append(prompt)
        return super().tokenize(prompt)


def test_too_many_prompts_are_refused_before_any_is_read() -> None:
    model = Reader()

    async def work(server: Server) -> None:
        answer = await server.ask("POST", "/v1/completions", ORDER | {"prompt": ["a"] * 100_000})
        assert answer.status == 400
        assert not model.read

    talk(work, {"m": model})


class Slow(Counter):
    """Its chat template is not done until ``go_on``."""

    def tokenize_chat(self, messages: list[dict[str, str]]) -> list[int]:
        self.begun.set()
        assert self.go_on.wait(60)
        return super().tokenize_chat(messages)


class SlowEmbedder(Single):
    """As is its tokenizer."""

    shares_within = None

    def __init__(self) -> None:
        super().__init__()
        self.encoder = self
        self.begun, self.go_on = threading.Event(), threading.Event()

    def encode(self, text: str) -> tuple[dict[str, Array], int]:
        self.begun.set()
        assert self.go_on.wait(60)
        return {"x": np.ones((1, 3), np.float32)}, len(text)

    def from_ids(self, ids: list[int]) -> tuple[dict[str, Array], int]:
        raise AssertionError("texts were sent")

    def pool(self, inputs: dict[str, Array], outputs: dict[str, Array]) -> Array:
        return outputs["double"][0]


def test_a_long_template_or_text_holds_up_neither_other_models_nor_what_its_own_is_asked_besides() -> None:
    slow, embedder = Slow(), SlowEmbedder()

    async def work(server: Server) -> None:
        chat = {"model": "slow", "messages": [{"role": "user", "content": "count"}], "max_tokens": 3}
        texts = {"model": "embedder", "input": "long " * 1000}
        asked = [
            asyncio.create_task(server.ask("POST", "/v1/chat/completions", chat)),
            asyncio.create_task(server.ask("POST", "/v1/embeddings", texts)),
        ]
        await until(lambda: slow.begun.is_set() and embedder.begun.is_set())
        assert (await server.ask("GET", "/health")).status == 200
        rows = {"inputs": {"x": [[1, 2, 3]], "y": [[0, 0, 0]]}, "model": "other"}
        assert (await server.ask("POST", "/v1/predict", rows)).json["outputs"]["sum"] == [6]
        predict = {"inputs": [[1, 2, 3]], "model": "embedder"}
        assert (await server.ask("POST", "/v1/predict", predict)).json["outputs"] == {"double": [[2, 4, 6]]}
        assert not any(each.done() for each in asked)
        slow.go_on.set()
        embedder.go_on.set()
        answers = await asyncio.gather(*asked)
        assert [each.status for each in answers] == [200, 200]
        assert answers[1].json["data"][0]["embedding"] == [2, 2, 2]

    talk(work, {"other": Doubler(), "slow": slow, "embedder": embedder})


def _generations(unread_limit: int) -> Generations:
    """The prompts of the tests have three tokens."""
    return Generations(Counter(), 50, ThreadPoolExecutor(1), 4, ModelStats(), unread_limit)


async def _texts(tokens: AsyncIterator[Token]) -> list[bytes]:
    return [token.piece async for token in tokens]


def _run(generations: Generations, tokens: int, within_s: float = 60) -> AsyncGenerator[Token]:
    return generations.run([1, 2, 3], Sampling(max_tokens=tokens), time.monotonic() + within_s)


def test_who_reads_slowly_keeps_nobody_waiting_and_misses_nothing() -> None:
    async def work() -> None:
        generations = _generations(unread_limit=1000)
        slow = _run(generations, 40)
        begun = await anext(slow)
        assert await _texts(_run(generations, 3)) == [b"0 ", b"1 ", b"2 "]
        assert [begun.piece, *await _texts(slow)] == [b"%d " % number for number in range(40)]

    asyncio.run(work())


@pytest.mark.parametrize("reads_on", [False, True])
def test_what_is_left_unread_is_bounded(reads_on: bool) -> None:
    async def work() -> None:
        generations = _generations(unread_limit=10)
        slow = _run(generations, 40)
        await anext(slow)
        with pytest.raises(DeadlineError):
            await anext(_run(generations, 3, within_s=0.05))
        waiting = asyncio.ensure_future(_texts(_run(generations, 3)))
        await until(lambda: generations.waiting == 1)
        if reads_on:
            for _ in range(30):  # all but ten, the end included
                await anext(slow)
        else:
            await slow.aclose()
        assert len(await waiting) == 3

    asyncio.run(work())
