"""What a worker process does when all goes well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backend.formats.cyxmodel import read_cyxmodel
from backend.reports import (
    AllowSegments,
    Cancel,
    Cancelled,
    Event,
    Failed,
    Finished,
    Pause,
    Paused,
    Progress,
    Resume,
    Resumed,
    SegmentSaved,
    Train,
    TrainingPrepared,
    WaitingForPermission,
)
from backend.serving.messages import (
    LoadModel,
    ModelLoaded,
    Predict,
    Predicted,
    TensorSpec,
    UnloadModel,
)
from backend.workers.supervisor import Worker

pytestmark = pytest.mark.e2e

Command = Callable[..., Train]


async def until(worker: Worker, *kinds: type[Event]) -> tuple[list[Event], Event, bytes]:
    """All events up to the first of these kinds; a failure that was not asked for ends the test."""
    seen: list[Event] = []
    while True:
        event, body = await worker.receive(timeout_s=60)
        if isinstance(event, kinds):
            return seen, event, body
        assert not isinstance(event, Failed), event
        seen.append(event)


async def test_a_graph_becomes_a_model_that_answers(open_worker, graph: bytes, train: Command) -> None:
    async with open_worker() as worker:
        await worker.send(train(), graph)
        events, finished, _ = await until(worker, Finished)
        assert isinstance(events[0], TrainingPrepared)
        steps = [event.metrics.step for event in events if isinstance(event, Progress)]
        assert steps[0] == 1
        assert steps == sorted(steps)
        assert finished.metrics.test_accuracy is not None and finished.metrics.test_accuracy > 0.9
        model = read_cyxmodel(worker.path(finished.file))
        assert model.graph == graph
        assert model.training.step == model.training.total_steps == events[0].total_steps
        assert [point.epoch for point in model.history] == [0, 1, 2, 3]

        await worker.send(LoadModel(model="m", file=finished.file, device="cpu"))
        _, loaded, _ = await until(worker, ModelLoaded)
        assert loaded.inputs[0].shape == (-1, 1, 8, 8)
        assert loaded.outputs[0].shape == (-1, 4)
        x = np.random.RandomState(0).rand(3, 1, 8, 8).astype(np.float32)
        await worker.send(
            Predict(id=7, model="m", inputs=(TensorSpec("input", "float32", (3, 1, 8, 8)),)), x.tobytes()
        )
        _, answer, body = await until(worker, Predicted)
        assert (answer.id, answer.outputs) == (7, (TensorSpec("output", "float32", (3, 4)),))

        from backend.runtime.base import load_model

        local = load_model(worker.path(finished.file), "cpu").predict(x)
        assert np.array_equal(np.frombuffer(body, "<f4").reshape(3, 4), local)


async def test_no_segment_runs_without_permission(open_worker, graph: bytes, train: Command) -> None:
    async with open_worker() as worker:
        await worker.send(train(segments=3, prepare_only=True), graph)
        events, waiting, _ = await until(worker, WaitingForPermission)
        assert waiting.segment == 0
        assert [type(event) for event in events] == [TrainingPrepared]
        total = events[0].total_steps
        await worker.send(AllowSegments(upto=1))
        _, saved, _ = await until(worker, SegmentSaved)
        assert (saved.segment, saved.metrics.step) == (0, total // 3)
        events, waiting, _ = await until(worker, WaitingForPermission)
        assert (events, waiting.segment) == ([], 1)
        await worker.send(AllowSegments(upto=3))
        events, finished, _ = await until(worker, Finished)
        assert [event.segment for event in events if isinstance(event, SegmentSaved)] == [1]
        assert finished.metrics.step == total


async def test_pause_holds_resume_goes_on_and_cancel_ends(
    open_worker, long_graph: bytes, train: Command
) -> None:
    async with open_worker() as worker:
        await worker.send(train(), long_graph)
        await until(worker, Progress)
        await worker.send(Pause())
        _, paused, _ = await until(worker, Paused)
        await worker.send(Resume())
        events, resumed, _ = await until(worker, Resumed)
        assert events == []
        assert resumed.step == paused.step
        _, progress, _ = await until(worker, Progress)
        assert progress.metrics.step == paused.step + 1
        await worker.send(Pause())
        await until(worker, Paused)
        await worker.send(Cancel())
        _, cancelled, _ = await until(worker, Cancelled)
        assert cancelled.step > 0
        await worker.send(train(), long_graph)
        await until(worker, Progress)


async def test_a_second_training_is_refused_while_one_runs(
    open_worker, long_graph: bytes, train: Command
) -> None:
    async with open_worker() as worker:
        await worker.send(train(), long_graph)
        await until(worker, Progress)
        await worker.send(train(), long_graph)
        _, failed, _ = await until(worker, Failed)
        assert "already runs" in failed.text


async def test_it_answers_with_one_model_while_it_trains_another(
    open_worker, graph: bytes, long_graph: bytes, train: Command
) -> None:
    async with open_worker() as worker:
        await worker.send(train(), graph)
        _, finished, _ = await until(worker, Finished)
        await worker.send(train(report_every_s=1000), long_graph)
        await until(worker, Progress)
        await worker.send(LoadModel(model="m", file=finished.file, device="cpu"))
        await until(worker, ModelLoaded)
        for number in range(3):
            await worker.send(
                Predict(id=number, model="m", inputs=(TensorSpec("input", "float32", (1, 1, 8, 8)),)),
                bytes(256),
            )
            _, answer, _ = await until(worker, Predicted)
            assert answer.id == number
        await worker.send(Pause())
        _, paused, _ = await until(worker, Paused)
        assert paused.step > 1


@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "RMSprop"])
async def test_training_goes_on_bit_exactly_after_a_kill(
    open_worker, tmp_path: Path, train: Command, make_graph_bytes: Callable[..., bytes], optimizer: str
) -> None:
    """Killed after a segment, in the middle of an epoch, and resumed by another process from the file."""
    graph = make_graph_bytes(optimizer=optimizer, epochs=3)
    async with open_worker() as worker:
        await worker.send(train(segments=4, allowed_segments=4), graph)
        _, finished, _ = await until(worker, Finished)
        whole = read_cyxmodel(worker.path(finished.file))
    async with open_worker() as worker:
        await worker.send(train(segments=4, allowed_segments=3), graph)
        await until(worker, SegmentSaved)
        _, saved, _ = await until(worker, SegmentSaved)
        checkpoint = worker.path(saved.file).read_bytes()
        worker.kill()
    async with open_worker() as worker:
        (worker.directory / "from.cyxmodel").write_bytes(checkpoint)
        command = train(segments=4, first_segment=2, allowed_segments=4, checkpoint="from.cyxmodel")
        await worker.send(command, graph)
        _, finished, _ = await until(worker, Finished)
        resumed = read_cyxmodel(worker.path(finished.file))
    assert resumed.training == whole.training
    assert resumed.weights.keys() == whole.weights.keys()
    for name, weights in whole.weights.items():
        assert resumed.weights[name].tobytes() == weights.tobytes(), name


async def test_what_cannot_be_done_is_said_and_the_worker_lives(
    open_worker, graph: bytes, train: Command
) -> None:
    async def failure(command: object, body: bytes = b"") -> tuple[str, int | None]:
        await worker.send(command, body)
        _, failed, _ = await until(worker, Failed)
        return failed.code, failed.id

    async with open_worker() as worker:
        (worker.directory / "bad").write_bytes(b"\x80\x04.")
        assert await failure(train(), b"{") == ("graph", None)
        assert await failure(train(), b'{"format_version":1,"name":"","nodes":[],"links":[]}') == (
            "graph",
            None,
        )
        assert await failure(train(dataset="absent"), graph) == ("dataset", None)
        assert await failure(train(dataset="bad"), graph) == ("dataset", None)
        assert await failure(train(segments=100_000), graph) == ("dataset", None)
        assert await failure(train(segments=2, first_segment=1), graph) == ("checkpoint", None)
        resumed = train(segments=2, first_segment=1, checkpoint="bad")
        assert await failure(resumed, graph) == ("checkpoint", None)
        assert await failure(LoadModel(model="m", file="bad", device="cpu")) == ("model", None)
        assert await failure(Predict(id=3, model="m", inputs=()), bytes(4)) == ("model", 3)
        await worker.send(train(), graph)
        _, finished, _ = await until(worker, Finished)
        await worker.send(LoadModel(model="m", file=finished.file, device="cpu"))
        await until(worker, ModelLoaded)
        for dtype, shape, size in (
            ("float32", (1, 1, 8, 8), 255),
            ("float32", (1, 1, 8, 9), 288),
            ("object", (1,), 8),
            ("float32", (0, 1, 8, 8), 0),
            ("float32", (-1, -1, 8, 8), 256),
            ("float32", (2**62, 1, 8, 8), 0),
        ):
            question = Predict(id=9, model="m", inputs=(TensorSpec("input", dtype, shape),))
            assert await failure(question, bytes(size)) == ("input", 9)
        await worker.send(UnloadModel(model="m"))
        assert await failure(Predict(id=4, model="m", inputs=()), bytes(4)) == ("model", 4)


async def test_a_checkpoint_of_another_graph_or_position_is_refused(
    open_worker, graph: bytes, make_graph_bytes: Callable[..., bytes], train: Command
) -> None:
    async with open_worker() as worker:
        await worker.send(train(segments=4, allowed_segments=1), graph)
        _, saved, _ = await until(worker, SegmentSaved)
        await until(worker, WaitingForPermission)
        await worker.send(Cancel())
        await until(worker, Cancelled)
        for body, changes, text in (
            (make_graph_bytes(units=8), {}, "another graph"),
            (graph, {"first_segment": 2}, "after 1 segments"),
            (graph, {"segments": 5}, "another cut"),
        ):
            command = train(**{"segments": 4, "first_segment": 1, "checkpoint": saved.file, **changes})
            await worker.send(command, body)
            _, failed, _ = await until(worker, Failed)
            assert failed.code == "checkpoint"
            assert text in failed.text
