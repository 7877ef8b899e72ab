"""Requests to a model through its channel: answers, windows, cancels, limits, workers that break rules."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
import trio
import trio.testing

from backend.errors import DeadlineError, InputError, WorkerDiedError, WorkerError, WorkerFailedError
from backend.formats.tensors import Array
from backend.runtime.base import Sampling, Token
from backend.serving.asked import Asked
from backend.serving.call_frames import (
    PART_BYTES,
    WINDOW_BYTES,
    AnswerHead,
    CallFrames,
    Kind,
    encode_frame,
    encode_head,
    encode_whole,
)
from backend.serving.messages import ServerLimits, TensorSpec
from backend.workers.model_calls import CallLimits, ModelCalls, Predicted
from tests.unit.backend.serving.called import open_served
from tests.unit.backend.serving.server import Counter, Doubler

ROWS = json.dumps({"inputs": {"x": [[1, 2, 3]], "y": [[1, 1, 1]]}}).encode()
PREDICT = Asked("POST", "/v1/predict", "application/json", ROWS)
GENERATE = Asked(
    "POST",
    "/v1/completions",
    "application/json",
    json.dumps({"model": "m", "prompt": "a", "stream": True, "max_tokens": 40}).encode(),
)
PAIR = (TensorSpec("x", "float32", (2, 3)), TensorSpec("y", "float32", (2, 3)))


async def test_a_request_is_answered_as_over_http() -> None:
    async with open_served() as served:
        async with served.model_calls.ask(PREDICT) as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")
            assert json.loads(await answer.read())["outputs"] == {"double": [[2, 4, 6]], "sum": [9]}
            assert answer.is_over
        async with served.model_calls.ask(Asked("POST", "/v1/predict", "", b"{")) as answer:
            assert answer.status == 400
        assert served.model_calls.in_flight == 0


async def test_tensors_are_answered_in_batches_with_other_requests() -> None:
    runtime = Doubler()
    body = np.ones((4, 3), "<f4").tobytes()
    async with open_served(runtime) as served:

        async def one() -> None:
            predicted = await served.model_calls.predict(PAIR, body)
            assert [spec.name for spec in predicted.outputs] == ["double", "sum"]
            assert np.frombuffer(predicted.body, "<f4").tolist() == [2.0] * 6 + [6.0] * 2

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)
    assert max(runtime.batches) > 2
    with pytest.raises(WorkerFailedError, match="busy"):
        await served.model_calls.predict(PAIR, body)


@pytest.mark.parametrize(
    ("specs", "body", "says"),
    [
        (PAIR, b"short", "48 needed"),
        ((TensorSpec("x", "float32", (2, 3)),), bytes(24), "the model takes x, y"),
        ((TensorSpec("x", "object", (2, 3)),), bytes(24), "allowed are float32"),
        ((TensorSpec("x", "float32", (-1, 3)),), bytes(24), "dimensions above 0"),
    ],
)
async def test_wrong_tensors_are_told_what_is_wrong(
    specs: tuple[TensorSpec, ...], body: bytes, says: str
) -> None:
    async with open_served() as served:
        with pytest.raises(WorkerFailedError, match=says) as caught:
            await served.model_calls.predict(specs, body)
        assert caught.value.code == "invalid"


class Moody(Doubler):
    """What its first value asks for: an answer, an error, something that is no tensor, a wait for leave."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        match inputs["x"].flat[0]:
            case 1:
                raise InputError("not in the mood")
            case 2:
                return {"double": "no tensor"}  # type: ignore[dict-item]
            case 3:
                self.begun.set()
                assert self.go_on.wait(10)
        return super().run(inputs, deadline)


def rows_of(value: float) -> bytes:
    return np.full((4, 3), value, "<f4").tobytes()


async def test_a_model_that_fails_says_so_loaded_or_not() -> None:
    async with open_served(Moody()) as served:
        calls = served.model_calls
        for _ in range(2):  # the first one loads the model
            with pytest.raises(WorkerFailedError, match="not in the mood"):
                await calls.predict(PAIR, rows_of(1))
        with pytest.raises(WorkerFailedError) as caught:
            await calls.predict(PAIR, rows_of(2))
        assert caught.value.code == "internal"
        assert (await calls.predict(PAIR, rows_of(0))).body == bytes(32)
        status = await calls.status()
        assert (status.requests, status.failed, status.in_flight) == (4, 2, 0)


