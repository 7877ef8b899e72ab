"""Requests that run together in one batch, on a real event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from backend.errors import InputError
from backend.formats.tensors import Array
from backend.serving.batcher import Batcher, run_batch
from backend.serving.batching import BatchLimits
from backend.serving.messages import TensorSpec
from backend.serving.stats import ModelStats
from tests.unit.backend.serving.server import Doubler


class Texts(Doubler):
    """Gives each token and its mask back, and remembers what it was given at a time."""

    inputs = (TensorSpec("ids", "int64", (-1, -1)), TensorSpec("mask", "int64", (-1, -1)))
    outputs = (TensorSpec("hidden", "int64", (-1, -1, 2)),)

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        ids, mask = inputs["ids"], inputs["mask"]
        self.shapes.append(ids.shape)
        if (ids == 13).any():
            raise InputError("an unlucky token")
        assert not ids[mask == 0].any()
        return {"hidden": np.stack((ids, mask), axis=-1)}


def text(length: int, token: int = 7) -> dict[str, Array]:
    return {"ids": np.full((1, length), token), "mask": np.ones((1, length), np.int64)}


def test_texts_of_different_lengths_share_a_batch_only_where_they_are_kin() -> None:
    model = Texts()

    async def work() -> list[dict[str, Array]]:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(model, BatchLimits(), ModelStats(), thread)
            until = time.monotonic() + 30
            asked = [batcher.ask(text(length), until, "short") for length in (3, 8, 5)]
            others = [batcher.ask(text(20), until, "long"), batcher.ask(text(3), until)]
            return list(await asyncio.gather(*asked, *others))

    answers = asyncio.run(work())
    assert model.shapes == [(3, 8), (1, 20), (1, 3)]
    for answer, length in zip(answers, (3, 8, 5, 20, 3), strict=True):
        hidden = answer["hidden"][0]
        assert hidden[:length].tolist() == [[7, 1]] * length
        assert not hidden[length:].any()


def test_a_text_that_fails_in_a_batch_fails_alone() -> None:
    first, unlucky, last = run_batch(Texts().run, [text(4), text(2, token=13), text(6)], 0.0)
    assert isinstance(unlucky, InputError)
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    assert (first["hidden"].shape, last["hidden"].shape) == ((1, 4, 2), (1, 6, 2))


@pytest.mark.parametrize("rows", [(1, 1), (2, 3)])
def test_rows_of_one_length_are_joined_as_they_are(rows: tuple[int, int]) -> None:
    model = Texts()
    questions = [{"ids": np.full((count, 4), 5), "mask": np.ones((count, 4), np.int64)} for count in rows]
    answers = run_batch(model.run, questions, 0.0)
    assert model.shapes == [(sum(rows), 4)]
    assert [len(answer["hidden"]) for answer in answers if isinstance(answer, dict)] == list(rows)


def test_whoever_knows_that_no_more_comes_need_not_wait_for_the_next_turn() -> None:
    model = Texts()

    async def work() -> None:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(model, BatchLimits(), ModelStats(), thread)
            batcher.pace.note(0.0)  # quick enough to run where it is
            answers: list[object] = []
            batcher.hurry()
            for length in (3, 4):
                batcher.submit(text(length), time.monotonic() + 30, answers.append, "short")
            assert not answers
            batcher.hurry()
            assert len(answers) == 2
            await asyncio.sleep(0)
            batcher.hurry()
        assert (len(answers), model.shapes) == (2, [(2, 4)])

    asyncio.run(work())


def test_hurry_leaves_a_request_its_time_to_wait_for_company() -> None:
    async def work() -> None:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(Texts(), BatchLimits(window_s=60.0), ModelStats(), thread)
            batcher.pace.note(0.0)
            answers: list[object] = []
            batcher.submit(text(3), time.monotonic() + 90, answers.append)
            batcher.hurry()
            batcher.hurry()
            assert not answers
            assert len(batcher) == 1

    asyncio.run(work())
