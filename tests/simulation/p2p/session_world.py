"""An Engine on an in-memory network, with a coordinator, peers and a ledger that follow a script."""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

import trio
from blake3 import blake3

from p2p.chain.errors import PaymentRefusedError
from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus, escrow_address
from p2p.chain.outbox import CreateEscrow, Intent, Refund, RequestRefund
from p2p.chain.wallet import Wallet
from p2p.channel import Channel
from p2p.disk import run_inline
from p2p.errors import P2PError, RemoteFailureError, SourceRefusedError
from p2p.files import FileStore, fetch, serve_transfers
from p2p.identifiers import PROTOCOL_VERSION, PeerId, Units
from p2p.identity import Identity
from p2p.jobs import DataPart, DeviceKind, JobMetrics, JobSpec, JobState
from p2p.network import Stream
from p2p.pricing import price_of, remaining_amount
from p2p.progress import ProgressLog
from p2p.protocols import Done, inference
from p2p.protocols import coordinator as wire
from p2p.protocols import job as job_wire
from p2p.records import sign_record
from p2p.router import serve_calls
from p2p.session.checks import ExpectedModel, Prepared, ServedModel
from p2p.session.coordinator_link import open_coordinator
from p2p.session.engine import JobEngine, run_engine
from p2p.session.engine_parts import Engine, Limits
from p2p.session.errors import EvaluationFailedError, ModelRefusedError
from p2p.session.inference import Tensor
from p2p.session.own_data import OwnData
from p2p.session.owner import Score
from p2p.session.store import JobStore, open_store
from p2p.session.treasury import Balance
from p2p.session.trial import NUDGE, QUESTIONS, Expected, Question, Trial, expected_from, question
from p2p.testing import MemoryNet, MemoryNetwork

EPOCH = 1_800_000_000.0
QUOTA = 1 << 30
FLOPS = 10**12
SPEED = 10**11
PRICE = 3600 * 10**9
SAMPLES, STEPS = 100, 40
METRICS = JobMetrics(step=1, total_steps=STEPS, epoch=0, loss=0.5, accuracy=0.5)

ENGINE = Identity.from_seed(b"\x01" * 32)
COORDINATOR = Identity.from_seed(b"\x02" * 32)
USER = Wallet.from_seed(b"\x03" * 32)
CHAIN = wire.ChainInfo(
    rpc_url="http://127.0.0.1:1",
    program_id=str(Wallet.from_seed(b"\x04" * 32).address),
    mint=str(Wallet.from_seed(b"\x05" * 32).address),
    platform_account=str(Wallet.from_seed(b"\x06" * 32).address),
    arbiter=str(Wallet.from_seed(b"\x07" * 32).address),
    embedded=True,
    claim_window_s=60,
)


class Killed(BaseException):
    """No handler of errors catches it, as none runs after SIGKILL."""


def now() -> float:
    return EPOCH + trio.current_time()


