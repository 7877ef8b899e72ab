"""What to do about a payment, from what is known of it. Pure: no network, no clock, no disk.

The rule: signed bytes are stored before they are sent; the same bytes may be sent any number of times;
new bytes are signed only when every earlier signature is provably dead (unseen in the whole history
after the *finalized* height, read first, has passed its last valid height) and the escrow account says
that the payment did not happen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, IntEnum

import msgspec

from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus
from p2p.vouchers import Voucher


class CreateEscrow(msgspec.Struct, frozen=True, tag=True):
    """Lock ``amount`` units for a job. The deadline is part of the address: fix it before, once."""

    job_id: str
    node: str
    payout: str
    arbiter: str
    arbiter_cap: int
    amount: int
    claim_window_s: int
    deadline: int


class Settle(msgspec.Struct, frozen=True, tag=True):
    """Present the user's voucher."""

    escrow: str
    voucher: Voucher


class SettleByArbiter(msgspec.Struct, frozen=True, tag=True):
    """Pay up to the arbiter's cap on the arbiter's word. ``earned`` is cumulative."""

    escrow: str
    earned: int


class RequestRefund(msgspec.Struct, frozen=True, tag=True):
    escrow: str


class Refund(msgspec.Struct, frozen=True, tag=True):
    escrow: str


class CloseEscrow(msgspec.Struct, frozen=True, tag=True):
    """Return a finished escrow's rent, after its deadline."""

    escrow: str


Intent = CreateEscrow | Settle | SettleByArbiter | RequestRefund | Refund | CloseEscrow


class Commit(IntEnum):
    PROCESSED = 1
    CONFIRMED = 2
    FINALIZED = 3


@dataclass(frozen=True, slots=True)
class TransactionStatus:
    commit: Commit
    error: str | None


class PaymentState(Enum):
    OPEN = "open"
    CONFIRMED = "confirmed"
    """It happened; a fork could still undo it, so it is watched until it is final."""
    DONE = "done"
    REFUSED = "refused"


class Attempt(msgspec.Struct, frozen=True):
    """One signed transaction."""

    signature: str
    transaction: bytes
    last_valid_height: int


@dataclass(frozen=True, slots=True)
class PaymentRecord:
    """All that the outbox knows of one payment. Only the newest attempt can be alive."""

    key: str
    intent: Intent
    attempt: Attempt | None = None
    state: PaymentState = PaymentState.OPEN
    signature: str | None = None
    """Of the transaction that did it, ours or another's."""
    reason: str | None = None


# -- what is written down; replaying it in order gives the records again


class Intended(msgspec.Struct, frozen=True, tag=True):
    key: str
    intent: Intent


class Signed(msgspec.Struct, frozen=True, tag=True):
    key: str
    attempt: Attempt


class Concluded(msgspec.Struct, frozen=True, tag=True):
    key: str
    state: PaymentState
    signature: str | None
    reason: str | None


Entry = Intended | Signed | Concluded


def advance(record: PaymentRecord | None, entry: Entry) -> PaymentRecord | None:
    """One payment after one entry about it. What is done or refused stays so."""
    if isinstance(entry, Intended):
        return record or PaymentRecord(entry.key, entry.intent)
    if record is None:
        return None
    if finished(record):
        return record
    if isinstance(entry, Signed):
        return replace(record, attempt=entry.attempt, state=PaymentState.OPEN)
    attempt = record.attempt if entry.state is PaymentState.CONFIRMED else None
    return replace(record, attempt=attempt, state=entry.state, signature=entry.signature, reason=entry.reason)


def finished(record: PaymentRecord) -> bool:
    return record.state in (PaymentState.DONE, PaymentState.REFUSED)


def entries_of(record: PaymentRecord) -> list[Entry]:
    """The fewest entries that give the record again."""
    entries: list[Entry] = [Intended(record.key, record.intent)]
    if record.attempt is not None:
        entries.append(Signed(record.key, record.attempt))
    if record.state is not PaymentState.OPEN:
        entries.append(Concluded(record.key, record.state, record.signature, record.reason))
    return entries


