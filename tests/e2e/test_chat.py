"""`cyxwiz chat` and `cyxwiz infer` with models that a peer serves, over libp2p, as a user types them."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio

from backend.formats.tensors import Array
from backend.serving.messages import RuntimeOptions
from p2p import api
from p2p.files import FileStore
from p2p.host import open_host
from p2p.identity import Identity, load_or_create_identity
from p2p.jobs import DataSummary, FileRef, JobSpec, JobState, ServingSpec
from p2p.protocols.coordinator import LeaseRef
from p2p.session.job import Direct, Grant, Job
from p2p.session.places import Places
from p2p.session.store import open_store as open_jobs
from peer.access import Access
from peer.allowed import AllowList
from peer.artifacts import Artifacts
from peer.deployments import Deployments
from peer.hosting import Hosting
from peer.inference import InferenceService
from peer.store import open_store
from tests.e2e.serving.servers import linear_onnx
from tests.e2e.serving.test_text_models import GGUF, real_model

pytestmark = pytest.mark.e2e
LINEAR, TALKS = "ab" * 32, "cd" * 32
TIMEOUT_S = 240


@dataclass(frozen=True)
class Engine:
    """A data directory whose jobs a peer serves."""

    directory: Path

    async def run(self, *words: str, stdin: bytes = b"") -> str:
        command = [sys.executable, "-m", "engine_app.cli", "--data-dir", str(self.directory), *words]
        done = await trio.run_process(
            command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


@asynccontextmanager
async def served(folder: Path, models: dict[str, Path]) -> AsyncIterator[Engine]:
    """A peer in this process, its workers in their own; ``models`` by the jobs that the Engine has there."""
    directory = folder / "engine"
    directory.mkdir(mode=0o700)
    engine_id = load_or_create_identity(Places(directory).identity).peer_id
    async with (
        open_host(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"]) as network,
        open_store(folder / "peer.sqlite") as store,
        trio.open_nursery() as nursery,
    ):
        access = Access(network.peer_id, None, time.time, AllowList(frozenset({engine_id})))
        artifacts = Artifacts(FileStore(folder / "store", 1 << 30), store)
        deployments = Deployments((), lambda: 0, artifacts.files.path, nursery)
        hosting = Hosting(folder / "hosted", nursery)
        with open_jobs(Places(directory).jobs) as jobs:
            for job_id, model in models.items():
                await store.remember_direct(job_id, engine_id)
                job = job_at(job_id, model.stem, network.peer_id, tuple(network.addresses()))
                await jobs.create(job, b"")
                await hosting.start(job_id, model, options=RuntimeOptions(threads=1))
        InferenceService(network, access, store, artifacts, deployments, hosting, time.time).serve()
        with trio.fail_after(TIMEOUT_S):
            yield Engine(directory)
        nursery.cancel_scope.cancel()


def job_at(job_id: str, name: str, peer_id: str, addresses: tuple[str, ...]) -> Job:
    file = FileRef("01" * 32, "02" * 32, 10)
    summary = DataSummary(file=file, samples=1, sample_shape=(1,), dtype="float32", classes=1)
    serving = ServingSpec(name, "onnx", 1 << 30)
    spec = JobSpec(job_id, "03" * 32, summary, 0, "1" * 32, 1, served=serving)
    grant = Grant(LeaseRef("lease-1", 1), peer_id, addresses, 0, 0)
    return Job(
        spec=spec,
        name=name,
        coordinator="",
        direct=Direct(peer_id, addresses, (grant,)),
        training_flops=0,
        steps=1,
        created_at=time.time(),
        accepted=True,
        state=JobState.RUNNING,
    )


async def test_a_deployed_model_gives_its_outputs(tmp_path: Path) -> None:
    weights = linear_onnx(tmp_path / "m.onnx")
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", rows)
    np.savez(tmp_path / "x.npz", x=rows)
    async with served(tmp_path, {LINEAR: tmp_path / "m.onnx"}) as engine:
        answer = json.loads(
            await engine.run("infer", LINEAR[:8], "--input", str(tmp_path / "x.npy"), "--json")
        )
        assert np.allclose(answer["values"]["logits"], rows @ weights)
        output = tmp_path / "y.npz"
        shown = await engine.run("infer", LINEAR, "--input", str(tmp_path / "x.npz"), "-o", str(output))
        assert "logits  float32 (2, 2)" in shown
        found = np.load(io.BytesIO(output.read_bytes()))
        assert sorted(found.files) == ["logits", "shares"]
        assert np.allclose(found["logits"], rows @ weights)
        await trio.to_thread.run_sync(partial(use_from_python, engine.directory, rows, rows @ weights))


def use_from_python(directory: Path, rows: Array, logits: Array) -> None:
    with api.Engine(directory) as engine:
        assert np.allclose(engine.predict(LINEAR, rows)["logits"], logits)
        status = engine.model_status(LINEAR)
        assert (status.state, status.format, status.abilities) == ("ready", "onnx", ("predict",))
        asked = api.Asked("POST", "/v1/predict", "application/json", b'{"inputs": [[1, 2, 3]]}')
        code, kind, body = engine.ask(LINEAR, asked)
        assert (code, kind) == (200, "application/json")
        assert json.loads(body)["outputs"]["logits"] == [[16.0, 22.0]]


async def test_a_conversation_with_a_language_model(tmp_path: Path) -> None:
    model = real_model(GGUF) / f"{GGUF}.gguf"
    async with served(tmp_path, {TALKS: model}) as engine:
        options = ("--max-tokens", "8", "--temperature", "0")
        once = await engine.run("chat", GGUF, "The capital of France is?", *options)
        assert once.strip()
        piped = await engine.run("chat", TALKS[:8], *options, "--json", stdin=b"The capital of France is?")
        answer = json.loads(piped)
        assert (answer["text"].strip(), answer["tokens"]) == (once.strip(), 8)
        await trio.to_thread.run_sync(partial(talk_on_a_terminal, engine.directory))
        await trio.to_thread.run_sync(partial(talk_from_python, engine.directory, once))


def talk_from_python(directory: Path, expected: str) -> None:
    question = [{"role": "user", "content": "The capital of France is?"}]
    with api.Engine(directory) as engine:
        pieces = engine.chat(TALKS, question, max_tokens=8, temperature=0)
        assert "".join(pieces).strip() == expected.strip()
        for _ in engine.chat(TALKS, question):
            break  # stops the model, which then answers the next one
        assert len(list(engine.chat(TALKS, question, max_tokens=1))) <= 1


def talk_on_a_terminal(directory: Path) -> None:
    """A long answer is stopped by Ctrl-C; the next question is answered, and Ctrl-D ends it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "engine_app.cli", "--data-dir", str(directory), "chat", TALKS]
    command += ["--temperature", "0"]  # a long story then, each time
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    seen = b""

    def read() -> None:
        nonlocal seen
        assert select.select([ours], [], [], 90)[0], seen
        seen += os.read(ours, 1 << 16)

    def until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            read()
        seen = seen[seen.index(text) + len(text) :]

    try:
        until(b"> ")
        os.write(ours, b"Tell me a very long story.\n")
        until(b"story.\r\n")
        while len(seen) < 20:
            read()
        process.send_signal(signal.SIGINT)
        until(b"(stopped)")
        until(b"> ")
        os.write(ours, b"/new\n")
        until(b"> ")
        os.write(ours, b"\x04")
        assert process.wait(90) == 0
    finally:
        process.kill()
        os.close(ours)
