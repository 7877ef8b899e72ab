"""A deployment, as its owner calls it: tensors, HTTP requests, conversations, and how it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Protocol, TypeVar

from p2p.errors import RemoteProtocolError
from p2p.protocols.inference import (
    Ask,
    DeploymentStatus,
    InferenceAnswer,
    InferenceCall,
    PredictionNamed,
    PredictNamed,
    StatusOf,
    TensorGiven,
)
from p2p.session.asking import Answer, Asked, AskedLike, CallStreams
from p2p.session.chat import PATH, ChatOptions, Chatted, ChatText, chat_body, refusal
from p2p.session.inference import Tensor, size_of

T = TypeVar("T")
_MAX_REFUSAL_BYTES = 64 << 10
_AS_IT_IS = ChatOptions()


class Caller(Protocol):
    """Whoever may call the deployment where it is now; ``p2p.session.inference`` has it."""

    streams: CallStreams

    async def call(self, call: InferenceCall, body: bytes = b"") -> tuple[InferenceAnswer, bytes]:
        """Connected, authorized, and asked again after a loss."""

    async def repeat(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What ``attempt`` gives, once connected and authorized; again after a loss."""


class ModelAtPeer:
    """``find_caller`` is asked for each call: a deployment may move to another peer."""

    def __init__(self, deployment: str, find_caller: Callable[[], Caller]) -> None:
        self.deployment = deployment
        self._find_caller = find_caller
        self._name = ""

    async def status(self) -> DeploymentStatus:
        """What the model takes, gives and can, and how it is.

        Raises RemoteFailureError, ConnectionFailedError, DeadlineError, RemoteProtocolError.
        """
        answer, _ = await self._find_caller().call(StatusOf(self.deployment))
        if not isinstance(answer, DeploymentStatus):
            raise RemoteProtocolError(f"peer answered {type(answer).__name__} to StatusOf")
        self._name = answer.name or self._name
        return answer

    async def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All outputs by name. Of a model with one input its name may be empty. Raises as ``status``."""
        given = tuple(
            TensorGiven(name, tensor.dtype, tensor.shape)  # type: ignore[arg-type]
            for name, tensor in inputs.items()
        )
        bodies = [tensor.data for tensor in inputs.values()]
        body = bodies[0] if len(bodies) == 1 else b"".join(bodies)
        answer, data = await self._find_caller().call(PredictNamed(self.deployment, given), body)
        if not isinstance(answer, PredictionNamed):
            raise RemoteProtocolError(f"peer answered {type(answer).__name__} to PredictNamed")
        return cut(answer.outputs, data)

    @asynccontextmanager
    async def ask(self, asked: AskedLike) -> AsyncIterator[Answer]:
        """Leaving the block early takes the request back, down to the model. Raises as ``status``."""
        call = Ask(self.deployment, asked.method, asked.path, asked.content_type, asked.headers)  # type: ignore[arg-type]
        caller = self._find_caller()
        answer = await caller.repeat(lambda: caller.streams.begin(call, asked.body))
        try:
            yield answer
        finally:
            await caller.streams.end(answer)

    async def chat(
        self,
        messages: Iterable[Mapping[str, str]],
        options: ChatOptions = _AS_IT_IS,
        told: Callable[[Chatted], None] = lambda chatted: None,
    ) -> AsyncGenerator[str]:
        """The answer's text as it comes; close it to stop the model. ``told``: once it is over.

        Raises as ``status``, and RemoteFailureError for what the model refuses.
        """
        if not self._name:
            await self.status()
        body = chat_body(self._name or "model", messages, options)
        text = ChatText()
        async with self.ask(Asked("POST", PATH, "application/json", body)) as answer:
            if answer.status != 200:
                raise refusal(answer.status, await answer.read(_MAX_REFUSAL_BYTES))
            async for part in answer:
                for piece in text.receive(part):
                    yield piece
        if not text.is_done:
            raise RemoteProtocolError("the answer ended before its last event")
        told(text.told)

    async def say(self, messages: Iterable[Mapping[str, str]], options: ChatOptions = _AS_IT_IS) -> str:
        """The whole answer. Raises as ``chat``."""
        async with aclosing(self.chat(messages, options)) as pieces:
            return "".join([piece async for piece in pieces])


def cut(outputs: tuple[TensorGiven, ...], data: bytes) -> dict[str, Tensor]:
    """The outputs in a body. Raises RemoteProtocolError where it is not what the outputs say."""
    found: dict[str, Tensor] = {}
    at = 0
    for given in outputs:
        size = size_of(given.dtype, given.shape)
        found[given.name] = Tensor(given.dtype, given.shape, data[at : at + size])
        at += size
    if at != len(data) or len(found) < len(outputs):
        raise RemoteProtocolError(f"outputs of {at} bytes with a body of {len(data)}")
    return found
