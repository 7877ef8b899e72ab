"""A model server's application without a socket: requests in, answers out, on a runtime of the test's."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import InputError
from backend.formats.tensors import Array
from backend.runtime.base import Runtime, RuntimeFacts, Sampling, Token
from backend.serving.admission import Admission
from backend.serving.app import Application
from backend.serving.host import ModelHost
from backend.serving.keys import Gatekeeper
from backend.serving.messages import ApiKey, ServedModel, ServerLimits, TensorSpec
from backend.serving.routes import all_routes


class Doubler:
    """Two inputs, two outputs, float32 rows of three; notes how large its batches were."""

    inputs = (TensorSpec("x", "float32", (-1, 3)), TensorSpec("y", "float32", (-1, 3)))
    outputs = (TensorSpec("double", "float32", (-1, 3)), TensorSpec("sum", "float32", (-1,)))
    facts = RuntimeFacts("fake", "fake 1", ("cpu",), 1000)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        self.batches.append(len(inputs["x"]))
        if np.isnan(inputs["x"]).any():
            raise ValueError("not a number")
        return {"double": 2 * inputs["x"], "sum": (inputs["x"] + inputs["y"]).sum(1)}


class Single(Doubler):
    inputs = (TensorSpec("x", "float32", (-1, 3)),)
    outputs = (TensorSpec("double", "float32", (-1, 3)),)

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        self.batches.append(len(inputs["x"]))
        return {"double": 2 * inputs["x"]}


class Counter:
    """Goes on with the words one, two, three ...; waits for leave to go beyond ``free`` of them."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    facts = RuntimeFacts("fake", "fake 1", ("cpu",), 1000, context_tokens=50, vocabulary=256)
    has_chat = True

    def __init__(self, free: int = 50) -> None:
        self.free = free
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.go_on = threading.Event()

    def run(self, inputs: Mapping[str, Array], deadline: float | None = None) -> dict[str, Array]:
        raise InputError("generates text")

    def tokenize(self, prompt: str) -> list[int]:
        return list(prompt.encode())

    def tokenize_chat(self, messages: list[dict[str, str]]) -> list[int]:
        return self.tokenize("".join(message["content"] for message in messages))

    def generate(self, prompt: list[int], sampling: Sampling, stopped: Callable[[], bool]) -> Iterator[Token]:
        self.begun.set()
        try:
            for number in range(min(sampling.max_tokens, 50 - len(prompt))):
                while number >= self.free and not self.go_on.wait(0.01) and not stopped():
                    pass
                if stopped():
                    return
                yield Token(f"{number} ".encode())
        finally:
            self.ended.set()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """``ask`` is one request; several of them may run together under ``asyncio.gather``."""

    def __init__(
        self, runtimes: dict[str, Runtime], limits: ServerLimits, keys: tuple[ApiKey, ...] = ()
    ) -> None:
        models = tuple(ServedModel(name, name, "cpu", size_bytes=10) for name in runtimes)
        self.loads: list[str] = []

        def load(model: ServedModel) -> Runtime:
            self.loads.append(model.name)
            return runtimes[model.name]

        self.host = ModelHost(models, limits, Path(), load)
        self.keys = Gatekeeper(keys)
        self.app = Application(self.host, Admission((), self.keys, bool(keys)))
        self.app.route(all_routes(self.host, self.app.refused, bool(keys)))

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | Any = b"",
        cut: int = 0,
        leaves_after: int | None = None,
        leaves_when: Callable[[], bool] | None = None,
        **headers: str,
    ) -> Answer:
        """``cut``: the body arrives in parts of so many bytes. ``leaves_after``: the client is gone once it
        has seen so many messages; 0: once its body is sent. ``leaves_when``: once that holds."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"host": "127.0.0.1"} | {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
        }
        size = cut or max(1, len(raw))
        parts = [raw[at : at + size] for at in range(0, len(raw), size)] or [b""]
        sent: list[Any] = []
        gone = asyncio.Event()
        if leaves_after == 0:
            gone.set()

        async def receive() -> dict[str, Any]:
            if not parts:
                await (gone.wait() if leaves_when is None else until(leaves_when))
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) == leaves_after:
                gone.set()

        await self.app(scope, receive, send)
        found = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], found, b"".join(each["body"] for each in sent[1:]))


def talk(
    work: Callable[[Server], Awaitable[Any]],
    runtimes: dict[str, Runtime] | None = None,
    limits: ServerLimits | None = None,
    keys: tuple[ApiKey, ...] = (),
) -> Any:
    """Runs ``work(server)`` on an event loop, with a server of these runtimes."""

    async def main() -> Any:
        return await work(Server(runtimes or {"m": Doubler()}, limits or ServerLimits(), keys))

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    """Lets the others run until it holds."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)
