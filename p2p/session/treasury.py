"""The Engine's money: its wallet, and the outbox that pays from it exactly once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from p2p.chain.client import ChainClient
from p2p.chain.escrow_codec import EscrowAccount
from p2p.chain.outbox import CreateEscrow, Intent, Refund, RequestRefund
from p2p.chain.payer import Payer
from p2p.chain.wallet import Wallet
from p2p.identifiers import Units
from p2p.session.errors import SetupError
from p2p.session.job import Escrow

PAYMENT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Balance:
    tokens: Units
    lamports: int
    """SOL for fees, in 10**-9."""


class Treasury(Protocol):
    """The seam between a job and the chain.

    Five methods, since a wallet without a chain and a chain without a wallet are of no use here.
    """

    @property
    def address(self) -> str: ...

    async def balance(self) -> Balance:
        """Raises ChainError."""

    async def escrow(self, address: str) -> EscrowAccount | None:
        """As confirmed on chain. Raises ChainError."""

    async def pay(self, key: str, intent: Intent) -> str:
        """The signature, once confirmed. Repeating a key pays nothing twice.

        Raises PaymentPendingError (ask again) or PaymentRefusedError (it never will be).
        """

    def sign(self, data: bytes) -> bytes:
        """64 bytes, by the wallet: vouchers only."""


class ChainTreasury:
    """Of a wallet file and a real chain, embedded or not."""

    def __init__(self, chain: ChainClient, payer: Payer, wallet: Wallet) -> None:
        self._chain = chain
        self._payer = payer
        self._wallet = wallet

    @property
    def address(self) -> str:
        return self._wallet.address

    async def balance(self) -> Balance:
        tokens = await self._chain.token_balance(self.address)
        return Balance(tokens, await self._chain.lamports(self.address))

    async def escrow(self, address: str) -> EscrowAccount | None:
        return await self._chain.escrow(address)

    async def pay(self, key: str, intent: Intent) -> str:
        return (await self._payer.pay(key, intent, PAYMENT_TIMEOUT_S)).signature

    def sign(self, data: bytes) -> bytes:
        return self._wallet.sign(data)


class NoTreasury:
    """Where there is no wallet, or no chain: for what costs nothing. ``reason`` says what is missing."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    @property
    def address(self) -> str:
        raise self._missing()

    async def balance(self) -> Balance:
        raise self._missing()

    async def escrow(self, address: str) -> EscrowAccount | None:
        raise self._missing()

    async def pay(self, key: str, intent: Intent) -> str:
        raise self._missing()

    def sign(self, data: bytes) -> bytes:
        raise self._missing()

    def _missing(self) -> SetupError:
        return SetupError(self._reason)


def creation(escrow: Escrow, job_id: str) -> tuple[str, CreateEscrow]:
    """The outbox key and what to pay."""
    intent = CreateEscrow(
        job_id=job_id,
        node=escrow.node,
        payout=escrow.payout,
        arbiter=escrow.arbiter,
        arbiter_cap=0,
        amount=escrow.amount,
        claim_window_s=escrow.claim_window_s,
        deadline=escrow.deadline,
    )
    return f"create/{escrow.address}", intent


def refund_request(escrow: Escrow, attempt: int) -> tuple[str, RequestRefund]:
    return f"request-refund/{escrow.address}/{attempt}", RequestRefund(escrow.address)


def refund(escrow: Escrow, attempt: int) -> tuple[str, Refund]:
    return f"refund/{escrow.address}/{attempt}", Refund(escrow.address)
