"""An Engine that keeps its data and peers that train on it, on an in-memory network: both ends are real.

The Engine's rows are marked by the part that they belong to, so that whoever sees a row knows whose it is.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import trio

from backend.formats.tensors import pack_tensors
from backend.pipeline import read_pipeline
from backend.reports import Command, Samples, WantSamples
from backend.sample_plan import TEST, TRAIN, VALIDATION, Schedule, Window, make_schedule
from backend.samples import LocalSamples, open_samples
from backend.serialize import dump_graph, graph_hash
from engine_app.checks import BackendChecks
from engine_app.owner import BackendOwner
from p2p.auth import issue_token
from p2p.channel import Channel
from p2p.disk import run_inline
from p2p.errors import P2PError
from p2p.files import FileStore
from p2p.framing import FrameLimits
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.jobs import DataPart, DataSummary, Delivery, JobSpec, JobState
from p2p.network import Stream
from p2p.protocols import Request, Response
from p2p.protocols import data as wire
from p2p.protocols.coordinator import Lease, LeaseRef, SignedRecord
from p2p.session.coordinator_link import open_coordinator
from p2p.session.engine_parts import Engine
from p2p.session.job import Job
from p2p.session.own_data import OwnData
from p2p.session.samples import SampleService
from p2p.session.store import open_store
from p2p.session.treasury import NoTreasury
from p2p.testing import MemoryNet, MemoryNetwork
from peer.samples import Listener, SampleLink, Source
from tests.simulation.p2p.session_world import CHAIN, COORDINATOR, ENGINE, USER, now
from tests.unit.backend.make_samples import CLASSES, SHAPE, small_graph

PEER, STRANGER = Identity.from_seed(b"p" * 32), Identity.from_seed(b"s" * 32)
GRAPH = small_graph(epochs=3)
PIPELINE = read_pipeline(GRAPH)
SAMPLES = 101
MARKS = {TRAIN: b"TRAINROW", VALIDATION: b"VALIDATE", TEST: b"TESTTEST"}
JOB_ID = "ab" * 32
LEASE = Lease("lease-1", 1, PEER.peer_id, 0, 1, 0, SignedRecord(b"", bytes(64)), 1e10)


def write_marked(path: Path) -> LocalSamples:
    """A dataset whose rows say which part they are of."""
    random = np.random.RandomState(3)
    x = random.randint(0, 200, (SAMPLES, *SHAPE)).astype(np.uint8)
    y = random.randint(0, CLASSES, SAMPLES).astype(np.int64)
    path.write_bytes(pack_tensors({"x": x, "y": y}))
    samples = open_samples(path, PIPELINE)
    for part, mark in MARKS.items():
        x[samples.order(part, 0), 0, :4] = np.frombuffer(mark[:4], np.uint8)
        x[samples.order(part, 0), 1, :4] = np.frombuffer(mark[4:], np.uint8)
    path.write_bytes(pack_tensors({"x": x, "y": y}))
    return open_samples(path, PIPELINE)


def rows_of(data: bytes, part: str) -> int:
    """How many rows of a part are somewhere in ``data``: halves of its mark lie two bytes apart."""
    first, second = MARKS[part][:4], MARKS[part][4:]
    found, at = 0, data.find(first)
    while at >= 0:
        found += data[at + 6 : at + 10] == second
        at = data.find(first, at + 1)
    return found


class Tapped:
    """A stream, and everything that was written to it."""

    def __init__(self, stream: Stream, sent: bytearray) -> None:
        self._stream = stream
        self._sent = sent

    @property
    def remote_peer_id(self) -> PeerId:
        return self._stream.remote_peer_id

    @property
    def largest(self) -> FrameLimits:
        return self._stream.largest

    async def wait_turn(self) -> None:
        await self._stream.wait_turn()

    def hold(self, size: int) -> None:
        self._stream.hold(size)

    async def send_all(self, data: bytes) -> None:
        self._sent += data
        await self._stream.send_all(data)

    def send_now(self, data: bytes) -> bool:
        return False

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def reset(self) -> None:
        await self._stream.reset()


@dataclass
class RunningEngine:
    network: MemoryNetwork
    service: SampleService
    engine: Engine


@dataclass
class DataWorld:
    """Use ``open_data_world``."""

    net: MemoryNet
    directory: Path
    samples: LocalSamples
    job: Job
    sent: bytearray = field(default_factory=bytearray)
    """Everything that the Engine wrote to streams of the data protocol."""
    token_life_s: int = 900
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def token(self, audience: PeerId = PEER.peer_id, job_id: str = JOB_ID, **changes: Any) -> str:
        options = {"now": now(), "jti": f"token-id-{next(self._numbers)}", "lifetime_s": self.token_life_s}
        return issue_token(
            changes.pop("signer", COORDINATOR),
            subject=changes.pop("subject", ENGINE.peer_id),
            audience=audience,
            job_id=job_id,
            scope=changes.pop("scope", "job"),
            **{**options, **changes},
        )

    @asynccontextmanager
    async def engine(self, connected: bool = True) -> AsyncIterator[RunningEngine]:
        """May be started again after it ended; stays connected to the peer, if it should."""
        network = self.net.join(ENGINE)
        try:
            with open_store(self.directory / "jobs.sqlite", run_inline) as store:
                if not await store.jobs():
                    await store.create(self.job, dump_graph(GRAPH))
                files = FileStore(self.directory / "store", 1 << 30, run_inline)
                await files.add(self.directory / "data.safetensors")
                data = OwnData(BackendOwner(), files, store, self.directory / "workspace", run_inline)
                async with open_coordinator(network, COORDINATOR.peer_id, (), "test", now) as link:
                    engine = Engine(
                        network=network,
                        coordinator=link,
                        treasury=NoTreasury(self.directory / "wallet"),
                        files=files,
                        checks=BackendChecks(),
                        store=store,
                        data=data,
                        now=now,
                        chain=CHAIN,
                        run_blocking=run_inline,
                    )
                    service = SampleService(engine, lambda job_id: {self.job.job_id: self.job}.get(job_id))

                    async def handle(stream: Stream) -> None:
                        await service.handle(Tapped(stream, self.sent))

                    network.set_handler(wire.PROTOCOL_ID, handle)
                    async with trio.open_nursery() as nursery:
                        if connected:
                            nursery.start_soon(self._keep_connected, network)
                        yield RunningEngine(network, service, engine)
                        nursery.cancel_scope.cancel()
        finally:
            self.net.crash(network)

    async def _keep_connected(self, network: MemoryNetwork) -> None:
        while True:
            with suppress(P2PError):
                await network.connect(PEER.peer_id, self.peer_addresses())
            await trio.sleep(0.3)

    def peer_addresses(self) -> tuple[str, ...]:
        node = self.net._nodes.get(PEER.peer_id)
        return tuple(node.addresses()) if node is not None else ()

    def summary(self) -> DataSummary:
        return self.job.spec.data

    def source(self, **changes: Any) -> Source:
        fields = {
            "engine_id": ENGINE.peer_id,
            "job_id": JOB_ID,
            "lease": LeaseRef(LEASE.lease_id, LEASE.fencing),
            "data": self.summary(),
            "token": self.token,
        }
        return Source(**{**fields, **changes})

    def schedule(self, window_bytes: int = 400) -> Schedule:
        withheld = [part.value for part in self.summary().private]
        return make_schedule(PIPELINE, SAMPLES, 2, withheld, window_bytes)


@dataclass
class Trainee:
    """Plays a worker: asks ahead, takes in order, and holds every row against the Engine's own."""

    world: DataWorld
    link: SampleLink
    directory: Path
    ahead: int = 3
    received: dict[int, bytes] = field(default_factory=dict)
    taken: int = 0
    changed: trio.Event = field(default_factory=trio.Event)

    async def send(self, command: Command, body: bytes = b"") -> None:
        await trio.lowlevel.checkpoint()
        assert isinstance(command, Samples)
        assert command.id not in self.received, "an answer came twice"
        self.received[command.id] = body
        self.changed.set()
        self.changed = trio.Event()

    async def train(self, step_s: float = 0.01) -> None:
        await self.link.opened.wait()
        assert self.link.failure is None, self.link.failure
        self.link.stream(self)
        windows = list(self.world.schedule().windows(0))
        for number, window in enumerate(windows[: self.ahead]):
            self.ask(number, window)
        for number, window in enumerate(windows):
            if number >= self.ahead or number + self.ahead < len(windows):
                pass
            while number not in self.received:
                await self.changed.wait()
            x, y = self.world.samples.gather(window)
            assert self.received[number] == x.tobytes() + y.tobytes()
            if number + self.ahead < len(windows):
                self.ask(number + self.ahead, windows[number + self.ahead])
            self.taken += window.count
            await trio.sleep(step_s)

    def ask(self, number: int, window: Window) -> None:
        self.link.want(WantSamples(number, window.part, window.epoch, window.first, window.count))