async def test_whoever_leaves_a_prediction_holds_up_nobody() -> None:
    runtime = Moody()
    async with open_served(runtime) as served:
        calls = served.model_calls
        await calls.predict(PAIR, rows_of(0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calls.predict, PAIR, rows_of(3))
            await trio.to_thread.run_sync(runtime.begun.wait, 10)
            nursery.cancel_scope.cancel()
        assert calls.in_flight == 0
        runtime.go_on.set()
        assert (await calls.predict(PAIR, rows_of(0))).body == bytes(32)
        assert (await calls.status()).in_flight == 0


class Wide(Doubler):
    """One row in, many out: an answer of several windows."""

    inputs = (TensorSpec("x", "uint8", (-1,)),)
    outputs = (TensorSpec("double", "uint8", (-1,)),)

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        return {"double": np.repeat(inputs["x"], 4)}


async def test_large_bodies_cross_in_parts_and_windows() -> None:
    body = np.random.default_rng(1).integers(0, 255, 3 * WINDOW_BYTES, "u1")
    spec = (TensorSpec("", "uint8", body.shape),)
    async with open_served(Wide()) as served:
        predicted = await served.model_calls.predict(spec, body.tobytes())
    assert np.array_equal(np.frombuffer(predicted.body, "u1"), np.repeat(body, 4))


async def test_a_prediction_without_a_task_is_told_once_unless_it_is_taken_back() -> None:
    runtime = Moody()
    outcomes: list[Predicted | Exception] = []
    answered = trio.Event()

    def told(outcome: Predicted | Exception) -> None:
        outcomes.append(outcome)
        answered.set()

    async with open_served(runtime) as served:
        calls = served.model_calls
        assert calls.begin_prediction(PAIR, bytes(PART_BYTES + 1), 10.0, told) is None
        await calls.predict(PAIR, rows_of(0))
        take_back = calls.begin_prediction(PAIR, rows_of(3), 10.0, told)
        assert take_back is not None
        await trio.to_thread.run_sync(runtime.begun.wait, 10)
        take_back()
        assert calls.in_flight == 0
        runtime.go_on.set()
        take_back = calls.begin_prediction(PAIR, rows_of(1), 10.0, told)
        await answered.wait()
        assert take_back is not None
        take_back()
    assert [str(outcome) for outcome in outcomes] == ["invalid: not in the mood"]
    with pytest.raises(WorkerFailedError, match="busy"):
        await calls.predict(PAIR, rows_of(0))
    assert calls.begin_prediction(PAIR, rows_of(0), 10.0, told) is None


@pytest.mark.parametrize("rows", [1, PART_BYTES])
async def test_an_answer_of_any_size_is_gathered_without_a_task(rows: int) -> None:
    outcomes: list[Predicted | Exception] = []
    answered = trio.Event()

    def told(outcome: Predicted | Exception) -> None:
        outcomes.append(outcome)
        answered.set()

    async with open_served(Wide()) as served:
        spec = (TensorSpec("", "uint8", (rows,)),)
        assert served.model_calls.begin_prediction(spec, b"\x07" * rows, 10.0, told)
        await answered.wait()
        assert served.model_calls.in_flight == 0
    assert isinstance(outcomes[0], Predicted)
    assert outcomes[0].body == b"\x07" * (4 * rows)


@pytest.mark.virtual_clock
async def test_predictions_of_a_silent_worker_end_at_their_own_deadlines() -> None:
    worker = Scripted()
    calls = ModelCalls()
    ended: list[tuple[float, float]] = []

    async def one(timeout_s: float) -> None:
        with pytest.raises(DeadlineError, match="within its time"):
            await calls.predict((), b"", timeout_s)
        ended.append((timeout_s, trio.current_time() - began))

    async with trio.open_nursery() as nursery:
        await nursery.start(calls.run, worker)
        began = trio.current_time()
        async with trio.open_nursery() as callers:
            for timeout_s in (20.0, 10.0, 30.0):
                callers.start_soon(one, timeout_s)
        nursery.cancel_scope.cancel()
    assert ended == [pytest.approx(pair) for pair in ((10.0, 15.0), (20.0, 25.0), (30.0, 35.0))]
    assert calls.in_flight == 0
    sent = CallFrames().receive(worker.end.recv(1 << 16))
    assert [frame.kind for frame in sent] == [Kind.PREDICT] * 3 + [Kind.CANCEL] * 3
    worker.calls.close()
    worker.end.close()


async def test_tokens_come_one_by_one_and_leaving_stops_the_model() -> None:
    model = Counter(free=3)
    async with open_served(model) as served:
        async with served.model_calls.ask(GENERATE) as answer:
            text = b""
            while b"2 " not in text:
                text += await anext(answer)
            assert not answer.is_over
        await trio.to_thread.run_sync(model.ended.wait)
        model.go_on.set()
        async with served.model_calls.ask(GENERATE) as answer:
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")


class Chatterbox(Counter):
    """Says far more than a window holds, and counts what it has said."""

    def __init__(self) -> None:
        super().__init__()
        self.said = 0

    def generate(self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool]) -> Iterator[Token]:
        for _ in range(20):
            self.said += 1
            yield Token(b"x" * (WINDOW_BYTES // 4))


async def test_a_reader_who_stalls_holds_up_nobody_else() -> None:
    async with open_served(Chatterbox()) as served, served.model_calls.ask(GENERATE) as answer:
        status = await served.model_calls.status()
        assert (status.in_flight, status.abilities) == (1, ("complete", "chat"))
        size = len(await answer.read())
        assert size > 20 * WINDOW_BYTES // 4


@pytest.mark.parametrize(
    "path",
    ["/openapi.json", "/", "/v2/repository/models/m/unload", "/v1/../x", "/v1//x", "/health?x", "/v1/%2e"],
)
async def test_only_questions_to_the_model_pass(path: str) -> None:
    async with open_served() as served:
        with pytest.raises(WorkerFailedError, match="allowed are") as caught:
            async with served.model_calls.ask(Asked("POST", path)):
                pass
        assert caught.value.code == "refused"
        with pytest.raises(WorkerFailedError, match="allowed are GET, POST"):
            async with served.model_calls.ask(Asked("DELETE", "/health")):
                pass


async def test_limits_are_of_all_callers_together() -> None:
    ours = CallLimits(in_flight=1, body_bytes=100, bodies_bytes=150)
    async with open_served(Counter(free=0), ours=ours) as served:
        calls = served.model_calls
        with pytest.raises(WorkerFailedError, match="body of 101 bytes, limit 100"):
            await calls.predict((), bytes(101))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask, calls, GENERATE)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(WorkerFailedError, match="1 requests are under way"):
                await calls.predict((), b"")
            nursery.cancel_scope.cancel()
        assert calls.in_flight == 0
    async with open_served(Counter(free=0), ours=replace(ours, in_flight=2)) as served:
        calls = served.model_calls
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask, calls, replace(GENERATE, body=GENERATE.body + b" " * 20))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(WorkerFailedError, match="bodies of 150 bytes"):
                await calls.predict((), bytes(100))
            nursery.cancel_scope.cancel()
        with pytest.raises(WorkerFailedError, match="0 needed"):
            await calls.predict((), bytes(100))
    worker = ServerLimits(body_bytes=10)
    async with open_served(limits=worker) as served:
        with pytest.raises(WorkerFailedError, match="limit 10"):
            await served.model_calls.predict((), bytes(11))


