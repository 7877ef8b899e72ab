"""Does an escrow account hold what this peer was promised? Pure: the account, the terms, a list of faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus

DEADLINE_MARGIN_S = 3600
"""Beyond twice the expected duration: time to present the last voucher, come what may."""


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
