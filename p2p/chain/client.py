"""What programs ask of a Solana RPC node, embedded or real. Decides nothing about payments.

Uses solana-py for requests and answers. Its confirmation helpers, rate limiter and websocket need
asyncio; none of them is used here, confirming is the payer's own loop. An exception of a send means
«unknown», never «failed».
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import trio
from solana.exceptions import SolanaRpcException
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Commitment, Confirmed, Finalized
from solana.rpc.core import RPCException
from solana.rpc.jsonrpc import JsonRpcRequest, SolanaJsonRpcError
from solana.rpc.models import TxOpts
from solders.errors import SerdeJSONError
from solders.hash import Hash
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction
from solders.transaction_status import (
    InstructionErrorCustom,
    TransactionErrorInstructionError,
)

from p2p.chain.errors import ChainRefusedError, ChainUnavailableError, EscrowInvalidError
from p2p.chain.escrow_codec import (
    PROGRAM_ERRORS,
    SYSTEM_PROGRAM,
    EscrowAccount,
    decode_escrow,
    escrow_address,
    is_closed,
    token_account_of,
)
from p2p.chain.outbox import Commit, TransactionStatus
from p2p.identifiers import Units

if TYPE_CHECKING:
    from p2p.protocols.coordinator import ChainInfo

T = TypeVar("T")

CALL_TIMEOUT_S = 15.0
BLOCKHASH_REUSE_S = 1.0
"""Of the minute for which it is good; many settlements of a moment share one."""
MAX_CONNECTIONS = 16
MAX_ANSWER_BYTES = 8 << 20
MAX_RENT_A_BYTE = 50_000
"""Lamports; Solana asks 6,960."""
ACCOUNT_OVERHEAD_BYTES = 128
MAX_STATUSES = 256
"""The most signatures that one getSignatureStatuses takes."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One transaction that touched a wallet's token account. ``change`` is in units, signed."""

    signature: str
    slot: int
    time: int | None
    error: str | None
    change: int
    balance: int


