"""Slots, blockhashes and commitment from the time alone."""

from __future__ import annotations

import pytest

from coordinator.chain.slots import FINALIZED_AFTER, MAX_BLOCKHASH_AGE, SlotClock


def clock(wall: float = 1000.0, reserved: int = 0, monotonic: float = 0.0) -> SlotClock:
    return SlotClock(b"genesis", 1000.0, 0.4, reserved, wall, monotonic)


def test_a_blockhash_is_good_for_150_slots() -> None:
    slots = clock()
    early = slots.blockhash(slots.slot)
    slots.advance(0.4 * MAX_BLOCKHASH_AGE + 0.1)
    assert slots.is_recent(early)
    slots.advance(0.4 * (MAX_BLOCKHASH_AGE + 1) + 0.1)
    assert not slots.is_recent(early)


def test_every_slot_has_its_own_blockhash() -> None:
    slots = clock()
    assert len({slots.blockhash(slot) for slot in range(500)}) == 500


def test_commitment_grows_with_age() -> None:
    slots = clock()
    landed = slots.slot
    assert slots.commitment_of(landed) == "processed"
    slots.advance(0.5)
    assert slots.commitment_of(landed) == "confirmed"
    slots.advance(0.4 * FINALIZED_AFTER + 0.1)
    assert slots.commitment_of(landed) == "finalized"
    assert slots.at("finalized") == landed


def test_a_restart_goes_on_behind_everything_that_was_promised() -> None:
    before = clock()
    assert before.advance(10.0)
    after = clock(wall=1010.0, reserved=before.reserved)
    assert after.slot >= before.reserved > before.slot


def test_a_clock_set_back_does_not_set_the_slots_back() -> None:
    before = clock(wall=5000.0)
    before.advance(0.0)
    after = clock(wall=1000.0, reserved=before.reserved)
    assert after.slot > before.slot
    assert not after.is_recent(before.blockhash(before.slot - MAX_BLOCKHASH_AGE))


def test_slots_must_have_a_length() -> None:
    with pytest.raises(ValueError, match="longer than 0"):
        SlotClock(b"", 0.0, 0.0, 0, 0.0, 0.0)
