"""Feeds damaged requests to a model server until the time is up; prints the seed of what breaks it.

``scripts/fuzz/endpoints.py [--seconds 60] [--seed N]``. A round takes a request of tests/corpus/endpoints,
changes its JSON, its head or any of its bytes, and sends it over a real socket. Nothing may be answered
with 500, nothing may take long, and afterwards nothing may be held and the server must still answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
from fuzz.formats import changed

from backend.errors import InputError
from backend.formats.tensors import Array
from backend.runtime.base import Runtime, RuntimeFacts, Sampling, Token
from backend.serving.admission import Admission
from backend.serving.app import Application
from backend.serving.host import ModelHost
from backend.serving.keys import Gatekeeper
from backend.serving.messages import ServedModel, ServerLimits, TensorSpec
from backend.serving.routes import all_routes
from backend.serving.server import server_config

CORPUS = Path(__file__).parents[2] / "tests" / "corpus" / "endpoints"
_HANGS_AFTER_S = 20
_SOON_S = 0.02
"""A request that is not whole is answered by nothing; an answer that takes longer than this still counts."""
_LIMITS = ServerLimits(body_bytes=1 << 20, bodies_bytes=2 << 20, timeout_s=5)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        1.5,
        -0.0,
        1e308,
        2**31,
        2**63,
        2**64,
        10**400,
        "",
        "x",
        "\ud800",
        "é" * 300,
    ),
    *(
        [],
        {},
        [[]],
        [None],
        [[1], [2, 3]],
        {"": {}},
        [[[[[[[[1]]]]]]]],
        ["x"] * 50,
        "FP32",
        "BYTES",
        "m",
        "base64",
    ),
)


class Numbers:
    """Takes and gives tensors of several types."""

    inputs = (
        TensorSpec("x", "float32", (-1, 3)),
        TensorSpec("i", "int32", (-1, 2)),
        TensorSpec("b", "bool", (-1, 1)),
    )
    outputs = (TensorSpec("y", "float32", (-1, 3)), TensorSpec("n", "int32", (-1, 2)))
    facts = RuntimeFacts("fuzz", "fuzz", ("cpu",), 1000)

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        if len({len(array) for array in inputs.values()}) != 1:
            raise InputError("inputs of different batches")
        return {"y": inputs["x"] * inputs["b"], "n": inputs["i"]}


class Single:
    inputs = (TensorSpec("x", "float32", (-1, 3)),)
    outputs = (TensorSpec("y", "float32", (-1, 3)),)
    facts = RuntimeFacts("fuzz", "fuzz", ("cpu",), 1000)

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        return {"y": inputs["x"]}


class Talker:
    """Says its prompt again."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    facts = RuntimeFacts("fuzz", "fuzz", ("cpu",), 1000, context_tokens=64, vocabulary=256)
    has_chat = True

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        raise InputError("generates text")

    def tokenize(self, prompt: str) -> list[int]:
        found = list(prompt.encode())
        if not 0 < len(found) < 64:
            raise InputError(f"prompt of {len(found)} tokens, allowed are 1 to 63")
        return found

    def tokenize_chat(self, messages: list[dict[str, str]]) -> list[int]:
        return self.tokenize("".join(message["content"] for message in messages))

    def generate(self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool]) -> Iterator[Token]:
        for number in prompt[: sampling.max_tokens]:
            if stopped():
                return
            piece = bytes([number])
            told = sampling.top_logprobs is not None
            yield Token(piece, -1.0 if told else None, ((piece, -1.0),) if told else ())


def files() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def hostile(seed: int, corpus: list[bytes]) -> bytes:
    """The bytes of a round; the same for the same seed and corpus."""
    source = random.Random(seed)
    data = source.choice(corpus)
    head, _, body = data.partition(b"\r\n\r\n")
    match source.randrange(4):
        case 0:
            return changed(source, data)
        case 1:
            return changed(source, head) + b"\r\n\r\n" + body
        case 2:
            return _request(head, changed(source, body))
        case _:
            return _request(head, _other_json(source, body))


