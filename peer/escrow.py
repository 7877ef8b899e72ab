"""Does an escrow account hold what this peer was promised, and does it go on doing so? Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus

DEADLINE_MARGIN_S = 3600
"""Beyond twice the expected duration: time to present the last voucher, come what may."""
SETTLE_MARGIN_S = 900
"""Before the deadline, after which anyone may refund at once: the time that settling may take."""
LOOKS_PER_WINDOW = 4
LONGEST_LOOK_S = 60.0
SHORTEST_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class EscrowTerms:
    """What the peer works for. ``quote`` is its own price for the segments that are left."""

    job_id: str
    user: str
    node: str
    payout: str
    arbiter: str
    mint: str
    platform: str
    quote: int
    offered: int
    """What the coordinator's offer named; the Engine pays exactly this."""
    claim_window_s: int
    duration_s: int


def withdrawal(account: EscrowAccount, now: float) -> str | None:
    """Why nobody can count on the escrow any longer and what is vouchered must be settled now, or None.

    A refund can be requested at any time and without a word; the vouchers of a node that does not
    notice before the claim window is over are worth nothing.
    """
    if account.status is EscrowStatus.SETTLED and account.earned == account.amount:
        return None  # paid in full: the coordinator had the final voucher sooner than this peer
    if account.status is not EscrowStatus.OPEN:
        return f"the escrow is {account.status.name.lower()}"
    if account.refund_requested_at != 0:
        return f"a refund was requested at {account.refund_requested_at}"
    if now > account.deadline - SETTLE_MARGIN_S:
        return f"the escrow ends at {account.deadline}, less than {SETTLE_MARGIN_S} s are left"
    return None


def look_again_s(claim_window_s: int) -> float:
    """How long the escrow may go unwatched."""
    return min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, claim_window_s / LOOKS_PER_WINDOW))


def check_escrow(
    account: EscrowAccount, terms: EscrowTerms, now: float, used_by: str | None = None
) -> tuple[str, ...]:
    """Every mismatch as ``what: found, allowed``; empty when the peer may work.

    ``used_by`` is another job of this peer that counts on the same account, if there is one.
    """
    return tuple(_mismatches(account, terms, now, used_by))


def _mismatches(account: EscrowAccount, terms: EscrowTerms, now: float, used_by: str | None) -> Iterator[str]:
    for field in ("user", "node", "payout", "arbiter", "mint", "platform", "job_id"):
        found, allowed = getattr(account, field), getattr(terms, field)
        if found != allowed:
            yield f"{field}: found {found}, allowed {allowed}"
    if account.status is not EscrowStatus.OPEN:
        yield f"status: found {account.status.name.lower()}, allowed open"
    if account.earned != 0:
        yield f"earned: found {account.earned}, allowed 0"
    if account.amount != terms.offered:
        yield f"amount: found {account.amount}, allowed {terms.offered}"
    if terms.offered < terms.quote:
        yield f"amount: found {terms.offered}, allowed {terms.quote} or more by this peer's own quote"
    if account.arbiter_cap != 0:
        yield f"arbiter cap: found {account.arbiter_cap}, allowed 0"
    if account.claim_window_s < terms.claim_window_s:
        yield f"claim window: found {account.claim_window_s} s, allowed {terms.claim_window_s} s or more"
    earliest = int(now) + 2 * terms.duration_s + DEADLINE_MARGIN_S
    if account.deadline < earliest:
        yield f"deadline: found {account.deadline}, allowed {earliest} or later"
    if account.refund_requested_at != 0:
        yield f"refund requested: found {account.refund_requested_at}, allowed never"
    if used_by is not None:
        yield f"escrow: found in use by job {used_by}, allowed one job"
