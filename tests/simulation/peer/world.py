"""A peer on an in-memory network, with a coordinator, an Engine, a chain and workers that follow a script."""

from __future__ import annotations

import itertools
import json
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio
from blake3 import blake3
from solders.pubkey import Pubkey

from backend.errors import WorkerDiedError
from backend.reports import (
    AllowSegments,
    ChangeLearningRate,
    Command,
    Event,
    Finished,
    Metrics,
    Pause,
    Progress,
    Resume,
    Samples,
    SegmentSaved,
    Train,
    TrainingPrepared,
    WaitingForPermission,
    WantSamples,
)
from backend.serving.messages import LoadModel, ModelLoaded, Predict, Predicted, TensorSpec
from p2p.auth import issue_token
from p2p.chain.errors import PaymentRefusedError
from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus, escrow_address
from p2p.chain.outbox import Intent, PaymentState, Refund, Settle
from p2p.chain.payer import Payment
from p2p.chain.wallet import Wallet
from p2p.channel import Channel
from p2p.files import FileStore, fetch, serve_transfers
from p2p.identifiers import PROTOCOL_VERSION, PeerId
from p2p.identity import Identity
from p2p.jobs import DataSummary, DeviceKind, FileRef, JobSpec
from p2p.network import Stream
from p2p.pricing import earned_after
from p2p.protocols import Done, Response
from p2p.protocols import coordinator as wire
from p2p.protocols import data as data_wire
from p2p.protocols import job as job_wire
from p2p.protocols.job import Acknowledge, GiveVoucher, JobOpened, OpenJob, StartJob
from p2p.router import serve_calls
from p2p.testing import MemoryNet, MemoryNetwork
from p2p.vouchers import voucher_bytes
from peer.access import Access
from peer.allowed import AllowList
from peer.artifacts import Artifacts
from peer.config import Config
from peer.control import PeerControl
from peer.deployments import Deployments, DeviceWorkers, Workers
from peer.devices import OfferedDevice
from peer.direct import DirectLeases
from peer.hosting import Hosting
from peer.inference import InferenceService
from peer.link import CoordinatorLink
from peer.money import Money
from peer.plan import Patience
from peer.registration import Offer, Registration
from peer.served import ServedModels
from peer.services import Services, Terms
from peer.store import open_store
from peer.streams import JobStreams
from peer.table import JobTable

GRAPH = (Path(__file__).parents[3] / "peer" / "benchmark.json").read_bytes()
USER = Wallet.from_seed(b"u" * 32)
NODE = Wallet.from_seed(b"n" * 32)
ARBITER, MINT, PLATFORM, PROGRAM = (
    Wallet.from_seed(letter * 32).address for letter in (b"a", b"m", b"l", b"g")
)
CHAIN = wire.ChainInfo("http://127.0.0.1:1", PROGRAM, MINT, PLATFORM, ARBITER, True, 2)
AMOUNT = 10**9
PAIRS = TensorSpec("pairs", "uint8", (-1, 2))
SAMPLES = 40
ROW_BYTES = 256 + 8
DEADLINE_S = 60.0


