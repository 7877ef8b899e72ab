"""Carries out payments, once for each key, and reports what the chain then holds. Resumed after a crash.

The payer's own journal makes a key happen at most once; here it is only asked again until it knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import structlog
import trio

from coordinator.errors import IllegalTransitionError
from coordinator.ledger import Ledger
from coordinator.payments import (
    OpenClaimWindow,
    PaymentConcluded,
    PaymentEffect,
    PaymentState,
    ReturnRest,
    SettleEscrow,
)
from p2p.chain.errors import ChainError, PaymentPendingError, PaymentRefusedError
from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus
from p2p.chain.outbox import Intent, Refund, RequestRefund, Settle
from p2p.chain.payer import Payment as PaidPayment
from p2p.errors import RemoteFailureError
from p2p.identifiers import JobId

log = structlog.get_logger(__name__)

MAX_AT_ONCE = 128
PAY_TIMEOUT_S = 60.0
PAUSE_S = 1.0
ABSENT_PATIENCE_S = 60.0


class PaysOnce(Protocol):
    """p2p.chain.payer.Payer, as far as it is used here."""

    async def pay(self, key: str, intent: Intent, timeout_s: float = 60.0) -> PaidPayment: ...


class ReadsEscrows(Protocol):
    """p2p.chain.client.ChainClient, as far as it is used here."""

    async def escrow(self, address: str) -> EscrowAccount | None: ...


class EffectRunner:
    """``run`` carries out what was left from before, and all that comes after."""

    def __init__(
        self,
        ledger: Ledger,
        payer: PaysOnce,
        chain: ReadsEscrows,
        unfinished: Iterable[tuple[JobId, PaymentEffect]],
    ) -> None:
        self._ledger = ledger
        self._payer = payer
        self._chain = chain
        self._queue: list[tuple[JobId, PaymentEffect]] = list(unfinished)
        self._wake = trio.Event()
        self._slots = trio.CapacityLimiter(MAX_AT_ONCE)
        if self._queue:
            self._wake.set()
            log.info("payments resumed", count=len(self._queue))
        ledger.listeners.effect_due.append(self._add)

    def _add(self, job_id: JobId, effect: PaymentEffect) -> None:
        self._queue.append((job_id, effect))
        self._wake.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                queue, self._queue = self._queue, []
                for job_id, effect in queue:
                    nursery.start_soon(self._perform, job_id, effect)

    async def _perform(self, job_id: JobId, effect: PaymentEffect) -> None:
        async with self._slots:
            signature, refusal = await self._pay(effect)
            account = await self._look(effect.escrow)
        event = concluded(effect, account, signature, refusal, self._ledger.now())
        while True:
            try:
                await self._ledger.apply(job_id, event, effect_done=effect.key)
                return
            except IllegalTransitionError as error:
                log.error("payment does not fit its job", key=effect.key, reason=str(error))
                return
            except RemoteFailureError:
                await trio.sleep(PAUSE_S)

    async def _pay(self, effect: PaymentEffect) -> tuple[str, str]:
        """(signature, why it will never happen)."""
        while True:
            try:
                paid = await self._payer.pay(effect.key, intent_of(effect), PAY_TIMEOUT_S)
                return paid.signature, ""
            except PaymentRefusedError as error:
                return "", str(error)
            except PaymentPendingError as error:
                log.warning("payment pending", key=effect.key, reason=str(error))
            except ChainError as error:
                log.warning("payment not taken", key=effect.key, reason=str(error))
                await trio.sleep(PAUSE_S)

    async def _look(self, escrow: str) -> EscrowAccount | None:
        """None only for an escrow that stays away: a node that lags must not close a payment."""
        absent_since: float | None = None
        while True:
            try:
                account = await self._chain.escrow(escrow)
                if account is not None:
                    return account
                absent_since = trio.current_time() if absent_since is None else absent_since
                if trio.current_time() - absent_since >= ABSENT_PATIENCE_S:
                    return None
            except ChainError as error:
                log.warning("escrow not readable", escrow=escrow, reason=str(error))
            await trio.sleep(PAUSE_S)


def intent_of(effect: PaymentEffect) -> Intent:
    match effect:
        case SettleEscrow(_, escrow, voucher):
            return Settle(escrow, voucher)
        case OpenClaimWindow(_, escrow):
            return RequestRefund(escrow)
        case ReturnRest(_, escrow):
            return Refund(escrow)


_CLOSED = {EscrowStatus.SETTLED: PaymentState.SETTLED, EscrowStatus.REFUNDED: PaymentState.REFUNDED}


def concluded(
    effect: PaymentEffect, account: EscrowAccount | None, signature: str, refusal: str, at: float
) -> PaymentConcluded:
    """What to tell the job's machine. An account that is gone holds nothing any more."""
    if account is None:
        reason = refusal or "no such escrow on chain"
        return PaymentConcluded(
            at, effect.escrow, effect.key, 0, PaymentState.REFUNDED, False, signature, reason
        )
    return PaymentConcluded(
        at=at,
        escrow=effect.escrow,
        key=effect.key,
        earned=account.earned,
        closed=_CLOSED.get(account.status),
        refund_requested=account.refund_requested_at != 0,
        signature=signature,
        refusal=refusal,
    )
