"""A model at a peer, asked over libp2p, against what else one would take.

A small CNN: against the runtime in this process, and against a grpc.aio server of the same model (no
encryption, no sandbox, no batches), at 1 and at 32 callers. SmolLM2-135M, talked with: against llama.cpp's
own server, over HTTP. One thread for each model; in turn, medians of the rounds. Needs the ``bench`` extra,
llama-cpp-python (scripts/llama_cpp) and the models of scripts/real_models.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import numpy as np  # noqa: E402
import trio  # noqa: E402
from real_models import find_model  # noqa: E402
from remote_peer import job_of  # noqa: E402
from serve import free_port, running, small_cnn  # noqa: E402

from p2p.auth import issue_token  # noqa: E402
from p2p.host import open_host  # noqa: E402
from p2p.identifiers import PeerId  # noqa: E402
from p2p.identity import Identity  # noqa: E402
from p2p.logs import configure_logging  # noqa: E402
from p2p.session.chat import ChatOptions  # noqa: E402
from p2p.session.engine_parts import Limits  # noqa: E402
from p2p.session.inference import JobCaller, Tensor  # noqa: E402
from p2p.session.model_at_peer import ModelAtPeer  # noqa: E402

X = np.random.RandomState(1).rand(1, 1, 28, 28).astype(np.float32)
CALLERS = 32
TOKENS = 96
TOPICS = ("rivers", "bridges", "clocks", "bread", "maps", "violins", "glass", "tides", "owls", "paper")


@dataclass(frozen=True)
class Sizes:
    rounds: int
    single: int
    """Calls of one caller in a round."""
    together: int
    """Calls of all callers in a round."""
    talks: int
    tokens: int


WHOLE = Sizes(rounds=5, single=1500, together=6000, talks=3, tokens=TOKENS)
QUICK = Sizes(rounds=2, single=400, together=1500, talks=1, tokens=32)


class Tokens:
    """In place of a coordinator's, for everything that the peer hosts."""

    def __init__(self, signer: Identity, subject: PeerId, audience: PeerId) -> None:
        self._signer = signer
        self._ends = (subject, audience)

    async def token(self, job_id: str, scope: str) -> Any:
        now = time.time()
        text = issue_token(
            self._signer,
            subject=self._ends[0],
            audience=self._ends[1],
            job_id=job_id,
            scope=scope,
            now=now,
            jti=f"{random.getrandbits(128):032x}",
        )
        return SimpleNamespace(token=text, expires_at=now + 800)

    def forget_token(self, job_id: str, scope: str) -> None:
        pass


