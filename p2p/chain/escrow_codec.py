"""The escrow program's accounts and instructions as bytes. Pure: no network, no clock, no keys.

Mirrors coordinator/chain/program/escrow.c; a test runs both against each other. Integers are
little-endian, amounts are token units, times are Unix seconds of the chain's clock.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from p2p.chain.errors import EscrowInvalidError
from p2p.vouchers import Voucher, voucher_bytes

TOKEN_PROGRAM = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
ATA_PROGRAM = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
SYSTEM_PROGRAM = Pubkey.from_string("11111111111111111111111111111111")
ED25519_PROGRAM = Pubkey.from_string("Ed25519SigVerify111111111111111111111111111")
INSTRUCTIONS_SYSVAR = Pubkey.from_string("Sysvar1nstructions1111111111111111111111111")

ESCROW_TAG = b"CYXESCR1"
_ACCOUNT = struct.Struct("<8s32s32s32s32s32s32s32s32s32sQQQqqqQQ")
ESCROW_BYTES = _ACCOUNT.size
"""360 bytes."""

CREATE, SETTLE, SETTLE_BY_ARBITER, REQUEST_REFUND, REFUND, CLOSE = range(6)

PROGRAM_ERRORS = {
    101: "instruction data of the wrong size",
    102: "wrong number of accounts",
    103: "the required signature is missing",
    104: "no open escrow at this address",
    105: "a token account of the wrong mint, or none at all",
    106: "an account that the escrow does not name",
    107: "the vault is not this escrow's",
    108: "too early",
    109: "an amount that is not allowed",
    110: "a program account that is not the expected one",
    111: "a transfer failed",
    112: "the address does not belong to these seeds",
    113: "no valid voucher of the user before this instruction",
    114: "the voucher earns nothing new",
    115: "a claim window or deadline that is not allowed",
}
"""Custom error codes of the program, for people."""


class EscrowStatus(Enum):
    OPEN = 1
    SETTLED = 2
    REFUNDED = 3


@dataclass(frozen=True, slots=True)
class EscrowAccount:
    """One escrow as the chain holds it. Keys are base58, ``job_id`` is hex."""

    user: str
    node: str
    payout: str
    """The wallet whose token account is paid; not the token account itself."""
    arbiter: str
    mint: str
    platform: str
    """The platform's token account."""
    payer: str
    vault: str
    job_id: str
    amount: int
    earned: int
    arbiter_cap: int
    claim_window_s: int
    deadline: int
    refund_requested_at: int
    """0 as long as nobody asked."""
    status: EscrowStatus
    bump: int


def is_closed(data: bytes) -> bool:
    """What ``close`` leaves where somebody keeps the account alive with lamports of his own."""
    return len(data) == ESCROW_BYTES and data[: len(ESCROW_TAG)] == bytes(len(ESCROW_TAG))


def decode_escrow(data: bytes) -> EscrowAccount:
    """Raises EscrowInvalidError. The caller has checked that our program owns the account."""
    if len(data) != ESCROW_BYTES:
        raise EscrowInvalidError(f"account of {len(data)} bytes, an escrow has {ESCROW_BYTES}")
    tag, *fields = _ACCOUNT.unpack(data)
    if tag != ESCROW_TAG:
        raise EscrowInvalidError(f"account tagged {tag!r}, an escrow is tagged {ESCROW_TAG!r}")
    user, node, payout, arbiter, mint, platform, payer, vault = (str(Pubkey(key)) for key in fields[:8])
    amount, earned, cap, window, deadline, requested, status, bump = fields[9:]
    try:
        known_status = EscrowStatus(status)
    except ValueError as error:
        raise EscrowInvalidError(f"escrow status {status}, must be 1, 2 or 3") from error
    return EscrowAccount(
        user=user,
        node=node,
        payout=payout,
        arbiter=arbiter,
        mint=mint,
        platform=platform,
        payer=payer,
        vault=vault,
        job_id=fields[8].hex(),
        amount=amount,
        earned=earned,
        arbiter_cap=cap,
        claim_window_s=window,
        deadline=deadline,
        refund_requested_at=requested,
        status=known_status,
        bump=bump,
    )


def token_account_of(wallet: str, mint: str) -> str:
    """The associated token account."""
    return str(_token_account(Pubkey.from_string(wallet), Pubkey.from_string(mint)))


def _token_account(owner: Pubkey, mint: Pubkey) -> Pubkey:
    seeds = [bytes(owner), bytes(TOKEN_PROGRAM), bytes(mint)]
    return Pubkey.find_program_address(seeds, ATA_PROGRAM)[0]


def escrow_address(program_id: str, user: str, job_id: str, deadline: int) -> str:
    """Where the escrow of this user, job and deadline is. ``job_id`` is 64 hex digits."""
    seeds = [b"escrow", bytes(Pubkey.from_string(user)), bytes.fromhex(job_id), struct.pack("<q", deadline)]
    return str(Pubkey.find_program_address(seeds, Pubkey.from_string(program_id))[0])


def create_token_account(payer: str, owner: str, mint: str) -> Instruction:
    """Makes the owner's associated token account; does nothing where it exists."""
    wallet, token = Pubkey.from_string(owner), Pubkey.from_string(mint)
    accounts = [
        AccountMeta(Pubkey.from_string(payer), True, True),
        AccountMeta(_token_account(wallet, token), False, True),
        AccountMeta(wallet, False, False),
        AccountMeta(token, False, False),
        AccountMeta(SYSTEM_PROGRAM, False, False),
        AccountMeta(TOKEN_PROGRAM, False, False),
    ]
    return Instruction(ATA_PROGRAM, b"\x01", accounts)


