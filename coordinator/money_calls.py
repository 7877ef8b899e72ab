"""What is said about money. Nobody's word counts: the chain is read, and signatures are checked."""

from __future__ import annotations

import trio

from coordinator.escrows import escrow_faults, is_ours_to_return, payment_of, signed_voucher
from coordinator.job import EscrowFunded, Grant, Job, StrayEscrowFound
from coordinator.payments import Payment, VoucherTaken
from coordinator.services import Services, refusing
from p2p.chain.errors import ChainError, EscrowInvalidError
from p2p.chain.escrow_codec import EscrowAccount
from p2p.errors import RemoteFailureError
from p2p.identifiers import JobId, PeerId
from p2p.jobs import JobState
from p2p.protocols import Done
from p2p.protocols.coordinator import DeliverVoucher, EscrowCreated

SEEN_WITHIN_S = 5.0
LOOK_EVERY_S = 0.1


async def escrow_created(services: Services, caller: PeerId, call: EscrowCreated) -> Done:
    job = await services.own_job(caller, call.job_id)
    if job.payment(call.escrow) is not None:
        return _counted(job, call)
    expected = services.escrow_address(job.spec.user_wallet, job.job_id, call.deadline)
    if call.escrow != expected:
        raise RemoteFailureError(
            "refused", f"escrow {call.escrow}, of this user, job and deadline it is {expected}"
        )
    account = await _account(services, call.escrow)
    # Reading took a while: what the job is now counts.
    job = await services.own_job(caller, call.job_id)
    if job.payment(call.escrow) is not None:
        return _counted(job, call)
    grant = job.grant
    if job.state is not JobState.AWAITING_FUNDS or grant is None or grant.ref != call.lease:
        reason = f"lease {call.lease.lease_id}, fencing {call.lease.fencing} is over"
        await _return(services, job, call.escrow, account, reason)
        raise RemoteFailureError("conflict", reason)
    faults = escrow_faults(account, job, grant, services.chain_info, services.now())
    if faults:
        reason = "; ".join(faults)[:1000]
        await _return(services, job, call.escrow, account, reason)
        raise RemoteFailureError("refused", f"escrow {call.escrow}: {reason}")
    await _fund(services, job, grant, call, account)
    return Done()


def _counted(job: Job, call: EscrowCreated) -> Done:
    """Said before: counted then, or being returned."""
    payment = job.payment(call.escrow)
    if payment is None or payment.fencing != call.lease.fencing:
        raise RemoteFailureError("conflict", f"escrow {call.escrow} does not fund this lease")
    return Done()


async def _fund(
    services: Services, job: Job, grant: Grant, call: EscrowCreated, account: EscrowAccount
) -> None:
    payment = payment_of(call.escrow, account, grant, grant.peer_id)
    event = EscrowFunded(services.now(), grant.ref, payment, call.signature)
    with refusing():
        await services.ledger.apply(job.job_id, event)


async def _return(services: Services, job: Job, address: str, account: EscrowAccount, reason: str) -> None:
    """Money that is locked where it cannot be used goes back to its user."""
    if not is_ours_to_return(account, job, services.chain_info):
        return
    payment = payment_of(address, account, None, PeerId(""))
    with refusing():
        await services.ledger.apply(job.job_id, StrayEscrowFound(services.now(), payment, reason))


async def _account(services: Services, address: str) -> EscrowAccount:
    """The confirmed account. ``busy`` asks the caller to come again."""
    with trio.move_on_after(SEEN_WITHIN_S):
        while True:
            try:
                account = await services.chain.escrow(address)
            except EscrowInvalidError as error:
                raise RemoteFailureError("refused", str(error)) from error
            except ChainError as error:
                raise RemoteFailureError("busy", f"the chain does not answer: {error}") from error
            if account is not None:
                return account
            await trio.sleep(LOOK_EVERY_S)
    raise RemoteFailureError("busy", f"no escrow {address} on chain yet")


async def deliver_voucher(services: Services, caller: PeerId, call: DeliverVoucher) -> Done:
    """From the Engine or from the peer of the escrow; worth what the user's signature says."""
    job = await services.ledger.find(JobId(call.job_id))
    payment = job.payment(call.escrow) if job is not None else None
    if job is None or caller not in (job.engine_id, None if payment is None else payment.peer_id):
        raise RemoteFailureError("not_found", f"you have no job {call.job_id}")
    if payment is None:
        code = "busy" if job.state is JobState.AWAITING_FUNDS else "not_found"
        raise RemoteFailureError(code, f"job {call.job_id} has no escrow {call.escrow}")
    voucher = signed_voucher(job, payment, call)
    if _is_known(payment, call):
        return Done()
    with refusing():
        await services.ledger.apply(job.job_id, VoucherTaken(services.now(), call.escrow, voucher))
    return Done()


def _is_known(payment: Payment, call: DeliverVoucher) -> bool:
    known = payment.voucher
    return known is not None and (known.earned, known.final) == (call.earned, call.final)
