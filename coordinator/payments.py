"""One escrow from its creation to its last unit, as the coordinator drives it. Pure.

A payment knows what the chain was last seen to hold and what is wanted of it; ``_plan`` names the one
effect that comes next. Never more than one effect of an escrow is in flight, so settling always comes
before refunding. A new key is used only after the chain proved that the old one did not happen.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from coordinator.errors import IllegalTransitionError
from p2p.identifiers import PeerId
from p2p.vouchers import Voucher

CLAIM_MARGIN_S = 1.0
"""The chain's clock and ours need not agree to the second."""
RETRY_AFTER_REFUSAL_S = 60.0
LONGEST_RETRY_S = 3600.0
"""Each try is an event in the log, and the reason may last: an arbiter without fees, a frozen account."""
RETRY_AFTER_LAG_S = 2.0
MAX_REASON = 500


class PaymentState(Enum):
    CREATED = "created"
    SETTLING = "settling"
    REQUESTING_REFUND = "requesting refund"
    CLAIM_WINDOW = "claim window"
    REFUNDING = "refunding"
    BLOCKED = "blocked"
    """The chain refused; tried again later. The node can settle by itself in the meantime."""
    SETTLED = "settled"
    REFUNDED = "refunded"

    @property
    def is_closed(self) -> bool:
        return self in (PaymentState.SETTLED, PaymentState.REFUNDED)


# -- effects: what the shell does, once for each key -------------------------------------------


class SettleEscrow(msgspec.Struct, frozen=True, tag=True):
    key: str
    escrow: str
    voucher: Voucher


class OpenClaimWindow(msgspec.Struct, frozen=True, tag=True):
    key: str
    escrow: str


class ReturnRest(msgspec.Struct, frozen=True, tag=True):
    key: str
    escrow: str


PaymentEffect = SettleEscrow | OpenClaimWindow | ReturnRest


# -- events ------------------------------------------------------------------------------------


class VoucherTaken(msgspec.Struct, frozen=True, tag=True):
    """A voucher whose signature was checked."""

    at: float
    escrow: str
    voucher: Voucher


class PaymentReleased(msgspec.Struct, frozen=True, tag=True):
    """Nothing more will be earned here, except by vouchers that exist already."""

    at: float
    escrow: str


class PaymentConcluded(msgspec.Struct, frozen=True, tag=True):
    """The effect ``key`` is over, and what the chain then held."""

    at: float
    escrow: str
    key: str
    earned: int
    closed: PaymentState | None
    """SETTLED or REFUNDED where the escrow is finished."""
    refund_requested: bool
    signature: str = ""
    refusal: str = ""
    """Why it never happened; empty when it did."""


class PaymentDue(msgspec.Struct, frozen=True, tag=True):
    """A moment that the payment waited for has come."""

    at: float
    escrow: str


PaymentEvent = VoucherTaken | PaymentReleased | PaymentConcluded | PaymentDue


class Payment(msgspec.Struct, frozen=True):
    """One escrow that exists on chain."""

    escrow: str
    fencing: int
    peer_id: PeerId
    node_wallet: str
    amount: int
    claim_window_s: int
    deadline: int
    first_segment: int = 0
    voucher: Voucher | None = None
    earned: int = 0
    """Units that the chain has paid out of it."""
    releasing: bool = False
    window_ends: float | None = None
    pending: PaymentEffect | None = None
    retry_at: float | None = None
    refusals: int = 0
    closed: PaymentState | None = None
    signature: str = ""
    reason: str = ""

    @property
    def returned(self) -> int:
        """Units that went back to the user: everything that was not earned, once it is closed."""
        return self.amount - self.earned if self.closed is not None else 0

    @property
    def promised(self) -> int:
        """Units that the user has vouched for."""
        return max(self.earned, self.voucher.earned if self.voucher is not None else 0)

    @property
    def is_paid_up(self) -> bool:
        """The user vouched for all of it, finally."""
        return self.voucher is not None and self.voucher.final and self.voucher.earned == self.amount

    @property
    def state(self) -> PaymentState:
        if self.closed is not None:
            return self.closed
        match self.pending:
            case SettleEscrow():
                return PaymentState.SETTLING
            case OpenClaimWindow():
                return PaymentState.REQUESTING_REFUND
            case ReturnRest():
                return PaymentState.REFUNDING
        if self.retry_at is not None:
            return PaymentState.BLOCKED
        return PaymentState.CREATED if self.window_ends is None else PaymentState.CLAIM_WINDOW

    @property
    def due(self) -> float | None:
        """When a PaymentDue must come, unless something else happens first."""
        if self.closed is not None or self.pending is not None:
            return None
        return self.retry_at if self.retry_at is not None else self.window_ends