# -- decisions


class Step(Enum):
    WAIT = "wait"
    """It landed; its commitment is still too low to believe."""
    SEND = "send"
    """Nobody has seen it and it may still land: send the same bytes (again)."""
    CONFIRMED = "confirmed"
    FINAL = "final"
    CHECK = "check"
    """Ours failed, but not finally. Another's may have done it; signing again is too early."""
    LOOK = "look"
    """No signature of ours is alive: the escrow account decides whether to sign (again)."""


def judge(attempt: Attempt, finalized_height: int, status: TransactionStatus | None) -> Step:
    """``finalized_height`` must have been read before ``status``."""
    if status is None:
        return Step.LOOK if finalized_height > attempt.last_valid_height else Step.SEND
    if status.error is not None:
        return Step.LOOK if status.commit is Commit.FINALIZED else Step.CHECK
    if status.commit is Commit.FINALIZED:
        return Step.FINAL
    return Step.CONFIRMED if status.commit is Commit.CONFIRMED else Step.WAIT


class Verdict(Enum):
    HAPPENED = "happened"
    POSSIBLE = "possible"
    IMPOSSIBLE = "impossible"


def outcome(intent: Intent, escrow: EscrowAccount | None) -> tuple[Verdict, str]:
    """What the escrow account says of a payment, and why. None: there is no such account."""
    if isinstance(intent, CreateEscrow):
        return _created(intent, escrow)
    if escrow is None:
        if isinstance(intent, CloseEscrow):
            return Verdict.HAPPENED, "the escrow is closed"
        return Verdict.IMPOSSIBLE, f"no escrow at {intent.escrow}"
    if isinstance(intent, Settle):
        return _settled(intent, escrow)
    if isinstance(intent, CloseEscrow):
        if escrow.status is EscrowStatus.OPEN:
            return Verdict.IMPOSSIBLE, "the escrow is still open"
        return Verdict.POSSIBLE, "the escrow is finished"
    if isinstance(intent, SettleByArbiter):
        return _paid(intent.earned, escrow)
    if escrow.status is not EscrowStatus.OPEN:
        return Verdict.HAPPENED, f"the escrow is {escrow.status.name.lower()}"
    if isinstance(intent, RequestRefund) and escrow.refund_requested_at:
        return Verdict.HAPPENED, "a refund was requested"
    return Verdict.POSSIBLE, "the escrow is open"


def _created(intent: CreateEscrow, escrow: EscrowAccount | None) -> tuple[Verdict, str]:
    """Only the user's own signature can create at this address, so any account there is ours."""
    if escrow is None:
        return Verdict.POSSIBLE, "no escrow yet"
    for field in ("node", "payout", "arbiter", "arbiter_cap", "amount", "claim_window_s"):
        found, wanted = getattr(escrow, field), getattr(intent, field)
        if found != wanted:
            return Verdict.IMPOSSIBLE, f"the escrow exists with {field} {found}, not {wanted}"
    return Verdict.HAPPENED, "the escrow exists"


def _settled(intent: Settle, escrow: EscrowAccount) -> tuple[Verdict, str]:
    verdict, reason = _paid(intent.voucher.earned, escrow)
    unfinished = escrow.status is EscrowStatus.OPEN and not escrow.refund_requested_at
    if verdict is Verdict.HAPPENED and intent.voucher.final and unfinished:
        if escrow.earned == intent.voucher.earned:
            return Verdict.POSSIBLE, "paid, but the rest is not released"
        return Verdict.HAPPENED, "a newer voucher was settled"
    return verdict, reason


def _paid(earned: int, escrow: EscrowAccount) -> tuple[Verdict, str]:
    if escrow.earned >= earned:
        return Verdict.HAPPENED, f"{escrow.earned} units are paid"
    if escrow.status is not EscrowStatus.OPEN:
        return Verdict.IMPOSSIBLE, (
            f"the escrow was {escrow.status.name.lower()} with {escrow.earned} of {earned} units paid"
        )
    return Verdict.POSSIBLE, f"{escrow.earned} of {earned} units are paid"