async def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of ``condition``, looked at whenever other tasks have run."""
    with trio.move_on_after(DEADLINE_S):
        while True:
            if value := condition():
                return value
            await trio.sleep(0.005)
    raise AssertionError(f"waited {DEADLINE_S} s for {what}")


def dataset() -> bytes:
    x = bytes(SAMPLES * 256)
    y = struct.pack(f"<{SAMPLES}q", *(number % 4 for number in range(SAMPLES)))
    header = {
        "x": {"dtype": "U8", "shape": [SAMPLES, 1, 16, 16], "data_offsets": [0, len(x)]},
        "y": {"dtype": "I64", "shape": [SAMPLES], "data_offsets": [len(x), len(x) + len(y)]},
    }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + x + y


# -- workers -----------------------------------------------------------------------------------


@dataclass
class Script:
    """How workers behave."""

    dies_in: int | None = None
    """The segment in which the process ends."""
    stalls_in: int | None = None
    """The segment that is never finished."""
    started: int = 0
    alive: set[int] = field(default_factory=set)
    fed: list[int] = field(default_factory=list)
    """Segments whose streamed samples came."""
    rates: list[tuple[int, float]] = field(default_factory=list)
    """Learning rates that were set, and the next segment at that time."""


class ScriptedWorker:
    """Answers as a worker process does, with made-up models."""

    def __init__(self, script: Script, directory: Path) -> None:
        self.directory = directory
        self.script = script
        script.started += 1
        self.number = script.started
        script.alive.add(self.number)
        self._events, self._source = trio.open_memory_channel[tuple[Event, bytes]](1000)
        self._train: Train | None = None
        self._next = 0
        self._paused = False
        self._allowed = 0

    async def send(self, command: Command, body: bytes = b"") -> None:
        await trio.lowlevel.checkpoint()
        match command:
            case Train():
                self._train, self._next = command, command.first_segment
                if command.stream is None:
                    assert command.dataset is not None and (self.directory / command.dataset).exists()
                self._say(TrainingPrepared(100, 10, SAMPLES, command.device))
            case Samples(number):
                assert len(body) == 4 * ROW_BYTES
                self.script.fed.append(number)
                self._next += 1
                self._finish_segment(self._next - 1)
                self._work()
            case AllowSegments(upto):
                self._allowed = upto
                self._work()
            case Pause():
                self._paused = True
            case ChangeLearningRate(rate):
                self.script.rates.append((self._next, rate))
            case Resume():
                self._paused = False
                self._work()
            case LoadModel(model, file):
                assert (self.directory / file).exists()
                self._say(
                    ModelLoaded(
                        model, (TensorSpec("x", "uint8", (-1, 2)),), (TensorSpec("y", "uint8", (-1, 2)),)
                    )
                )
            case Predict(number, _, (given,)):
                self._say(Predicted(number, (given,), 0.001), body[::-1])

    async def receive(self) -> tuple[Event, bytes]:
        try:
            return await self._source.receive()
        except trio.EndOfChannel:
            raise WorkerDiedError("killed by SIGKILL") from None

    def path(self, name: str) -> Path:
        return self.directory / name

    async def aclose(self) -> None:
        self.die()

    def die(self) -> None:
        self.script.alive.discard(self.number)
        self._events.close()

    def _say(self, event: Event, body: bytes = b"") -> None:
        self._events.send_nowait((event, body))

    def _work(self) -> None:
        assert self._train is not None
        while self._next < self._allowed and not self._paused:
            segment = self._next
            if segment == self.script.stalls_in:
                return
            if segment == self.script.dies_in:
                self.die()
                return
            if self._train.stream is not None:
                self._say(WantSamples(segment, "train", 0, 4 * segment, 4))
                return
            self._finish_segment(segment)
            self._next += 1
        if self._next < self._train.segments:
            self._say(WaitingForPermission(self._next))

    def _finish_segment(self, segment: int) -> None:
        assert self._train is not None
        last = self._train.segments - 1
        metrics = Metrics(segment + 1, self._train.segments, 0, 1 / (segment + 1), samples_per_s=100.0)
        self._say(Progress(metrics, None if self._train.stream is None else 0.5))
        name = "model.cyxmodel" if segment == last else f"segment-{segment}.cyxmodel"
        (self.directory / name).write_bytes(f"weights after segment {segment}".encode() * 1000)
        self._say(Finished(name, metrics) if segment == last else SegmentSaved(segment, name, metrics))


class ScriptedPool:
    def __init__(self, script: Script, directory: Path) -> None:
        self._script = script
        self._directory = directory

    async def acquire(self, timeout_s: float = 60) -> ScriptedWorker:
        await trio.lowlevel.checkpoint()
        return ScriptedWorker(self._script, Path(tempfile.mkdtemp(dir=self._directory)))


# -- chain -------------------------------------------------------------------------------------


class ScriptedChain:
    """Escrow accounts in a dictionary; both a chain client and an outbox."""

    def __init__(self) -> None:
        self.accounts: dict[str, EscrowAccount] = {}
        self.payments: list[tuple[str, Intent]] = []
        self.refusals: dict[str, str] = {}
        """What the outbox concluded of a key, and says again each time it is asked."""
        self.refuses = 0
        """So many new keys are refused."""
        self.pays = trio.Event()
        self.pays.set()

    def escrow_address(self, user: str, job_id: str, deadline: int) -> str:
        return escrow_address(PROGRAM, user, job_id, deadline)

    async def escrow(self, address: str) -> EscrowAccount | None:
        await trio.lowlevel.checkpoint()
        return self.accounts.get(address)

    async def pay(self, key: str, intent: Intent, timeout_s: float) -> Payment:
        await self.pays.wait()
        if self.refuses and key not in self.refusals:
            self.refuses -= 1
            self.refusals[key] = "InsufficientFundsForFee"
        if key in self.refusals:
            raise PaymentRefusedError(self.refusals[key])
        self.payments.append((key, intent))
        match intent:
            case Settle(escrow, voucher):
                status = EscrowStatus.SETTLED if voucher.final else EscrowStatus.OPEN
                self.accounts[escrow] = replace(self.accounts[escrow], earned=voucher.earned, status=status)
            case Refund(escrow):
                self.accounts[escrow] = replace(self.accounts[escrow], status=EscrowStatus.REFUNDED)
        return Payment(key, "5" * 88, PaymentState.CONFIRMED)

    def create(self, user: str, job_id: str, amount: int, /, **changes: Any) -> tuple[str, int]:
        deadline = int(time.time()) + 86400
        address = self.escrow_address(user, job_id, deadline)
        account = EscrowAccount(
            user, NODE.address, NODE.address, ARBITER, MINT, PLATFORM, user, MINT, job_id,
            amount, 0, 0, 2, deadline, 0, EscrowStatus.OPEN, 255,
        )  # fmt: skip
        self.accounts[address] = replace(account, **changes)
        return address, deadline


# -- coordinator -------------------------------------------------------------------------------


class ScriptedCoordinator:
    """Notes every call and answers it; hands out the orders it is given."""

    def __init__(self, network: MemoryNetwork, identity: Identity) -> None:
        self.identity = identity
        self.network = network
        self.calls: list[Any] = []
        self.orders: list[wire.Order] = []
        self.ended: set[str] = set()
        self.revoked: set[str] = set()
        self.nonsense: tuple[type, ...] = ()
        """Calls of these kinds get the answer to another question."""
        self._changed = trio.Event()
        serve_calls(network, wire.PROTOCOL_ID, wire.REQUESTS, wire.RESPONSES, wire.LIMITS, self._answer)

    def order(self, order: wire.OfferJob | wire.RevokeLease) -> None:
        self.orders.append(wire.Order(len(self.orders) + 1, order))
        self._changed.set()
        self._changed = trio.Event()

    def heard(self, kind: type, **fields: Any) -> list[Any]:
        return [
            call
            for call in self.calls
            if isinstance(call, kind) and all(getattr(call, name) == value for name, value in fields.items())
        ]

    def token(self, subject: PeerId, audience: PeerId, job_id: str, scope: str, **changes: Any) -> str:
        options = {"now": time.time(), "jti": "token-id-1", **changes}
        return issue_token(
            self.identity, subject=subject, audience=audience, job_id=job_id, scope=scope, **options
        )

    async def _answer(self, caller: PeerId, call: Any, body: bytes) -> Any:
        if not isinstance(call, wire.PollOrders | wire.Heartbeat):
            self.calls.append(call)
        if isinstance(call, self.nonsense):
            return wire.Orders((), 0)
        match call:
            case wire.Hello():
                return wire.Welcome(PROTOCOL_VERSION, "scripted", CHAIN, 0.1, 1.0, time.time())
            case wire.Heartbeat():
                self.calls.append(call)
                unknown = tuple(lease for lease in call.leases if lease.lease_id in self.ended)
                return wire.HeartbeatAnswer(unknown, True, tuple(self.revoked))
            case wire.PollOrders(after, _):
                with trio.move_on_after(1):
                    while len(self.orders) <= after:
                        await self._changed.wait()
                return wire.Orders(tuple(self.orders[after:]), len(self.orders))
            case _:
                return Done()


# -- Engine ------------------------------------------------------------------------------------


class ScriptedEngine:
    """Opens jobs, pays vouchers, fetches files."""

    def __init__(self, network: MemoryNetwork, directory: Path) -> None:
        self.network = network
        self.files = FileStore(directory / "engine", 1 << 30)
        serve_transfers(network, self.files, lambda caller, manifest: True)
        self.data: FileRef
        self.tokens: list[str] = []
        self.gives = True

    def keep_data(self) -> None:
        """From now on it gives rows to whoever asks."""
        self.network.set_handler(data_wire.PROTOCOL_ID, self._give_rows)

    async def _give_rows(self, stream: Stream) -> None:
        codecs = data_wire.RESPONSES, data_wire.REQUESTS
        channel: Channel[Any, Any] = Channel(stream, *codecs, data_wire.LIMITS)
        while True:
            request, _ = await channel.receive()
            match request.call:
                case data_wire.OpenData(token):
                    self.tokens.append(token)
                    facts = data_wire.DataOpened(SAMPLES, (1, 16, 16), "uint8", 4, ())
                    await channel.send(Response(request.id, facts), bytes(8))
                case data_wire.GetRows(_, _, _, count):
                    await until(lambda: self.gives, "leave to give samples")
                    await channel.send(Response(request.id, data_wire.Rows(count)), bytes(count * ROW_BYTES))

    async def add_data(self) -> None:
        self.data = await self.files.add_bytes(dataset())

    async def fetch(self, peer: RunningPeer, file: FileRef) -> bytes:
        path = await fetch(self.network, peer.network.peer_id, file, self.files, max_bytes=1 << 20)
        return path.read_bytes()

    def spec(self, job_id: str, segments: int, graph: bytes = GRAPH) -> JobSpec:
        data = DataSummary(self.data, SAMPLES, (1, 16, 16), "uint8", 4)
        return JobSpec(job_id, blake3(graph).hexdigest(), data, 10**12, USER.address, segments)


class JobLine:
    """The Engine's end of one job stream."""

    def __init__(self, channel: Channel[Any, Any], offer: wire.OfferJob) -> None:
        self.channel = channel
        self.offer = offer
        self.said: list[Any] = []
        self.opened: JobOpened | None = None
        self.escrow = ""

    async def hear(self, kind: type) -> Any:
        """The next message of that kind; all are noted and acknowledged."""
        with trio.fail_after(DEADLINE_S):
            while True:
                message, _ = await self.channel.receive()
                self.said.append(message)
                if isinstance(message, JobOpened):
                    self.opened = message
                elif hasattr(message, "sequence"):
                    await self.channel.send(Acknowledge(message.sequence))
                if isinstance(message, kind):
                    return message

    async def start(self, escrow: str, deadline: int) -> None:
        self.escrow = escrow
        await self.channel.send(StartJob(escrow, deadline, "5" * 88))

    async def pay(self, done: int, *, final: bool = False, earned: int | None = None) -> None:
        first = self.offer.first_segment
        if earned is None:
            earned = earned_after(self.offer.amount, done - first, self.offer.job.segments - first)
        message = voucher_bytes(
            bytes(Pubkey.from_string(self.escrow)), bytes(Pubkey.from_string(NODE.address)), earned, final
        )
        await self.channel.send(GiveVoucher(self.escrow, done, earned, final, USER.sign(message)))


