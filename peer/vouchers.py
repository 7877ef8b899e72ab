"""Is a voucher worth what it should be? Pure: signature by the user's wallet, amount, escrow."""

from __future__ import annotations

from dataclasses import dataclass

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2p.pricing import earned_after
from p2p.vouchers import Voucher, voucher_bytes


@dataclass(frozen=True, slots=True)
class VoucherTerms:
    """``segments`` are those that this escrow pays for, ``done`` how many of them are delivered."""

    escrow: str
    user: str
    node: str
    amount: int
    segments: int
    done: int


def check_voucher(voucher: Voucher, terms: VoucherTerms) -> tuple[str, ...]:
    """Every fault as ``what: found, allowed``; empty for a voucher that the chain would honour.

    The addresses in ``terms`` are those of an escrow that was checked on chain.
    """
    if voucher.escrow != terms.escrow:
        return (f"escrow: found {voucher.escrow}, allowed {terms.escrow}",)
    if not 0 < voucher.earned <= terms.amount:
        return (f"earned: found {voucher.earned}, allowed 1 to {terms.amount}",)
    if voucher.final and voucher.earned < earned_after(terms.amount, terms.done, terms.segments):
        owed = earned_after(terms.amount, terms.done, terms.segments)
        return (f"final earned: found {voucher.earned}, allowed {owed} or more",)
    message = voucher_bytes(
        base58.b58decode(voucher.escrow),
        base58.b58decode(terms.node),
        voucher.earned,
        voucher.final,
    )
    key = Ed25519PublicKey.from_public_bytes(base58.b58decode(terms.user))
    try:
        key.verify(voucher.signature, message)
    except InvalidSignature:
        return (f"signature: found one that is not by {terms.user}",)
    return ()


def segments_covered(earned: int, amount: int, segments: int, done: int) -> int:
    """How many of the delivered segments ``earned`` pays for."""
    covered = done
    while covered > 0 and earned_after(amount, covered, segments) > earned:
        covered -= 1
    return covered