# -- money -------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """What a chain would hold, with the outbox's promise: a key is paid once."""

    tokens: int = 100 * 10**9
    paid_out: int = 0
    paid: dict[str, str] = field(default_factory=dict)
    escrows: dict[str, CreateEscrow] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    """Units that are still locked, by address."""
    lamports: int = 10**9
    delay_s: float = 0.5

    @property
    def address(self) -> str:
        return USER.address

    async def balance(self) -> Balance:
        await trio.lowlevel.checkpoint()
        return Balance(Units(self.tokens), self.lamports)

    async def escrow(self, address: str) -> EscrowAccount | None:
        await trio.lowlevel.checkpoint()
        if (intent := self.escrows.get(address)) is None:
            return None
        status = EscrowStatus.OPEN if address in self.open else EscrowStatus.REFUNDED
        return EscrowAccount(
            *(USER.address, intent.node, intent.payout, intent.arbiter, CHAIN.mint, CHAIN.platform_account),
            *(USER.address, address, intent.job_id, intent.amount, 0, 0, intent.claim_window_s),
            *(intent.deadline, 0, status, 255),
        )

    async def pay(self, key: str, intent: Intent) -> str:
        await trio.sleep(self.delay_s)
        if key not in self.paid:
            self._apply(intent)
            self.paid[key] = f"{blake3(key.encode()).hexdigest()}"
        return self.paid[key]

    def _apply(self, intent: Intent) -> None:
        match intent:
            case CreateEscrow():
                if intent.amount > self.tokens:
                    raise PaymentRefusedError(f"holds {self.tokens}, needs {intent.amount}")
                address = escrow_address(CHAIN.program_id, USER.address, intent.job_id, intent.deadline)
                assert address not in self.escrows, "an escrow was created twice"
                self.tokens -= intent.amount
                self.escrows[address], self.open[address] = intent, intent.amount
            case RequestRefund():
                pass
            case Refund(escrow):
                self.tokens += self.open.pop(escrow, 0)
            case _:
                raise AssertionError(f"the Engine never pays {intent}")

    def settle(self, address: str, earned: int) -> None:
        """By the coordinator, with the final or the newest voucher; the rest goes back."""
        held = self.open.pop(address, 0)
        if held:
            self.paid_out += earned
            self.tokens += held - earned

    def sign(self, data: bytes) -> bytes:
        return USER.sign(data)


# -- graphs and models -------------------------------------------------------------------------


def model_bytes(segments_done: int, blob: str = "") -> bytes:
    return json.dumps({"segments_done": segments_done, "blob": blob}).encode()


class ScriptedChecks:
    """A model is a JSON file that says how far it was trained."""

    def prepare(self, graph: bytes, data: Path, workspace: Path) -> Prepared:
        copy = workspace / "data"
        copy.write_bytes(data.read_bytes())
        return Prepared(
            graph=graph,
            graph_hash=blake3(graph).hexdigest(),
            name="scripted",
            data=copy,
            samples=SAMPLES,
            sample_shape=(1, 8, 8),
            dtype="float32",
            classes=10,
            training_flops=FLOPS,
            memory_bytes=1 << 20,
            parameters=10,
            steps=STEPS,
        )

    def check_start(self, graph: bytes, start: Path | None) -> None:
        pass

    def check_served(self, model: Path) -> ServedModel:
        return ServedModel("onnx", 1 << 20)

    def check_model(self, path: Path, expected: ExpectedModel) -> None:
        try:
            found = json.loads(path.read_bytes())["segments_done"]
        except ValueError as error:
            raise ModelRefusedError(f"no model: {error}") from error
        if found != expected.segments_done:
            raise ModelRefusedError(f"segments done: found {found}, allowed {expected.segments_done}")


@dataclass
class ScriptedSamples:
    """Rows of one byte that say which part they are of."""

    scaling: bytes = b""
    target_shape: tuple[int, ...] = ()
    epochs: int = 3

    def size(self, part: DataPart) -> int:
        return {DataPart.TRAIN: 80, DataPart.VALIDATION: 0, DataPart.TEST: 20}[part]

    def read(self, part: DataPart, epoch: int, first: int, count: int) -> bytes:
        return bytes(count)

    def write_part(self, part: DataPart, target: Path) -> None:
        target.write_text(part.value)


