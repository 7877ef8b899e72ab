"""Every decision of the outbox."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from p2p.chain import outbox
from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus
from p2p.chain.outbox import (
    Attempt,
    CloseEscrow,
    Commit,
    Concluded,
    CreateEscrow,
    Intended,
    PaymentRecord,
    PaymentState,
    Refund,
    RequestRefund,
    Settle,
    SettleByArbiter,
    Signed,
    Step,
    TransactionStatus,
    Verdict,
)
from p2p.vouchers import Voucher

ATTEMPT = Attempt("signature", b"bytes", last_valid_height=200)
CREATE = CreateEscrow("ab" * 32, "node", "payout", "arbiter", 0, 100, 60, 10**9)
ESCROW = EscrowAccount(
    user="user",
    node="node",
    payout="payout",
    arbiter="arbiter",
    mint="mint",
    platform="platform",
    payer="user",
    vault="vault",
    job_id="ab" * 32,
    amount=100,
    earned=0,
    arbiter_cap=0,
    claim_window_s=60,
    deadline=10**9,
    refund_requested_at=0,
    status=EscrowStatus.OPEN,
    bump=255,
)


def escrow(**changes: Any) -> EscrowAccount:
    return dataclasses.replace(ESCROW, **changes)


def settle(earned: int, final: bool = False) -> Settle:
    return Settle("escrow", Voucher("escrow", earned, final, bytes(64)))


@pytest.mark.parametrize(
    ("height", "status", "step"),
    [
        (199, None, Step.SEND),
        (200, None, Step.SEND),
        (201, None, Step.LOOK),
        (500, TransactionStatus(Commit.PROCESSED, None), Step.WAIT),
        (500, TransactionStatus(Commit.CONFIRMED, None), Step.CONFIRMED),
        (0, TransactionStatus(Commit.FINALIZED, None), Step.FINAL),
        (500, TransactionStatus(Commit.PROCESSED, "no"), Step.CHECK),
        (500, TransactionStatus(Commit.CONFIRMED, "no"), Step.CHECK),
        (0, TransactionStatus(Commit.FINALIZED, "no"), Step.LOOK),
    ],
)
def test_new_bytes_are_signed_only_when_the_old_are_dead(
    height: int, status: TransactionStatus | None, step: Step
) -> None:
    assert outbox.judge(ATTEMPT, height, status) is step


@pytest.mark.parametrize(
    ("intent", "account", "verdict"),
    [
        (CREATE, None, Verdict.POSSIBLE),
        (CREATE, escrow(), Verdict.HAPPENED),
        (CREATE, escrow(status=EscrowStatus.REFUNDED), Verdict.HAPPENED),
        (CREATE, escrow(amount=99), Verdict.IMPOSSIBLE),
        (CREATE, escrow(node="evil"), Verdict.IMPOSSIBLE),
        (settle(50), None, Verdict.IMPOSSIBLE),
        (settle(50), escrow(earned=49), Verdict.POSSIBLE),
        (settle(50), escrow(earned=50), Verdict.HAPPENED),
        (settle(50), escrow(earned=60), Verdict.HAPPENED),
        (settle(50), escrow(earned=40, status=EscrowStatus.REFUNDED), Verdict.IMPOSSIBLE),
        (settle(50, True), escrow(earned=50), Verdict.POSSIBLE),
        (settle(50, True), escrow(earned=50, refund_requested_at=7), Verdict.HAPPENED),
        (settle(50, True), escrow(earned=50, status=EscrowStatus.SETTLED), Verdict.HAPPENED),
        (settle(50, True), escrow(earned=60), Verdict.HAPPENED),
        (SettleByArbiter("escrow", 50), escrow(), Verdict.POSSIBLE),
        (SettleByArbiter("escrow", 50), escrow(earned=50), Verdict.HAPPENED),
        (RequestRefund("escrow"), escrow(), Verdict.POSSIBLE),
        (RequestRefund("escrow"), escrow(refund_requested_at=7), Verdict.HAPPENED),
        (RequestRefund("escrow"), escrow(status=EscrowStatus.SETTLED), Verdict.HAPPENED),
        (Refund("escrow"), escrow(refund_requested_at=7), Verdict.POSSIBLE),
        (Refund("escrow"), escrow(status=EscrowStatus.REFUNDED), Verdict.HAPPENED),
        (Refund("escrow"), None, Verdict.IMPOSSIBLE),
        (CloseEscrow("escrow"), None, Verdict.HAPPENED),
        (CloseEscrow("escrow"), escrow(), Verdict.IMPOSSIBLE),
        (CloseEscrow("escrow"), escrow(status=EscrowStatus.SETTLED), Verdict.POSSIBLE),
    ],
)
def test_the_escrow_account_says_whether_a_payment_happened(
    intent: Any, account: EscrowAccount | None, verdict: Verdict
) -> None:
    assert outbox.outcome(intent, account)[0] is verdict


def replay(entries: list[Any]) -> PaymentRecord | None:
    record = None
    for entry in entries:
        record = outbox.advance(record, entry)
    return record


def test_a_payment_follows_its_entries() -> None:
    history = [
        Intended("key", CREATE),
        Signed("key", ATTEMPT),
        Concluded("key", PaymentState.CONFIRMED, "signature", None),
        Concluded("key", PaymentState.DONE, "signature", None),
    ]
    states = [replay(history[:count]) for count in range(1, 5)]
    assert [record.state for record in states if record] == [
        PaymentState.OPEN,
        PaymentState.OPEN,
        PaymentState.CONFIRMED,
        PaymentState.DONE,
    ]
    for record in states:
        assert record is not None and replay(outbox.entries_of(record)) == record


def test_a_finished_payment_never_changes() -> None:
    for state in (PaymentState.DONE, PaymentState.REFUSED):
        done = PaymentRecord("key", CREATE, state=state, signature="s")
        assert outbox.advance(done, Signed("key", ATTEMPT)) is done
        assert outbox.advance(done, Concluded("key", PaymentState.OPEN, None, None)) is done
        assert outbox.advance(done, Intended("key", Refund("escrow"))) is done
    assert outbox.advance(None, Signed("key", ATTEMPT)) is None
