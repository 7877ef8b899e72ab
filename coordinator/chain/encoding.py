"""Accounts and transactions as JSON-RPC writes them. Pure."""

from __future__ import annotations

import base64
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey
from solders.signature import Signature

from coordinator.chain.genesis import DECIMALS, MINT
from coordinator.chain.ledger import Landed, TokenBalance
from p2p.chain.escrow_codec import TOKEN_PROGRAM

TOKEN_ACCOUNT_BYTES = 165
MINT_BYTES = 82
MAX_BASE58_BYTES = 128


class RpcError(Exception):
    """An answer that says no, with JSON-RPC's code."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


def invalid(message: str) -> RpcError:
    return RpcError(-32602, message)


def parse_pubkey(text: Any) -> Pubkey:
    try:
        return Pubkey.from_string(text)
    except (ValueError, TypeError) as error:
        raise invalid(f"not an address: {str(text)[:64]!r}") from error


def parse_signature(text: Any) -> str:
    try:
        return str(Signature.from_string(text))
    except (ValueError, TypeError) as error:
        raise invalid(f"not a signature: {str(text)[:96]!r}") from error


def account_json(account: Account | None, options: dict[str, Any]) -> Any:
    if account is None:
        return None
    data, encoding = bytes(account.data), options.get("encoding", "base58")
    if part := options.get("dataSlice"):
        data = data[part["offset"] : part["offset"] + part["length"]]
    encoded: Any
    if encoding == "jsonParsed" and (parsed := _parsed_token_account(account)) is not None:
        encoded = parsed
    elif encoding in ("base58", "binary"):
        if len(data) > MAX_BASE58_BYTES:
            raise invalid(f"base58 of {len(data)} bytes, limit {MAX_BASE58_BYTES}: ask for base64")
        encoded = [_base58(data), "base58"]
    else:
        encoded = [base64.b64encode(data).decode(), "base64"]
    return {
        "lamports": account.lamports,
        "owner": str(account.owner),
        "executable": account.executable,
        "rentEpoch": account.rent_epoch,
        "data": encoded,
        "space": len(account.data),
    }


def _base58(data: bytes) -> str:
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = alphabet[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def _parsed_token_account(account: Account) -> Any:
    if account.owner != TOKEN_PROGRAM or len(account.data) != TOKEN_ACCOUNT_BYTES:
        return None
    data = bytes(account.data)
    info = {
        "mint": str(Pubkey(data[:32])),
        "owner": str(Pubkey(data[32:64])),
        "isNative": False,
        "state": "initialized",
        "tokenAmount": token_amount(int.from_bytes(data[64:72], "little"), str(Pubkey(data[:32]))),
    }
    parsed = {"type": "account", "info": info}
    return {"program": "spl-token", "space": TOKEN_ACCOUNT_BYTES, "parsed": parsed}


def token_amount(amount: int, mint: str) -> dict[str, Any]:
    decimals = DECIMALS if mint == MINT else 0
    whole, fraction = divmod(amount, 10**decimals)
    text = f"{whole}.{fraction:0{decimals}d}".rstrip("0").rstrip(".") if decimals else str(amount)
    return {
        "amount": str(amount),
        "decimals": decimals,
        "uiAmount": amount / 10**decimals,
        "uiAmountString": text,
    }


def _token_balance_json(balance: TokenBalance) -> dict[str, Any]:
    return {
        "accountIndex": balance.index,
        "mint": balance.mint,
        "owner": balance.owner,
        "programId": str(TOKEN_PROGRAM),
        "uiTokenAmount": token_amount(balance.amount, balance.mint),
    }


def status_json(landed: Landed, slot: int, commitment: str) -> dict[str, Any]:
    return {
        "slot": landed.slot,
        "confirmations": None if commitment == "finalized" else slot - landed.slot,
        "err": landed.error,
        "status": {"Ok": None} if landed.error is None else {"Err": landed.error},
        "confirmationStatus": commitment,
    }


def transaction_json(landed: Landed) -> dict[str, Any]:
    return {
        "slot": landed.slot,
        "blockTime": landed.time,
        "version": 0,
        "transaction": [base64.b64encode(landed.raw).decode(), "base64"],
        "meta": {
            "err": landed.error,
            "status": {"Ok": None} if landed.error is None else {"Err": landed.error},
            "fee": landed.fee,
            "preBalances": [before for before, _ in landed.lamports],
            "postBalances": [after for _, after in landed.lamports],
            "innerInstructions": [],
            "logMessages": list(landed.logs),
            "preTokenBalances": [_token_balance_json(balance) for balance in landed.tokens_before],
            "postTokenBalances": [_token_balance_json(balance) for balance in landed.tokens_after],
            "rewards": [],
            "loadedAddresses": {"writable": [], "readonly": []},
            "computeUnitsConsumed": landed.units,
        },
    }
