"""Makes payments happen exactly once, over crashes and a network that loses requests and answers.

The shell around ``outbox``: stores, sends and watches. It decides nothing: what to do is
``outbox.judge`` and ``outbox.outcome``. Any error of the RPC node means «unknown» and is tried again.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
import trio

from p2p.chain import outbox
from p2p.chain.client import ChainClient
from p2p.chain.errors import (
    ChainError,
    EscrowInvalidError,
    JournalError,
    PaymentConflictError,
    PaymentPendingError,
    PaymentRefusedError,
)
from p2p.chain.escrow_codec import PROGRAM_ERRORS
from p2p.chain.journal import open_journal
from p2p.chain.outbox import (
    Concluded,
    CreateEscrow,
    Entry,
    Intended,
    Intent,
    PaymentRecord,
    PaymentState,
    Refund,
    RequestRefund,
    Settle,
    Signed,
    Step,
    Verdict,
)
from p2p.chain.statuses import StatusPoller
from p2p.chain.transactions import TransactionBuilder
from p2p.chain.wallet import Wallet
from p2p.errors import LocalProtocolError

__all__ = [
    "CreateEscrow",
    "Payer",
    "PayerOptions",
    "Payment",
    "Refund",
    "RequestRefund",
    "Settle",
    "open_payer",
]

log = structlog.get_logger()
MAX_OPEN = 10_000
MAX_SIGNING = 32
KEEP_FINISHED = 10_000
"""Of a payment that is forgotten and asked for again, the chain knows that it happened."""
TOO_EARLY = PROGRAM_ERRORS[108]
NO_FEES = ("AccountNotFound", "InsufficientFundsForFee", "InsufficientFundsForRent")
"""What a node says of a wallet with too little SOL. The embedded chain gives some to whoever asks."""
_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class PayerOptions:
    """Pauses in seconds; ``priority_fee`` in micro-lamports a compute unit."""

    poll_s: float = 0.1
    resend_s: float = 2.0
    retry_s: float = 1.0
    final_poll_s: float = 5.0
    absent_patience_s: float = 30.0
    """How long an escrow may be missing before a payment about it is refused."""
    priority_fee: int = 0


@dataclass(frozen=True, slots=True)
class Payment:
    """It happened: confirmed, or already final. ``signature`` may be another's, or empty if unknown."""

    key: str
    signature: str
    state: PaymentState


class AppendOnly(Protocol):
    async def append(self, record: bytes) -> None:
        """Returns once the record survives a crash."""


