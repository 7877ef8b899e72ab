"""/cyxwiz/data/1 on the Engine: rows of its own data for the peers that train on them.

A stream opens with the job's token and lease; each request is judged again, so that a lease that
ends gives nothing more. Private parts are never read here. Of one lease only the newest stream is
served, two answers ahead at most: whoever does not read is not read for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
import trio

from p2p.auth import SCOPE_JOB, verify_token
from p2p.channel import Channel
from p2p.errors import P2PError, RemoteFailureError, StreamClosedError, TokenRefusedError
from p2p.identifiers import PeerId
from p2p.network import Stream
from p2p.protocols import Failure, Request, Response
from p2p.protocols.coordinator import LeaseRef
from p2p.protocols.data import (
    LIMITS,
    MAX_ROWS_BYTES,
    PROTOCOL_ID,
    REQUESTS,
    RESPONSES,
    DataAnswer,
    DataCall,
    DataOpened,
    GetRows,
    OpenData,
    Rows,
)
from p2p.session import plan
from p2p.session.engine_parts import Engine
from p2p.session.errors import SessionError
from p2p.session.job import Job
from p2p.session.owner import OwnedSamples
from p2p.tasks import background_tasks

log = structlog.get_logger(__name__)

OPEN_TIMEOUT_S = 15.0
ANSWERS_AHEAD = 2

DataChannel = Channel[Response[DataAnswer], Request[DataCall]]
Answer = tuple[Response[DataAnswer], bytes]


class SampleService:
    """Handler of the data protocol. ``find`` gives a job of this Engine by its id."""

    def __init__(self, engine: Engine, find: Callable[[str], Job | None]) -> None:
        self.rows_sent = 0
        self._engine = engine
        self._find = find
        self._streams: dict[str, trio.CancelScope] = {}
        """By lease."""

    def serve(self) -> None:
        self._engine.network.set_handler(PROTOCOL_ID, self.handle)

    async def handle(self, stream: Stream) -> None:
        """Ends with the stream; what is refused is answered with a Failure."""
        channel: DataChannel = Channel(stream, RESPONSES, REQUESTS, LIMITS)
        try:
            await self._converse(channel)
        except P2PError as error:
            log.info("sample stream lost", peer_id=channel.remote_peer_id, reason=str(error))
            await channel.reset()

    async def _converse(self, channel: DataChannel) -> None:
        request, _ = await channel.receive(OPEN_TIMEOUT_S)
        try:
            call = request.call
            if not isinstance(call, OpenData):
                raise RemoteFailureError("invalid", f"{type(call).__name__} first, allowed is OpenData")
            job = self._admit(channel.remote_peer_id, call)
            with self._newest_stream(call.lease) as scope:
                await self._open(channel, request.id, job)
                await _Serving(self, channel, call).run()
            if scope.cancelled_caught:
                await channel.reset()
        except RemoteFailureError as refusal:
            log.info("samples refused", peer_id=channel.remote_peer_id, reason=str(refusal))
            await channel.send(Response(request.id, Failure(refusal.code, refusal.message[:4096])))
            await channel.aclose()

    def _admit(self, caller: PeerId, call: OpenData) -> Job:
        """Raises RemoteFailureError."""
        known = self._find(call.job_id)
        if known is None or known.direct is None:
            self._check_token(caller, call)
        return self.permitted(caller, call)

    def _check_token(self, caller: PeerId, call: OpenData) -> None:
        """Of a paid job; the right to a direct one is the caller's identity. Raises RemoteFailureError."""
        engine = self._engine
        if not engine.coordinator.peer_id:
            raise RemoteFailureError("unauthorized", "no coordinator is known here, whose token could hold")
        try:
            verify_token(
                call.token,
                coordinator_id=engine.coordinator.peer_id,
                subject=engine.network.peer_id,
                audience=caller,
                scope=SCOPE_JOB,
                now=engine.now(),
                job_id=call.job_id,
            )
        except TokenRefusedError as error:
            raise RemoteFailureError("unauthorized", str(error)) from error

    def permitted(self, caller: PeerId, call: OpenData) -> Job:
        """The job, while its lease is the caller's. Raises RemoteFailureError."""
        job = self._find(call.job_id)
        if job is None:
            raise RemoteFailureError("not_found", f"no job {call.job_id} here")
        refusal = plan.why_no_rows(job, caller, call.lease)
        if refusal is not None:
            raise RemoteFailureError(*refusal)
        return job

    @contextmanager
    def _newest_stream(self, lease: LeaseRef) -> Iterator[trio.CancelScope]:
        earlier = self._streams.get(lease.lease_id)
        if earlier is not None:
            earlier.cancel()
        with trio.CancelScope() as scope:
            self._streams[lease.lease_id] = scope
            try:
                yield scope
            finally:
                if self._streams.get(lease.lease_id) is scope:
                    del self._streams[lease.lease_id]

    async def _open(self, channel: DataChannel, number: int, job: Job) -> None:
        try:
            samples = await self._engine.data.samples_of(job)
        except (SessionError, OSError) as error:
            raise RemoteFailureError("internal", f"the data cannot be read: {error}") from error
        await channel.send(Response(number, _facts(job, samples)), samples.scaling)

    async def rows(self, caller: PeerId, opened: OpenData, call: DataCall) -> tuple[Rows, bytes]:
        """Raises RemoteFailureError."""
        if not isinstance(call, GetRows):
            raise RemoteFailureError("invalid", f"{type(call).__name__} on a stream that is open already")
        job = self.permitted(caller, opened)
        refusal = plan.why_part_stays(job, call.part)
        if refusal is not None:
            raise RemoteFailureError("refused", refusal)
        try:
            samples = await self._engine.data.samples_of(job)
            _check_range(call, samples, job)
            body = await self._engine.run_blocking(
                samples.read, call.part, call.epoch, call.first, call.count
            )
        except (SessionError, OSError) as error:
            raise RemoteFailureError("internal", f"the data cannot be read: {error}") from error
        self.rows_sent += call.count
        return Rows(call.count), body


