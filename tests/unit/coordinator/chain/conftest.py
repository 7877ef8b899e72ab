"""A virtual machine with the escrow program, a mint and everybody who takes part in a payment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from solders.clock import Clock
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata, TransactionMetadata
from spl.token.instructions import initialize_mint2, mint_to
from spl.token.models import InitializeMint2Params, MintToParams

import coordinator.chain.program
from coordinator.chain import programs
from p2p.chain import escrow_codec
from p2p.chain.client import describe
from p2p.chain.escrow_codec import EscrowAccount, EscrowTerms, decode_escrow, token_account_of
from p2p.chain.wallet import Wallet
from p2p.vouchers import Voucher, voucher_bytes

START = 1_700_000_000
AMOUNT = 7 * 10**9 + 7
WINDOW = 60
JOB = "11" * 32
PROGRAM = Path(coordinator.chain.program.__file__).with_name("escrow.so")


class World:
    """Sends transactions and counts tokens. Addresses are base58."""

    start, amount, window = START, AMOUNT, WINDOW

    def __init__(self) -> None:
        self.svm = LiteSVM().with_mainnet_features()
        self.program = str(Pubkey.new_unique())
        self.svm.add_program(Pubkey.from_string(self.program), PROGRAM.read_bytes())
        self.user, self.node, self.payout, self.arbiter, self.owner, self.evil = (
            Wallet.generate() for _ in range(6)
        )
        people = (self.user, self.node, self.payout, self.arbiter, self.owner, self.evil)
        for wallet in people:
            self.svm.airdrop(wallet.keypair.pubkey(), 10**10)
        self.set_time(START)
        self.mint = self.new_mint()
        self.platform = token_account_of(self.owner.address, self.mint)
        for wallet in people:
            self.open_token_account(wallet.address)
        self.give(self.user, 10**12)

    def set_time(self, seconds: int) -> None:
        self.time = seconds
        clock = self.svm.get_clock()
        self.svm.set_clock(Clock(clock.slot + 1, 0, clock.epoch, clock.leader_schedule_epoch, seconds))

    def send(
        self, instructions: Sequence[Instruction], *signers: Wallet
    ) -> TransactionMetadata | FailedTransactionMetadata:
        self.svm.expire_blockhash()
        message = MessageV0.try_compile(
            signers[0].keypair.pubkey(), list(instructions), [], self.svm.latest_blockhash()
        )
        keys = [signer.keypair for signer in signers]
        return programs.send(self.svm, VersionedTransaction(message, keys))

    def do(self, instructions: Sequence[Instruction], *signers: Wallet) -> TransactionMetadata:
        result = self.send(instructions, *signers)
        assert not isinstance(result, FailedTransactionMetadata), (
            describe(result.err()),
            result.meta().logs(),
        )
        return result

    def refuses(self, instructions: Sequence[Instruction], *signers: Wallet, code: int) -> None:
        """The transaction fails with this custom error."""
        result = self.send(instructions, *signers)
        assert isinstance(result, FailedTransactionMetadata), "the program accepted it"
        reason = describe(result.err())
        assert re.match(rf"program error {code}\b", reason), (reason, result.meta().logs())

    def new_mint(self) -> str:
        mint = Keypair()
        rent = self.svm.minimum_balance_for_rent_exemption(82)
        account = CreateAccountParams(
            from_pubkey=self.owner.keypair.pubkey(),
            to_pubkey=mint.pubkey(),
            lamports=rent,
            space=82,
            owner=escrow_codec.TOKEN_PROGRAM,
        )
        parameters = InitializeMint2Params(
            decimals=9,
            mint=mint.pubkey(),
            mint_authority=self.owner.keypair.pubkey(),
            program_id=escrow_codec.TOKEN_PROGRAM,
        )
        self.do([create_account(account), initialize_mint2(parameters)], self.owner, Wallet(mint))
        return str(mint.pubkey())

    def open_token_account(self, owner: str, mint: str | None = None) -> str:
        self.do([escrow_codec.create_token_account(self.owner.address, owner, mint or self.mint)], self.owner)
        return token_account_of(owner, mint or self.mint)

    def give(self, wallet: Wallet | str, units: int) -> None:
        owner = wallet if isinstance(wallet, str) else wallet.address
        parameters = MintToParams(
            program_id=escrow_codec.TOKEN_PROGRAM,
            mint=Pubkey.from_string(self.mint),
            dest=Pubkey.from_string(token_account_of(owner, self.mint)),
            mint_authority=self.owner.keypair.pubkey(),
            amount=units,
        )
        self.do([mint_to(parameters)], self.owner)

    def tokens(self, wallet: Wallet | str) -> int:
        owner = wallet if isinstance(wallet, str) else wallet.address
        account = self.svm.get_account(Pubkey.from_string(token_account_of(owner, self.mint)))
        return int.from_bytes(bytes(account.data)[64:72], "little") if account and account.data else 0

    @staticmethod
    def swapped(instruction: Instruction, index: int, address: str) -> Instruction:
        """The same instruction with another account in one place."""
        accounts = list(instruction.accounts)
        old = accounts[index]
        accounts[index] = AccountMeta(Pubkey.from_string(address), old.is_signer, old.is_writable)
        return Instruction(instruction.program_id, bytes(instruction.data), accounts)

    # -- escrows

    def terms(self, **changes: object) -> EscrowTerms:
        fields = {
            "user": self.user.address,
            "job_id": JOB,
            "node": self.node.address,
            "payout": self.payout.address,
            "arbiter": self.arbiter.address,
            "arbiter_cap": 0,
            "mint": self.mint,
            "platform": self.platform,
            "amount": AMOUNT,
            "claim_window_s": WINDOW,
            "deadline": START + 3600,
        }
        return EscrowTerms(**(fields | changes))  # type: ignore[arg-type]

    def address(self, terms: EscrowTerms) -> str:
        return escrow_codec.escrow_address(self.program, terms.user, terms.job_id, terms.deadline)

    def creation(self, terms: EscrowTerms) -> list[Instruction]:
        rent = self.svm.minimum_balance_for_rent_exemption(escrow_codec.ESCROW_BYTES)
        vault = escrow_codec.create_token_account(terms.user, self.address(terms), terms.mint)
        return [vault, escrow_codec.create(self.program, terms, terms.user, rent)]

    def create(self, **changes: object) -> str:
        terms = self.terms(**changes)
        self.do(self.creation(terms), self.user)
        return self.address(terms)

    def escrow(self, address: str) -> EscrowAccount:
        account = self.svm.get_account(Pubkey.from_string(address))
        assert account is not None
        return decode_escrow(bytes(account.data))

    def voucher(self, address: str, earned: int, final: bool = False, **changes: object) -> Voucher:
        """Signed by the user for the node, unless ``signer`` or ``node`` say otherwise."""
        signer, node = changes.get("signer", self.user), changes.get("node", self.node)
        assert isinstance(signer, Wallet) and isinstance(node, Wallet)
        message = voucher_bytes(
            bytes(Pubkey.from_string(address)), bytes(node.keypair.pubkey()), earned, final
        )
        return Voucher(address, earned, final, signer.sign(message))

    def settlement(
        self, address: str, voucher: Voucher, presenter: Wallet | None = None
    ) -> list[Instruction]:
        escrow = self.escrow(address)
        signer = (presenter or self.evil).address
        return [
            escrow_codec.verify_voucher(escrow.user, escrow.node, voucher),
            escrow_codec.settle(self.program, address, escrow, signer),
        ]

    def settle(
        self, address: str, earned: int, final: bool = False, presenter: Wallet | None = None
    ) -> TransactionMetadata:
        """Presented by a stranger unless ``presenter`` is given."""
        voucher = self.voucher(address, earned, final)
        return self.do(self.settlement(address, voucher, presenter), presenter or self.evil)

    def refunding(self, address: str, signer: Wallet) -> list[Instruction]:
        return [escrow_codec.refund(self.program, address, self.escrow(address), signer.address)]

    def requesting(self, address: str, signer: Wallet) -> list[Instruction]:
        return [escrow_codec.request_refund(self.program, address, signer.address)]


@pytest.fixture
def world() -> World:
    return World()