def _request(head: bytes, body: bytes) -> bytes:
    """With the length that the body has now."""
    return re.sub(rb"(?i)(content-length: )\d+", rb"\g<1>%d" % len(body), head) + b"\r\n\r\n" + body


def _other_json(source: random.Random, body: bytes) -> bytes:
    try:
        value, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    except ValueError:
        return changed(source, body)
    for _ in range(source.randrange(1, 4)):
        value = _other(source, value)
    return json.dumps(value).encode() + body[end:]


def _other(source: random.Random, value: Any) -> Any:
    """With one part of it replaced, repeated, or taken away."""
    if not isinstance(value, dict | list) or not value or source.random() < 0.1:
        return source.choice(_VALUES)
    key = source.choice(list(value) if isinstance(value, dict) else range(len(value)))
    found = value.copy()
    match source.randrange(6):
        case 0:
            del found[key]
        case 1 if isinstance(found, list):
            found += [found[key]] * source.randrange(1, 40)
        case 2 if isinstance(found, dict):
            found[source.choice(("model", "stream", "n", "stop", "logprobs", "data", "shape", "items"))] = (
                source.choice(_VALUES)
            )
        case _:
            found[key] = _other(source, value[key])
    return found


@asynccontextmanager
async def running_server() -> AsyncIterator[Tested]:
    runtimes: dict[str, Runtime] = {"m": Single(), "numbers": Numbers(), "talk": Talker()}
    models = tuple(ServedModel(name, name, "cpu", size_bytes=10) for name in runtimes)
    host = ModelHost(models, _LIMITS, Path(), lambda model: runtimes[model.name])
    app = Application(host, Admission((), Gatekeeper(()), False))
    app.route(all_routes(host, app.refused, False))
    server = uvicorn.Server(server_config(app, 64))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            yield Tested(app, host, listener.getsockname()[1])
        finally:
            server.should_exit = True
            await serving


class Tested:
    def __init__(self, app: Application, host: ModelHost, port: int) -> None:
        self._app = app
        self._host = host
        self._port = port

    async def play(self, data: bytes) -> None:
        """Raises AssertionError, TimeoutError."""
        async with asyncio.timeout(_HANGS_AFTER_S):
            answer = await self.send(data)
            assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:100]
            assert b"HTTP/1.1 500" not in answer, answer[:400]
            assert not self._app.refused["internal"]
            health = await self.send(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert health.startswith(b"HTTP/1.1 200 "), health[:100]
            while self._app.in_flight:  # noqa: ASYNC110 - what is over has no event
                await asyncio.sleep(0)
        assert not self._app.held_bytes
        assert all(not (each.in_flight or each.queue_depth) for each in self._host.readings())

    async def send(self, data: bytes, answers: int = 1, soon_s: float = _SOON_S) -> bytes:
        """So many answers or what comes soon, and then until the server, which sees the end, closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        answer = b""
        try:
            with suppress(ConnectionError):
                writer.write(data)
                with suppress(TimeoutError):
                    async with asyncio.timeout(soon_s):
                        while answer.count(b"HTTP/1.1 ") < answers and (more := await reader.read(1 << 20)):
                            answer += more
                writer.write_eof()
                answer += await reader.read()
            return answer
        finally:
            writer.close()


async def play_all(seeds: range, until: float | None = None) -> int:
    """How many rounds it were. Raises what breaks, having printed its seed."""
    corpus = files()
    async with running_server() as tested:
        for seed in seeds:
            try:
                await tested.play(hostile(seed, corpus))
            except BaseException:
                print(f"broken by --seed {seed}: {hostile(seed, corpus)[:600]!r}")
                raise
            if until is not None and time.monotonic() > until:
                return seed - seeds.start + 1
    return len(seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="play this one round only")
    options = parser.parse_args()
    first = time.time_ns() if options.seed is None else options.seed
    seeds = range(first, first + (1 if options.seed is not None else 1 << 40))
    rounds = asyncio.run(play_all(seeds, time.monotonic() + options.seconds))
    print(f"{rounds} rounds, nothing broken")


if __name__ == "__main__":
    main()
