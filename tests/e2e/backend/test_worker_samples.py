"""A worker process that gets its samples through its connection, or holds a model against some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from backend.formats.cyxmodel import read_cyxmodel
from backend.pipeline import read_pipeline
from backend.reports import (
    AllowSegments,
    Cancel,
    Cancelled,
    Evaluate,
    Evaluated,
    Failed,
    Finished,
    Ping,
    Progress,
    Samples,
    SampleStream,
    SegmentSaved,
    Train,
    TrainingPrepared,
    WantSamples,
)
from backend.sample_plan import TEST, Window
from backend.samples import LocalSamples, open_samples
from backend.serialize import load_graph
from backend.workers.supervisor import Worker

pytestmark = pytest.mark.e2e

Command = Callable[..., Train]


@pytest.fixture
def owned(data: Path, graph: bytes) -> LocalSamples:
    return open_samples(data, read_pipeline(load_graph(graph)))


def stream(owned: LocalSamples, *withheld: str) -> SampleStream:
    facts = owned.facts
    return SampleStream(
        facts.samples,
        facts.sample_shape,
        facts.dtype,
        facts.classes,
        facts.target_shape,
        withheld,
        "scaling",
        ahead_bytes=20_000,
        answer_bytes=5_000,
    )


def give_scaling(worker: Worker, owned: LocalSamples) -> None:
    scaling = owned.scaling("mean_std")
    assert scaling is not None
    (worker.directory / "scaling").write_bytes(scaling.offset.tobytes() + scaling.factor.tobytes())


async def answer(worker: Worker, owned: LocalSamples, want: WantSamples) -> None:
    x, y = owned.gather(Window(want.part, want.epoch, want.first, want.count))
    await worker.send(Samples(want.id), x.tobytes() + y.tobytes())


async def run(worker: Worker, owned: LocalSamples) -> tuple[Finished, float | None]:
    """Feeds the training to its end; also how long it waited."""
    waited = None
    while True:
        event, _ = await worker.receive(timeout_s=60)
        match event:
            case WantSamples():
                await answer(worker, owned, event)
            case Progress(_, waited_s):
                waited = waited_s
            case SegmentSaved(segment):
                await worker.send(AllowSegments(segment + 2))
            case Finished():
                return event, waited
            case Failed():
                raise AssertionError(event)


async def test_a_streamed_training_gives_the_same_bytes_as_a_local_one(
    open_worker, graph: bytes, train: Command, owned: LocalSamples
) -> None:
    async with open_worker() as worker:
        await worker.send(train(segments=3), graph)
        local, waited = await run(worker, owned)
        assert waited is None
        expected = worker.path(local.file).read_bytes()
    async with open_worker() as worker:
        (worker.directory / "data.safetensors").unlink()
        give_scaling(worker, owned)
        await worker.send(train(segments=3, dataset=None, stream=stream(owned)), graph)
        streamed, waited = await run(worker, owned)
        assert waited is not None and waited > 0
        assert worker.path(streamed.file).read_bytes() == expected
        assert streamed.metrics == local.metrics


async def test_an_evaluation_of_the_test_part_finds_what_the_training_did(
    open_worker, graph: bytes, train: Command, owned: LocalSamples
) -> None:
    async with open_worker() as worker:
        await worker.send(train(), graph)
        finished, _ = await run(worker, owned)
        owned.write_part(TEST, worker.directory / "part.safetensors")
        await worker.send(Evaluate(finished.file, "part.safetensors", "cpu"))
        event, _ = await worker.receive(timeout_s=60)
        assert isinstance(event, Evaluated)
        assert event.samples == owned.size(TEST)
        assert event.accuracy == finished.metrics.test_accuracy
        await worker.send(Evaluate("data.safetensors", "part.safetensors", "cpu"))
        event, _ = await worker.receive(timeout_s=60)
        assert isinstance(event, Failed)
        assert event.code == "model"


async def test_a_training_that_waits_for_samples_can_be_cancelled_and_is_not_stalled(
    open_worker, graph: bytes, train: Command, owned: LocalSamples
) -> None:
    async with open_worker(stall_s=1, hang_s=300) as worker:  # asked below, and not before
        give_scaling(worker, owned)
        await worker.send(train(dataset=None, stream=stream(owned)), graph)
        asked = []
        while len(asked) < 3 or not any(isinstance(event, TrainingPrepared) for event in asked):
            asked.append((await worker.receive(timeout_s=60))[0])
        with trio.move_on_after(1.5) as longer_than_a_stall:
            while True:
                assert isinstance((await worker.receive())[0], WantSamples)
        assert longer_than_a_stall.cancelled_caught
        await worker.send(Ping())
        await worker.send(Cancel())
        event, _ = await worker.receive(timeout_s=60)
        assert isinstance(event, Cancelled)


async def test_a_streamed_training_resumes_bit_exactly_in_another_process(
    open_worker, graph: bytes, train: Command, owned: LocalSamples
) -> None:
    async with open_worker() as worker:
        give_scaling(worker, owned)
        await worker.send(train(segments=4, dataset=None, stream=stream(owned)), graph)
        while not isinstance(event := (await worker.receive(timeout_s=60))[0], SegmentSaved):
            if isinstance(event, WantSamples):
                await answer(worker, owned, event)
        checkpoint = worker.path(event.file).read_bytes()
        await worker.send(AllowSegments(4))
        whole, _ = await run(worker, owned)
        expected = worker.path(whole.file).read_bytes()
        worker.kill()
    async with open_worker() as worker:
        give_scaling(worker, owned)
        (worker.directory / "start.cyxmodel").write_bytes(checkpoint)
        order = train(
            segments=4,
            first_segment=1,
            allowed_segments=4,
            checkpoint="start.cyxmodel",
            dataset=None,
            stream=stream(owned),
        )
        await worker.send(order, graph)
        resumed, _ = await run(worker, owned)
        assert worker.path(resumed.file).read_bytes() == expected
        assert read_cyxmodel(worker.path(resumed.file)).training.segments_done == 4
