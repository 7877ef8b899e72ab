"""The outbox against a real chain over a network and a program that fail at every possible moment.

Chain, client and payer are the real ones, on a virtual clock; only disk and network are replaced.
"""

from __future__ import annotations

import itertools
import json
import random
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore2
import httpx2
import msgspec
import pytest
import trio
from solders.account import Account
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from coordinator.chain.genesis import genesis_info
from coordinator.chain.ledger import LAMPORTS_PER_SIGNATURE, Landed, Ledger
from coordinator.chain.rpc import Rpc
from coordinator.chain.slots import SlotClock
from p2p.chain.client import ChainClient, open_chain
from p2p.chain.errors import PaymentConflictError, PaymentPendingError, PaymentRefusedError
from p2p.chain.escrow_codec import SYSTEM_PROGRAM, EscrowStatus, token_account_of
from p2p.chain.outbox import PaymentState
from p2p.chain.payer import CreateEscrow, Payer, PayerOptions, Refund, RequestRefund, Settle, run_payer
from p2p.chain.wallet import Wallet
from p2p.errors import LocalProtocolError
from p2p.protocols.coordinator import ChainInfo
from p2p.vouchers import Voucher, voucher_bytes

SLOT_S = 0.4
AMOUNT = 1_003
WINDOW_S = 30
EPOCH = 1_700_000_000
OPTIONS = PayerOptions(absent_patience_s=5)
TRUST = ssl.create_default_context()


@pytest.fixture(autouse=True)
def _roots_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client reads the machine's certificates, which takes most of a life that is as short as these."""
    monkeypatch.setattr(httpcore2, "default_ssl_context", lambda **_: TRUST)


class Crash(Exception):
    """The program is gone."""


class MemoryStore:
    """The chain's disk: it never fails here, the chain's own tests do that."""

    def __init__(self) -> None:
        self.landed: dict[str, Landed] = {}

    def put(self, landed: Landed) -> None:
        self.landed[landed.signature] = landed

    def put_meta(self, name: str, value: bytes) -> None:
        pass

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def find(self, signature: str) -> Landed | None:
        return self.landed.get(signature)

    def mentioning(self, address: str, limit: int, before: Any, until: Any) -> Iterable[Landed]:
        return [landed for landed in reversed(self.landed.values()) if address in landed.keys][:limit]

    def count(self) -> int:
        return len(self.landed)


class Disk:
    """The payer's journal. ``crash_at``: (number of the append, whether its record was still written)."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.appends = 0
        self.crash_at: tuple[int, bool] | None = None

    async def append(self, record: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.appends += 1
        crash = self.crash_at is not None and self.crash_at[0] == self.appends
        if not crash or (self.crash_at is not None and self.crash_at[1]):
            self.records.append(record)
        if crash:
            raise Crash(f"append {self.appends}")


class Network(httpx2.AsyncBaseTransport):
    """Requests reach the chain unless ``faults`` says otherwise for one transaction that is sent.

    Faults: "deliver", "drop", "lose reply", "crash before", "crash after", or slots of delay.
    """

    def __init__(self, rpc: Rpc, nursery: trio.Nursery) -> None:
        self._rpc = rpc
        self._nursery = nursery
        self.faults: list[Any] = []
        self.lose_answers_of: dict[str, int] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        method = json.loads(body)["method"]
        if self.lose_answers_of.get(method, 0) > 0:
            self.lose_answers_of[method] -= 1
            await self._rpc.answer(body)
            raise httpx2.ReadError("connection reset")
        if method == "sendTransaction" and self.faults:
            return await self._faulty(self.faults.pop(0), body)
        return httpx2.Response(200, content=await self._rpc.answer(body))

    async def _faulty(self, fault: Any, body: bytes) -> httpx2.Response:
        if fault == "crash before":
            raise Crash("before a send")
        if isinstance(fault, int):
            self._nursery.start_soon(self._late, fault, body)
        elif fault != "drop":
            answer = await self._rpc.answer(body)
            if fault == "deliver":
                return httpx2.Response(200, content=answer)
        if fault == "crash after":
            raise Crash("after a send")
        raise httpx2.ReadTimeout("no answer")

    async def _late(self, slots: int, body: bytes) -> None:
        await trio.sleep(slots * SLOT_S)
        await self._rpc.answer(body)


class World:
    """A chain, a user who pays, a node that earns, and the arbiter, each with its disk."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.store = MemoryStore()
        authority = Keypair()

        def now() -> float:
            return EPOCH + trio.current_time()

        clock = SlotClock(bytes(32), now(), SLOT_S, 0, now(), trio.current_time())
        accounts = Ledger.genesis(authority)
        self.ledger = Ledger(clock, authority, accounts, 0, now, trio.current_time)
        self.rpc = Rpc(self.ledger, self.store)  # type: ignore[arg-type]
        self.user, self.node, self.arbiter = (Wallet.generate() for _ in range(3))
        self.rpc.open_platform_account(self.arbiter.address)
        genesis = genesis_info(self.arbiter.address)
        self.info = ChainInfo(
            rpc_url="http://chain",
            program_id=genesis.program_id,
            mint=genesis.mint,
            platform_account=genesis.platform_account,
            arbiter=self.arbiter.address,
            embedded=True,
            claim_window_s=WINDOW_S,
        )
        self.network = Network(self.rpc, nursery)
        self.jobs = itertools.count(1)

    def client(self) -> Any:
        return open_chain(self.info, transport=self.network)

    async def fund(self) -> None:
        async with self.client() as chain:
            for wallet in (self.user, self.node, self.arbiter):
                await chain.airdrop(wallet.address, 10**9)

    def tokens(self, wallet: Wallet) -> int:
        account = self.ledger.account(Pubkey.from_string(token_account_of(wallet.address, self.info.mint)))
        return 0 if account is None else int.from_bytes(bytes(account.data)[64:72], "little")

    def creation(self) -> CreateEscrow:
        return CreateEscrow(
            job_id=f"{next(self.jobs):064x}",
            node=self.node.address,
            payout=self.node.address,
            arbiter=self.arbiter.address,
            arbiter_cap=0,
            amount=AMOUNT,
            claim_window_s=WINDOW_S,
            deadline=EPOCH + 10**6,
        )

    def voucher(self, escrow: str, earned: int, final: bool) -> Voucher:
        node = bytes(self.node.keypair.pubkey())
        signature = self.user.sign(voucher_bytes(bytes(Pubkey.from_string(escrow)), node, earned, final))
        return Voucher(escrow, earned, final, signature)

    async def create(self) -> str:
        """An escrow, without any trouble."""
        intent = self.creation()
        async with self.client() as chain, run_payer(Disk(), [], chain, self.user, OPTIONS) as payer:
            await payer.pay("create", intent)
            return chain.escrow_address(self.user.address, intent.job_id, intent.deadline)

    def landed_for(self, address: str) -> list[Landed]:
        return [landed for landed in self.store.landed.values() if address in landed.keys]