async def _ask(calls: ModelCalls, asked: Asked) -> None:
    async with calls.ask(asked) as answer:
        await answer.read()


async def test_a_worker_that_ends_fails_those_who_wait() -> None:
    async with open_served(Counter(free=0)) as served:
        failures: list[WorkerError] = []

        async def wait() -> None:
            try:
                await _ask(served.model_calls, GENERATE)
            except WorkerError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            served.cut()
        assert isinstance(failures[0], WorkerDiedError)
        assert served.was_killed


class Scripted:
    """A worker that says what the test says, after the first bytes that it is sent."""

    def __init__(self, *said: bytes) -> None:
        self.calls, self.end = socket.socketpair()
        self.killed = trio.Event()
        self._said = b"".join(said)

    def kill(self) -> None:
        self.killed.set()

    async def answer(self) -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(self.end))
        await stream.receive_some()
        await stream.send_all(self._said)


BEGUN = encode_frame(1, Kind.BEGIN, encode_head(AnswerHead(200, "text/plain", ())), b"a", is_last=False)


@pytest.mark.parametrize(
    "said",
    [
        (b"\xff" * 11,),
        (encode_frame(1, Kind.ASK),),
        (encode_frame(1, Kind.PART, b"", b"x"),),
        (encode_frame(1, Kind.BEGIN, b"\xc1"),),
        (encode_frame(1, Kind.FAILED, b"\xc1"),),
        (BEGUN, BEGUN),
        (BEGUN, *[encode_frame(1, Kind.PART, b"", bytes(PART_BYTES), is_last=False)] * 5),
    ],
    ids=["noise", "not-its-kind", "no-head", "bad-head", "bad-failure", "twice", "beyond-its-window"],
)
async def test_a_worker_that_breaks_the_rules_fails_its_callers(said: tuple[bytes, ...]) -> None:
    worker = Scripted(*said)
    calls = ModelCalls()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(calls.run, worker)
            nursery.start_soon(worker.answer)
            with pytest.raises(WorkerError):
                async with calls.ask(Asked("GET", "/health")) as answer:
                    await worker.killed.wait()
                    await answer.read()
            nursery.cancel_scope.cancel()
    assert calls.in_flight == 0
    worker.calls.close()
    worker.end.close()


@pytest.mark.parametrize("cut", [11, 4093, 1 << 20])
def test_frames_are_the_same_however_they_are_cut(cut: int) -> None:
    body = bytes(range(256)) * 1200
    sent = b"".join(encode_whole(7, Kind.PREDICT, b"head", body)) + encode_frame(8, Kind.CANCEL)
    frames = CallFrames()
    found = [frame for at in range(0, len(sent), cut) for frame in frames.receive(sent[at : at + cut])]
    assert [frame.kind for frame in found] == [Kind.PREDICT, Kind.BODY, Kind.BODY, Kind.CANCEL]
    assert [frame.is_last for frame in found] == [False, False, True, True]
    assert b"".join(frame.data for frame in found) == body
    assert (found[0].head, found[0].number) == (b"head", 7)
