"""Jobs whose data stays with the Engine: what travels, what is evaluated here, what a crash leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from p2p.jobs import DataPart, Delivery, JobState
from p2p.session.control import summary
from p2p.session.engine import JobEngine
from p2p.session.errors import JobRefusedError
from tests.simulation.p2p.session_world import Killed, World, open_world
from tests.simulation.p2p.test_session import BUDGET, GRAPH, to_the_end

pytestmark = pytest.mark.virtual_clock


async def submit(world: World, engine: JobEngine, *private: DataPart) -> str:
    return await engine.submit(
        GRAPH, world.data, BUDGET, segments=3, delivery=Delivery.STREAM, private=private or (DataPart.TEST,)
    )


async def test_the_file_stays_and_the_model_is_evaluated_here(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await submit(world, engine)
        story = await to_the_end(engine, job)
        assert engine.job(job).state is JobState.SETTLED
        assert world.peers[0].data == b""
        assert engine.engine.files.bytes_sent == 0
        assert world.owner.evaluated == [("test", 3)]
        assert (
            "evaluated here on private test samples, step 40: loss 0.2500, accuracy 0.750 on 20 samples"
            in story
        )
        shown = summary(engine.job(job))
        assert shown["evaluated_by_owner"] == {"test": {"samples": 20, "loss": 0.25, "accuracy": 0.75}}
        assert shown["metrics"]["test_accuracy"] == 0.75
        assert shown["delivery"] == "stream"


async def test_private_validation_follows_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.simulation.p2p.session_world.ScriptedSamples.size", lambda self, part: 10)
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await submit(world, engine, DataPart.TEST, DataPart.VALIDATION)
        await to_the_end(engine, job)
        assert world.owner.evaluated == [("validation", 1), ("validation", 2), ("test", 3), ("validation", 3)]
        shown = summary(engine.job(job))
        assert shown["metrics"]["validation_accuracy"] == 0.75
        assert set(shown["evaluated_by_owner"]) == {"test", "validation"}


async def test_a_part_without_samples_is_not_private(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        job = await submit(world, engine, DataPart.TEST, DataPart.VALIDATION)
        assert engine.job(job).spec.data.private == (DataPart.TEST,)


async def test_an_evaluation_that_fails_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        world.owner.fails = "memory: out of it"
        job = await submit(world, engine)
        story = await to_the_end(engine, job)
        assert engine.job(job).state is JobState.SETTLED
        assert "private test samples not evaluated: memory: out of it" in story
        assert summary(engine.job(job))["evaluated_by_owner"] == {}
        assert len(world.owner.evaluated) == 1


async def test_without_torch_a_job_with_private_samples_is_refused_at_once(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        world.owner.able = False
        with pytest.raises(JobRefusedError, match="evaluated here, which needs torch"):
            await submit(world, engine)
        assert world.coordinator.submissions == 0


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("back", range(1, 6))
async def test_a_crash_around_the_evaluation_repeats_it_at_most(
    tmp_path: Path, back: int, after: bool
) -> None:
    """The Engine dies at one of the last writes of the job, and is started again."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    async with open_world(whole) as world, world.engine() as (engine, store):
        await to_the_end(engine, await submit(world, engine))
        writes = store.writes
    async with open_world(cut) as world:
        try:
            async with world.engine(dies_at=writes - back, after=after) as (engine, _):
                await to_the_end(engine, await submit(world, engine))
                await trio.sleep_forever()
        except* Killed:
            pass
        async with world.engine() as (engine, _):
            [job] = engine.jobs()
            story = await to_the_end(engine, job.job_id)
            assert engine.job(job.job_id).state is JobState.SETTLED
            assert sum("evaluated here on private test" in line for line in story) == 1
            assert 1 <= len(world.owner.evaluated) <= 2


async def test_data_that_takes_long_to_open_keeps_nobody_waiting_who_has_his(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.engine() as (engine, _):
        first = engine.job(await submit(world, engine))
        await engine.engine.data.samples_of(first)
        async with engine.engine.data._opening:
            with trio.fail_after(1):
                await engine.engine.data.samples_of(first)
