"""Replicas of one model wait for one worker, and get questions of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import cast

import trio
from trio.testing import wait_all_tasks_blocked

from p2p.disk import run_inline
from p2p.session.errors import EvaluationFailedError
from p2p.session.owner import DataOwner
from p2p.session.trial import QUESTIONS, Question, Trial
from p2p.session.trying import MAX_TRIED_BYTES, Trying


class Copy:
    """A model here, which answers no more than ``most`` questions at a time."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.begun: list[str] = []
        self.may_end = trio.Event()
        self.fails = ""

    def takes_all(self, model: Path) -> bool:
        return model.name == "fixed"

    async def try_model(self, model: Path, workspace: Path, seeds: Sequence[int]) -> Trial:
        self.begun.append(model.name)
        await self.may_end.wait()
        if self.fails:
            raise EvaluationFailedError(self.fails)
        return Trial(questions=tuple(map(Question, seeds[: self.most])))


class Run:
    def __init__(self, copy: Copy, directory: Path) -> None:
        self.found: dict[str, Trial] = {}
        self._trying = Trying(cast(DataOwner, copy), directory / "work", run_inline, Random(0).getrandbits)

    async def one(self, name: str, model: str = "m", size: int = 1) -> None:
        self.found[name] = await self._trying.tried(Path(model), size)

    def seeds(self, name: str) -> list[int]:
        return [question.seed for question in self.found[name].questions]


async def test_replicas_that_wait_share_one_try_and_no_question(tmp_path: Path) -> None:
    copy = Copy()
    run = Run(copy, tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.one, "first")
        await wait_all_tasks_blocked()
        for name in ("b", "c", "d"):
            nursery.start_soon(run.one, name)
        nursery.start_soon(run.one, "another", "other model")
        await wait_all_tasks_blocked()
        copy.may_end.set()
    assert sorted(copy.begun) == ["m", "m", "other model"]
    seeds = [seed for name in run.found for seed in run.seeds(name)]
    assert len(seeds) == len(set(seeds)) == 5 * QUESTIONS


async def test_who_gets_no_question_in_time_is_tried_for_again(tmp_path: Path) -> None:
    copy = Copy(most=1)
    run = Run(copy, tmp_path)
    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(run.one, name)
        await wait_all_tasks_blocked()
        copy.may_end.set()
    assert copy.begun == ["m"] * 3
    assert [len(run.seeds(name)) for name in run.found] == [1, 1, 1]


async def test_who_leaves_while_it_tries_leaves_the_others_to_try(tmp_path: Path) -> None:
    copy = Copy()
    run = Run(copy, tmp_path)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as leaving:
            async with trio.open_nursery() as inner:
                inner.start_soon(run.one, "left")
                await wait_all_tasks_blocked()
                nursery.start_soon(run.one, "stays")
                await wait_all_tasks_blocked()
                leaving.cancel()
        copy.may_end.set()
    assert list(run.found) == ["stays"] and len(run.seeds("stays")) == QUESTIONS


async def test_a_model_that_cannot_be_tried_says_why_and_whether_it_must_answer(tmp_path: Path) -> None:
    copy = Copy()
    copy.fails = "no runtime for it"
    copy.may_end.set()
    run = Run(copy, tmp_path)
    await run.one("open")
    await run.one("large", "fixed", MAX_TRIED_BYTES + 1)
    assert run.found["open"] == Trial(untried="no runtime for it")
    assert run.found["large"].takes_all and "536870913 bytes" in run.found["large"].untried
    assert copy.begun == ["m"]
