"""Whatever anyone does to an escrow, in whatever order, no token appears, vanishes or goes astray."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from solders.account import Account
from solders.clock import Clock
from solders.instruction import Instruction
from solders.litesvm import LiteSVM
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from coordinator.chain import programs
from coordinator.chain.genesis import MINT, PROGRAM_FILE, PROGRAM_ID, genesis_accounts
from p2p.chain import escrow_codec
from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus, EscrowTerms, decode_escrow, token_account_of
from p2p.chain.wallet import Wallet
from p2p.vouchers import Voucher, voucher_bytes
from tests.property.effort import examples

START, WINDOW_S, LIFETIME_S, AMOUNT, SAVINGS = 1_700_000_000, 10, 100, 997, 1_000
USER, NODE, ARBITER, PLATFORM = PEOPLE = [Wallet.from_seed(bytes([number]) * 32) for number in range(1, 5)]


@dataclasses.dataclass(frozen=True)
class Move:
    """One attempt: ``who`` does ``what``; ``number`` is an amount or a time."""

    what: str
    who: int
    number: int
    final: bool


class World:
    def __init__(self, arbiter_cap: int) -> None:
        self.machine = LiteSVM().with_mainnet_features()
        self.machine.add_program(Pubkey.from_string(PROGRAM_ID), PROGRAM_FILE.read_bytes())
        for address, account in genesis_accounts(self.machine, PLATFORM.keypair).items():
            self.machine.set_account(Pubkey.from_string(address), account)
        self.set_time(START)
        for wallet in PEOPLE:
            self.machine.airdrop(wallet.keypair.pubkey(), 10**10)
            opening = escrow_codec.create_token_account(wallet.address, wallet.address, MINT)
            assert self.send([opening], wallet)
        self._give_savings()
        platform = token_account_of(PLATFORM.address, MINT)
        terms = EscrowTerms(
            *(USER.address, "ab" * 32, NODE.address, NODE.address, ARBITER.address, arbiter_cap, MINT),
            *(platform, AMOUNT, WINDOW_S, START + LIFETIME_S),
        )
        self.address = escrow_codec.escrow_address(PROGRAM_ID, USER.address, terms.job_id, terms.deadline)
        vault = escrow_codec.create_token_account(USER.address, self.address, MINT)
        assert self.send([vault, escrow_codec.create(PROGRAM_ID, terms, USER.address, 10**7)], USER)

    def _give_savings(self) -> None:
        address = Pubkey.from_string(token_account_of(USER.address, MINT))
        account = self.machine.get_account(address)
        assert account is not None
        data = bytearray(account.data)
        data[64:72] = SAVINGS.to_bytes(8, "little")
        self.machine.set_account(address, Account(account.lamports, bytes(data), account.owner, False))

    def set_time(self, seconds: int) -> None:
        self.time = seconds
        self.machine.set_clock(Clock(1, 0, 0, 0, seconds))

    def send(self, instructions: list[Instruction], signer: Wallet) -> bool:
        self.machine.expire_blockhash()
        key = signer.keypair
        message = MessageV0.try_compile(key.pubkey(), instructions, [], self.machine.latest_blockhash())
        result = programs.send(self.machine, VersionedTransaction(message, [key]))
        return hasattr(result, "compute_units_consumed")

    def tokens(self, owner: str) -> int:
        account = self.machine.get_account(Pubkey.from_string(token_account_of(owner, MINT)))
        return int.from_bytes(bytes(account.data)[64:72], "little") if account and account.data else 0

    def escrow(self) -> EscrowAccount:
        account = self.machine.get_account(Pubkey.from_string(self.address))
        assert account is not None
        return decode_escrow(bytes(account.data))

    def make(self, move: Move) -> bool:
        signer, escrow = PEOPLE[move.who], self.escrow()
        if move.what == "wait":
            self.set_time(self.time + move.number % 40)
            return True
        if move.what == "settle":
            keys = (bytes(Pubkey.from_string(key)) for key in (self.address, escrow.node))
            signature = USER.sign(voucher_bytes(*keys, move.number, move.final))
            voucher = Voucher(self.address, move.number, move.final, signature)
            check = escrow_codec.verify_voucher(escrow.user, escrow.node, voucher)
            return self.send(
                [check, escrow_codec.settle(PROGRAM_ID, self.address, escrow, signer.address)], signer
            )
        instruction = {
            "arbiter": lambda: escrow_codec.settle_by_arbiter(PROGRAM_ID, self.address, escrow, move.number),
            "request": lambda: escrow_codec.request_refund(PROGRAM_ID, self.address, signer.address),
            "refund": lambda: escrow_codec.refund(PROGRAM_ID, self.address, escrow, signer.address),
        }[move.what]()
        return self.send([instruction], ARBITER if move.what == "arbiter" else signer)


moves = st.builds(
    Move,
    what=st.sampled_from(["settle", "settle", "settle", "arbiter", "request", "refund", "wait"]),
    who=st.integers(0, 3),
    number=st.integers(0, AMOUNT + 5),
    final=st.booleans(),
)


@settings(max_examples=examples(60), deadline=None)
@given(arbiter_cap=st.sampled_from([0, 100, AMOUNT]), played=st.lists(moves, max_size=12))
def test_money_is_conserved(arbiter_cap: int, played: list[Move]) -> None:
    world = World(arbiter_cap)
    for move in played:
        before = world.escrow()
        happened = world.make(move)
        after = world.escrow()
        user, node, platform, vault = (
            world.tokens(owner) for owner in (USER.address, NODE.address, PLATFORM.address, world.address)
        )
        assert user + node + platform + vault == SAVINGS
        assert (node, platform) == (after.earned - after.earned // 10, after.earned // 10)
        assert before.earned <= after.earned <= AMOUNT
        assert before.status is EscrowStatus.OPEN or before == after
        assert vault == (AMOUNT - after.earned if after.status is EscrowStatus.OPEN else 0)
        assert happened or before == after
        if after.status is EscrowStatus.REFUNDED and before.status is EscrowStatus.OPEN:
            requested = before.refund_requested_at
            over = bool(requested) and world.time >= requested + WINDOW_S
            assert PEOPLE[move.who] is NODE or over or world.time >= START + LIFETIME_S