def _check_range(call: GetRows, samples: OwnedSamples, job: Job) -> None:
    """Raises RemoteFailureError."""
    size, end = samples.size(call.part), call.first + call.count
    if end > size:
        text = f"rows {call.first} to {end} of part {call.part.value}, allowed are 0 to {size}"
        raise RemoteFailureError("invalid", text)
    if call.epoch >= samples.epochs:
        text = f"epoch {call.epoch}, allowed are 0 to {samples.epochs - 1}"
        raise RemoteFailureError("invalid", text)
    size = _facts(job, samples).row_bytes
    if call.count * size > MAX_ROWS_BYTES:
        text = f"{call.count} rows of {size} bytes, limit {MAX_ROWS_BYTES} bytes"
        raise RemoteFailureError("invalid", text)


def _facts(job: Job, samples: OwnedSamples) -> DataOpened:
    data = job.spec.data
    return DataOpened(data.samples, data.sample_shape, data.dtype, data.classes, samples.target_shape)


class _Serving:
    """One opened stream, until either side ends it or the lease is over."""

    def __init__(self, service: SampleService, channel: DataChannel, opened: OpenData) -> None:
        self._service = service
        self._channel = channel
        self._opened = opened

    async def run(self) -> None:
        answers, queue = trio.open_memory_channel[Answer](ANSWERS_AHEAD)
        try:
            async with background_tasks() as nursery:
                nursery.start_soon(self._guarded_send, queue, nursery.cancel_scope)
                await self._read(answers)
                await answers.aclose()
                await trio.sleep_forever()  # until the last answer is sent
        except StreamClosedError:
            await self._channel.aclose()

    async def _read(self, answers: trio.MemorySendChannel[Answer]) -> None:
        """Returns after a refusal that ends everything."""
        while True:
            # No deadline: a peer asks when it has room, and the host notices a dead one.
            request, _ = await self._channel.receive()
            try:
                answer, body = await self._service.rows(
                    self._channel.remote_peer_id, self._opened, request.call
                )
            except RemoteFailureError as refusal:
                log.info("rows refused", peer_id=self._channel.remote_peer_id, reason=str(refusal))
                failure = Failure(refusal.code, refusal.message[:4096])
                await answers.send((Response(request.id, failure), b""))
                if refusal.code not in ("refused", "invalid"):
                    return
            else:
                await answers.send((Response(request.id, answer), body))

    async def _guarded_send(self, queue: trio.MemoryReceiveChannel[Answer], scope: trio.CancelScope) -> None:
        try:
            async for response, body in queue:
                await self._channel.send(response, body)
        except P2PError as error:
            log.info("answer not sent", peer_id=self._channel.remote_peer_id, reason=str(error))
            await self._channel.reset()
        else:
            await self._channel.aclose()
        scope.cancel()