class ChainClient:
    """One RPC node, one program, one mint. Every call ends within ``timeout_s``."""

    def __init__(self, info: ChainInfo, rpc: AsyncClient, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self.info = info
        self._rpc = rpc
        self._timeout_s = timeout_s
        self._rents: dict[int, int] = {}
        self._blockhash: tuple[float, Hash, int] | None = None

    def escrow_address(self, user: str, job_id: str, deadline: int) -> str:
        return escrow_address(self.info.program_id, user, job_id, deadline)

    async def health(self) -> None:
        """Raises ChainUnavailableError or ChainRefusedError unless the node says that it is well."""
        if not await self._call(self._rpc.is_connected()):
            raise ChainUnavailableError(f"{self.info.rpc_url} says that it is not healthy")

    async def token_balance(self, wallet: str) -> Units:
        """Of the wallet's associated token account, confirmed; 0 where there is none."""
        return await self.account_balance(token_account_of(wallet, self.info.mint))

    async def account_balance(self, account: str) -> Units:
        """Of one token account, confirmed; 0 where there is none."""
        return _token_amount(await self._account(account), self.info.mint)

    async def lamports(self, wallet: str) -> int:
        answer = await self._call(self._rpc.get_balance(Pubkey.from_string(wallet), Confirmed))
        return int(answer.value)

    async def escrow(self, address: str, *, finalized: bool = False) -> EscrowAccount | None:
        """The confirmed account; None where there is none. Raises EscrowInvalidError.

        Anyone may send lamports to the address before there is an escrow, and keep what ``close``
        left of one alive: neither is an escrow, and neither stands in the way of anything.
        """
        account = await self._account(address, Finalized if finalized else Confirmed)
        if account is None or (account.owner == SYSTEM_PROGRAM and not account.data):
            return None
        if str(account.owner) != self.info.program_id:
            raise EscrowInvalidError(
                f"{address} belongs to program {account.owner}, allowed is {self.info.program_id}"
            )
        data = bytes(account.data)
        return None if is_closed(data) else decode_escrow(data)

    async def accounts_exist(self, addresses: Sequence[str]) -> list[bool]:
        keys = [Pubkey.from_string(address) for address in addresses]
        answer = await self._call(self._rpc.get_multiple_accounts(keys, Confirmed))
        return [account is not None for account in self._all_of(answer.value, keys)]

    async def airdrop(self, wallet: str, token_units: int) -> str:
        """Tokens, and enough SOL for fees, from the embedded chain's own mint; its signature."""
        request = JsonRpcRequest(method="requestTokenAirdrop", params=[wallet, token_units])
        return await self._call(self._rpc.send_rpc_request(request, str))

    async def history(self, wallet: str, limit: int = 20) -> list[HistoryEntry]:
        """The newest transactions of the wallet's token account, newest first."""
        account = Pubkey.from_string(token_account_of(wallet, self.info.mint))
        answer = await self._call(self._rpc.get_signatures_for_address(account, limit=limit))
        return [await self._entry(wallet, item) for item in answer.value[:limit]]

    async def _entry(self, wallet: str, item: Any) -> HistoryEntry:
        found = await self._transaction(item.signature)
        before = after = 0
        if found is not None and found.transaction.meta is not None:
            meta = found.transaction.meta
            try:
                before = _owned(meta.pre_token_balances, wallet, self.info.mint)
                after = _owned(meta.post_token_balances, wallet, self.info.mint)
            except ValueError as unreadable:
                raise ChainUnavailableError(f"a balance that is no number: {unreadable}") from unreadable
        error = None if item.err is None else describe(item.err)
        return HistoryEntry(str(item.signature), item.slot, item.block_time, error, after - before, after)

    async def compute_units(self, signature: str) -> int | None:
        """What a confirmed transaction used; None where the node does not know."""
        found = await self._transaction(Signature.from_string(signature))
        meta = None if found is None else found.transaction.meta
        return None if meta is None else meta.compute_units_consumed

    async def _transaction(self, signature: Signature) -> Any:
        call = self._rpc.get_transaction(
            signature, "base64", commitment=Confirmed, max_supported_transaction_version=0
        )
        return (await self._call(call)).value

    async def last_signature(self, address: str) -> str | None:
        """Of the newest successful transaction that named the account."""
        call = self._rpc.get_signatures_for_address(Pubkey.from_string(address), limit=50)
        return next(
            (str(item.signature) for item in (await self._call(call)).value if item.err is None), None
        )

    async def rent(self, size: int) -> int:
        """Lamports that keep an account of ``size`` bytes.

        Raises ChainRefusedError for more than any network asks: the user would lock them up.
        """
        if size not in self._rents:
            answer = await self._call(self._rpc.get_minimum_balance_for_rent_exemption(size))
            rent, most = int(answer.value), MAX_RENT_A_BYTE * (size + ACCOUNT_OVERHEAD_BYTES)
            if rent > most:
                raise ChainRefusedError(f"rent of {rent} lamports for {size} bytes, allowed {most}")
            self._rents[size] = rent
        return self._rents[size]

    async def latest_blockhash(self) -> tuple[Hash, int]:
        """A confirmed blockhash and the last block height at which it is good; asked for once a second."""
        now = trio.current_time()
        if self._blockhash is None or not 0 <= now - self._blockhash[0] < BLOCKHASH_REUSE_S:
            value = (await self._call(self._rpc.get_latest_blockhash(Confirmed))).value
            self._blockhash = now, value.blockhash, int(value.last_valid_block_height)
        return self._blockhash[1:]

    async def finalized_height(self) -> int:
        return int((await self._call(self._rpc.get_block_height(Finalized))).value)

    async def statuses(self, signatures: Sequence[str]) -> list[TransactionStatus | None]:
        """Searches the whole history; at most MAX_STATUSES at once."""
        keys = [Signature.from_string(signature) for signature in signatures]
        call = self._rpc.get_signature_statuses(keys, search_transaction_history=True)
        found = self._all_of((await self._call(call)).value, keys)
        return [None if item is None else _status(item) for item in found]

    async def simulate(self, transaction: bytes) -> str | None:
        """Why the transaction would fail now, or None. The node gets it without any signature: nothing that
        it could send, whatever it answers.

        Raises ChainUnavailableError where the node cannot tell (it does not know the blockhash yet).
        """
        signed = VersionedTransaction.from_bytes(transaction)
        parsed = VersionedTransaction.populate(signed.message, [Signature.default()] * len(signed.signatures))
        value = (await self._call(self._rpc.simulate_transaction(parsed, commitment=Confirmed))).value
        if value.err is None:
            return None
        reason = describe(value.err)
        if "BlockhashNotFound" in reason:
            raise ChainUnavailableError("the node does not know the blockhash yet")
        return reason

    async def send(self, transaction: bytes) -> None:
        """Without preflight: sending the same bytes again is harmless. An error proves nothing."""
        options = TxOpts(skip_preflight=True, preflight_commitment=Confirmed, max_retries=0)
        await self._call(self._rpc.send_raw_transaction(transaction, options))

    async def _account(self, address: str, commitment: Commitment = Confirmed) -> Any:
        call = self._rpc.get_account_info(Pubkey.from_string(address), commitment, encoding="base64")
        return (await self._call(call)).value

    def _all_of(self, found: Sequence[T], asked: Sequence[object]) -> Sequence[T]:
        if len(found) != len(asked):
            raise ChainUnavailableError(
                f"{self.info.rpc_url} answered {len(found)} of {len(asked)} questions, allowed is all of them"
            )
        return found

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            with trio.fail_after(self._timeout_s):
                return await call
        except trio.TooSlowError as error:
            raise ChainUnavailableError(
                f"{self.info.rpc_url} did not answer in {self._timeout_s} s"
            ) from error
        except SolanaRpcException as error:
            cause = error.__cause__ or error
            raise ChainUnavailableError(
                f"{self.info.rpc_url}: {type(cause).__name__} {cause}".rstrip()
            ) from error
        except (RPCException, SolanaJsonRpcError) as error:
            raise ChainRefusedError(_refusal(error)) from error
        except httpx2.InvalidURL as error:
            raise ChainUnavailableError(f"{self.info.rpc_url!r} is no address of a node: {error}") from error
        except (ValueError, TypeError, SerdeJSONError) as error:
            raise ChainUnavailableError(f"{self.info.rpc_url} sent an unreadable answer: {error}") from error


@asynccontextmanager
async def open_chain(
    info: ChainInfo,
    *,
    timeout_s: float = CALL_TIMEOUT_S,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> AsyncIterator[ChainClient]:
    """``transport`` replaces the network in tests. Opens no connection until the first call."""
    rpc = AsyncClient(
        info.rpc_url,
        Confirmed,
        timeout=timeout_s,
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=MAX_CONNECTIONS,
        http2=False,
        max_transport_retries=0,
    )
    if transport is not None:
        await rpc._provider.session.aclose()
        rpc._provider.session = httpx2.AsyncClient(transport=transport)
    session = rpc._provider.session
    session.headers["accept-encoding"] = "identity"  # what is packed may be any size unpacked
    session.event_hooks = {"response": [_bound]}
    async with rpc:
        yield ChainClient(info, rpc, timeout_s)


async def _bound(response: httpx2.Response) -> None:
    """The node may be anybody's: its answers end at a limit."""
    packed = response.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise httpx2.DecodingError(f"answer packed as {packed[:40]!r}, allowed is identity")
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise httpx2.ReadError(f"answer of over {MAX_ANSWER_BYTES} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def describe(error: Any) -> str:
    """A transaction error in words; the program's own codes by name."""
    if isinstance(error, TransactionErrorInstructionError):
        inner = error.err
        if isinstance(inner, InstructionErrorCustom):
            known = PROGRAM_ERRORS.get(inner.code)
            return f"program error {inner.code}: {known}" if known else f"program error {inner.code}"
        return str(inner)
    return str(error)


def _status(item: Any) -> TransactionStatus:
    known = item.confirmation_status
    if known is None:
        commit = Commit.FINALIZED if item.confirmations is None else Commit.PROCESSED
    else:
        commit = Commit(int(known) + 1)
    return TransactionStatus(commit, None if item.err is None else describe(item.err))


def _refusal(error: Exception) -> str:
    detail = error.args[0] if error.args else error
    return str(getattr(detail, "message", detail))


def _token_amount(account: Any, mint: str) -> Units:
    """Of raw token account bytes: mint, owner, amount."""
    if account is None:
        return Units(0)
    data = bytes(account.data)
    if len(data) < 165 or str(Pubkey(data[:32])) != mint:
        raise ChainUnavailableError(f"a token account of {len(data)} bytes or another mint")
    return Units(int.from_bytes(data[64:72], "little"))


def _owned(balances: Any, wallet: str, mint: str) -> int:
    return sum(
        int(item.ui_token_amount.amount)
        for item in balances or ()
        if str(item.mint) == mint and str(item.owner) == wallet
    )
