"""A whole network around a real coordinator: scripted Engines and peers, a chain, loss and crashes.

Engines and peers talk to the coordinator over MemoryNet; to each other directly, for their own
conversation is not what is tested here. Everything runs on trio's mock clock.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from backend.serialize import graph_hash, load_graph
from coordinator.assembly import World as Ground
from coordinator.assembly import open_coordinator
from coordinator.config import Config
from coordinator.services import Limits, Services
from p2p.chain.errors import PaymentRefusedError
from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus, escrow_address
from p2p.chain.outbox import Intent, PaymentState, Refund, RequestRefund, Settle
from p2p.chain.payer import Payment
from p2p.chain.wallet import Wallet
from p2p.client import CallClient, open_client
from p2p.errors import P2PError, RemoteFailureError
from p2p.identifiers import JobId, PeerId
from p2p.identity import Identity
from p2p.jobs import DataSummary, DeviceKind, FileRef, JobMetrics, JobSpec, JobState
from p2p.pricing import earned_after
from p2p.protocols import coordinator as wire
from p2p.records import sign_record
from p2p.testing import MemoryNet, MemoryNetwork
from p2p.vouchers import Voucher, voucher_bytes

START = 1_800_000_000.0
GRAPH = Path("scripts/examples/digits_mlp.json").read_bytes()
INFO = wire.ChainInfo(
    rpc_url="http://127.0.0.1:1",
    program_id=Wallet.from_seed(b"program".ljust(32)).address,
    mint=Wallet.from_seed(b"mint".ljust(32)).address,
    platform_account=Wallet.from_seed(b"platform".ljust(32)).address,
    arbiter=Wallet.from_seed(b"arbiter".ljust(32)).address,
    embedded=True,
    claim_window_s=5,
)
CONFIG = Config(Path(), heartbeat_s=0.5, lease_s=2.5, claim_window_s=5, retry_patience_s=60.0)
SIGNATURE = "5" * 88
RESULT = FileRef("d" * 64, "e" * 64, 1234)
SEGMENT_S = 1.0


class SimulatedCrash(Exception):
    """The coordinator's process is gone."""


def now() -> float:
    return START + trio.current_time()


class Chain:
    """Escrows as the program keeps them, and every payment that ever changed one."""

    def __init__(self) -> None:
        self.escrows: dict[str, EscrowAccount] = {}
        self.executed: list[tuple[str, str]] = []
        """(key, what it changed), in order."""
        self.returned: dict[str, int] = {}
        self._changed = trio.Event()

    async def escrow(self, address: str) -> EscrowAccount | None:
        await trio.sleep(0.01)
        return self.escrows.get(address)

    async def rests(self) -> None:
        """Returns once no escrow is open."""
        while any(escrow.status is EscrowStatus.OPEN for escrow in self.escrows.values()):
            self._changed = trio.Event()
            await self._changed.wait()

    def create(self, account: EscrowAccount) -> str:
        address = escrow_address(INFO.program_id, account.user, account.job_id, account.deadline)
        self.escrows.setdefault(address, account)
        return address

    def execute(self, key: str, intent: Intent) -> None:
        assert isinstance(intent, Settle | RequestRefund | Refund)
        before = self.escrows[intent.escrow]
        after = self._after(intent, before)
        if after != before:
            self.escrows[intent.escrow] = after
            self._changed.set()
            change = f"{intent.escrow} {after.status} {after.earned} {after.refund_requested_at > 0}"
            self.executed.append((key, change))

    def _after(self, intent: Settle | RequestRefund | Refund, escrow: EscrowAccount) -> EscrowAccount:
        if escrow.status is not EscrowStatus.OPEN:
            if isinstance(intent, Settle) and intent.voucher.earned > escrow.earned:
                raise PaymentRefusedError("the escrow is over")
            return escrow
        requested = escrow.refund_requested_at
        match intent:
            case Settle(_, voucher):
                earned = max(escrow.earned, voucher.earned)
                if voucher.final and earned == escrow.amount:
                    return replace(escrow, earned=earned, status=EscrowStatus.SETTLED)
                return replace(
                    escrow, earned=earned, refund_requested_at=requested or (int(now()) * voucher.final)
                )
            case RequestRefund():
                return replace(escrow, refund_requested_at=requested or int(now()))
            case Refund():
                self.returned[intent.escrow] = escrow.amount - escrow.earned
                return replace(escrow, status=EscrowStatus.REFUNDED)