@dataclass
class ScriptedOwner:
    """Finds every model equally good, or says why it cannot."""

    fails: str = ""
    able: bool = True
    tries_s: float = 1.0
    questions: int = QUESTIONS
    fixed: bool = False
    tried: int = 0
    evaluated: list[tuple[str, int]] = field(default_factory=list)
    """Part, and how far the model was trained."""

    def settle(self, graph: bytes, data: Path) -> tuple[bytes, str]:
        return graph, blake3(graph).hexdigest()

    def add_notes(self, model: Path, data: Path) -> None:
        pass

    def can_evaluate(self) -> bool:
        return self.able

    def open_samples(self, graph: bytes, data: Path) -> ScriptedSamples:
        return ScriptedSamples()

    def takes_all(self, model: Path) -> bool:
        return self.fixed

    async def try_model(self, model: Path, workspace: Path, seeds: Sequence[int]) -> Trial:
        """Of a model that gives twice what it takes."""
        self.tried += 1
        await trio.sleep(self.tries_s)
        if self.fails:
            raise EvaluationFailedError(self.fails)
        questions = [Question(seed, self._expected(seed)) for seed in seeds[: self.questions]]
        return Trial(inputs=(IMAGE,), questions=tuple(questions))

    @staticmethod
    def _expected(seed: int) -> tuple[Expected, ...]:
        return expected_from(*(doubled(question((IMAGE,), seed, nudge) or ()) for nudge in (1.0, NUDGE)))

    async def evaluate(self, model: Path, part: Path, workspace: Path) -> Score:
        await trio.sleep(1)
        self.evaluated.append(_evaluated(model, part))
        if self.fails:
            raise EvaluationFailedError(self.fails)
        return Score(20, 0.25, 0.75)


IMAGE = inference.TensorInfo("x", "float32", (-1, 4))


def doubled(asked: Iterable[tuple[inference.TensorGiven, bytes]], factor: float = 2.0) -> dict[str, Tensor]:
    (given, data), *_ = asked
    values = [factor * value for value in struct.unpack(f"<{len(data) // 4}f", data)]
    return {"y": Tensor("float32", given.shape, struct.pack(f"<{len(values)}f", *values))}


def _evaluated(model: Path, part: Path) -> tuple[str, int]:
    return part.read_text(), json.loads(model.read_bytes())["segments_done"]


# -- a peer ------------------------------------------------------------------------------------


@dataclass
class PeerScript:
    """How a peer misbehaves, if it does."""

    lies_at: int | None = None
    """The segment whose checkpoint is of another position."""
    skips_to_result: bool = False
    hides_result: bool = False
    """Announces it as one more checkpoint."""
    names_data: bool = False
    """Announces the job's dataset as its checkpoint."""
    dies_at: int | None = None
    """The segment during which it vanishes."""
    idles_at: int | None = None
    """The segment that it never ends, though it stays."""
    segment_s: float = 1.0
    serves_another: bool = False
    """Names another file than the deployment's model."""
    denies: bool = False
    """Knows of no deployment when it is asked for one."""
    calls: Literal[
        "answers",
        "another model",
        "nonsense",
        "nothing",
        "busy",
        "unpaid once",
        "the first answer",
        "invalid",
    ] = "answers"
    """What comes of a call to the deployment."""
    ready_at: float = 0.0
    """Of the virtual clock, before which the model does not answer."""


