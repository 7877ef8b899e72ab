from __future__ import annotations

from dataclasses import replace

import pytest

from p2p.chain.wallet import Wallet
from peer.vouchers import VoucherTerms, check_voucher, segments_covered
from tests.unit.peer.make import AMOUNT, ESCROW, MINT, NODE, USER, make_voucher

TERMS = VoucherTerms(ESCROW, USER.address, NODE.address, AMOUNT, segments=4, done=2)


def test_a_voucher_of_the_user_for_what_is_done_is_good() -> None:
    assert check_voucher(make_voucher(2), TERMS) == ()


def test_a_voucher_by_another_wallet_is_refused() -> None:
    (fault,) = check_voucher(make_voucher(2, signer=Wallet.from_seed(b"x" * 32)), TERMS)
    assert fault.startswith("signature")


def test_a_voucher_whose_amount_was_changed_after_signing_is_refused() -> None:
    (fault,) = check_voucher(replace(make_voucher(1), earned=500), TERMS)
    assert fault.startswith("signature")


def test_a_voucher_of_another_escrow_is_refused() -> None:
    (fault,) = check_voucher(replace(make_voucher(2), escrow=MINT), TERMS)
    assert fault == f"escrow: found {MINT}, allowed {ESCROW}"


@pytest.mark.parametrize("earned", [0, AMOUNT + 1])
def test_a_voucher_outside_the_escrow_is_refused(earned: int) -> None:
    (fault,) = check_voucher(make_voucher(2, earned=earned), TERMS)
    assert fault == f"earned: found {earned}, allowed 1 to {AMOUNT}"


def test_a_final_voucher_below_what_is_done_is_refused() -> None:
    (fault,) = check_voucher(make_voucher(1, final=True), TERMS)
    assert fault == "final earned: found 250, allowed 500 or more"


def test_covered_segments_are_those_that_the_amount_pays_for() -> None:
    assert [segments_covered(earned, 1000, 4, done=3) for earned in (0, 249, 250, 500, 1000)] == [
        0,
        0,
        1,
        2,
        3,
    ]
