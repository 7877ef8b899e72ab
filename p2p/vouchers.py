"""The Engine's cumulative payment promise: the exact bytes that its wallet signs. Pure.

The tag keeps a voucher from ever being a Solana transaction message or anything else that the
same key signs. The escrow address already commits to program, user, job and deadline.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from p2p.errors import LocalProtocolError

VOUCHER_TAG = b"CYXWIZ-VOUCHER-1"
_LAYOUT = struct.Struct("<16s32s32sQB")
"""89 bytes: tag, escrow, node wallet, earned (little-endian u64), final (0 or 1)."""


@dataclass(frozen=True, slots=True)
class Voucher:
    """``earned`` units are the node's in total so far; ``final`` returns the rest to the user."""

    escrow: str
    """Base58 address of the escrow account."""
    earned: int
    final: bool
    signature: bytes
    segments_done: int = 0
    """For the people and programs that follow the job; not signed."""

    def supersedes(self, other: Voucher | None) -> bool:
        """True if a holder of ``other`` should keep this one instead."""
        if other is None:
            return True
        return (self.earned, self.final) > (other.earned, other.final)


def voucher_bytes(escrow: bytes, node: bytes, earned: int, final: bool) -> bytes:
    """What is signed. ``escrow`` and ``node`` are raw 32-byte public keys."""
    if len(escrow) != 32 or len(node) != 32:
        raise LocalProtocolError(f"escrow and node of {len(escrow)} and {len(node)} bytes, must be 32")
    if not 0 <= earned < 2**64:
        raise LocalProtocolError(f"earned {earned}, must fit an unsigned 64-bit number")
    return _LAYOUT.pack(VOUCHER_TAG, escrow, node, earned, final)