class Payer:
    """Use ``open_payer``."""

    def __init__(
        self,
        chain: ChainClient,
        wallet: Wallet,
        journal: AppendOnly,
        records: dict[str, PaymentRecord],
        nursery: trio.Nursery,
        options: PayerOptions,
    ) -> None:
        self._chain = chain
        self._builder = TransactionBuilder(chain, wallet, options.priority_fee)
        self._journal = journal
        self._records = records
        self._nursery = nursery
        self._options = options
        self._poller = StatusPoller(chain, options.poll_s)
        self._driven: set[str] = set()
        self._finished = {record.key: None for record in records.values() if outbox.finished(record)}
        """A set that keeps its order."""
        self._changed: dict[str, trio.Event] = {}
        self._signing = trio.CapacityLimiter(MAX_SIGNING)
        nursery.start_soon(self._poller.run)

    async def pay(self, key: str, intent: Intent, timeout_s: float = 60.0) -> Payment:
        """Returns when it is confirmed that the payment happened. Call it again with the same key freely.

        Raises PaymentRefusedError (it never will), PaymentPendingError (unknown; the outbox goes on, also
        after a restart), PaymentConflictError (the key stands for another payment) or LocalProtocolError.
        """
        await self._accept(key, intent)
        self._start(key)
        with trio.move_on_after(timeout_s):
            while self._records[key].state is PaymentState.OPEN:
                await self._changed.setdefault(key, trio.Event()).wait()
        payment = self.result(key)
        if payment is None:
            raise PaymentPendingError(f"payment {key} not confirmed within {timeout_s} s, still trying")
        return payment

    def result(self, key: str) -> Payment | None:
        """None while unknown. Raises PaymentRefusedError."""
        record = self._records.get(key)
        if record is None or record.state is PaymentState.OPEN:
            return None
        if record.state is PaymentState.REFUSED:
            raise PaymentRefusedError(f"payment {key}: {record.reason}")
        return Payment(key, record.signature or "", record.state)

    async def resume(self) -> None:
        """Goes on with everything unfinished. ``open_payer`` has done it; again is harmless."""
        for key, record in list(self._records.items()):
            if not outbox.finished(record):
                self._start(key)

    def payments(self) -> tuple[PaymentRecord, ...]:
        """All that the outbox knows, oldest first."""
        return tuple(self._records.values())

    async def _accept(self, key: str, intent: Intent) -> None:
        known = self._records.get(key)
        if known is None:
            if len(self._driven) >= MAX_OPEN:
                raise PaymentConflictError(f"{len(self._driven)} open payments, limit {MAX_OPEN}")
            entry = Intended(key, intent)
            try:
                _encoder.encode(entry)
            except (OverflowError, TypeError) as error:
                raise LocalProtocolError(f"payment {key} cannot be written down: {error}") from error
            known = await self._note(entry)
        if known.intent != intent:
            raise PaymentConflictError(f"key {key} stands for another payment: {known.intent}")

    def _start(self, key: str) -> None:
        if key not in self._driven and not outbox.finished(self._records[key]):
            self._driven.add(key)
            self._nursery.start_soon(self._drive, key)

    async def _note(self, entry: Entry) -> PaymentRecord:
        """On disk first, then believed."""
        await self._journal.append(_encoder.encode(entry))
        record = outbox.advance(self._records.get(entry.key), entry)
        if record is None:
            raise JournalError(f"an entry about unknown payment {entry.key}")
        self._records[entry.key] = record
        if outbox.finished(record):
            self._forget_oldest(record.key)
        if (event := self._changed.pop(entry.key, None)) is not None:
            event.set()
        return record

    def _forget_oldest(self, key: str) -> None:
        """Keeps the newest finished payments, in memory as in the file."""
        self._finished[key] = None
        if len(self._finished) > KEEP_FINISHED:
            oldest = next(iter(self._finished))
            del self._finished[oldest]
            del self._records[oldest]

    async def _drive(self, key: str) -> None:
        driver = _Driver(self, key)
        while not outbox.finished(self._records[key]):
            try:
                await driver.advance()
            except JournalError:
                raise
            except (ValueError, OverflowError, struct.error, LocalProtocolError, EscrowInvalidError) as error:
                await driver.unusable(error)
            except ChainError as error:
                log.warning("payment not known yet", key=key, reason=str(error))
                await trio.sleep(self._options.retry_s)
        self._driven.discard(key)


