"""A taste of the fuzzing that ``scripts/fuzz/endpoints.py`` does for as long as one likes."""

from __future__ import annotations

import asyncio

import pytest
from fuzz.endpoints import CORPUS, play_all, running_server

REFUSED = {"predict-items", "predict-csv", "predict-image", "embeddings"}
"""The model does not know what its numbers mean, or has no tokenizer."""


@pytest.mark.parametrize("start", [0, 1_000_000])
def test_damaged_requests_break_no_endpoint(start: int) -> None:
    assert asyncio.run(play_all(range(start, start + 150))) == 150


def test_the_corpus_is_answered_as_it_is_named() -> None:
    async def answers() -> dict[str, bytes]:
        async with running_server() as tested:
            return {
                path.name: await tested.send(path.read_bytes(), _answers_to(path.name), soon_s=60)
                for path in CORPUS.iterdir()
            }

    for name, answer in asyncio.run(answers()).items():
        status = b"400" if name in REFUSED else b"200"
        assert answer.startswith(b"HTTP/1.1 " + status), (name, answer[:300])
        assert answer.count(b"HTTP/1.1 ") == _answers_to(name)


def _answers_to(name: str) -> int:
    return 2 if name == "pipelined" else 1