class ScriptedPeer:
    """Trains nothing, but keeps the order of a job, its numbered log and its files."""

    def __init__(self, world: World, number: int, directory: Path, script: PeerScript) -> None:
        self.identity = Identity.from_seed(bytes([number]) * 32)
        self.wallet = Wallet.from_seed(bytes([number + 1]) * 32)
        self.script = script
        self.log = ProgressLog()
        self.vouchers: list[job_wire.GiveVoucher] = []
        self.starts: list[job_wire.StartJob] = []
        self.orders: list[str] = []
        self.opened: list[job_wire.OpenJob] = []
        self.opened_at: list[float] = []
        self.data = b""
        self.network: MemoryNetwork = world.net.join(self.identity)
        self._world = world
        self._files = FileStore(directory, QUOTA, run_inline)
        self._changed = trio.Event()
        self._working = False
        self.network.set_handler(job_wire.PROTOCOL_ID, self._serve)
        self.asked = 0
        """How often it was asked whether a deployment answers."""
        self.called = 0
        self.questions: list[bytes] = []
        serve_transfers(self.network, self._files, lambda caller, _: caller == ENGINE.peer_id)
        serve_calls(
            self.network,
            inference.PROTOCOL_ID,
            inference.REQUESTS,
            inference.RESPONSES,
            inference.LIMITS,
            self._infer,
        )

    async def _infer(self, caller: PeerId, call: inference.InferenceCall, body: bytes) -> Any:
        await trio.lowlevel.checkpoint()
        if isinstance(call, inference.Authorize):
            return Done()
        if isinstance(call, inference.PredictNamed):
            return self._predict(call, body)
        assert isinstance(call, inference.StatusOf)
        self.asked += 1
        if self.script.denies:
            raise RemoteFailureError("not_found", "no such deployment")
        is_ready = trio.current_time() >= self.script.ready_at
        state = "ready" if is_ready else "restarting"
        return inference.DeploymentStatus(state, "", 0, name="digits", inputs=(IMAGE,))

    def _predict(self, call: inference.PredictNamed, body: bytes) -> Any:
        self.called += 1
        self.questions.append(body)
        match self.script.calls:
            case "nonsense":
                return Done()
            case "nothing":
                return inference.PredictionNamed((), 0.0), b""
            case "busy":
                raise RemoteFailureError("busy", "others are asked")
            case "invalid":
                raise RemoteFailureError("invalid", "input of (1, 4), allowed is another")
            case "unpaid once" if self.called == 1:
                raise RemoteFailureError("unpaid", "the last period has no voucher")
        factor = 3.0 if self.script.calls == "another model" else 2.0
        asked = self.questions[0] if self.script.calls == "the first answer" else body
        answer = doubled([(call.inputs[0], asked)], factor)["y"]
        given = inference.TensorGiven("y", "float32", answer.shape)
        return inference.PredictionNamed((given,), 0.001), answer.data

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    def record(self) -> wire.PeerRecord:
        return wire.PeerRecord(
            peer_id=self.peer_id,
            sequence=int(now() * 1000),
            expires_at=now() + 3600,
            addresses=tuple(self.network.addresses()),
            devices=(wire.Device(DeviceKind.CPU, "cpu", 1 << 30, SPEED),),
            ram_bytes=1 << 30,
            formats=("cyxmodel",),
            price_per_hour=PRICE,
            node_wallet=self.wallet.address,
            payout_wallet=self.wallet.address,
            version="1",
        )

    async def _serve(self, stream: Stream) -> None:
        channel: Channel[job_wire.FromPeer, job_wire.FromEngine] = Channel(
            stream, job_wire.FROM_PEER, job_wire.FROM_ENGINE, job_wire.LIMITS
        )
        call, _ = await channel.receive()
        assert isinstance(call, job_wire.OpenJob), call
        self.opened.append(call)
        self.opened_at.append(trio.current_time())
        if not self._working:
            self._working = True
            self._world.nursery.start_soon(self._work, call)
        self.log.replay(call.after)
        await channel.send(job_wire.JobOpened(self.log.oldest, self.log.latest))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, channel)
            await self._receive(channel)
            nursery.cancel_scope.cancel()

    async def _send(self, channel: Channel[Any, Any]) -> None:
        with suppress(P2PError):
            while True:
                message = self.log.take()
                if message is None:
                    await self._changed.wait()
                else:
                    await channel.send(message)

    async def _receive(self, channel: Channel[Any, Any]) -> None:
        with suppress(P2PError):
            while True:
                message, _ = await channel.receive()
                self._take(message)

    def _take(self, message: Any) -> None:
        match message:
            case job_wire.Acknowledge(sequence):
                self.log.acknowledge(sequence)
            case job_wire.StartJob():
                assert not self.starts or self.starts[-1] == message, "two escrows for one lease"
                self.starts.append(message)
            case job_wire.GiveVoucher():
                self.vouchers.append(message)
            case _:
                self.orders.append(type(message).__name__)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _say(self, message: Any) -> None:
        self.log.add(message)
        self._wake()

    async def _work(self, call: job_wire.OpenJob) -> None:
        with suppress(P2PError):
            with suppress(SourceRefusedError):
                path = await fetch(
                    self.network,
                    ENGINE.peer_id,
                    call.job.data.file,
                    self._files,
                    max_bytes=QUOTA,
                    attempts=50,
                )
                self.data = path.read_bytes()
            if call.checkpoint is not None:
                await fetch(
                    self.network, ENGINE.peer_id, call.checkpoint, self._files, max_bytes=QUOTA, attempts=50
                )
        await self._until(lambda: bool(self.starts))
        self._say(job_wire.JobStage(0, "training", "the escrow holds what was promised"))
        for segment in range(call.first_segment, call.job.segments):
            await self._train(call.job, segment)

    async def _train(self, job: JobSpec, segment: int) -> None:
        if self.script.dies_at == segment:
            self._world.net.crash(self.network)
            await trio.sleep_forever()
        self._say(job_wire.JobProgress(0, METRICS))
        await trio.sleep(math.inf if self.script.idles_at == segment else self.script.segment_s)
        done = segment + 1
        is_last = done == job.segments and not self.script.hides_result
        if job.serving is not None:
            await self._serve_period(job, segment)
            return
        if is_last or self.script.skips_to_result:
            result = await self._files.add_bytes(model_bytes(job.segments, "result"))
            self._say(job_wire.ResultReady(0, result, METRICS))
            await self._until(lambda: any(voucher.final for voucher in self.vouchers))
            self._say(job_wire.JobClosed(0, "paid in full"))
            await trio.sleep_forever()
        file = await self._files.add_bytes(model_bytes(0 if self.script.lies_at == segment else done))
        named = job.data.file if self.script.names_data else file
        self._say(job_wire.SegmentFinished(0, segment, named, METRICS))
        await self._until(lambda: any(voucher.segments_done >= done for voucher in self.vouchers))

    async def _serve_period(self, job: JobSpec, segment: int) -> None:
        file = await self._files.add_bytes(b"another") if self.script.serves_another else job.data.file
        if segment + 1 < job.segments:
            self._say(job_wire.SegmentFinished(0, segment, file, METRICS))
            await self._until(lambda: any(each.segments_done > segment for each in self.vouchers))
            return
        self._say(job_wire.ResultReady(0, file, METRICS))
        await self._until(lambda: any(voucher.final for voucher in self.vouchers))
        self._say(job_wire.JobClosed(0, "paid in full"))
        await trio.sleep_forever()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()