async def pay_over_crashes(
    world: World, disk: Disk, wallet: Wallet, intent: Any, down_s: Sequence[float]
) -> int:
    """Calls pay until it returns, restarting the program after each crash; how often that was."""
    pauses = iter(down_s)
    for crashes in range(20):
        try:
            async with (
                world.client() as chain,
                run_payer(disk, disk.records, chain, wallet, OPTIONS) as payer,
            ):
                await payer.pay("the payment", intent, timeout_s=600)
                await until_final(payer)
                return crashes
        except* Crash:
            disk.crash_at = None
        await trio.sleep(next(pauses, 1.0))
    raise AssertionError("it never ended")


async def until_final(payer: Payer) -> None:
    while payer.payments()[0].state is not PaymentState.DONE:  # noqa: ASYNC110
        await trio.sleep(1)


FAULTS: list[list[Any]] = [
    [],
    ["drop"],
    ["lose reply"],
    ["crash before"],
    ["crash after"],
    [3],
    [100],
    [400],
]
ROWS_OF_FAULTS: list[list[Any]] = [
    ["drop", "drop", "lose reply"],
    [100, "lose reply"],
    [400, "crash before", 3],
]
EACH_FAULT = [
    *(pytest.param("settle", faults, id=f"settle {faults}") for faults in FAULTS),
    *(pytest.param("create", faults, id=f"create {faults}", marks=pytest.mark.slow) for faults in FAULTS),
    *(
        pytest.param(kind, faults, id=f"{kind} {faults}", marks=pytest.mark.slow)
        for kind in ("create", "settle")
        for faults in ROWS_OF_FAULTS
    ),
]
CRASHES: list[tuple[int, bool] | None] = [
    None,
    *((number, written) for number in (1, 2, 3, 4) for written in (False, True)),
]


@pytest.mark.virtual_clock
@pytest.mark.parametrize(("kind", "faults"), EACH_FAULT)
async def test_a_payment_happens_exactly_once(kind: str, faults: list[Any]) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.fund()
        for crash, down_s in zip(CRASHES, itertools.cycle([120.0, 0.1, 0.1, 120.0]), strict=False):
            await one_payment(world, kind, list(faults), crash, [down_s] * 3)
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.virtual_clock
async def test_a_payment_happens_exactly_once_whatever_goes_wrong() -> None:
    randomness = random.Random(20)
    menu = ["drop", "lose reply", "crash before", "crash after", "deliver", 1, 10, 100, 149, 200, 400]
    lossy = ["getSignatureStatuses", "getBlockHeight", "getAccountInfo", "simulateTransaction"]
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.fund()
        for _ in range(100):
            faults = [randomness.choice(menu) for _ in range(randomness.randint(0, 5))]
            crash = randomness.choice(CRASHES)
            down = [randomness.choice([0.1, 3.0, 70.0, 300.0]) for _ in range(6)]
            world.network.lose_answers_of = {name: randomness.randint(0, 3) for name in lossy}
            await one_payment(world, randomness.choice(["create", "settle"]), faults, crash, down)
        nursery.cancel_scope.cancel()


