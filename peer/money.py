"""The peer's side of payment: looks at escrows, settles vouchers, returns what was not earned.

Opens the chain once it is known which one, and again when the coordinator names another. Whether
an escrow is good is decided in ``peer.escrow``; whether a payment happened, in ``p2p.chain.outbox``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
import trio

from p2p.chain.client import ChainClient, open_chain
from p2p.chain.errors import ChainUnavailableError, EscrowInvalidError
from p2p.chain.escrow_codec import EscrowAccount, EscrowStatus
from p2p.chain.outbox import Intent, Refund, Settle
from p2p.chain.payer import Payment, open_payer
from p2p.chain.trust import outbox_name
from p2p.chain.wallet import Wallet
from p2p.errors import ChainError
from p2p.protocols.coordinator import ChainInfo
from p2p.vouchers import Voucher
from peer.errors import JobError
from peer.escrow import EscrowTerms, check_escrow

log = structlog.get_logger(__name__)

ESCROW_POLL_S = 0.05
ESCROW_WAIT_S = 60.0
PAY_TIMEOUT_S = 60.0
LOW_LAMPORTS = 50_000_000
"""0.05 SOL: below this a peer on an embedded chain asks for more."""
FEES_RETRY_S = 2.0


class EscrowReader(Protocol):
    """What of a chain client is needed to look at escrows."""

    def escrow_address(self, user: str, job_id: str, deadline: int) -> str: ...

    async def escrow(self, address: str) -> EscrowAccount | None: ...


class PaymentMaker(Protocol):
    """What of the outbox is needed."""

    async def pay(self, key: str, intent: Intent, timeout_s: float) -> Payment: ...


@dataclass(frozen=True, slots=True)
class Money:
    """An open chain with this peer's outbox."""

    info: ChainInfo
    chain: EscrowReader
    payer: PaymentMaker

    def escrow_address(self, user: str, job_id: str, deadline: int) -> str:
        return self.chain.escrow_address(user, job_id, deadline)

    async def check_escrow(
        self, address: str, terms: EscrowTerms, now: Callable[[], float], used_by: str | None
    ) -> None:
        """Returns when the account is there and good. Raises JobError."""
        account = await self._confirmed_escrow(address)
        mismatches = check_escrow(account, terms, now(), used_by)
        if mismatches:
            raise JobError("escrow", f"escrow {address}: {'; '.join(mismatches)}", retryable=False)

    async def _confirmed_escrow(self, address: str) -> EscrowAccount:
        """Waits for it to be confirmed, and for a chain that is away to come back."""
        waited_until = trio.current_time() + ESCROW_WAIT_S
        while True:
            try:
                account = await self.chain.escrow(address)
            except EscrowInvalidError as error:
                raise JobError("escrow", str(error), retryable=False) from error
            except ChainError as error:
                log.warning("chain does not answer", reason=str(error))
                waited_until = trio.current_time() + ESCROW_WAIT_S
                await trio.sleep(1.0)
                continue
            if account is not None:
                return account
            if trio.current_time() > waited_until:
                text = f"escrow {address}: found no account for {ESCROW_WAIT_S:.0f} s, allowed an open escrow"
                raise JobError("escrow", text, retryable=False)
            await trio.sleep(ESCROW_POLL_S)

    async def is_settled(self, voucher: Voucher, is_over: bool) -> bool:
        """Whether the chain has paid the voucher, or can never pay it. Raises ChainError.

        A missing account proves something only when its deadline has passed (``is_over``): before
        that it cannot have been closed, so the node lags, or it is another chain.
        """
        account = await self.chain.escrow(voucher.escrow)
        if account is None:
            return is_over
        return account.earned >= voucher.earned or account.status is not EscrowStatus.OPEN

    async def settle(self, voucher: Voucher, attempt: int) -> str:
        """The signature. Raises ChainError: PaymentRefusedError when this attempt can never happen."""
        key = f"settle/{voucher.escrow}/{voucher.earned}/{int(voucher.final)}"
        key += f"/{attempt}" if attempt else ""
        return (await self.payer.pay(key, Settle(voucher.escrow, voucher), PAY_TIMEOUT_S)).signature

    async def refund(self, escrow: str) -> str | None:
        """Returns the rest to the user at once; None where there is no open escrow. Raises ChainError."""
        account = await self.chain.escrow(escrow)
        if account is None or account.status is not EscrowStatus.OPEN:
            return None
        return (await self.payer.pay(f"refund/{escrow}", Refund(escrow), PAY_TIMEOUT_S)).signature


class Treasury:
    """Holds the open ``Money``; ``use`` says which chain it is to be."""

    def __init__(self, directory: Path, wallet: Wallet, coordinator: str) -> None:
        self.wallet = wallet
        self._directory = directory
        self._coordinator = coordinator
        self._wanted: ChainInfo | None = None
        self._money: Money | None = None
        self._changed = trio.Event()

    def use(self, info: ChainInfo) -> None:
        if info != self._wanted:
            self._wanted = info
            self._wake()

    async def money(self) -> Money:
        """Waits until a chain is known and open."""
        while self._money is None:
            await self._changed.wait()
        return self._money

    async def run(self) -> None:
        """Keeps the wanted chain open; with an embedded one, sees to the fees."""
        while True:
            info = self._wanted
            if info is None:
                await self._changed.wait()
                continue
            async with self._opened(info) as chain, trio.open_nursery() as nursery:
                if info.embedded:
                    nursery.start_soon(_keep_fees, chain, self.wallet.address)
                while self._wanted == info:
                    await self._changed.wait()
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _opened(self, info: ChainInfo) -> AsyncIterator[ChainClient]:
        path = self._directory / outbox_name(info, self._coordinator)
        async with open_chain(info) as chain, open_payer(path, chain, self.wallet) as payer:
            self._money = Money(info, chain, payer)
            self._wake()
            log.info("chain open", rpc_url=info.rpc_url, wallet=self.wallet.address)
            try:
                yield chain
            finally:
                self._money = None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def _keep_fees(chain: ChainClient, wallet: str) -> None:
    """One airdrop where the wallet could not pay fees; the embedded chain's coins have no other worth."""
    while True:
        try:
            if await chain.lamports(wallet) < LOW_LAMPORTS:
                signature = await chain.airdrop(wallet, 0)
                log.info("fees asked for", wallet=wallet, signature=signature)
            return
        except ChainUnavailableError as error:
            log.info("chain does not answer yet", reason=str(error))
        except ChainError as error:
            log.warning("no fees from the chain", reason=str(error))
            return
        await trio.sleep(FEES_RETRY_S)