# -- a coordinator -----------------------------------------------------------------------------


class ScriptedCoordinator:
    """One job at a time, leases to the peers in order; settles final vouchers in the ledger."""

    def __init__(self, world: World) -> None:
        self.updates: list[wire.JobUpdate] = []
        self.vouchers: dict[str, wire.DeliverVoucher] = {}
        self.complaints: list[wire.ReportPeer] = []
        self.amount_factor = 1
        self.submissions = 0
        self.tokens = 0
        """Asked for."""
        self.refuses: dict[type, RemoteFailureError] = {}
        self.spec: JobSpec | None = None
        self.graph = b""
        self.waits_for_user = False
        self._world = world
        self._fencing = itertools.count(1)
        self._peers = iter(world.peers)
        self._lease: wire.Lease | None = None
        self._funded: str | None = None
        self._changed = trio.Event()
        self.network: MemoryNetwork = world.net.join(COORDINATOR)
        serve_calls(self.network, wire.PROTOCOL_ID, wire.REQUESTS, wire.RESPONSES, wire.LIMITS, self._answer)

    @property
    def state(self) -> JobState:
        return self.updates[-1].state if self.updates else JobState.SUBMITTED

    async def _answer(self, caller: PeerId, call: wire.CoordinatorCall, body: bytes) -> Any:
        await trio.lowlevel.checkpoint()
        if type(call) in self.refuses:
            raise self.refuses[type(call)]
        match call:
            case wire.Hello():
                return wire.Welcome(PROTOCOL_VERSION, "scripted", CHAIN, 5.0, 20.0, now())
            case wire.SubmitJob(spec):
                return self._submit(spec, body)
            case wire.PollJob():
                return await self._poll(call)
            case wire.RequestToken():
                self.tokens += 1
                return wire.AccessToken("token", now() + 900)
            case wire.EscrowCreated():
                return self._funded_by(call)
            case wire.DeliverVoucher():
                return self._voucher(call)
            case wire.ReportPeer():
                return self._complaint(call)
            case wire.CancelJob():
                for address in list(self._world.ledger.open):
                    known = self.vouchers.get(address)
                    self._world.ledger.settle(address, known.earned if known else 0)
                self._tell(JobState.CANCELLED, "cancelled")
                return Done()
        raise RemoteFailureError("invalid", f"the script has no {type(call).__name__}")

    def _submit(self, spec: JobSpec, body: bytes) -> wire.Submitted:
        self.submissions += 1
        assert self.spec in (None, spec), "the same job with other terms"
        first = self.spec is None
        self.spec, self.graph = spec, body
        if first or self.state is JobState.WAITING_FOR_USER:
            self.offer_next()
        return wire.Submitted(spec.job_id, len(self.updates))

    def offer_next(self, first_segment: int = 0) -> None:
        assert self.spec is not None
        peer = next(self._peers, None)
        if peer is None:
            self._tell(JobState.FAILED, "no peer is left")
            self._tell(JobState.REFUNDED, "refunded")
            return
        fencing = next(self._fencing)
        quote = price_of(self.spec.duration_ms(FLOPS, SPEED), PRICE)
        self._lease = wire.Lease(
            lease_id=f"lease-{fencing}",
            fencing=fencing,
            peer_id=peer.peer_id,
            device=0,
            amount=self.amount_factor * remaining_amount(quote, first_segment, self.spec.segments),
            first_segment=first_segment,
            record=sign_record(peer.record(), peer.identity.sign),
            fund_before=now() + 60,
        )
        self._funded = None
        self._tell(JobState.AWAITING_FUNDS, f"peer {peer.peer_id} holds the job", lease=self._lease)

    def give_up_lease(self) -> None:
        """Nobody funded it: the job waits for its user."""
        self._lease = None
        self._tell(JobState.WAITING_FOR_USER, "not funded in time")

    def _tell(self, state: JobState, text: str, **fields: Any) -> None:
        self.updates.append(wire.JobUpdate(len(self.updates) + 1, now(), state, text, **fields))
        self._changed.set()
        self._changed = trio.Event()

    async def _poll(self, call: wire.PollJob) -> wire.JobUpdates:
        with trio.move_on_after(call.wait_ms / 1000):
            while len(self.updates) <= call.after:
                await self._changed.wait()
        return wire.JobUpdates(self.state, tuple(self.updates[call.after :]), len(self.updates))

    def _funded_by(self, call: wire.EscrowCreated) -> Done:
        assert call.escrow in self._world.ledger.escrows, "reported before it was paid"
        lease = self._lease
        if lease is None or lease.lease_id != call.lease.lease_id:
            raise RemoteFailureError("conflict", "the lease is over")
        if self._funded is None:
            self._funded = call.escrow
            self._tell(JobState.FUNDED, "the escrow is on the chain")
            self._tell(JobState.RUNNING, "the peer works")
        return Done()

    def _voucher(self, call: wire.DeliverVoucher) -> Done:
        known = self.vouchers.get(call.escrow)
        assert known is None or known.earned <= call.earned, "a voucher took money back"
        self.vouchers[call.escrow] = call
        if call.final and not self.state.is_final:
            self._world.ledger.settle(call.escrow, call.earned)
            self._tell(JobState.SETTLED, "settled", signature="5" * 80)
        return Done()

    def _complaint(self, call: wire.ReportPeer) -> Done:
        lease = self._lease
        if lease is None or lease.lease_id != call.lease.lease_id:
            raise RemoteFailureError("conflict", "the lease is over")
        self.complaints.append(call)
        self.retry()
        return Done()

    def retry(self, refunds: bool = True) -> None:
        done = 0
        for address in list(self._world.ledger.open) if refunds else ():
            known = self.vouchers.get(address)
            self._world.ledger.settle(address, known.earned if known else 0)
        done = max((voucher.segments_done for voucher in self.vouchers.values()), default=0)
        self._lease = None
        self._tell(JobState.RETRYING, "another peer goes on")
        self.offer_next(done)


