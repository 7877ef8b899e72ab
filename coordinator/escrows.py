"""Is an escrow on chain the one that a lease asks for, and who signed a voucher? Pure checks."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from solders.pubkey import Pubkey

from coordinator.job import Grant, Job
from coordinator.payments import Payment
from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus
from p2p.errors import RemoteFailureError
from p2p.identifiers import PeerId
from p2p.protocols.coordinator import ChainInfo, DeliverVoucher
from p2p.vouchers import Voucher, voucher_bytes

DEADLINE_MARGIN_S = 3600


def escrow_faults(
    account: EscrowAccount, job: Job, grant: Grant, chain: ChainInfo, now: float
) -> tuple[str, ...]:
    """Every mismatch as ``what: found, allowed``; empty when the lease is funded."""
    return tuple(_faults(account, job, grant, chain, now))


def _faults(account: EscrowAccount, job: Job, grant: Grant, chain: ChainInfo, now: float) -> Iterator[str]:
    wanted = {
        "user": job.spec.user_wallet,
        "node": grant.node_wallet,
        "payout": grant.payout_wallet,
        "arbiter": chain.arbiter,
        "mint": chain.mint,
        "platform": chain.platform_account,
        "job_id": job.job_id,
        "amount": grant.amount,
        "arbiter_cap": 0,
        "earned": 0,
        "claim_window_s": chain.claim_window_s,
        "status": EscrowStatus.OPEN,
        "refund_requested_at": 0,
    }
    for field, allowed in wanted.items():
        found = getattr(account, field)
        if found != allowed:
            yield f"{field}: found {found}, allowed {allowed}"
    earliest = int(now) + 2 * chain.claim_window_s + DEADLINE_MARGIN_S
    if account.deadline < earliest:
        yield f"deadline: found {account.deadline}, allowed {earliest} or later"


def is_ours_to_return(account: EscrowAccount, job: Job, chain: ChainInfo) -> bool:
    """An open escrow of this user and job that names us as arbiter."""
    return (
        account.status is EscrowStatus.OPEN
        and account.arbiter == chain.arbiter
        and account.user == job.spec.user_wallet
        and account.job_id == job.job_id
    )


def payment_of(address: str, account: EscrowAccount, grant: Grant | None, peer_id: PeerId) -> Payment:
    """The payment that begins with this account."""
    return Payment(
        escrow=address,
        fencing=0 if grant is None else grant.fencing,
        peer_id=peer_id,
        node_wallet=account.node,
        amount=account.amount,
        claim_window_s=account.claim_window_s,
        deadline=account.deadline,
        first_segment=0 if grant is None else grant.first_segment,
        earned=account.earned,
    )


def signed_voucher(job: Job, payment: Payment, call: DeliverVoucher) -> Voucher:
    """The voucher, once it is known that the user's wallet signed it.

    Raises RemoteFailureError, naming what was found and what is allowed.
    """
    if not 0 < call.earned <= payment.amount:
        raise RemoteFailureError("refused", f"voucher of {call.earned} units, allowed 1 to {payment.amount}")
    if call.segments_done > job.spec.segments:
        raise RemoteFailureError(
            "invalid", f"voucher for {call.segments_done} segments, the job has {job.spec.segments}"
        )
    message = voucher_bytes(
        bytes(Pubkey.from_string(payment.escrow)),
        bytes(Pubkey.from_string(payment.node_wallet)),
        call.earned,
        call.final,
    )
    user = job.spec.user_wallet
    try:
        Ed25519PublicKey.from_public_bytes(bytes(Pubkey.from_string(user))).verify(call.signature, message)
    except (InvalidSignature, ValueError) as error:
        raise RemoteFailureError("refused", f"voucher is not signed by the user's wallet {user}") from error
    return Voucher(payment.escrow, call.earned, call.final, call.signature, call.segments_done)


def is_wallet(address: str) -> bool:
    """Whether this is a Solana public key in base58."""
    try:
        Pubkey.from_string(address)
    except ValueError:
        return False
    return True