class _Driver:
    """Carries one payment from what is known to the next step. Forgotten at a crash without harm."""

    def __init__(self, payer: Payer, key: str) -> None:
        self._payer = payer
        self._key = key
        self._chain = payer._chain
        self._options = payer._options
        self._sent_at = float("-inf")
        self._absent_since: float | None = None
        self._failed_before = False

    @property
    def _record(self) -> PaymentRecord:
        return self._payer._records[self._key]

    async def advance(self) -> None:
        record = self._record
        if record.attempt is None:
            await self._look()
            return
        height, status = await self._payer._poller.look(record.attempt.signature)
        match outbox.judge(record.attempt, height, status):
            case Step.SEND:
                await self._resend(record)
            case Step.CONFIRMED:
                await self._confirmed(record.attempt.signature)
            case Step.FINAL:
                await self._conclude(PaymentState.DONE, record.attempt.signature)
            case Step.CHECK:
                await self._check()
            case Step.LOOK:
                await self._look()
            case Step.WAIT:
                pass

    async def unusable(self, error: Exception) -> None:
        """An intent that no instruction can be made of. Found before signing, so nothing is alive."""
        if self._record.attempt is None:
            await self._conclude(PaymentState.REFUSED, None, f"cannot be paid: {error}")
        else:
            log.error("payment cannot be followed", key=self._key, reason=str(error))
            await trio.sleep(self._options.final_poll_s)

    async def _resend(self, record: PaymentRecord) -> None:
        assert record.attempt is not None
        by_another = record.signature not in (None, record.attempt.signature)
        if by_another or trio.current_time() - self._sent_at < self._options.resend_s:
            return
        self._sent_at = trio.current_time()
        await self._chain.send(record.attempt.transaction)

    async def _confirmed(self, signature: str | None) -> None:
        if self._record.state is PaymentState.CONFIRMED:
            await trio.sleep(self._options.final_poll_s)
        else:
            await self._conclude(PaymentState.CONFIRMED, signature)

    async def _conclude(self, state: PaymentState, signature: str | None, reason: str | None = None) -> None:
        await self._payer._note(Concluded(self._key, state, signature, reason))
        log.info("payment", key=self._key, state=state.value, signature=signature, reason=reason)

    async def _check(self) -> None:
        address = self._payer._builder.address(self._record.intent)
        verdict, _ = outbox.outcome(self._record.intent, await self._chain.escrow(address))
        if verdict is Verdict.HAPPENED:
            await self._confirmed(self._record.signature or await self._chain.last_signature(address))
        else:
            await trio.sleep(self._options.retry_s)

    async def _look(self) -> None:
        """No signature is alive: the escrow account says what to do."""
        intent = self._record.intent
        address = self._payer._builder.address(intent)
        problem = None
        async with self._payer._signing:
            escrow = await self._chain.escrow(address)
            verdict, reason = outbox.outcome(intent, escrow)
            if verdict is Verdict.POSSIBLE:
                attempt = await self._payer._builder.sign(intent, escrow)
                problem = await self._chain.simulate(attempt.transaction)
                if problem is None:
                    await self._payer._note(Signed(self._key, attempt))
                    self._failed_before = False
                    self._sent_at = trio.current_time()
                    await self._chain.send(attempt.transaction)
                    return
        if verdict is Verdict.HAPPENED:
            await self._happened(address)
        elif verdict is Verdict.IMPOSSIBLE:
            await self._impossible(reason, absent=escrow is None)
        elif problem is not None:
            await self._problem(problem)

    async def _happened(self, address: str) -> None:
        signature = self._record.signature or await self._chain.last_signature(address)
        settled = await self._chain.escrow(address, finalized=True)
        if outbox.outcome(self._record.intent, settled)[0] is Verdict.HAPPENED:
            await self._conclude(PaymentState.DONE, signature)
        else:
            await self._confirmed(signature)

    async def _impossible(self, reason: str, *, absent: bool) -> None:
        """A node that lags behind may not know an escrow yet; what exists and is over stays over."""
        now = trio.current_time()
        if self._absent_since is None:
            self._absent_since = now
        if absent and now - self._absent_since < self._options.absent_patience_s:
            await trio.sleep(self._options.retry_s)
        else:
            await self._conclude(PaymentState.REFUSED, None, reason)

    async def _problem(self, problem: str) -> None:
        """Nothing was sent. Once more, since another may just have done it; then it is refused."""
        self._payer._builder.forget_accounts()
        if self._chain.info.embedded and any(name in problem for name in NO_FEES):
            await self._payer._builder.ask_for_fees()
        if TOO_EARLY in problem or not self._failed_before:
            self._failed_before = True
            await trio.sleep(self._options.retry_s)
        else:
            await self._conclude(PaymentState.REFUSED, None, problem)


@asynccontextmanager
async def open_payer(
    db_path: Path, chain: ChainClient, wallet: Wallet, options: PayerOptions | None = None
) -> AsyncIterator[Payer]:
    """Opens the outbox file (one program at a time) and goes on with what it left unfinished."""
    async with (
        open_journal(db_path, _compact) as (journal, entries),
        run_payer(journal, entries, chain, wallet, options) as payer,
    ):
        yield payer


@asynccontextmanager
async def run_payer(
    journal: AppendOnly,
    entries: Iterable[bytes],
    chain: ChainClient,
    wallet: Wallet,
    options: PayerOptions | None = None,
) -> AsyncIterator[Payer]:
    """The same over a journal that is open already and the entries that it holds."""
    async with trio.open_nursery() as nursery:
        payer = Payer(chain, wallet, journal, _replay(entries), nursery, options or PayerOptions())
        await payer.resume()
        yield payer
        nursery.cancel_scope.cancel()


def _replay(entries: Iterable[bytes]) -> dict[str, PaymentRecord]:
    records: dict[str, PaymentRecord] = {}
    for raw in entries:
        try:
            entry = _decoder.decode(raw)
        except msgspec.MsgspecError as error:
            raise JournalError(f"an outbox entry of {len(raw)} bytes cannot be read: {error}") from error
        record = outbox.advance(records.get(entry.key), entry)
        if record is not None:
            records[entry.key] = record
    return records


def _compact(entries: list[bytes]) -> list[bytes]:
    records = list(_replay(entries).values())
    done = [record for record in records if outbox.finished(record)]
    forgotten = {record.key for record in done[: max(0, len(done) - KEEP_FINISHED)]}
    kept = (record for record in records if record.key not in forgotten)
    return [_encoder.encode(entry) for record in kept for entry in outbox.entries_of(record)]
