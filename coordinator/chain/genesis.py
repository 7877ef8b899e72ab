"""What every embedded chain starts with: the escrow program, the token's mint, and its authority.

Program and mint have the same addresses on every machine; nobody holds a key to either address. The
mint authority is a random key that the chain makes for itself and keeps in its own database.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from solders.account import Account
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey

import coordinator.chain.program
from p2p.chain.escrow_codec import SYSTEM_PROGRAM, TOKEN_PROGRAM, token_account_of
from p2p.chain.trust import EMBEDDED_MINT, EMBEDDED_PROGRAM

DECIMALS = 9
AUTHORITY_LAMPORTS = 10**18
PROGRAM_FILE = Path(coordinator.chain.program.__file__).with_name("escrow.so")
PROGRAM_ID = EMBEDDED_PROGRAM
MINT = EMBEDDED_MINT


@dataclass(frozen=True, slots=True)
class GenesisInfo:
    """What an escrow on the embedded chain must name. Base58."""

    program_id: str
    mint: str
    platform_account: str


def genesis_info(platform_wallet: str) -> GenesisInfo:
    """``platform_account`` is the wallet's associated token account; the chain opens it at its start."""
    return GenesisInfo(PROGRAM_ID, MINT, token_account_of(platform_wallet, MINT))


def new_machine() -> LiteSVM:
    """A virtual machine with mainnet's features and the program, and no accounts of ours yet.

    Blockhashes, their age and the history are the ledger's: LiteSVM knows one blockhash and no time.
    """
    machine = LiteSVM().with_mainnet_features().with_blockhash_check(False).with_transaction_history(0)
    machine.add_program(Pubkey.from_string(PROGRAM_ID), PROGRAM_FILE.read_bytes())
    return machine


def genesis_accounts(machine: LiteSVM, authority: Keypair) -> dict[str, Account]:
    """The accounts that a new chain has: the mint and the authority that may mint and pays for airdrops."""
    mint = struct.pack("<I32sQBBI32s", 1, bytes(authority.pubkey()), 0, DECIMALS, 1, 0, bytes(32))
    rent = machine.minimum_balance_for_rent_exemption(len(mint))
    return {
        MINT: Account(rent, mint, TOKEN_PROGRAM, False),
        str(authority.pubkey()): Account(AUTHORITY_LAMPORTS, b"", SYSTEM_PROGRAM, False),
    }