async def one_payment(
    world: World, kind: str, faults: list[Any], crash: tuple[int, bool] | None, down_s: list[float]
) -> None:
    disk = Disk()
    disk.crash_at = crash
    if kind == "create":
        intent: Any = world.creation()
        wallet = world.user
        async with world.client() as chain:
            address = chain.escrow_address(wallet.address, intent.job_id, intent.deadline)
        landed_before = 0
    else:
        address, wallet = await world.create(), world.arbiter
        intent = Settle(address, world.voucher(address, AMOUNT, True))
        landed_before = 1
    before = [world.tokens(who) for who in (world.user, world.node, world.arbiter)]
    world.network.faults = faults
    await pay_over_crashes(world, disk, wallet, intent, down_s)
    await trio.sleep(500 * SLOT_S)
    moved = [
        world.tokens(who) - old
        for who, old in zip((world.user, world.node, world.arbiter), before, strict=True)
    ]
    expected = [-AMOUNT, 0, 0] if kind == "create" else [0, AMOUNT - AMOUNT // 10, AMOUNT // 10]
    context = (kind, faults, crash, down_s)
    assert moved == expected, context
    assert len(world.landed_for(address)) == landed_before + 1, context
    world.network.faults = []


@pytest.mark.virtual_clock
async def test_two_presenters_of_one_voucher_both_learn_that_it_is_paid() -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.fund()
        address = await world.create()
        intent = Settle(address, world.voucher(address, AMOUNT, True))
        async with (
            world.client() as chain,
            run_payer(Disk(), [], chain, world.node, OPTIONS) as node,
            run_payer(Disk(), [], chain, world.arbiter, OPTIONS) as arbiter,
            trio.open_nursery() as both,
        ):
            signatures: list[str] = []

            async def pay(payer: Payer) -> None:
                signatures.append((await payer.pay("it", intent)).signature)

            both.start_soon(pay, node)
            both.start_soon(pay, arbiter)
        assert len(set(signatures)) == 1
        assert world.tokens(world.node) == 10**9 + AMOUNT - AMOUNT // 10
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_a_refund_waits_for_its_window_and_settles_the_voucher_before() -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.fund()
        address = await world.create()
        async with world.client() as chain, run_payer(Disk(), [], chain, world.arbiter, OPTIONS) as payer:
            await payer.pay("settle", Settle(address, world.voucher(address, 500, False)))
            await payer.pay("request", RequestRefund(address))
            requested = trio.current_time()
            await payer.pay("refund", Refund(address), timeout_s=WINDOW_S * 2)
            assert trio.current_time() - requested >= WINDOW_S - 1
            escrow = await chain.escrow(address)
            assert escrow is not None and escrow.status is EscrowStatus.REFUNDED
        assert world.tokens(world.node) == 10**9 + 450
        assert world.tokens(world.user) == 10**9 - 500
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_an_arbiter_pays_for_no_account_that_its_owner_closes() -> None:
    """Its owner would get the coins, and could do so with each of any number of jobs."""
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.fund()
        address = await world.create()
        world.info = msgspec.structs.replace(world.info, embedded=False)
        tokens = Pubkey.from_string(token_account_of(world.user.address, world.info.mint))
        world.ledger.machine.set_account(tokens, Account(0, b"", SYSTEM_PROGRAM))
        async with world.client() as chain:
            coins = await chain.lamports(world.arbiter.address)
            async with run_payer(Disk(), [], chain, world.arbiter, OPTIONS) as payer:
                await payer.pay("request", RequestRefund(address))
                await trio.sleep(WINDOW_S)
                with pytest.raises(PaymentRefusedError, match="a token account of the wrong mint, or none"):
                    await payer.pay("refund", Refund(address))
            assert coins - await chain.lamports(world.arbiter.address) == LAMPORTS_PER_SIGNATURE
            async with run_payer(Disk(), [], chain, world.user, OPTIONS) as payer:
                await payer.pay("refund", Refund(address))
        assert world.tokens(world.user) == AMOUNT
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_what_cannot_happen_is_refused_and_stays_refused() -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.fund()
        disk = Disk()
        async with world.client() as chain:
            poor, intent = Wallet.generate(), world.creation()
            await chain.airdrop(poor.address, AMOUNT - 1)
            for _ in range(2):
                async with run_payer(disk, disk.records, chain, poor, OPTIONS) as payer:
                    with pytest.raises(PaymentRefusedError, match="program error 1"):
                        await payer.pay("too much", intent)
            await missing_escrow(world, chain)
        nursery.cancel_scope.cancel()


async def missing_escrow(world: World, chain: ChainClient) -> None:
    async with run_payer(Disk(), [], chain, world.user, OPTIONS) as payer:
        with pytest.raises(PaymentRefusedError, match="no escrow at"):
            await payer.pay("nothing there", Refund(Wallet.generate().address))


@pytest.mark.virtual_clock
async def test_an_unreachable_chain_leaves_a_payment_pending_and_a_restart_makes_it() -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.fund()
        disk, intent = Disk(), world.creation()
        world.network.lose_answers_of = {"getAccountInfo": 10**6}
        async with world.client() as chain, run_payer(disk, [], chain, world.user, OPTIONS) as payer:
            with pytest.raises(PaymentPendingError):
                await payer.pay("it", intent, timeout_s=30)
        world.network.lose_answers_of = {}
        async with (
            world.client() as chain,
            run_payer(disk, disk.records, chain, world.user, OPTIONS) as payer,
        ):
            await payer.pay("it", intent)
        assert world.tokens(world.user) == 10**9 - AMOUNT
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_a_wallet_without_fees_gets_them_from_the_embedded_chain() -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.fund()
        address = await world.create()
        intent = Settle(address, world.voucher(address, AMOUNT, True))
        stranger = Wallet.generate()
        async with world.client() as chain, run_payer(Disk(), [], chain, stranger, OPTIONS) as payer:
            await payer.pay("settle", intent)
        assert world.tokens(world.node) == 10**9 + AMOUNT - AMOUNT // 10
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_an_intent_that_makes_no_sense_is_refused_and_harms_no_other() -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.fund()
        address = await world.create()
        too_long = msgspec.structs.replace(world.creation(), claim_window_s=2**63)
        too_much = msgspec.structs.replace(world.creation(), amount=2**64)
        async with world.client() as chain, run_payer(Disk(), [], chain, world.user, OPTIONS) as payer:
            for key, intent in [
                ("not an address", Refund("not an address")),
                ("too long", too_long),
                ("no escrow", Refund(token_account_of(world.user.address, world.info.mint))),
                ("bad voucher", Settle(address, Voucher(address, 2**63, False, bytes(64)))),
                ("cut signature", Settle(address, Voucher(address, 5, False, bytes(63)))),
            ]:
                with pytest.raises(PaymentRefusedError):
                    await payer.pay(key, intent)
            with pytest.raises(LocalProtocolError, match="cannot be written down"):
                await payer.pay("too much", too_much)
            await payer.pay("good", world.creation())
        nursery.cancel_scope.cancel()


@pytest.mark.virtual_clock
async def test_lamports_that_a_stranger_sent_to_the_address_do_not_prevent_an_escrow() -> None:
    """Coordinator and peer can guess the address, and a system account there once made it refused."""
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.fund()
        intent = world.creation()
        async with world.client() as chain, run_payer(Disk(), [], chain, world.user, OPTIONS) as payer:
            address = chain.escrow_address(world.user.address, intent.job_id, intent.deadline)
            await send_lamports(world, chain, address, 5_000_000)
            assert await chain.escrow(address) is None
            await payer.pay("it", intent)
            assert await chain.escrow(address) is not None
        nursery.cancel_scope.cancel()


async def send_lamports(world: World, chain: ChainClient, address: str, lamports: int) -> None:
    key = world.arbiter.keypair
    gift = TransferParams(from_pubkey=key.pubkey(), to_pubkey=Pubkey.from_string(address), lamports=lamports)
    blockhash, _ = await chain.latest_blockhash()
    message = MessageV0.try_compile(key.pubkey(), [transfer(gift)], [], blockhash)
    await chain.send(bytes(VersionedTransaction(message, [key])))
    with trio.fail_after(60):
        while await chain.lamports(address) < lamports:  # noqa: ASYNC110
            await trio.sleep(SLOT_S)


@pytest.mark.virtual_clock
async def test_a_key_stands_for_one_payment() -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await world.fund()
        intent = world.creation()
        async with world.client() as chain, run_payer(Disk(), [], chain, world.user, OPTIONS) as payer:
            first = await payer.pay("key", intent)
            assert (await payer.pay("key", intent)).signature == first.signature
            with pytest.raises(PaymentConflictError, match="another payment"):
                await payer.pay("key", world.creation())
        nursery.cancel_scope.cancel()
