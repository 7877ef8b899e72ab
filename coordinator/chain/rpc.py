"""Solana's JSON-RPC methods over the ledger: what solana-py and the escrow's programs ask for.

An answer leaves only after everything that it depends on is on the disk. ``requestTokenAirdrop`` is the
one method that a real node does not have.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import structlog
from solders.account import Account
from solders.compute_budget import set_compute_unit_limit
from solders.message import from_bytes_versioned
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction
from spl.token.instructions import mint_to
from spl.token.models import MintToParams

from coordinator.chain.encoding import (
    MINT_BYTES,
    TOKEN_ACCOUNT_BYTES,
    RpcError,
    account_json,
    invalid,
    parse_pubkey,
    parse_signature,
    status_json,
    token_amount,
    transaction_json,
)
from coordinator.chain.genesis import MINT, PROGRAM_ID
from coordinator.chain.ledger import Landed, Ledger
from coordinator.chain.slots import MAX_BLOCKHASH_AGE
from coordinator.chain.store import ChainStore
from p2p.chain.escrow_codec import TOKEN_PROGRAM, create_token_account, token_account_of

log = structlog.get_logger()

MAX_TRANSACTION_BYTES = 1232
MAX_BATCH = 100
MAX_KEYS = 256
MAX_HISTORY = 1000
MAX_FOUND = 10_000
MAX_ANSWER_BYTES = 16 << 20
"""Of what accounts hold and histories list, in one answer; a batch has one answer."""
ENTRY_BYTES = 512
"""What an account or a line of a history takes at least, as JSON."""
MAX_AIRDROP_UNITS = 10**18
FEE_LAMPORTS = 2 * 10**9
"""A wallet with less than half of it gets it filled up with an airdrop."""
BLOCKHASH = "BlockhashNotFound"


class Rpc:
    """Answers requests. Not thread-safe; the caller's event loop is its lock."""

    def __init__(self, ledger: Ledger, store: ChainStore) -> None:
        self._ledger = ledger
        self._store = store
        self._airdrops = store.count()
        self._room = 0
        """Bytes that are left of the answer under way."""
        self._methods: dict[str, Callable[[list[Any]], Any]] = {
            name.removeprefix("_rpc_"): getattr(self, name) for name in dir(self) if name.startswith("_rpc_")
        }

    async def answer(self, body: bytes) -> bytes:
        """A request or a batch of them. Raises sqlite3.Error when the disk fails: then stop."""
        try:
            request = json.loads(body)
        except (ValueError, RecursionError):
            return json.dumps(_failure(None, RpcError(-32700, "not JSON"))).encode()
        if self._ledger.tick():
            self._store.put_meta("reserved_slots", str(self._ledger.clock.reserved).encode())
        if not isinstance(request, list):
            if isinstance(request, dict) and request.get("method") == "getSignaturesForAddress":
                await self._store.flush()
            answer: Any = self._all([request])[0]
        elif 0 < len(request) <= MAX_BATCH:
            await self._store.flush()
            answer = self._all(request)
        else:
            answer = _failure(
                None, RpcError(-32600, f"batch of {len(request)}, allowed are 1 to {MAX_BATCH}")
            )
        await self._store.flush()
        return json.dumps(answer, separators=(",", ":")).encode()

    def _all(self, requests: list[Any]) -> list[dict[str, Any]]:
        """Without a wait in between: another answer has room of its own."""
        self._room = MAX_ANSWER_BYTES
        return [self._one(item) for item in requests]

    def open_platform_account(self, wallet: str) -> None:
        """Makes sure that the platform can be paid, and pay fees. The caller flushes."""
        if self._ledger.account(Pubkey.from_string(token_account_of(wallet, MINT))) is None:
            self._rpc_requestTokenAirdrop([wallet, 0])

    def _one(self, request: Any) -> dict[str, Any]:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return _failure(None, RpcError(-32600, "not a request"))
        identifier, parameters = request.get("id"), request.get("params") or []
        method = self._methods.get(request["method"])
        try:
            if method is None:
                raise RpcError(-32601, f"method {request['method'][:64]} not found")
            if not isinstance(parameters, list):
                raise invalid("params must be a list")
            return {"jsonrpc": "2.0", "id": identifier, "result": method(parameters)}
        except RpcError as error:
            return _failure(identifier, error)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            log.info("bad request", method=request["method"][:64], problem=str(error)[:200])
            return _failure(identifier, invalid(f"bad parameters: {type(error).__name__}"))

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise invalid(f"an answer of over {MAX_ANSWER_BYTES} bytes: ask for less at once")

    def _json(self, account: Account | None, options: dict[str, Any]) -> Any:
        self._take(ENTRY_BYTES + (0 if account is None else len(account.data)))
        return account_json(account, options)

    def _context(self, value: Any) -> dict[str, Any]:
        return {"context": {"slot": self._ledger.clock.slot, "apiVersion": "2.3.0"}, "value": value}

    # -- the chain

    def _rpc_getHealth(self, parameters: list[Any]) -> str:
        return "ok"

    def _rpc_getVersion(self, parameters: list[Any]) -> dict[str, Any]:
        return {"solana-core": "2.3.0", "feature-set": 1}

    def _rpc_getGenesisHash(self, parameters: list[Any]) -> str:
        return str(Pubkey(self._ledger.clock.blockhash(0)))

    def _rpc_getSlot(self, parameters: list[Any]) -> int:
        return self._ledger.clock.at(_options(parameters, 0).get("commitment", "finalized"))

    _rpc_getBlockHeight = _rpc_getSlot

    def _rpc_getEpochInfo(self, parameters: list[Any]) -> dict[str, Any]:
        slot = self._rpc_getSlot(parameters)
        counts = {"slotIndex": slot, "slotsInEpoch": 2**40, "transactionCount": self._store.count()}
        return {"absoluteSlot": slot, "blockHeight": slot, "epoch": 0, **counts}

    def _rpc_getLatestBlockhash(self, parameters: list[Any]) -> dict[str, Any]:
        commitment = _options(parameters, 0).get("commitment", "finalized")
        last = self._ledger.clock.at(commitment) + MAX_BLOCKHASH_AGE
        return self._context(
            {"blockhash": str(self._ledger.latest_hash(commitment)), "lastValidBlockHeight": last}
        )

    def _rpc_isBlockhashValid(self, parameters: list[Any]) -> dict[str, Any]:
        return self._context(self._ledger.clock.is_recent(bytes(parse_pubkey(parameters[0]))))

    def _rpc_getMinimumBalanceForRentExemption(self, parameters: list[Any]) -> int:
        size = parameters[0]
        if not isinstance(size, int) or not 0 <= size <= 10 * 1024 * 1024:
            raise invalid(f"size {size}, allowed are 0 to 10485760")
        return int(self._ledger.machine.minimum_balance_for_rent_exemption(size))

    def _rpc_getRecentPrioritizationFees(self, parameters: list[Any]) -> list[dict[str, int]]:
        return [{"slot": self._ledger.clock.slot, "prioritizationFee": 0}]

    def _rpc_getFeeForMessage(self, parameters: list[Any]) -> dict[str, Any]:
        message = from_bytes_versioned(base64.b64decode(parameters[0], validate=True))
        return self._context(5000 * message.header.num_required_signatures)

    # -- accounts

    def _rpc_getBalance(self, parameters: list[Any]) -> dict[str, Any]:
        account = self._ledger.account(parse_pubkey(parameters[0]))
        return self._context(0 if account is None else account.lamports)

    def _rpc_getAccountInfo(self, parameters: list[Any]) -> dict[str, Any]:
        account = self._ledger.account(parse_pubkey(parameters[0]))
        return self._context(self._json(account, _options(parameters, 1)))

    def _rpc_getMultipleAccounts(self, parameters: list[Any]) -> dict[str, Any]:
        if len(parameters[0]) > 100:
            raise invalid(f"{len(parameters[0])} accounts, limit 100")
        options = _options(parameters, 1)
        accounts = [self._ledger.account(parse_pubkey(key)) for key in parameters[0]]
        return self._context([self._json(account, options) for account in accounts])

    def _rpc_getProgramAccounts(self, parameters: list[Any]) -> Any:
        options = _options(parameters, 1)
        found = []
        for key, account in self._ledger.machine.get_program_accounts(parse_pubkey(parameters[0])):
            if all(_matches(bytes(account.data), condition) for condition in options.get("filters") or []):
                found.append({"pubkey": str(key), "account": self._json(account, options)})
            if len(found) > MAX_FOUND:
                raise invalid(f"more than {MAX_FOUND} accounts: filter them")
        return self._context(found) if options.get("withContext") else found

    def _rpc_getTokenAccountBalance(self, parameters: list[Any]) -> dict[str, Any]:
        data = self._token_data(parameters[0], TOKEN_ACCOUNT_BYTES)
        return self._context(token_amount(int.from_bytes(data[64:72], "little"), str(Pubkey(data[:32]))))

    def _rpc_getTokenSupply(self, parameters: list[Any]) -> dict[str, Any]:
        data = self._token_data(parameters[0], MINT_BYTES)
        return self._context(token_amount(int.from_bytes(data[36:44], "little"), parameters[0]))

    def _token_data(self, address: Any, size: int) -> bytes:
        account = self._ledger.account(parse_pubkey(address))
        if account is None:
            raise invalid("Invalid param: could not find account")
        if account.owner != TOKEN_PROGRAM or len(account.data) != size:
            raise invalid("Invalid param: not a Token account")
        return bytes(account.data)

    def _rpc_getTokenAccountsByOwner(self, parameters: list[Any]) -> dict[str, Any]:
        """Only associated accounts of the chain's own mint are found."""
        owner, options = str(parse_pubkey(parameters[0])), _options(parameters, 2)
        address = token_account_of(owner, _options(parameters, 1).get("mint", MINT))
        account = self._ledger.account(Pubkey.from_string(address))
        found = [] if account is None else [{"pubkey": address, "account": self._json(account, options)}]
        return self._context(found)

    # -- transactions

    def _rpc_getSignatureStatuses(self, parameters: list[Any]) -> dict[str, Any]:
        if len(parameters[0]) > MAX_KEYS:
            raise invalid(f"{len(parameters[0])} signatures, limit {MAX_KEYS}")
        return self._context([self._status(parse_signature(text)) for text in parameters[0]])

    def _status(self, signature: str) -> Any:
        landed = self._store.find(signature)
        if landed is None:
            return None
        clock = self._ledger.clock
        return status_json(landed, clock.slot, clock.commitment_of(landed.slot))

    def _rpc_getSignaturesForAddress(self, parameters: list[Any]) -> list[dict[str, Any]]:
        address, options = str(parse_pubkey(parameters[0])), _options(parameters, 1)
        limit = options.get("limit", MAX_HISTORY)
        if not isinstance(limit, int) or not 1 <= limit <= MAX_HISTORY:
            raise invalid(f"limit {limit}, allowed are 1 to {MAX_HISTORY}")
        before, until = (_maybe(parse_signature, options.get(name)) for name in ("before", "until"))
        found = self._store.mentioning(address, limit, before, until)
        self._take(ENTRY_BYTES * len(found))
        return [
            {
                "signature": landed.signature,
                "slot": landed.slot,
                "err": landed.error,
                "memo": None,
                "blockTime": landed.time,
                "confirmationStatus": self._ledger.clock.commitment_of(landed.slot),
            }
            for landed in found
        ]

    def _rpc_getTransaction(self, parameters: list[Any]) -> Any:
        landed = self._store.find(parse_signature(parameters[0]))
        return None if landed is None else transaction_json(landed)

    def _rpc_simulateTransaction(self, parameters: list[Any]) -> dict[str, Any]:
        transaction, options = _transaction(parameters)
        problem, units = None, 0
        logs: tuple[str, ...] = ()
        recent = self._ledger.clock.is_recent(bytes(transaction.message.recent_blockhash))
        if not recent and not options.get("replaceRecentBlockhash"):
            problem = BLOCKHASH
        else:
            result = self._ledger.simulate(transaction, check_signatures=bool(options.get("sigVerify")))
            problem, logs, units = result.error, result.logs, result.units
        return self._context(
            {
                "err": problem,
                "logs": list(logs),
                "accounts": None,
                "unitsConsumed": units,
                "returnData": None,
                "innerInstructions": None,
            }
        )

    def _rpc_sendTransaction(self, parameters: list[Any]) -> str:
        transaction, options = _transaction(parameters)
        signature = str(transaction.signatures[0])
        known = self._store.find(signature) is not None
        problem = "AlreadyProcessed" if known else self._ledger.problem(transaction)
        if problem == "SignatureFailure":
            raise RpcError(-32003, "Transaction signature verification failure")
        if not options.get("skipPreflight"):
            self._preflight(transaction, problem)
        if problem is None:
            self._include(transaction)
        return signature

    def _preflight(self, transaction: VersionedTransaction, problem: Any) -> None:
        logs: list[str] = []
        if problem is None:
            result = self._ledger.simulate(transaction, check_signatures=True)
            problem, logs = result.error, list(result.logs)
        if problem is not None:
            data = {"err": problem, "logs": logs, "accounts": None, "unitsConsumed": 0, "returnData": None}
            raise RpcError(-32002, f"Transaction simulation failed: {problem}", data)

    def _include(self, transaction: VersionedTransaction) -> Any:
        """None, or why it is not part of the chain."""
        landed = self._ledger.land(transaction)
        if not isinstance(landed, Landed):
            return landed
        self._store.put(landed)
        self._store.put_meta("time", str(self._ledger.time).encode())
        return landed.error

    # -- gifts

    def _rpc_requestTokenAirdrop(self, parameters: list[Any]) -> str:
        """[wallet, units]: tokens from the mint, and SOL for fees where the wallet has little."""
        wallet, units = str(parse_pubkey(parameters[0])), parameters[1]
        if not isinstance(units, int) or not 0 <= units <= MAX_AIRDROP_UNITS:
            raise invalid(f"{units} units, allowed are 0 to {MAX_AIRDROP_UNITS}")
        authority = self._ledger.authority.pubkey()
        mint = MintToParams(
            program_id=TOKEN_PROGRAM,
            mint=Pubkey.from_string(MINT),
            dest=Pubkey.from_string(token_account_of(wallet, MINT)),
            mint_authority=authority,
            amount=units,
        )
        account = self._ledger.account(Pubkey.from_string(wallet))
        instructions = [create_token_account(str(authority), wallet, MINT), mint_to(mint)]
        if account is None or account.lamports < FEE_LAMPORTS // 2:
            instructions.append(self._gift(wallet, FEE_LAMPORTS))
        return self._give(instructions)

    def _rpc_requestAirdrop(self, parameters: list[Any]) -> str:
        """[wallet, lamports]"""
        wallet, lamports = str(parse_pubkey(parameters[0])), parameters[1]
        if not isinstance(lamports, int) or not 0 < lamports <= 10**12:
            raise invalid(f"{lamports} lamports, allowed are 1 to {10**12}")
        return self._give([self._gift(wallet, lamports)])

    def _gift(self, wallet: str, lamports: int) -> Any:
        authority = self._ledger.authority.pubkey()
        to = Pubkey.from_string(wallet)
        return transfer(TransferParams(from_pubkey=authority, to_pubkey=to, lamports=lamports))

    def _give(self, instructions: list[Any]) -> str:
        # The changing limit makes two equal gifts within one slot two transactions.
        self._airdrops += 1
        limit = set_compute_unit_limit(200_000 + self._airdrops % 1_000_000)
        transaction = self._ledger.sign([limit, *instructions])
        if (problem := self._include(transaction)) is not None:
            raise RpcError(-32603, f"airdrop failed: {problem}")
        return str(transaction.signatures[0])

    def _rpc_getEscrowProgram(self, parameters: list[Any]) -> dict[str, str]:
        """Where the embedded chain has its program and its token."""
        return {"programId": PROGRAM_ID, "mint": MINT}


