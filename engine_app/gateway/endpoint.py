"""What a gateway asks of whatever answers requests about a model: a worker here, a deployment at a peer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from backend.serving.asked import Asked
from backend.serving.http import Headers
from engine_app.gateway.errors import EndpointLostError


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """As the endpoint tells it, or as it is known here."""

    is_ready: bool
    queue_depth: int = 0
    """Requests that wait there, whoever sent them."""


class Answer(Protocol):
    """Iterating gives the body in parts, and raises EndpointLostError if it breaks off."""

    @property
    def status(self) -> int: ...
    @property
    def content_type(self) -> str: ...
    @property
    def headers(self) -> Headers: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...


class RelayedAnswer:
    """Of an endpoint whose errors are of one family: what ``lost`` are is an endpoint lost."""

    def __init__(self, answer: Answer, lost: type[Exception]) -> None:
        self.status = answer.status
        self.content_type = answer.content_type
        self.headers = answer.headers
        self._answer = answer
        self._lost = lost

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._answer:
                yield part
        except self._lost as error:
            raise EndpointLostError(str(error)) from error


class Endpoint(Protocol):
    """``name`` is one of its own among all endpoints of a gateway."""

    @property
    def name(self) -> str: ...

    def ask(self, asked: Asked) -> AbstractAsyncContextManager[Answer]:
        """Leaving the block early takes the request back.

        Raises EndpointLostError, EndpointBusyError, HttpError for what it refuses.
        """

    async def status(self) -> EndpointStatus:
        """Raises EndpointLostError. Sends nothing that a user wrote."""


@runtime_checkable
class Counting(Protocol):
    """An endpoint that counts what it does, and may be believed: a worker on this machine."""

    async def counts(self) -> str:
        """As Prometheus reads them. Raises what ``ask`` does."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an endpoint is, as far as others' eyes are concerned."""

    model: str
    """The name that clients use; replicas share it."""
    own_name: str
    """The name that the model has there."""
    peer_id: str | None = None
    """Who sees what is sent; None for a worker on this machine."""
    deployment: str | None = None
    is_given: bool = False
    """The user deployed it at that peer, who may see what it is asked unless that was forbidden since."""