Step = tuple[Payment, tuple[PaymentEffect, ...]]
_replace = msgspec.structs.replace


def transition(payment: Payment, event: PaymentEvent) -> Step:
    """Raises IllegalTransitionError; then nothing changed."""
    if event.escrow != payment.escrow:
        raise IllegalTransitionError(f"event about escrow {event.escrow}, this is {payment.escrow}")
    match event:
        case VoucherTaken(at, _, voucher):
            return _plan(_with_voucher(payment, voucher), at)
        case PaymentReleased(at):
            if payment.closed is not None or payment.releasing:
                return payment, ()
            return _plan(_replace(payment, releasing=True), at)
        case PaymentConcluded(at):
            return _plan(_concluded(payment, event), at)
        case PaymentDue(at):
            if payment.due is None or at < payment.due:
                raise IllegalTransitionError(f"nothing is due while {payment.state.value}")
            return _plan(_replace(payment, retry_at=None), at)


def _with_voucher(payment: Payment, voucher: Voucher) -> Payment:
    if payment.closed is not None:
        raise IllegalTransitionError(f"a voucher, but the escrow is {payment.closed.value}")
    if isinstance(payment.pending, ReturnRest):
        raise IllegalTransitionError("a voucher, but the claim window is over")
    if voucher.escrow != payment.escrow:
        raise IllegalTransitionError(f"a voucher of escrow {voucher.escrow}, this is {payment.escrow}")
    if voucher.earned > payment.amount:
        raise IllegalTransitionError(f"a voucher of {voucher.earned} units, the escrow has {payment.amount}")
    if not voucher.supersedes(payment.voucher):
        raise IllegalTransitionError(
            f"a voucher of {voucher.earned} units, {payment.promised} are vouched for"
        )
    if payment.voucher is not None and payment.voucher.final:
        raise IllegalTransitionError("a voucher after the final one")
    return _replace(payment, voucher=voucher, releasing=payment.releasing or voucher.final)


def _concluded(payment: Payment, event: PaymentConcluded) -> Payment:
    if payment.pending is None or payment.pending.key != event.key:
        raise IllegalTransitionError(f"effect {event.key} is over, but it is not in flight")
    if event.earned > payment.amount:
        raise IllegalTransitionError(f"the chain paid {event.earned} units, the escrow had {payment.amount}")
    seen = _replace(
        payment,
        pending=None,
        earned=max(payment.earned, event.earned),  # a node that lags may show less
        closed=event.closed,
        signature=event.signature or payment.signature,
    )
    if event.refund_requested and seen.window_ends is None:
        seen = _replace(seen, window_ends=event.at + payment.claim_window_s + CLAIM_MARGIN_S, releasing=True)
    return seen if event.closed is not None else _checked(seen, event)


def _checked(seen: Payment, event: PaymentConcluded) -> Payment:
    """Waits before the same is tried again: it was refused, or the chain does not show it yet."""
    again = _next_effect(seen, event.at)
    if event.refusal:
        pause_s = min(LONGEST_RETRY_S, RETRY_AFTER_REFUSAL_S * 2 ** min(seen.refusals, 10))
        reason = event.refusal[:MAX_REASON]
    elif again is not None and again.key == event.key:
        pause_s, reason = RETRY_AFTER_LAG_S, "done, but the chain does not show it yet"
    else:
        return seen
    return _replace(seen, retry_at=event.at + pause_s, refusals=seen.refusals + 1, reason=reason)


def _plan(payment: Payment, now: float) -> Step:
    """The one effect that comes next, if it can be done now."""
    if payment.closed is not None or payment.pending is not None or not payment.releasing:
        return payment, ()
    if payment.retry_at is not None:
        return payment, ()
    effect = _next_effect(payment, now)
    return (payment, ()) if effect is None else (_replace(payment, pending=effect), (effect,))


def _next_effect(payment: Payment, now: float) -> PaymentEffect | None:
    voucher, escrow = payment.voucher, payment.escrow
    again = f"/{payment.refusals}" if payment.refusals else ""
    if voucher is not None and voucher.earned > payment.earned:
        kind = "final" if voucher.final else "part"
        return SettleEscrow(f"settle/{escrow}/{voucher.earned}/{kind}{again}", escrow, voucher)
    if payment.window_ends is None:
        return OpenClaimWindow(f"request-refund/{escrow}{again}", escrow)
    if now >= payment.window_ends:
        return ReturnRest(f"refund/{escrow}{again}", escrow)
    return None