@dataclass(frozen=True, slots=True)
class EscrowTerms:
    """Everything that a new escrow fixes. Wallets are base58."""

    user: str
    job_id: str
    node: str
    payout: str
    arbiter: str
    arbiter_cap: int
    mint: str
    platform: str
    amount: int
    claim_window_s: int
    deadline: int


def create(program_id: str, terms: EscrowTerms, payer: str, rent: int) -> Instruction:
    """``rent``: lamports that make ESCROW_BYTES rent-exempt. The vault must exist already."""
    escrow = Pubkey.from_string(escrow_address(program_id, terms.user, terms.job_id, terms.deadline))
    user, mint = Pubkey.from_string(terms.user), Pubkey.from_string(terms.mint)
    data = (
        bytes([CREATE])
        + bytes.fromhex(terms.job_id)
        + b"".join(bytes(Pubkey.from_string(key)) for key in (terms.node, terms.payout, terms.arbiter))
        + struct.pack("<QQqqQ", terms.amount, terms.arbiter_cap, terms.claim_window_s, terms.deadline, rent)
    )
    accounts = [
        AccountMeta(user, True, True),
        AccountMeta(Pubkey.from_string(payer), True, True),
        AccountMeta(escrow, False, True),
        AccountMeta(_token_account(escrow, mint), False, True),
        AccountMeta(_token_account(user, mint), False, True),
        AccountMeta(mint, False, False),
        AccountMeta(Pubkey.from_string(terms.platform), False, False),
        AccountMeta(TOKEN_PROGRAM, False, False),
        AccountMeta(SYSTEM_PROGRAM, False, False),
    ]
    return Instruction(Pubkey.from_string(program_id), data, accounts)


def verify_voucher(user: str, node: str, voucher: Voucher) -> Instruction:
    """The precompile call that ``settle`` looks for directly before itself.

    Only this layout is accepted: one signature; key, signature and message right behind the header.
    """
    message = voucher_bytes(
        bytes(Pubkey.from_string(voucher.escrow)),
        bytes(Pubkey.from_string(node)),
        voucher.earned,
        voucher.final,
    )
    here = 0xFFFF
    header = struct.pack("<BBHHHHHHH", 1, 0, 48, here, 16, here, 112, len(message), here)
    data = header + bytes(Pubkey.from_string(user)) + voucher.signature + message
    return Instruction(ED25519_PROGRAM, data, [])


def settle(program_id: str, address: str, escrow: EscrowAccount, signer: str) -> Instruction:
    """Pays what the voucher in the instruction before this one newly earns.

    The node's own signature (``signer`` is its wallet) lets a final voucher return the rest at once.
    """
    node = AccountMeta(Pubkey.from_string(escrow.node), signer == escrow.node, False)
    tail = AccountMeta(INSTRUCTIONS_SYSVAR, False, False)
    accounts = [node, *_settle_accounts(address, escrow), tail]
    return Instruction(Pubkey.from_string(program_id), bytes([SETTLE]), accounts)


def settle_by_arbiter(program_id: str, address: str, escrow: EscrowAccount, earned: int) -> Instruction:
    """On the arbiter's word alone, up to the cap that the user set. ``earned`` is cumulative."""
    arbiter = AccountMeta(Pubkey.from_string(escrow.arbiter), True, False)
    data = struct.pack("<BQ", SETTLE_BY_ARBITER, earned)
    accounts = [arbiter, *_settle_accounts(address, escrow)]
    return Instruction(Pubkey.from_string(program_id), data, accounts)


def _settle_accounts(address: str, escrow: EscrowAccount) -> list[AccountMeta]:
    mint = Pubkey.from_string(escrow.mint)
    writable = [
        Pubkey.from_string(address),
        Pubkey.from_string(escrow.vault),
        _token_account(Pubkey.from_string(escrow.payout), mint),
        Pubkey.from_string(escrow.platform),
        _token_account(Pubkey.from_string(escrow.user), mint),
        Pubkey.from_string(escrow.payer),
    ]
    readable = [mint, TOKEN_PROGRAM]
    return [AccountMeta(key, False, True) for key in writable] + [
        AccountMeta(key, False, False) for key in readable
    ]


def request_refund(program_id: str, address: str, signer: str) -> Instruction:
    """``signer`` is the user or the arbiter. Opens the claim window; later requests change nothing."""
    accounts = [
        AccountMeta(Pubkey.from_string(signer), True, False),
        AccountMeta(Pubkey.from_string(address), False, True),
    ]
    return Instruction(Pubkey.from_string(program_id), bytes([REQUEST_REFUND]), accounts)


def refund(program_id: str, address: str, escrow: EscrowAccount, signer: str) -> Instruction:
    """Returns the rest to the user. Anyone may, once the window or the deadline has passed."""
    mint = Pubkey.from_string(escrow.mint)
    accounts = [
        AccountMeta(Pubkey.from_string(signer), True, False),
        AccountMeta(Pubkey.from_string(address), False, True),
        AccountMeta(Pubkey.from_string(escrow.vault), False, True),
        AccountMeta(_token_account(Pubkey.from_string(escrow.user), mint), False, True),
        AccountMeta(Pubkey.from_string(escrow.payer), False, True),
        AccountMeta(mint, False, False),
        AccountMeta(TOKEN_PROGRAM, False, False),
    ]
    return Instruction(Pubkey.from_string(program_id), bytes([REFUND]), accounts)


def close(program_id: str, address: str, escrow: EscrowAccount) -> Instruction:
    """Returns a finished escrow's rent to its payer. Only after the deadline."""
    accounts = [
        AccountMeta(Pubkey.from_string(address), False, True),
        AccountMeta(Pubkey.from_string(escrow.payer), False, True),
    ]
    return Instruction(Pubkey.from_string(program_id), bytes([CLOSE]), accounts)