# -- the Engine --------------------------------------------------------------------------------


class DyingStore(JobStore):
    """The process dies at its n-th write: just before it, or just after."""

    def __init__(self, inner: JobStore, dies_at: int | None, after: bool) -> None:
        super().__init__(inner._connection, run_inline)
        self._dies_at = dies_at
        self._after = after
        self.writes = 0
        self.dead = False

    async def _write(self, statements: Any) -> None:
        self.writes += 1
        dies = self.writes == self._dies_at
        if self.dead or (dies and not self._after):
            self.dead = True
            raise Killed
        await super()._write(statements)
        if dies:
            self.dead = True
            raise Killed


class World:
    """Use ``open_world``."""

    def __init__(self, net: MemoryNet, nursery: trio.Nursery, directory: Path) -> None:
        self.net = net
        self.nursery = nursery
        self.directory = directory
        self.ledger = Ledger()
        self.peers: list[ScriptedPeer] = []
        self.coordinator: ScriptedCoordinator
        self.owner = ScriptedOwner()
        self.limits = Limits()
        self.seed = 0
        self.draws = Random(0)
        """Seeds of the Engine's questions."""
        self.data = directory / "data.npz"
        self.data.write_bytes(b"samples" * 1000)

    @asynccontextmanager
    async def engine(
        self, *, dies_at: int | None = None, after: bool = True
    ) -> AsyncIterator[tuple[JobEngine, DyingStore]]:
        network = self.net.join(ENGINE)
        try:
            with open_store(self.directory / "jobs.sqlite", run_inline) as inner:
                store = DyingStore(inner, dies_at, after)
                addresses = self.coordinator.network.addresses()
                async with open_coordinator(network, COORDINATOR.peer_id, addresses, "test", now) as link:
                    files = FileStore(self.directory / "store", QUOTA, run_inline)
                    workspace = self.directory / "workspace"
                    parts = Engine(
                        network=network,
                        coordinator=link,
                        treasury=self.ledger,
                        files=files,
                        checks=ScriptedChecks(),
                        store=store,
                        data=OwnData(
                            self.owner,
                            files,
                            store,
                            workspace,
                            run_inline,
                            self.draws.getrandbits,
                        ),
                        now=now,
                        chain=CHAIN,
                        limits=self.limits,
                        run_blocking=run_inline,
                        draw=Random(self.seed).random,
                    )
                    async with run_engine(parts, workspace) as engine:
                        yield engine, store
        finally:
            self.net.crash(network)


@asynccontextmanager
async def open_world(
    directory: Path, scripts: tuple[PeerScript, ...] = (PeerScript(),), seed: int = 0, **net: Any
) -> AsyncIterator[World]:
    async with MemoryNet(seed, **net) as memory, trio.open_nursery() as nursery:
        world = World(memory, nursery, directory)
        world.seed, world.draws = seed, Random(seed)
        for index, script in enumerate(scripts):
            number = 16 + 2 * index
            world.peers.append(ScriptedPeer(world, number, directory / f"peer{index}", replace(script)))
        world.coordinator = ScriptedCoordinator(world)
        yield world
        nursery.cancel_scope.cancel()
