"""Rows of a dataset that stays with its Engine: asks for what the worker wants, hands on what comes.

One stream, opened again after every loss; what was asked and not answered is asked again, so the
worker gets each answer once. Holds one answer at a time: what is ahead waits in the worker. The
Engine is believed in nothing but the rows themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
import trio

from backend.errors import WorkerError
from backend.reports import Command, Samples, SampleStream, WantSamples
from p2p.channel import Channel
from p2p.errors import (
    LOST,
    DeadlineError,
    P2PError,
    RemoteFailureError,
    RemoteProtocolError,
)
from p2p.identifiers import PeerId
from p2p.jobs import DataPart, DataSummary
from p2p.network import Network
from p2p.protocols import Failure, Request, Response
from p2p.protocols.coordinator import LeaseRef
from p2p.protocols.data import (
    ITEM_BYTES,
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
from p2p.tasks import background_tasks

log = structlog.get_logger(__name__)

SCALING_FILE = "scaling.f32"
OPEN_TIMEOUT_S = 120.0
"""The Engine may have to look at all samples first."""
ANSWER_TIMEOUT_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
MISSED_AFTER_S = 2.0
"""Without an answer for this long, the training is said to wait."""
LOOK_EVERY_S = 0.5
MAX_WANTED = 4096
"""Requests of one worker, under way or not yet sent."""
MAX_IN_FLIGHT = 64
ANSWER_BYTES = 1 << 20
_SCALING_BYTES = 2 * 4
"""Of one channel."""
_TEMPORARY = frozenset({"unauthorized", "conflict", "not_found", "busy", "internal"})
"""A token may be refreshed and a restarted Engine may catch up: patience ends elsewhere."""

DataChannel = Channel[Request[DataCall], Response[DataAnswer]]


class Worker(Protocol):
    directory: Path

    async def send(self, command: Command, body: bytes = b"") -> None: ...


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how it goes."""

    missed: Callable[[str], Awaitable[None]]
    """The training waits for rows, and why they do not come. Repeated while that lasts."""
    back: Callable[[], Awaitable[None]]
    failed: Callable[[str], Awaitable[None]]
    """The Engine gives what it must not give, or refuses what it must give."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from, and by what right."""

    engine_id: PeerId
    job_id: str
    lease: LeaseRef
    data: DataSummary
    token: Callable[[], str]
    """The newest that the Engine gave."""


