"""The embedded chain itself: a virtual machine, the time, and what landed. No disk and no network.

It has no forks: what landed stays. So accounts read the same at every commitment level, and only a
transaction's status waits for its slot to be confirmed and final.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from solders.account import Account
from solders.clock import Clock
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata, TransactionMetadata
from solders.transaction_status import InstructionErrorCustom, TransactionErrorInstructionError

from coordinator.chain import programs
from coordinator.chain.genesis import genesis_accounts, new_machine
from coordinator.chain.slots import SlotClock
from p2p.chain.escrow_codec import TOKEN_PROGRAM

LAMPORTS_PER_SIGNATURE = 5000


@dataclass(frozen=True, slots=True)
class TokenBalance:
    index: int
    mint: str
    owner: str
    amount: int


@dataclass(frozen=True, slots=True)
class Landed:
    """One transaction that is part of the chain, with or without success."""

    signature: str
    slot: int
    time: int
    error: Any
    """As JSON-RPC writes it; None for success."""
    raw: bytes
    logs: tuple[str, ...]
    units: int
    fee: int
    keys: tuple[str, ...]
    lamports: tuple[tuple[int, int], ...]
    """Before and after, for each key."""
    tokens_before: tuple[TokenBalance, ...]
    tokens_after: tuple[TokenBalance, ...]
    changed: Mapping[str, Account | None]
    """Accounts as they are now; None where one is gone."""


@dataclass(frozen=True, slots=True)
class Simulated:
    error: Any
    logs: tuple[str, ...]
    units: int


class Ledger:
    """``now``: Unix seconds; ``monotonic``: seconds that never go back."""

    def __init__(
        self,
        clock: SlotClock,
        authority: Keypair,
        accounts: Mapping[str, Account],
        last_time: int,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.clock = clock
        self.authority = authority
        self.time = last_time
        self._now = now
        self._monotonic = monotonic
        self.machine = new_machine()
        for address, account in accounts.items():
            self.machine.set_account(Pubkey.from_string(address), account)
        self.tick()

    @staticmethod
    def genesis(authority: Keypair) -> dict[str, Account]:
        return genesis_accounts(new_machine(), authority)

    def tick(self) -> bool:
        """Moves slot and clock to the present. True if a new slot reservation must be stored."""
        moved = self.clock.advance(self._monotonic())
        self.time = max(self.time, int(self._now()))
        old = self.machine.get_clock()
        self.machine.set_clock(
            Clock(self.clock.slot, old.epoch_start_timestamp, old.epoch, old.leader_schedule_epoch, self.time)
        )
        return moved

    def account(self, address: Pubkey) -> Account | None:
        account = self.machine.get_account(address)
        return None if account is None or account.lamports == 0 else account

    def problem(self, transaction: VersionedTransaction) -> str | None:
        """Why the transaction cannot land now, before it is even run."""
        if not all(transaction.verify_with_results()):
            return "SignatureFailure"
        if not self.clock.is_recent(bytes(transaction.message.recent_blockhash)):
            return "BlockhashNotFound"
        return None

    def simulate(self, transaction: VersionedTransaction, *, check_signatures: bool) -> Simulated:
        self.machine.with_sigverify(check_signatures)
        try:
            result = programs.simulate(self.machine, transaction)
        finally:
            self.machine.with_sigverify(True)
        error = error_json(result.err()) if isinstance(result, FailedTransactionMetadata) else None
        meta = result.meta()
        return Simulated(error, tuple(meta.logs()), meta.compute_units_consumed())

    def land(self, transaction: VersionedTransaction) -> Landed | Any:
        """Runs it. What would not even get into a block is not part of the chain: then the error."""
        keys = transaction.message.account_keys
        before = [self.machine.get_account(key) for key in keys]
        result = programs.send(self.machine, transaction)
        error, meta = None, result
        if isinstance(result, FailedTransactionMetadata):
            error, meta = error_json(result.err()), result.meta()
            if not isinstance(result.err(), TransactionErrorInstructionError):
                return error
        assert isinstance(meta, TransactionMetadata)
        after = [self.machine.get_account(key) for key in keys]
        changed = {str(key): new for key, old, new in zip(keys, before, after, strict=True) if old != new}
        names = tuple(str(key) for key in keys)
        return Landed(
            signature=str(transaction.signatures[0]),
            slot=self.clock.slot,
            time=self.time,
            error=error,
            raw=bytes(transaction),
            logs=tuple(meta.logs()),
            units=meta.compute_units_consumed(),
            fee=LAMPORTS_PER_SIGNATURE * len(transaction.signatures),
            keys=names,
            lamports=tuple((_lamports(old), _lamports(new)) for old, new in zip(before, after, strict=True)),
            tokens_before=_token_balances(before),
            tokens_after=_token_balances(after),
            changed={
                name: new if new is not None and new.lamports else None for name, new in changed.items()
            },
        )

    def sign(self, instructions: Iterable[Any]) -> VersionedTransaction:
        """By the chain's own authority."""
        payer = self.authority.pubkey()
        message = MessageV0.try_compile(payer, list(instructions), [], self.latest_hash("processed"))
        return VersionedTransaction(message, [self.authority])

    def latest_hash(self, commitment: str) -> Hash:
        return Hash(self.clock.blockhash(self.clock.at(commitment)))


def error_json(error: Any) -> Any:
    """A transaction error in JSON-RPC's form."""
    if isinstance(error, TransactionErrorInstructionError):
        inner = error.err
        name = str(inner).rsplit(".", maxsplit=1)[-1]
        return {
            "InstructionError": [
                error.index,
                {"Custom": inner.code} if isinstance(inner, InstructionErrorCustom) else name,
            ]
        }
    return str(error).rsplit(".", maxsplit=1)[-1]


def _lamports(account: Account | None) -> int:
    return 0 if account is None else int(account.lamports)


def _token_balances(accounts: list[Account | None]) -> tuple[TokenBalance, ...]:
    found = []
    for index, account in enumerate(accounts):
        if account is not None and account.owner == TOKEN_PROGRAM and len(account.data) == 165:
            data = bytes(account.data)
            mint, owner = str(Pubkey(data[:32])), str(Pubkey(data[32:64]))
            found.append(TokenBalance(index, mint, owner, int.from_bytes(data[64:72], "little")))
    return tuple(found)