def _failure(identifier: Any, error: RpcError) -> dict[str, Any]:
    detail = {"code": error.code, "message": error.message}
    if error.data is not None:
        detail["data"] = error.data
    return {"jsonrpc": "2.0", "id": identifier, "error": detail}


def _options(parameters: list[Any], index: int) -> dict[str, Any]:
    options = parameters[index] if len(parameters) > index and parameters[index] is not None else {}
    if not isinstance(options, dict):
        raise invalid(f"parameter {index} must be an object")
    return options


def _maybe(parse: Callable[[Any], str], value: Any) -> str | None:
    return None if value is None else parse(value)


def _matches(data: bytes, condition: dict[str, Any]) -> bool:
    if "dataSize" in condition:
        return bool(len(data) == condition["dataSize"])
    part = condition["memcmp"]
    if part.get("encoding") == "base64":
        wanted = base64.b64decode(part["bytes"], validate=True)
    elif isinstance(part["bytes"], list):
        wanted = bytes(part["bytes"])
    else:
        wanted = bytes(parse_pubkey(part["bytes"]))
    return bool(data[part["offset"] : part["offset"] + len(wanted)] == wanted)


def _transaction(parameters: list[Any]) -> tuple[VersionedTransaction, dict[str, Any]]:
    options = _options(parameters, 1)
    if options.get("encoding") != "base64":
        raise invalid("transactions must be sent in base64")
    raw = base64.b64decode(parameters[0], validate=True)
    if len(raw) > MAX_TRANSACTION_BYTES:
        raise invalid(f"transaction of {len(raw)} bytes, limit {MAX_TRANSACTION_BYTES}")
    transaction = VersionedTransaction.from_bytes(raw)
    if getattr(transaction.message, "address_table_lookups", None):
        raise invalid("address lookup tables are not supported")
    if not transaction.signatures:
        raise invalid("a transaction without signatures")
    return transaction, options
