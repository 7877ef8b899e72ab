"""Hosted models in real sandboxed workers: asked through a channel, restarted, no trouble to neighbours."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from backend.errors import WorkerDiedError, WorkerFailedError
from backend.serving.asked import Asked
from backend.serving.messages import ServerLimits, TensorSpec
from backend.workers.hosted import HostedState
from backend.workers.model_server import ServerListener
from p2p.errors import RemoteFailureError
from peer.hosting import Hosting
from tests.e2e.serving.servers import endless_onnx, greedy_onnx, linear_onnx

pytestmark = pytest.mark.e2e
JOB, OTHER = "ab" * 32, "ab" * 16 + "cd" * 16  # as alike as a stranger can make them
ROW = json.dumps({"inputs": [[1, 2, 3]]}).encode()
LOGITS = [[16.0, 22.0]]


LIMITS = ServerLimits()


@asynccontextmanager
async def open_hosting(directory: Path, limits: ServerLimits = LIMITS) -> AsyncIterator[Hosting]:
    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            yield Hosting(directory / "hosted", nursery, limits=limits)
            nursery.cancel_scope.cancel()


async def ask(hosting: Hosting, job: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    method = "POST" if body else "GET"
    async with hosting.calls(job).ask(Asked(method, path, "application/json", body)) as answer:
        return answer.status, await answer.read()


async def test_whoever_has_a_model_hosted_is_told_when_it_is_given_up(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "m.onnx")
    dead = trio.Event()

    def break_down(lines: tuple[str, ...]) -> None:
        raise ValueError("nobody thought of this")

    async with open_hosting(tmp_path) as hosting:
        told = ServerListener(break_down, lambda reason, pause_s: dead.set())
        await hosting.start(JOB, tmp_path / "m.onnx", told=told)
        await dead.wait()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RemoteFailureError, match="no deployment"):
            await hosting.status(JOB)


async def test_a_hosted_model_answers_requests_and_tensors_and_its_neighbour_outlives_it(
    tmp_path: Path,
) -> None:
    weights = linear_onnx(tmp_path / "m.onnx")
    deaths: list[str] = []
    ready = trio.Event()
    told = ServerListener(lambda lines: ready.set(), lambda reason, pause_s: deaths.append(reason))
    async with open_hosting(tmp_path) as hosting:
        async with trio.open_nursery() as starting:
            for job in (JOB, OTHER):
                starting.start_soon(lambda job: hosting.start(job, tmp_path / "m.onnx", told=told), job)
        status, body = await ask(hosting, JOB, "/v1/predict", ROW)
        assert (status, json.loads(body)["outputs"]["logits"]) == (200, LOGITS)
        rows = np.arange(300_000, dtype="<f4").reshape(-1, 3)
        given = (TensorSpec("", "float32", rows.shape),)
        predicted = await hosting.calls(JOB).predict(given, rows.tobytes())
        logits = next(spec for spec in predicted.outputs if spec.name == "logits")
        assert (logits, logits.shape) == (predicted.outputs[0], (100_000, 2))
        found = np.frombuffer(predicted.body, "<f4")[:200_000].reshape(logits.shape)
        assert np.allclose(found, rows @ weights)
        told = await hosting.status(JOB)
        assert told.state is HostedState.READY
        assert told.model is not None and told.model.requests == 2
        with stopped(worker_pid(tmp_path, JOB)):
            busy = await hosting.status(JOB, 0.1)
            assert (busy.state, busy.model) == (HostedState.READY, None)
        for path in ("/v2/repository/models/model/unload", "/openapi.json", "/"):
            with pytest.raises(WorkerFailedError, match="allowed are"):
                await ask(hosting, JOB, path, b"{}")
        ready = trio.Event()
        os.kill(worker_pid(tmp_path, JOB), signal.SIGKILL)
        with pytest.raises((WorkerDiedError, WorkerFailedError)):
            await ask(hosting, JOB, "/v1/predict", ROW)
        assert (await ask(hosting, OTHER, "/v1/predict", ROW))[0] == 200
        await ready.wait()
        assert (await ask(hosting, JOB, "/v1/predict", ROW))[0] == 200
        assert "SIGKILL" in deaths[0]
        await hosting.stop(JOB, 1)
        assert hosting.jobs == (OTHER,)
        with pytest.raises(RemoteFailureError, match="no deployment"):
            hosting.calls(JOB)


async def test_a_model_that_hangs_or_wants_all_memory_fails_its_caller_and_nobody_else(
    tmp_path: Path,
) -> None:
    endless_onnx(tmp_path / "endless.onnx")
    greedy_onnx(tmp_path / "greedy.onnx")
    async with open_hosting(tmp_path, ServerLimits(timeout_s=6)) as hosting:
        await hosting.start(JOB, tmp_path / "endless.onnx")
        await hosting.start(OTHER, tmp_path / "greedy.onnx", memory_bytes=2 << 30)
        await fails(hosting, JOB, (1, 1), 1.0, "too_late")
        await fails(hosting, OTHER, (1,), 5e9, "memory")
        fine = await hosting.calls(OTHER).predict(*row((1,), 3.0))
        assert fine.outputs[0].shape == (3,)
        fine = await hosting.calls(JOB).predict(*row((1, 1), -1.0))
        assert np.frombuffer(fine.body, "<f4").tolist() == [-1.0]
        for job in (JOB, OTHER):
            assert (await hosting.status(job)).restarts == 0


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def row(shape: tuple[int, ...], value: float) -> tuple[tuple[TensorSpec, ...], bytes]:
    return (TensorSpec("", "float32", shape),), np.full(shape, value, "<f4").tobytes()


async def fails(hosting: Hosting, job: str, shape: tuple[int, ...], value: float, code: str) -> None:
    with pytest.raises(WorkerFailedError) as caught:
        await hosting.calls(job).predict(*row(shape, value))
    assert caught.value.code == code


def worker_pid(directory: Path, job: str) -> int:
    marker = f"hosted/{job}"
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if str(directory / marker) in line:
            return int(entry.name)
    raise AssertionError("no such worker")
