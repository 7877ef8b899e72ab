from __future__ import annotations

import pytest

from p2p.chain.escrow_codec import EscrowStatus
from peer.escrow import EscrowTerms, check_escrow, look_again_s, withdrawal
from tests.unit.peer.make import (
    AMOUNT,
    ARBITER,
    JOB_ID,
    MINT,
    NODE,
    NOW,
    PAYOUT,
    PLATFORM,
    USER,
    make_account,
)

TERMS = EscrowTerms(
    job_id=JOB_ID,
    user=USER.address,
    node=NODE.address,
    payout=PAYOUT,
    arbiter=ARBITER,
    mint=MINT,
    platform=PLATFORM,
    quote=AMOUNT,
    offered=AMOUNT,
    claim_window_s=60,
    duration_s=100,
)


def test_an_escrow_as_promised_has_no_mismatch() -> None:
    assert check_escrow(make_account(), TERMS, NOW) == ()


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("user", NODE.address),
        ("node", USER.address),
        ("payout", USER.address),
        ("arbiter", USER.address),
        ("mint", USER.address),
        ("platform", USER.address),
        ("job_id", "cd" * 32),
        ("amount", AMOUNT - 1),
        ("amount", AMOUNT + 1),
        ("earned", 1),
        ("arbiter_cap", 1),
        ("claim_window_s", 59),
        ("deadline", int(NOW) + 3799),
        ("refund_requested_at", 5),
        ("status", EscrowStatus.REFUNDED),
    ],
)
def test_each_wrong_field_is_named_with_what_was_found_and_allowed(field: str, found: object) -> None:
    (mismatch,) = check_escrow(make_account(**{field: found}), TERMS, NOW)
    assert mismatch.startswith(field.replace("arbiter_cap", "arbiter cap").replace("_s", "").split("_")[0])
    assert "found" in mismatch and "allowed" in mismatch


def test_every_mismatch_is_listed() -> None:
    account = make_account(user=NODE.address, amount=5, status=EscrowStatus.SETTLED)
    assert len(check_escrow(account, TERMS, NOW)) == 3


def test_an_offer_below_the_own_quote_is_refused_though_the_escrow_holds_it() -> None:
    from dataclasses import replace

    (mismatch,) = check_escrow(make_account(), replace(TERMS, quote=AMOUNT + 1), NOW)
    assert mismatch == f"amount: found {AMOUNT}, allowed {AMOUNT + 1} or more by this peer's own quote"


def test_an_escrow_that_another_job_counts_on_is_refused() -> None:
    (mismatch,) = check_escrow(make_account(), TERMS, NOW, used_by="another")
    assert "in use by job another" in mismatch


def test_a_sound_escrow_is_counted_on() -> None:
    assert withdrawal(make_account(), NOW) is None


def test_one_that_paid_everything_is_no_reason_to_fail_the_job() -> None:
    paid = make_account(status=EscrowStatus.SETTLED, earned=AMOUNT, refund_requested_at=5)
    assert withdrawal(paid, NOW) is None


@pytest.mark.parametrize(
    ("changes", "now", "words"),
    [
        ({"refund_requested_at": 5}, NOW, "a refund was requested at 5"),
        ({"status": EscrowStatus.SETTLED}, NOW, "the escrow is settled"),
        ({"deadline": int(NOW) + 1000}, NOW + 101, "less than 900 s are left"),
    ],
)
def test_an_escrow_that_is_being_taken_back_is_not(
    changes: dict[str, object], now: float, words: str
) -> None:
    reason = withdrawal(make_account(**changes), now)
    assert reason is not None and words in reason


@pytest.mark.parametrize(("window_s", "expected"), [(0, 0.2), (60, 15.0), (10**6, 60.0)])
def test_it_is_looked_at_several_times_in_each_claim_window(window_s: int, expected: float) -> None:
    assert look_again_s(window_s) == expected