@contextmanager
def peer(folder: Path, coordinator: Identity, models: list[Path]) -> Iterator[dict[str, Any]]:
    command = [sys.executable, str(HERE / "remote_peer.py"), str(folder), coordinator.peer_id]
    process = subprocess.Popen(
        [*command, *map(str, models)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        where = process.stdout.readline()
        if not where:
            sys.exit(f"the peer did not start: it ended with {process.wait(20)}, see above")
        yield json.loads(where)
    finally:
        process.terminate()
        process.wait(20)


@asynccontextmanager
async def model_at(where: dict[str, Any], coordinator: Identity, job: str) -> AsyncIterator[ModelAtPeer]:
    """As an Engine calls it, but for where the token comes from."""
    peer_id = PeerId(where["peer_id"])
    async with open_host(Identity.generate(), ()) as network:
        engine: Any = SimpleNamespace(
            network=network,
            draw=random.random,
            limits=Limits(),
            now=time.time,
            coordinator=Tokens(coordinator, network.peer_id, peer_id),
        )
        await network.connect(peer_id, where["addresses"])
        about: Any = SimpleNamespace(job_id=job, direct=None, holds=())
        caller = JobCaller(engine, peer_id, lambda: about)
        yield ModelAtPeer(job, lambda: caller)


# -- the small model ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calls:
    p50_ms: float
    per_s: float


async def timed(call: Callable[[], Awaitable[Any]], count: int) -> list[float]:
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await call()
        took.append(time.perf_counter() - began)
    return took


def ours(where: dict[str, Any], coordinator: Identity, sizes: Sizes) -> Calls:
    async def main() -> Calls:
        async with model_at(where, coordinator, job_of(0)) as model:

            async def call() -> None:
                outputs = await model.predict({"x": Tensor("float32", X.shape, X.tobytes())})
                np.frombuffer(outputs["scores"].data, np.float32)

            await timed(call, sizes.single // 5)
            single = await timed(call, sizes.single)
            began = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(CALLERS):
                    nursery.start_soon(timed, call, sizes.together // CALLERS)
            took = time.perf_counter() - began
        return Calls(1000 * statistics.median(single), sizes.together / took)

    return trio.run(main)


def grpc_pair(port: int, sizes: Sizes) -> Calls:
    import grpc

    async def main() -> Calls:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer = channel.unary_unary("/t.T/Infer")

            async def call() -> None:
                np.frombuffer(await infer(X.tobytes()), np.float32)

            await timed(call, sizes.single // 5)
            single = await timed(call, sizes.single)
            began = time.perf_counter()
            await asyncio.gather(*(timed(call, sizes.together // CALLERS) for _ in range(CALLERS)))
            took = time.perf_counter() - began
        return Calls(1000 * statistics.median(single), sizes.together / took)

    return asyncio.run(main())


def in_process(model: Path, sizes: Sizes) -> float:
    """Median, in milliseconds."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    took = []
    for _ in range(sizes.single):
        began = time.perf_counter()
        session.run(None, {"x": X})
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


# -- the language model ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Talk:
    first_ms: float
    tokens_per_s: float


def question(topic: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{topic.title()}: tell me a long and detailed story about {topic}."}]


class Watch:
    """Of one answer."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._at: list[float] = []

    def piece(self) -> None:
        self._at.append(time.perf_counter())

    def talk(self) -> Talk:
        took = self._at[-1] - self._at[0]
        return Talk(1000 * (self._at[0] - self._began), (len(self._at) - 1) / took)


def our_talks(where: dict[str, Any], coordinator: Identity, topics: list[str], tokens: int) -> list[Talk]:
    async def main() -> list[Talk]:
        talks = []
        async with model_at(where, coordinator, job_of(1)) as model:
            await model.status()
            for topic in topics:
                watch = Watch()
                async for _ in model.chat(question(topic), ChatOptions(max_tokens=tokens, temperature=0)):
                    watch.piece()
                talks.append(watch.talk())
        return talks

    return trio.run(main)


def their_talks(port: int, topics: list[str], tokens: int) -> list[Talk]:
    talks = []
    for topic in topics:
        body = {"messages": question(topic), "max_tokens": tokens, "temperature": 0, "stream": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        watch = Watch()
        with urllib.request.urlopen(request) as answer:
            for line in answer:
                if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    watch.piece()
        talks.append(watch.talk())
    return talks


# -- the table ---------------------------------------------------------------------------------------


def language_model() -> Path | None:
    """None, with a line about why, where its rows are left out."""
    found = find_model("smollm2-135m")
    missing = "SmolLM2 is not here: scripts/real_models.py fetches it" if found is None else ""
    for module in ("llama_cpp", "xllamacpp"):
        tried = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True)
        if tried.returncode and not missing:
            missing = f"{module} cannot be imported: {tried.stderr.strip().rpartition(chr(10))[2]}"
    if found is None or missing:
        print(f"without the rows of the language model: {missing}", file=sys.stderr)
        return None
    return found / "smollm2-135m.gguf"


def measure(sizes: Sizes) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    language = language_model()
    coordinator = Identity.generate()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        cnn = folder / "cnn.onnx"
        small_cnn(cnn)
        models = [cnn]
        if language is not None:
            models.append(language)
        where = stack.enter_context(peer(folder, coordinator, models))
        rival = free_port()
        command = [sys.executable, str(HERE / "serve_rivals.py"), "grpc", str(cnn), str(rival)]
        stack.enter_context(running(command, rival))
        for _ in range(sizes.rounds):
            mine, theirs = ours(where, coordinator, sizes), grpc_pair(rival, sizes)
            found["in process"].append(in_process(cnn, sizes))
            for who, calls in (("ours", mine), ("grpc", theirs)):
                found[f"{who} p50"].append(calls.p50_ms)
                found[f"{who} per s"].append(calls.per_s)
        if language is not None:
            llama = free_port()
            command = [sys.executable, str(HERE / "serve_rivals.py"), "llama", str(models[1]), str(llama)]
            stack.enter_context(running(command, llama, stderr=subprocess.DEVNULL))
            talk(found, where, coordinator, llama, sizes)
    return found


def talk(
    found: dict[str, list[float]], where: dict[str, Any], coordinator: Identity, port: int, sizes: Sizes
) -> None:
    """Both are asked about the same topics, which neither has seen before."""
    topics = iter(f"{first} and {second}" for first in TOPICS for second in TOPICS)
    for _ in range(sizes.rounds):
        now = [next(topics) for _ in range(sizes.talks)]
        for who, talks in (
            ("ours", our_talks(where, coordinator, now, sizes.tokens)),
            ("llama", their_talks(port, now, sizes.tokens)),
        ):
            found[f"{who} first"] += [each.first_ms for each in talks]
            found[f"{who} tokens"] += [each.tokens_per_s for each in talks]


def rows(found: dict[str, list[float]]) -> list[dict[str, Any]]:
    value = {name: statistics.median(values) for name, values in found.items()}
    over = value["ours p50"] - value["in process"]
    results = [
        {"what": "p50_over_in_process_ms", "ours": over, "other": None, "other_name": None, "ratio": None}
    ]
    grpc, llama = "grpc.aio with its own client", "llama.cpp's server (xllamacpp)"
    for what, mine, theirs, called in (
        ("p50_of_grpc_aio", "ours p50", "grpc p50", grpc),
        ("requests_32_of_grpc_aio", "ours per s", "grpc per s", grpc),
        ("gguf_tokens_of_llama_server", "ours tokens", "llama tokens", llama),
        ("first_token_of_llama_server", "ours first", "llama first", llama),
    ):
        if mine in value and theirs in value:
            a, b = value[mine], value[theirs]
            results.append({"what": what, "ours": a, "other": b, "other_name": called, "ratio": a / b})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="A small run, to see that it works.")
    options = parser.parse_args()
    configure_logging("error")
    results = rows(measure(QUICK if options.quick else WHOLE))
    for row in results:
        ratio = (
            ""
            if row["ratio"] is None
            else f"  {row['ratio']:.2f} times {row['other']:.4g} of {row['other_name']}"
        )
        print(f"{row['what']:30} {row['ours']:8.4g}{ratio}")
    if options.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
