"""Calls to a model on a peer: one kept-open stream per peer, authorized and authorized again."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog
import trio

from p2p.backoff import Backoff
from p2p.client import CONNECT_TIMEOUT_S
from p2p.errors import LOST, ConnectionFailedError, P2PError, RemoteFailureError, RemoteProtocolError
from p2p.identifiers import PeerId
from p2p.jobs import Requirements
from p2p.network import Network
from p2p.protocols import Done
from p2p.protocols.coordinator import FindPeers, Peers, SignedRecord
from p2p.protocols.inference import (
    ITEM_BYTES,
    Authorize,
    AuthorizeJob,
    DescribeModel,
    InferenceAnswer,
    InferenceCall,
    ModelDescription,
    Predict,
    Prediction,
)
from p2p.records import open_record
from p2p.session.asking import CallStreams
from p2p.session.engine_parts import Engine
from p2p.session.job import Job
from p2p.session.neighbours import reach

log = structlog.get_logger(__name__)
T = TypeVar("T")

PREDICT_TIMEOUT_S = 60.0
SCOPE = "infer"
DIRECT_LIFETIME_S = 600.0


@dataclass(frozen=True, slots=True)
class Tensor:
    """C order, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def size_of(dtype: str, shape: tuple[int, ...]) -> int:
    """In bytes."""
    return math.prod(shape) * ITEM_BYTES[dtype]


class JobCaller:
    """Whoever has the right to a job's models, at one peer: connected, authorized, and both again."""

    def __init__(self, engine: Engine, peer_id: PeerId, find_job: Callable[[], Job]) -> None:
        self.peer_id = peer_id
        self.streams = CallStreams(engine.network, peer_id)
        self._engine = engine
        self._find_job = find_job
        self._job_id = find_job().job_id
        self._authorized_until = 0.0
        self._authorizing = trio.Lock()

    async def call(
        self, call: InferenceCall, body: bytes = b"", patience_s: float | None = None
    ) -> tuple[InferenceAnswer, bytes]:
        """Raises RemoteFailureError when the peer refuses, ConnectionFailedError, DeadlineError."""
        return await self.repeat(lambda: self.streams.call(call, body, PREDICT_TIMEOUT_S), patience_s)

    async def repeat(self, attempt: Callable[[], Awaitable[T]], patience_s: float | None = None) -> T:
        """Again over new connections, and once with a new token: asking a model may be repeated."""
        backoff: Backoff | None = None
        patience_s = self._engine.limits.inference_patience_s if patience_s is None else patience_s
        gives_up_at = trio.current_time() + patience_s
        refused = False
        while True:
            try:
                if not self._engine.network.is_connected(self.peer_id):
                    # The peer may have moved since it was last reached.
                    await reach_again(self._engine, self.peer_id, self._find_job())
                if self._engine.now() >= self._authorized_until:
                    await self._authorize()
                return await attempt()
            except LOST as error:
                self._authorized_until = 0.0
                if trio.current_time() >= gives_up_at:
                    raise
                log.info("call goes out again", peer_id=self.peer_id, reason=str(error))
                backoff = backoff or Backoff(self._engine.draw)
                await trio.sleep(backoff.pause_s())
            except RemoteFailureError as error:
                if error.code != "unauthorized" or refused:
                    raise
                refused = True
                self._authorized_until = 0.0
                self._engine.coordinator.forget_token(self._job_id, SCOPE)

    async def _authorize(self) -> None:
        async with self._authorizing:
            if self._engine.now() < self._authorized_until:
                return
            if self._find_job().direct is not None:
                call: InferenceCall = AuthorizeJob(self._job_id)
                until = self._engine.now() + DIRECT_LIFETIME_S
            else:
                token = await self._engine.coordinator.token(self._job_id, SCOPE)
                call, until = Authorize(token.token), token.expires_at
            answer, _ = await self.streams.call(call)
            if not isinstance(answer, Done):
                raise RemoteProtocolError(f"peer answered {type(answer).__name__} to {type(call).__name__}")
            self._authorized_until = until - 60.0


class HastyCaller:
    """The same, for whoever has somebody else to ask: it gives up soon."""

    def __init__(self, caller: JobCaller, patience_s: float) -> None:
        self.streams = caller.streams
        self._caller = caller
        self._patience_s = patience_s

    async def call(self, call: InferenceCall, body: bytes = b"") -> tuple[InferenceAnswer, bytes]:
        return await self._caller.call(call, body, self._patience_s)

    async def repeat(self, attempt: Callable[[], Awaitable[T]]) -> T:
        return await self._caller.repeat(attempt, self._patience_s)


class ModelClient:
    """The trained model of a job, at the peer that trained it."""

    def __init__(self, caller: JobCaller) -> None:
        self._caller = caller

    async def describe(self, model: str) -> ModelDescription:
        """Raises as ``predict``."""
        answer, _ = await self._caller.call(DescribeModel(model))
        if not isinstance(answer, ModelDescription):
            raise RemoteProtocolError(f"peer answered {type(answer).__name__} to DescribeModel")
        return answer

    async def predict(self, model: str, tensor: Tensor) -> Tensor:
        """Raises RemoteFailureError when the peer refuses, ConnectionFailedError, DeadlineError."""
        call = Predict(model, tensor.dtype, tensor.shape)  # type: ignore[arg-type]
        answer, body = await self._caller.call(call, tensor.data)
        if not isinstance(answer, Prediction):
            raise RemoteProtocolError(f"peer answered {type(answer).__name__} to Predict")
        return Tensor(answer.dtype, answer.shape, body)


async def reach_again(engine: Engine, peer_id: PeerId, job: Job) -> None:
    """Connects, where the peer was or where it is said to be now."""
    network: Network = engine.network
    known: Sequence[str] = next(
        (hold.addresses for hold in reversed(job.holds) if hold.peer_id == peer_id), ()
    )
    if job.direct is not None:
        found = await reach(engine, peer_id, known)
        if found is None:
            raise ConnectionFailedError(f"peer {peer_id} does not answer on this network")
        return
    try:
        await network.connect(peer_id, known, CONNECT_TIMEOUT_S)
        return
    except LOST as lost:
        signed = await _newest_record(engine, peer_id, lost)
    addresses = open_record(signed, engine.now(), peer_id).addresses
    await network.connect(peer_id, addresses, CONNECT_TIMEOUT_S)


async def _newest_record(engine: Engine, peer_id: PeerId, lost: P2PError) -> SignedRecord:
    """What the coordinator has of the peer. Raises ``lost`` where it has no answer to that."""
    try:
        answer = await engine.coordinator.ask(FindPeers(Requirements(allow=(peer_id,))), Peers)
    except RemoteFailureError:
        raise lost from None
    signed = next((peer.record for peer in answer.peers if peer.peer_id == peer_id), None)
    if signed is None:
        raise ConnectionFailedError(
            f"peer {peer_id} answers nowhere, and the coordinator does not know it"
        ) from lost
    return signed