# -- the peer ----------------------------------------------------------------------------------


@dataclass
class RunningPeer:
    network: MemoryNetwork
    services: Services
    table: JobTable
    scope: trio.CancelScope
    control: PeerControl


class World:
    def __init__(self, net: MemoryNet, directory: Path) -> None:
        self.net = net
        self.directory = directory
        self.script = Script()
        self.chain = ScriptedChain()
        identities = [Identity.from_seed(letter * 32) for letter in (b"1", b"2", b"3")]
        self.peer_identity = identities[2]
        self.coordinator = ScriptedCoordinator(net.join(identities[0]), identities[0])
        self.engine = ScriptedEngine(net.join(identities[1]), directory)
        self.terms = Terms(3600 * 10**6, NODE.address, NODE.address, (10**12,), 1 << 30, Patience(), 0.2)
        self.allowed = AllowList()
        """Engines for which the next peer works unpaid."""
        self._numbers = itertools.count(1)

    def make_offer(self, segments: int = 3, first_segment: int = 0, **changes: Any) -> wire.OfferJob:
        number = next(self._numbers)
        spec = changes.pop("spec", None) or self.engine.spec(f"{number:064x}", segments)
        lease = wire.LeaseRef(f"lease-{number}", number)
        offer = wire.OfferJob(lease, spec, self.engine.network.peer_id, 0, AMOUNT, first_segment)
        return replace_struct(offer, **changes)

    @asynccontextmanager
    async def peer(
        self, pool: Workers | None = None, hosting: Hosting | None = None, shares: int = 1
    ) -> AsyncIterator[RunningPeer]:
        """A peer in the world's directory; may be started again after it ended."""
        network = self.net.join(self.peer_identity)
        workers_directory = self.directory / "workers"
        workers_directory.mkdir(exist_ok=True)
        async with open_store(self.directory / "peer.sqlite") as store, trio.open_nursery() as nursery:
            artifacts = Artifacts(FileStore(self.directory / "store", 1 << 30), store)
            await artifacts.load()
            link = CoordinatorLink(
                network, self.coordinator.network.peer_id, tuple(self.coordinator.network.addresses()), "test"
            )
            workers = (DeviceWorkers("cpu", pool or ScriptedPool(self.script, workers_directory)),) * shares
            deployments = Deployments(workers, lambda: 0, artifacts.files.path, nursery)

            async def money() -> Money:
                await trio.lowlevel.checkpoint()
                return Money(CHAIN, self.chain, self.chain)

            access = Access(network.peer_id, link.coordinator_id, time.time, self.allowed)
            served = ServedModels(hosting or Hosting(self.directory / "hosted", nursery), nursery)
            services = Services(
                network,
                link,
                money,
                store,
                artifacts,
                workers,
                deployments,
                nursery,
                time.time,
                self.terms,
                access,
                served,
            )
            table = JobTable(services, nursery)
            await table.recover()
            network.set_handler(job_wire.PROTOCOL_ID, JobStreams(services, table).handle)
            serve_transfers(network, artifacts.files, artifacts.may_fetch)
            inference = InferenceService(network, access, store, artifacts, deployments, served, time.time)
            inference.serve()
            devices = (OfferedDevice(DeviceKind.CPU, "scripted", 1 << 30, "cpu"),) * len(workers)
            offer = Offer(devices, 1 << 30, "0")
            registration = Registration(services, table, offer, _ignore_chain)
            DirectLeases(services, table, devices, registration.record).serve()
            nursery.start_soon(link.run, registration.run)
            try:
                config = Config(self.directory, None, 0, lan=True)
                control = PeerControl(config, services, table, inference, offer, ())
                yield RunningPeer(network, services, table, nursery.cancel_scope, control)
            finally:
                self.net.crash(network)
                nursery.cancel_scope.cancel()

    async def accepted(self, offer: wire.OfferJob) -> None:
        self.coordinator.order(offer)
        await until(
            lambda: self.coordinator.heard(wire.AnswerOffer, lease=offer.lease, accepted=True),
            "the acceptance",
        )

    @asynccontextmanager
    async def line(self, peer: RunningPeer, offer: wire.OfferJob, **changes: Any) -> AsyncIterator[JobLine]:
        """An opened job stream."""
        engine = self.engine.network
        await engine.connect(peer.network.peer_id, peer.network.addresses())
        stream = await engine.open_stream(peer.network.peer_id, job_wire.PROTOCOL_ID)
        channel: Channel[Any, Any] = Channel(
            stream, job_wire.FROM_ENGINE, job_wire.FROM_PEER, job_wire.LIMITS
        )
        token = self.coordinator.token(engine.peer_id, peer.network.peer_id, offer.job.job_id, "job")
        message = OpenJob(token, offer.job, offer.lease, offer.first_segment, None, 0)
        graph = changes.pop("graph", GRAPH)
        await channel.send(replace_struct(message, **changes), graph)
        try:
            yield JobLine(channel, offer)
        finally:
            with trio.CancelScope(shield=True):
                await channel.reset()


def replace_struct(message: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(message, **changes)


async def _ignore_chain(info: wire.ChainInfo) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_world(directory: Path) -> AsyncIterator[World]:
    async with MemoryNet(seed=1) as net:
        world = World(net, directory)
        await world.engine.add_data()
        yield world
