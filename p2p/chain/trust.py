"""Which program may a wallet sign for? Pure: what a coordinator names, what is known, what is trusted.

A program that a wallet signs for may do with that signature whatever it likes: one of a coordinator's
own could take every token and coin that the wallet holds. And the chain's node is the coordinator's
too, so nothing that it answers proves anything. Therefore:

- An embedded chain has the one program and mint whose addresses are hashes. Nobody holds a key to
  them, so nobody can put a program there on a real network, wherever the signed bytes are taken.
- On a real network a program is used that its user named, with CyxWiz' mint unless that is named too.
- A coordinator that names another program, mint or kind of chain than before is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from solders.pubkey import Pubkey

from p2p.chain.errors import ChainNotTrustedError
from p2p.protocols.coordinator import ChainInfo

CYXWIZ_MINT = "Az2YZ1hmY5iQ6Gi9rjTPRpNMvcyeYVt1PqjyRSRoNNYi"


def _address_without_key(name: str) -> str:
    return str(Pubkey(hashlib.sha256(f"cyxwiz embedded chain: {name}".encode()).digest()))


EMBEDDED_PROGRAM = _address_without_key("escrow program")
EMBEDDED_MINT = _address_without_key("mint")


@dataclass(frozen=True, slots=True)
class TrustedEscrow:
    """A program on a real network that the user named, and the mint that it is paid in."""

    program_id: str
    mint: str = CYXWIZ_MINT


def parse_trusted(text: str) -> TrustedEscrow:
    """Of ``PROGRAM`` or ``PROGRAM/MINT``. Raises ChainNotTrustedError."""
    program, _, mint = text.partition("/")
    try:
        return TrustedEscrow(str(Pubkey.from_string(program)), str(Pubkey.from_string(mint or CYXWIZ_MINT)))
    except ValueError as error:
        raise ChainNotTrustedError(
            f"escrow {text[:128]!r}, allowed PROGRAM or PROGRAM/MINT, both Solana addresses"
        ) from error


def check_chain(
    info: ChainInfo, coordinator: str, known: ChainInfo | None, trusted: TrustedEscrow | None
) -> None:
    """``known`` is what this coordinator named before. Raises ChainNotTrustedError."""
    found = TrustedEscrow(info.program_id, info.mint)
    if info.embedded:
        _expect(found, TrustedEscrow(EMBEDDED_PROGRAM, EMBEDDED_MINT), coordinator, "an embedded chain has")
    elif trusted is None:
        raise ChainNotTrustedError(
            f"coordinator {coordinator} pays on a real network with escrow program {found.program_id} and "
            f"mint {found.mint}. A program that you sign for can take all that your wallet holds: name the "
            f"one that you trust as escrow = {found.program_id}/{found.mint} and start again"
        )
    else:
        _expect(found, trusted, coordinator, "trusted is")
        return  # named by the user, so it may differ from before
    if known is not None and not known.embedded:
        before = TrustedEscrow(known.program_id, known.mint)
        _expect(found, before, coordinator, "before, on a real network, it named")


def _expect(found: TrustedEscrow, allowed: TrustedEscrow, coordinator: str, why: str) -> None:
    if found != allowed:
        raise ChainNotTrustedError(
            f"coordinator {coordinator} names escrow program {found.program_id} and mint {found.mint}, "
            f"{why} {allowed.program_id} and {allowed.mint}"
        )


def outbox_name(info: ChainInfo, coordinator: str) -> str:
    """One outbox for each chain: a payment left unfinished on one must never be made on another.

    Embedded chains share program and mint, so the coordinator tells them apart.
    """
    key = f"{coordinator}/{info.program_id}/{info.mint}"
    return f"payments-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
