"""Signed transactions for what the outbox wants done. Reads the chain; stores and sends nothing."""

from __future__ import annotations

from collections.abc import Sequence

from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.instruction import Instruction
from solders.message import MessageV0
from solders.transaction import VersionedTransaction

from p2p.chain import escrow_codec
from p2p.chain.client import ChainClient
from p2p.chain.errors import EscrowInvalidError
from p2p.chain.escrow_codec import EscrowAccount, EscrowTerms
from p2p.chain.outbox import (
    Attempt,
    CloseEscrow,
    CreateEscrow,
    Intent,
    Refund,
    RequestRefund,
    Settle,
    SettleByArbiter,
)
from p2p.chain.wallet import Wallet

COMPUTE_UNITS = 120_000
"""Asked for where a priority fee is paid; creating an escrow with its vault uses about half."""


class TransactionBuilder:
    """Builds and signs for one wallet. ``priority_fee``: micro-lamports a compute unit, 0 for none."""

    def __init__(self, chain: ChainClient, wallet: Wallet, priority_fee: int = 0) -> None:
        self._chain = chain
        self._wallet = wallet
        self._priority_fee = priority_fee
        self._existing: set[str] = set()

    def address(self, intent: Intent) -> str:
        """The escrow that the intent is about."""
        if isinstance(intent, CreateEscrow):
            return self._chain.escrow_address(self._wallet.address, intent.job_id, intent.deadline)
        return intent.escrow

    async def sign(self, intent: Intent, escrow: EscrowAccount | None) -> Attempt:
        instructions = await self._instructions(intent, escrow)
        if self._priority_fee:
            limit = set_compute_unit_limit(COMPUTE_UNITS)
            instructions = [limit, set_compute_unit_price(self._priority_fee), *instructions]
        blockhash, last_valid = await self._chain.latest_blockhash()
        keypair = self._wallet.keypair
        message = MessageV0.try_compile(keypair.pubkey(), instructions, [], blockhash)
        transaction = VersionedTransaction(message, [keypair])
        return Attempt(str(transaction.signatures[0]), bytes(transaction), last_valid)

    async def _instructions(self, intent: Intent, escrow: EscrowAccount | None) -> list[Instruction]:
        if isinstance(intent, CreateEscrow):
            return await self._create(intent)
        if escrow is None:
            raise EscrowInvalidError(f"no escrow at {intent.escrow}")
        program, me, address = self._chain.info.program_id, self._wallet.address, intent.escrow
        match intent:
            case Settle():
                return [
                    *await self._accounts(escrow, escrow.payout, escrow.user),
                    escrow_codec.verify_voucher(escrow.user, escrow.node, intent.voucher),
                    escrow_codec.settle(program, address, escrow, me),
                ]
            case SettleByArbiter():
                return [
                    *await self._accounts(escrow, escrow.payout, escrow.user),
                    escrow_codec.settle_by_arbiter(program, address, escrow, intent.earned),
                ]
            case RequestRefund():
                return [escrow_codec.request_refund(program, address, me)]
            case Refund():
                return [
                    *await self._accounts(escrow, escrow.user),
                    escrow_codec.refund(program, address, escrow, me),
                ]
            case CloseEscrow():
                return [escrow_codec.close(program, address, escrow)]

    async def _create(self, intent: CreateEscrow) -> list[Instruction]:
        info, me = self._chain.info, self._wallet.address
        terms = EscrowTerms(
            user=me,
            job_id=intent.job_id,
            node=intent.node,
            payout=intent.payout,
            arbiter=intent.arbiter,
            arbiter_cap=intent.arbiter_cap,
            mint=info.mint,
            platform=info.platform_account,
            amount=intent.amount,
            claim_window_s=intent.claim_window_s,
            deadline=intent.deadline,
        )
        rent = await self._chain.rent(escrow_codec.ESCROW_BYTES)
        vault = escrow_codec.create_token_account(me, self.address(intent), info.mint)
        return [vault, escrow_codec.create(info.program_id, terms, me, rent)]

    async def _accounts(self, escrow: EscrowAccount, *owners: str) -> Sequence[Instruction]:
        """Makes the token accounts that do not exist yet. Those once seen are not asked for again.

        Only for an escrow of one's own, where coins have a worth: whoever owns an account may close it and
        keep what another paid for it, again and again.
        """
        if not self._chain.info.embedded and self._wallet.address not in (escrow.user, escrow.node):
            return []
        accounts = {escrow_codec.token_account_of(owner, escrow.mint): owner for owner in owners}
        unseen = [account for account in accounts if account not in self._existing]
        if not unseen:
            return []
        found = await self._chain.accounts_exist(unseen)
        self._existing.update(account for account, exists in zip(unseen, found, strict=True) if exists)
        missing = [accounts[account] for account in unseen if account not in self._existing]
        me, mint = self._wallet.address, escrow.mint
        return [escrow_codec.create_token_account(me, owner, mint) for owner in missing]

    def forget_accounts(self) -> None:
        """After a refused simulation: a token account may have been closed since it was seen."""
        self._existing.clear()

    async def ask_for_fees(self) -> None:
        """Of the embedded chain: SOL, and no tokens."""
        await self._chain.airdrop(self._wallet.address, 0)