class Payer:
    """Exactly once for each key, as the real one; its journal outlives the coordinator."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._done: dict[str, str] = {}
        self.intents: dict[str, Intent] = {}

    async def pay(self, key: str, intent: Intent, timeout_s: float = 60.0) -> Payment:
        assert self.intents.setdefault(key, intent) == intent, "a key stands for one payment"
        await trio.sleep(0.2)
        if isinstance(intent, Refund):
            requested = self._chain.escrows[intent.escrow].refund_requested_at
            await trio.sleep(max(0.0, requested + INFO.claim_window_s - now()))
        if key not in self._done:
            try:
                self._chain.execute(key, intent)
                self._done[key] = ""
            except PaymentRefusedError as error:
                self._done[key] = str(error)
        await trio.sleep(0.2)  # a crash here loses the answer, not the payment
        if self._done[key]:
            raise PaymentRefusedError(self._done[key])
        return Payment(key, SIGNATURE, PaymentState.CONFIRMED)


class Caller:
    """Somebody with calls to the coordinator: tries until answered or really refused."""

    def __init__(self, world: World, name: str, nursery: trio.Nursery) -> None:
        self.world = world
        self.identity = Identity.from_seed(name.encode().ljust(32, b"."))
        self.peer_id = self.identity.peer_id
        self.nursery = nursery
        self.network: MemoryNetwork = world.net.join(self.identity)
        self._client: CallClient[Any, Any] | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        async with open_client(
            self.network,
            self.world.identity.peer_id,
            wire.PROTOCOL_ID,
            wire.REQUESTS,
            wire.RESPONSES,
            wire.LIMITS,
            addresses=self.world.addresses,
        ) as client:
            self._client = client
            yield

    async def once(self, call: Any, body: bytes = b"") -> Any:
        assert self._client is not None
        self._client.addresses = self.world.addresses
        return (await self._client.call(call, body, 30.0))[0]

    async def ask(self, call: Any, body: bytes = b"") -> Any:
        while True:
            try:
                return await self.once(call, body)
            except RemoteFailureError as error:
                if error.code not in ("busy", "internal"):
                    raise
            except P2PError:
                pass
            await trio.sleep(0.2)

    async def tell(self, call: Any) -> bool:
        """False when it is refused: too late, mostly."""
        try:
            await self.ask(call)
        except RemoteFailureError:
            return False
        return True


class Engine(Caller):
    """Submits jobs, funds and follows them, and signs for what it is shown."""

    def __init__(self, world: World, name: str, nursery: trio.Nursery) -> None:
        super().__init__(world, name, nursery)
        self.wallet = Wallet.from_seed(name.encode().ljust(32, b"w"))
        self.states: dict[JobId, list[JobState]] = {}
        self.updates: dict[JobId, list[int]] = {}
        self.signed: dict[str, Voucher] = {}
        self.ended: dict[JobId, trio.Event] = {}
        self.finished: list[JobId] = world.finished

    def spec(self, number: int, **changes: Any) -> JobSpec:
        data = DataSummary(FileRef("a" * 64, "b" * 64, 1000), 1797, (1, 8, 8), "float32", 10)
        digest = graph_hash(load_graph(GRAPH))
        fields: dict[str, Any] = {
            "job_id": f"{self.peer_id.encode().hex()[-40:]}{number:024x}",
            "graph_hash": digest,
            "data": data,
            "budget": 10**12,
            "user_wallet": self.wallet.address,
            "segments": 3,
        }
        return JobSpec(**{**fields, **changes})

    async def run_job(self, spec: JobSpec) -> JobState:
        """Until its end, whatever happens on the way."""
        job_id = JobId(spec.job_id)
        await self.ask(wire.SubmitJob(spec), GRAPH)
        after, funded = 0, set[str]()
        while True:
            answer = await self.ask(wire.PollJob(spec.job_id, after, 5_000))
            for update in answer.updates:
                self._note(job_id, update)
                after = update.sequence
                lease = update.lease
                if lease is not None and lease.lease_id not in funded and now() < lease.fund_before:
                    funded.add(lease.lease_id)
                    self.nursery.start_soon(self._fund, spec, lease)
            if answer.state is JobState.WAITING_FOR_USER:
                await self.ask(wire.SubmitJob(spec), GRAPH)
            if answer.state.is_final:
                self.finished.append(job_id)
                return JobState(answer.state)

    def _note(self, job_id: JobId, update: wire.JobUpdate) -> None:
        self.states.setdefault(job_id, []).append(update.state)
        self.updates.setdefault(job_id, []).append(update.sequence)

    async def _fund(self, spec: JobSpec, lease: wire.Lease) -> None:
        record = self.world.peers[PeerId(lease.peer_id)].record
        deadline = int(now()) + 86_400
        account = EscrowAccount(
            user=spec.user_wallet,
            node=record.node_wallet,
            payout=record.payout_wallet,
            arbiter=INFO.arbiter,
            mint=INFO.mint,
            platform=INFO.platform_account,
            payer=spec.user_wallet,
            vault=INFO.mint,
            job_id=spec.job_id,
            amount=lease.amount,
            earned=0,
            arbiter_cap=0,
            claim_window_s=INFO.claim_window_s,
            deadline=deadline,
            refund_requested_at=0,
            status=EscrowStatus.OPEN,
            bump=255,
        )
        await trio.sleep(0.3)
        escrow = self.world.chain.create(account)
        ref = wire.LeaseRef(lease.lease_id, lease.fencing)
        self.world.started(lease.lease_id).escrow = escrow
        self.world.started(lease.lease_id).event.set()
        await self.tell(wire.EscrowCreated(spec.job_id, ref, escrow, deadline, SIGNATURE))

    def vouch(self, spec: JobSpec, offer: wire.OfferJob, escrow: str, done: int) -> Voucher:
        """For the segments below ``done``; delivered to the coordinator on the side."""
        left = spec.segments - offer.first_segment
        earned = earned_after(offer.amount, done - offer.first_segment, left)
        final = done == spec.segments
        node = self.world.chain.escrows[escrow].node
        message = voucher_bytes(_key(escrow), _key(node), earned, final)
        voucher = Voucher(escrow, earned, final, self.wallet.sign(message), done)
        if voucher.supersedes(self.signed.get(escrow)):
            self.signed[escrow] = voucher
            self.nursery.start_soon(self.tell, delivery(spec.job_id, voucher))
        return voucher


def delivery(job_id: str, voucher: Voucher) -> wire.DeliverVoucher:
    return wire.DeliverVoucher(
        job_id, voucher.escrow, voucher.segments_done, voucher.earned, voucher.final, voucher.signature
    )


def _key(address: str) -> bytes:
    import base58

    return bytes(base58.b58decode(address))


@dataclass(slots=True)
class Started:
    event: trio.Event
    escrow: str = ""


class Peer(Caller):
    """Registers, beats, takes what it is offered and works segment by segment."""

    def __init__(self, world: World, name: str, nursery: trio.Nursery) -> None:
        super().__init__(world, name, nursery)
        self.wallet = Wallet.from_seed(name.encode().ljust(32, b"n"))
        self.name = name
        self.leases: dict[str, tuple[wire.OfferJob, trio.CancelScope]] = {}
        self.worked: list[str] = []
        self.has_worked = trio.Event()
        self.record = self._record()

    def _record(self) -> wire.PeerRecord:
        return wire.PeerRecord(
            peer_id=self.peer_id,
            sequence=int(now() * 1000),
            expires_at=now() + 3600,
            addresses=(),
            devices=(wire.Device(DeviceKind.CPU, "cpu", 8 << 30, 10**10),),
            ram_bytes=16 << 30,
            formats=("cyxmodel",),
            price_per_hour=10**9,
            node_wallet=self.wallet.address,
            payout_wallet=self.wallet.address,
            version="1",
        )

    async def run(self) -> None:
        async with self.connected():
            await self.ask(wire.RegisterPeer(sign_record(self.record, self.identity.sign)))
            self.nursery.start_soon(self._follow_orders)
            while True:
                await self._beat()
                await trio.sleep(CONFIG.heartbeat_s)

    async def _beat(self) -> None:
        refs = tuple(offer.lease for offer, _ in self.leases.values())
        try:
            answer = await self.once(wire.Heartbeat(len(refs), len(self.record.devices), refs))
            if not answer.registered:
                self.record = self._record()
                await self.once(wire.RegisterPeer(sign_record(self.record, self.identity.sign)))
            for ref in answer.unknown:
                self._drop(ref)
        except P2PError:
            return

    def _drop(self, ref: wire.LeaseRef) -> None:
        _, scope = self.leases.pop(ref.lease_id, (None, None))
        if scope is not None:
            scope.cancel()

    async def _follow_orders(self) -> None:
        after = 0
        while True:
            orders = (await self.ask(wire.PollOrders(after, 5_000))).orders
            for order in orders:
                after = order.sequence
                match order.order:
                    case wire.OfferJob() as offer:
                        self.nursery.start_soon(self._take, offer)
                    case wire.RevokeLease(lease):
                        self._drop(lease)

    async def _take(self, offer: wire.OfferJob) -> None:
        with trio.CancelScope() as scope:
            self.leases[offer.lease.lease_id] = (offer, scope)
            try:
                if await self.tell(wire.AnswerOffer(offer.lease, True)):
                    await self._work(offer)
            finally:
                self.leases.pop(offer.lease.lease_id, None)

    async def _work(self, offer: wire.OfferJob) -> None:
        started = self.world.started(offer.lease.lease_id)
        await started.event.wait()
        engine = self.world.engines[PeerId(offer.engine_id)]
        self.nursery.start_soon(self.tell, wire.ReportStarted(offer.lease))
        for done in range(offer.first_segment + 1, offer.job.segments + 1):
            await trio.sleep(SEGMENT_S)
            point = JobMetrics(done, offer.job.segments, 1, 1.0 / done)
            self.nursery.start_soon(self.tell, wire.ReportMetrics(offer.lease, (point,)))
            self.worked.append(f"{offer.job.job_id}/{done}")
            self.has_worked.set()
            if done == offer.job.segments:
                await self.tell(wire.ReportResult(offer.lease, RESULT, point))
            voucher = engine.vouch(offer.job, offer, started.escrow, done)
        while self.world.chain.escrows[started.escrow].status is EscrowStatus.OPEN:
            await self.tell(delivery(offer.job.job_id, voucher))
            await trio.sleep(1.0)

    def crash(self) -> None:
        """As kill -9; ``World.start_peer`` may bring it back."""
        self.world.net.crash(self.network)
        self.nursery.cancel_scope.cancel()


class World:
    """Use ``open_world``."""

    def __init__(self, directory: Path, net: MemoryNet, nursery: trio.Nursery) -> None:
        self.net = net
        self.nursery = nursery
        self.path = directory / "coordinator.sqlite"
        self.identity = Identity.from_seed(b"coordinator".ljust(32, b"."))
        self.chain = Chain()
        self.payer = Payer(self.chain)
        self.peers: dict[PeerId, Peer] = {}
        self.engines: dict[PeerId, Engine] = {}
        self.addresses: tuple[str, ...] = ()
        self.up = trio.Event()
        self.services: Services | None = None
        self.finished: list[JobId] = []
        self.writes = 0
        self.crashes = 0
        self.config = CONFIG
        self.crash_when: Callable[[int], str] = lambda number: ""
        """The number of a write -> "before", "after" or nothing."""
        self._started: dict[str, Started] = {}
        self._ids = itertools.count(1)

    def started(self, lease_id: str) -> Started:
        return self._started.setdefault(lease_id, Started(trio.Event()))

    async def keep_coordinator(self) -> None:
        """Runs it, and again after every crash."""
        while True:
            try:
                await self._run_coordinator()
            except SimulatedCrash:
                self.crashes += 1
                self.net.crash(self.identity.peer_id)
                await trio.sleep(0.5)

    async def _run_coordinator(self) -> None:
        network = self.net.join(self.identity)
        ground = Ground(
            network=network,
            chain_info=INFO,
            chain=self.chain,
            payer=self.payer,
            now=now,
            run_blocking=self._run_blocking,
            new_id=lambda: f"id-{next(self._ids):08d}",
            limits=Limits(calls_per_s=10_000, burst=10_000),
        )
        try:
            async with open_coordinator(self.path, self.config, ground) as services:
                self.services = services
                self.addresses = tuple(network.addresses())
                self.up.set()
                await trio.sleep_forever()
        except BaseExceptionGroup as group:
            crashed, rest = group.split(SimulatedCrash)
            if crashed is None or rest is not None:
                raise
            raise SimulatedCrash from None

    async def _run_blocking(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """In place: a virtual clock would run away from a thread."""
        await trio.lowlevel.checkpoint()
        if work.__name__ != "write":
            return work(*arguments)
        self.writes += 1
        crash = self.crash_when(self.writes)
        if crash == "before":
            raise SimulatedCrash
        work(*arguments)
        if crash == "after":
            raise SimulatedCrash
        return None

    async def start_peer(self, name: str) -> Peer:
        made: list[Peer] = []

        async def live(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            async with trio.open_nursery() as nursery:
                peer = Peer(self, name, nursery)
                self.peers[peer.peer_id] = peer
                made.append(peer)
                task_status.started()
                await peer.run()

        await self.nursery.start(live)
        return made[0]

    @asynccontextmanager
    async def engine(self, name: str) -> AsyncIterator[Engine]:
        async with trio.open_nursery() as nursery:
            engine = Engine(self, name, nursery)
            self.engines[engine.peer_id] = engine
            async with engine.connected():
                yield engine
            nursery.cancel_scope.cancel()

    async def until_money_rests(self) -> None:
        """Every escrow reaches its end."""
        with trio.fail_after(600):
            await self.chain.rests()
        await trio.sleep(5.0)


@asynccontextmanager
async def open_world(
    directory: Path, seed: int = 0, loss: float = 0.0, config: Config = CONFIG
) -> AsyncIterator[World]:
    async with MemoryNet(seed, latency_s=(0.001, 0.02), loss=loss) as net, trio.open_nursery() as nursery:
        world = World(directory, net, nursery)
        world.config = config
        nursery.start_soon(world.keep_coordinator)
        await world.up.wait()
        yield world
        nursery.cancel_scope.cancel()
