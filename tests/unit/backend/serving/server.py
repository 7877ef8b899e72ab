"""A model server's application without a socket: requests in, answers out, on a runtime of the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.formats.tensors import Array
from backend.runtime.base import Runtime, RuntimeFacts
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
        self.app = Application(self.host, Admission((), Gatekeeper(keys), bool(keys)))
        self.app.route(all_routes(self.host, self.app.refused, bool(keys)))

    async def ask(
        self, method: str, path: str, body: bytes | Any = b"", cut: int = 0, **headers: str
    ) -> Answer:
        """``cut``: the body arrives in parts of so many bytes."""
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

        async def receive() -> dict[str, Any]:
            if not parts:
                await gone.wait()
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message: Any) -> None:
            sent.append(message)

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
