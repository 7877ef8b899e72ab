from __future__ import annotations

from typing import Any

import pytest

from coordinator.errors import IllegalTransitionError
from coordinator.payments import (
    OpenClaimWindow,
    Payment,
    PaymentConcluded,
    PaymentDue,
    PaymentReleased,
    PaymentState,
    ReturnRest,
    SettleEscrow,
    VoucherTaken,
    transition,
)
from p2p.vouchers import Voucher


def voucher(payment: Payment, earned: int, final: bool = False) -> Voucher:
    return Voucher(payment.escrow, earned, final, b"s" * 64)


def concluded(payment: Payment, at: float, earned: int, **changes: Any) -> PaymentConcluded:
    assert payment.pending is not None
    fields: dict[str, Any] = {
        "at": at,
        "escrow": payment.escrow,
        "key": payment.pending.key,
        "earned": earned,
        "closed": None,
        "refund_requested": False,
        "signature": "s" * 88,
    }
    return PaymentConcluded(**{**fields, **changes})


def test_a_final_voucher_of_everything_is_one_settlement(make: Any) -> None:
    payment = make.payment()
    settling, effects = transition(payment, VoucherTaken(1.0, payment.escrow, voucher(payment, 1000, True)))
    assert [type(effect) for effect in effects] == [SettleEscrow]
    assert settling.state is PaymentState.SETTLING
    done, more = transition(settling, concluded(settling, 2.0, 1000, closed=PaymentState.SETTLED))
    assert (done.state, done.earned, done.returned, more) == (PaymentState.SETTLED, 1000, 0, ())


def test_a_part_voucher_waits_until_the_escrow_is_released(make: Any) -> None:
    payment = make.payment()
    held, effects = transition(payment, VoucherTaken(1.0, payment.escrow, voucher(payment, 250)))
    assert (held.state, effects) == (PaymentState.CREATED, ())
    released, effects = transition(held, PaymentReleased(2.0, payment.escrow))
    assert isinstance(effects[0], SettleEscrow)
    assert effects[0].voucher.earned == 250
    assert released.pending == effects[0]


def test_a_release_settles_then_waits_then_refunds(make: Any) -> None:
    payment = make.payment(voucher=voucher(make.payment(), 250))
    payment, _ = transition(payment, PaymentReleased(2.0, payment.escrow))
    payment, effects = transition(payment, concluded(payment, 3.0, 250))
    assert isinstance(effects[0], OpenClaimWindow)
    payment, effects = transition(payment, concluded(payment, 4.0, 250, refund_requested=True))
    assert (payment.state, effects) == (PaymentState.CLAIM_WINDOW, ())
    assert payment.due == 4.0 + 60 + 1
    with pytest.raises(IllegalTransitionError):
        transition(payment, PaymentDue(10.0, payment.escrow))
    payment, effects = transition(payment, PaymentDue(65.0, payment.escrow))
    assert isinstance(effects[0], ReturnRest)
    closed = concluded(payment, 66.0, 250, closed=PaymentState.REFUNDED, refund_requested=True)
    payment, effects = transition(payment, closed)
    assert (payment.earned, payment.returned, payment.due, effects) == (250, 750, None, ())


def test_a_voucher_in_the_claim_window_is_still_paid(make: Any) -> None:
    payment = make.payment(releasing=True, window_ends=100.0)
    payment, effects = transition(payment, VoucherTaken(50.0, payment.escrow, voucher(payment, 500)))
    assert isinstance(effects[0], SettleEscrow)
    assert payment.state is PaymentState.SETTLING


def test_a_settlement_that_takes_long_holds_the_refund_back(make: Any) -> None:
    payment = make.payment(releasing=True, window_ends=100.0)
    payment, _ = transition(payment, VoucherTaken(99.0, payment.escrow, voucher(payment, 500)))
    assert payment.due is None
    payment, effects = transition(payment, concluded(payment, 200.0, 500, refund_requested=True))
    assert isinstance(effects[0], ReturnRest)


@pytest.mark.parametrize("earned", [250, 200])
def test_a_voucher_that_earns_no_more_is_refused(make: Any, earned: int) -> None:
    payment = make.payment(voucher=voucher(make.payment(), 250))
    with pytest.raises(IllegalTransitionError, match="250 are vouched for"):
        transition(payment, VoucherTaken(1.0, payment.escrow, voucher(payment, earned)))


def test_a_voucher_above_the_amount_is_refused(make: Any) -> None:
    payment = make.payment()
    with pytest.raises(IllegalTransitionError, match="the escrow has 1000"):
        transition(payment, VoucherTaken(1.0, payment.escrow, voucher(payment, 1001)))


def test_nothing_follows_a_final_voucher_or_the_end(make: Any) -> None:
    payment = make.payment()
    settling, _ = transition(payment, VoucherTaken(1.0, payment.escrow, voucher(payment, 500, True)))
    with pytest.raises(IllegalTransitionError, match="after the final one"):
        transition(settling, VoucherTaken(2.0, payment.escrow, voucher(payment, 600, True)))
    closed = make.payment(closed=PaymentState.REFUNDED)
    with pytest.raises(IllegalTransitionError, match="refunded"):
        transition(closed, VoucherTaken(2.0, closed.escrow, voucher(closed, 600)))


def test_a_refused_effect_is_tried_again_later_under_a_new_key(make: Any) -> None:
    payment, first = transition(make.payment(), PaymentReleased(1.0, make.escrow))
    payment, effects = transition(payment, concluded(payment, 2.0, 0, refusal="no fees", signature=""))
    assert (payment.state, effects, payment.reason) == (PaymentState.BLOCKED, (), "no fees")
    payment, second = transition(payment, PaymentDue(62.0, payment.escrow))
    assert isinstance(second[0], OpenClaimWindow)
    assert second[0].key != first[0].key


def test_a_chain_that_does_not_show_a_settlement_yet_is_not_asked_twice_with_one_key(make: Any) -> None:
    payment = make.payment(voucher=voucher(make.payment(), 250))
    payment, _ = transition(payment, PaymentReleased(1.0, payment.escrow))
    payment, effects = transition(payment, concluded(payment, 2.0, 0))
    assert effects == ()
    assert payment.due == 4.0


def test_the_end_of_an_unknown_effect_is_refused(make: Any) -> None:
    payment, _ = transition(make.payment(), PaymentReleased(1.0, make.escrow))
    with pytest.raises(IllegalTransitionError, match="not in flight"):
        transition(payment, PaymentConcluded(2.0, payment.escrow, "settle/other", 0, None, False))


def test_a_node_that_settled_by_itself_closes_the_payment(make: Any) -> None:
    payment, _ = transition(make.payment(), PaymentReleased(1.0, make.escrow))
    payment, effects = transition(payment, concluded(payment, 2.0, 1000, closed=PaymentState.SETTLED))
    assert (payment.state, payment.earned, effects) == (PaymentState.SETTLED, 1000, ())


def test_what_the_chain_keeps_refusing_is_tried_less_and_less_often(make: Any) -> None:
    payment, _ = transition(make.payment(), PaymentReleased(0.0, make.escrow))
    at, pauses = 0.0, []
    for _ in range(9):
        payment, _ = transition(payment, concluded(payment, at, 0, refusal="no fees", signature=""))
        assert payment.due is not None
        pauses.append(payment.due - at)
        at = payment.due
        payment, effects = transition(payment, PaymentDue(at, payment.escrow))
        assert len(effects) == 1
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