class SampleLink:
    """The rows of one training. ``run`` must run for as long as it is used."""

    def __init__(self, network: Network, source: Source, listener: Listener, ahead_bytes: int) -> None:
        self.opened = trio.Event()
        self.failure: str | None = None
        self._network = network
        self._source = source
        self._listener = listener
        self._ahead_bytes = ahead_bytes
        self._facts: tuple[DataOpened, bytes] | None = None
        self._worker: Worker | None = None
        self._wanted: dict[int, WantSamples] = {}
        """Asked by the worker, not yet handed to it, in the order of asking."""
        self._sent: set[int] = set()
        """On the stream that is open."""
        self._changed = trio.Event()
        self._heard_at = trio.current_time()
        """When the last answer came, or when there was nothing to wait for."""
        self._missed = False
        self._trouble = "no answer"

    # -- what the training asks ------------------------------------------------------------------

    def stream(self, worker: Worker) -> SampleStream:
        """What to tell ``worker``, which from now on gets the rows. Writes its scaling file."""
        assert self._facts is not None
        facts, scaling = self._facts
        if scaling:
            (worker.directory / SCALING_FILE).write_bytes(scaling)
        self._worker = worker
        return SampleStream(
            samples=facts.samples,
            sample_shape=facts.sample_shape,
            dtype=facts.dtype,
            classes=facts.classes,
            target_shape=facts.target_shape,
            withheld=tuple(part.value for part in self._source.data.private),
            scaling=SCALING_FILE if scaling else None,
            ahead_bytes=self._ahead_bytes,
            answer_bytes=ANSWER_BYTES,
        )

    def want(self, want: WantSamples) -> None:
        """Never waits. Raises WorkerError for what no sound worker asks."""
        if len(self._wanted) >= MAX_WANTED:
            raise WorkerError(f"asked for samples {MAX_WANTED} times ahead, limit {MAX_WANTED}")
        size = want.count * self._facts[0].row_bytes if self._facts is not None else 0
        if not 0 < size <= MAX_ROWS_BYTES:
            raise WorkerError(f"asked for {size} bytes of samples at once, limit {MAX_ROWS_BYTES}")
        if want.part not in _PARTS or min(want.epoch, want.first) < 0:
            raise WorkerError(f"asked for samples {want.first} of {want.part!r} in epoch {want.epoch}")
        if not self._wanted:
            self._heard_at = trio.current_time()
        self._wanted[want.id] = want
        self._wake()

    # -- the stream ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is cancelled, the worker ends or the Engine is at fault."""
        async with background_tasks() as nursery:
            nursery.start_soon(self._watch)
            try:
                await self._keep_talking()
            except WorkerError as error:
                log.info("rows not handed on", job_id=self._source.job_id, reason=str(error))

    async def _keep_talking(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            heard_at = self._heard_at
            try:
                await self._converse()
            except LOST as error:
                reason: P2PError = error
            except RemoteFailureError as error:
                if error.code not in _TEMPORARY:
                    await self._fail(f"the Engine refuses samples: {error}")
                    return
                reason = error
            except RemoteProtocolError as error:
                await self._fail(str(error))
                return
            self._trouble = str(reason)
            log.info("sample stream lost", job_id=self._source.job_id, reason=self._trouble)
            pause_s = FIRST_PAUSE_S if self._heard_at > heard_at else min(LONGEST_PAUSE_S, 2 * pause_s)
            await trio.sleep(pause_s)

    async def _fail(self, text: str) -> None:
        self.failure = text
        self.opened.set()
        await self._listener.failed(text)

    async def _converse(self) -> None:
        """One stream, from its opening to its loss."""
        stream = await self._network.open_stream(self._source.engine_id, PROTOCOL_ID)
        channel: DataChannel = Channel(stream, REQUESTS, RESPONSES, LIMITS)
        lost: P2PError | WorkerError | None = None
        try:
            await self._open(channel)
            self._sent.clear()
            async with background_tasks() as nursery:

                async def guard(task: Callable[[DataChannel], Awaitable[None]]) -> None:
                    nonlocal lost
                    try:
                        await task(channel)
                    except (P2PError, WorkerError) as error:
                        lost = lost or error
                    nursery.cancel_scope.cancel()

                nursery.start_soon(guard, self._ask)
                nursery.start_soon(guard, self._expire)
                await guard(self._listen)
        finally:
            with trio.CancelScope(shield=True):
                await channel.reset()
        if lost is not None:
            raise lost

    async def _open(self, channel: DataChannel) -> None:
        source = self._source
        await channel.send(Request(0, OpenData(source.token(), source.job_id, source.lease)))
        response, body = await channel.receive(OPEN_TIMEOUT_S)
        match response.answer:
            case Failure(code, message):
                raise RemoteFailureError(code, message)
            case DataOpened() as facts:
                check_facts(facts, body, source.data)
                if self._facts is not None and self._facts != (facts, body):
                    raise RemoteProtocolError("the Engine's data is not what it was before")
                self._facts = (facts, body)
                self.opened.set()
            case answer:
                raise RemoteProtocolError(f"Engine answered {type(answer).__name__} to OpenData")

    async def _ask(self, channel: DataChannel) -> None:
        while True:
            changed = self._changed  # what comes while a request is sent is looked at again
            room = MAX_IN_FLIGHT - len(self._sent)
            for want in [want for number, want in self._wanted.items() if number not in self._sent][:room]:
                self._sent.add(want.id)
                call = GetRows(DataPart(want.part), want.epoch, want.first, want.count)
                await channel.send(Request(want.id, call))
            await changed.wait()

    async def _listen(self, channel: DataChannel) -> None:
        while True:
            # No deadline: nothing may be wanted for long, and ``_expire`` looks after what is.
            response, body = await channel.receive()
            want = self._wanted.get(response.id)
            match response.answer:
                case Failure(code, message):
                    raise RemoteFailureError(code, message)
                case Rows() if want is not None:
                    await self._hand_over(want, body)
                case answer:
                    text = f"Engine answered {type(answer).__name__} to request {response.id}, not wanted"
                    raise RemoteProtocolError(text)

    async def _hand_over(self, want: WantSamples, body: bytes) -> None:
        assert self._facts is not None and self._worker is not None
        expected = want.count * self._facts[0].row_bytes
        if len(body) != expected:
            raise RemoteProtocolError(f"Engine gave {len(body)} bytes of samples, allowed are {expected}")
        # Whole or not at all: a command that is cut short would end the worker.
        with trio.CancelScope(shield=True):
            await self._worker.send(Samples(want.id), body)
        del self._wanted[want.id]
        self._sent.discard(want.id)
        self._heard_at = trio.current_time()
        if self._missed:
            self._missed = False
            await self._listener.back()
        self._wake()

    async def _expire(self, channel: DataChannel) -> None:
        """Ends a stream on which answers are due and none comes."""
        opened_at = trio.current_time()
        while True:
            await trio.sleep(LOOK_EVERY_S)
            silent_s = trio.current_time() - max(self._heard_at, opened_at)
            if self._sent and silent_s > ANSWER_TIMEOUT_S:
                raise DeadlineError(f"no samples for {silent_s:.0f} s, limit {ANSWER_TIMEOUT_S:.0f}")

    async def _watch(self) -> None:
        """Says so when the training is kept waiting."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            silent_s = trio.current_time() - self._heard_at
            if self._wanted and silent_s > MISSED_AFTER_S:
                self._missed = True
                await self._listener.missed(self._trouble)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


_PARTS = frozenset(part.value for part in DataPart)


def check_facts(facts: DataOpened, scaling: bytes, promised: DataSummary) -> None:
    """The price was computed from ``promised``. Raises RemoteProtocolError."""
    found = (facts.samples, facts.sample_shape, facts.dtype, facts.classes)
    allowed = (promised.samples, promised.sample_shape, promised.dtype, promised.classes)
    if found != allowed:
        text = f"dataset of (samples, shape, type, classes) {found}, allowed {allowed} as submitted"
        raise RemoteProtocolError(text)
    if facts.dtype not in ITEM_BYTES:
        raise RemoteProtocolError(f"samples are {facts.dtype}, allowed are {', '.join(ITEM_BYTES)}")
    if facts.row_bytes > MAX_ROWS_BYTES:
        raise RemoteProtocolError(f"a sample of {facts.row_bytes} bytes, limit {MAX_ROWS_BYTES}")
    if len(scaling) not in (0, _SCALING_BYTES * facts.sample_shape[0]):
        expected = _SCALING_BYTES * facts.sample_shape[0]
        raise RemoteProtocolError(f"scaling of {len(scaling)} bytes, allowed are {expected}")