@dataclass
class Heard:
    """What a link told its listener."""

    missed: list[str] = field(default_factory=list)
    back: int = 0
    failed: list[str] = field(default_factory=list)

    def listener(self) -> Listener:
        async def missed(reason: str) -> None:
            self.missed.append(reason)

        async def back() -> None:
            self.back += 1

        async def failed(text: str) -> None:
            self.failed.append(text)

        return Listener(missed, back, failed)


@asynccontextmanager
async def training(
    world: DataWorld, peer: MemoryNetwork, heard: Heard | None = None, **changes: Any
) -> AsyncIterator[Trainee]:
    """A link that runs, and the double of a worker that uses it."""
    link = SampleLink(peer, world.source(**changes), (heard or Heard()).listener(), 1 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        yield Trainee(world, link, world.directory)
        nursery.cancel_scope.cancel()


@dataclass
class RawLine:
    """A peer that writes to the Engine what it likes."""

    channel: Channel[Any, Any]
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def ask(self, call: Any) -> tuple[Any, bytes]:
        await self.channel.send(Request(next(self._numbers), call))
        response, body = await self.channel.receive(60)
        assert isinstance(response, Response)
        return response.answer, body


@asynccontextmanager
async def raw_line(engine: RunningEngine, network: MemoryNetwork) -> AsyncIterator[RawLine]:
    await network.connect(engine.network.peer_id, engine.network.addresses())
    stream = await network.open_stream(engine.network.peer_id, wire.PROTOCOL_ID)
    channel: Channel[Any, Any] = Channel(stream, wire.REQUESTS, wire.RESPONSES, wire.LIMITS)
    try:
        yield RawLine(channel)
    finally:
        with trio.CancelScope(shield=True):
            await channel.reset()


@asynccontextmanager
async def open_data_world(
    directory: Path, private: tuple[DataPart, ...] = (DataPart.TEST,), seed: int = 0, **net: Any
) -> AsyncIterator[DataWorld]:
    path = directory / "data.safetensors"
    samples = write_marked(path)
    file = await FileStore(directory / "store", 1 << 30, run_inline).add(path)
    summary = DataSummary(file, SAMPLES, SHAPE, "uint8", CLASSES, Delivery.STREAM, private)
    spec = JobSpec(JOB_ID, graph_hash(GRAPH), summary, 1, USER.address, 2)
    job = Job(spec, "small", COORDINATOR.peer_id, 1, 10, 0.0, state=JobState.RUNNING, lease=LEASE)
    async with MemoryNet(seed, **net) as memory:
        yield DataWorld(memory, directory, samples, job)


async def until(condition: Callable[[], Any]) -> None:
    """Looked at often; gives up after an hour of the virtual clock."""
    with trio.fail_after(3600):
        while True:
            if condition():
                return
            await trio.sleep(0.05)
