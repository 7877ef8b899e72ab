"""Slots, blockhashes and commitment of the embedded chain, from the time alone. Pure.

A slot's blockhash is a hash of the genesis and the slot's number, so it need not be stored, and a
transaction signed before a restart is as good as it would have been without.
"""

from __future__ import annotations

import hashlib

MAX_BLOCKHASH_AGE = 150
CONFIRMED_AFTER = 1
FINALIZED_AFTER = 32
RESERVED_SLOTS = 25
"""So many slots ahead are promised on disk; a restart begins behind them whatever the clock says."""


class SlotClock:
    """Slot numbers never go back, over restarts and clocks that are set back."""

    def __init__(
        self, genesis: bytes, genesis_time: float, slot_s: float, reserved: int, wall: float, monotonic: float
    ) -> None:
        if slot_s <= 0:
            raise ValueError(f"slots of {slot_s} s, must be longer than 0")
        self._genesis = genesis
        self._slot_s = slot_s
        self._started = monotonic
        self._first = max(int((wall - genesis_time) / slot_s) + FINALIZED_AFTER + 1, reserved)
        self._by_hash: dict[bytes, int] = {}
        self.slot = self._first
        self.reserved = reserved
        self._remember()

    def advance(self, monotonic: float) -> bool:
        """True if ``reserved`` moved: it must be on disk before anybody hears of the new slot."""
        slot = self._first + int((monotonic - self._started) / self._slot_s)
        if slot > self.slot:
            self.slot = slot
            self._remember()
        if self.slot < self.reserved:
            return False
        self.reserved = self.slot + RESERVED_SLOTS
        return True

    def _remember(self) -> None:
        self._by_hash = {
            self.blockhash(slot): slot for slot in range(self.slot - MAX_BLOCKHASH_AGE, self.slot + 1)
        }

    def blockhash(self, slot: int) -> bytes:
        return hashlib.sha256(self._genesis + slot.to_bytes(8, "little", signed=True)).digest()

    def is_recent(self, blockhash: bytes) -> bool:
        return blockhash in self._by_hash

    def at(self, commitment: str) -> int:
        """The newest slot of a commitment level."""
        return self.slot - {"processed": 0, "confirmed": CONFIRMED_AFTER}.get(commitment, FINALIZED_AFTER)

    def commitment_of(self, slot: int) -> str:
        if self.slot - slot >= FINALIZED_AFTER:
            return "finalized"
        return "confirmed" if self.slot - slot >= CONFIRMED_AFTER else "processed"
