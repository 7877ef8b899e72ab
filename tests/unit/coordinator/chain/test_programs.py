"""What a program leaves behind in the registers of its thread reaches nobody's numbers."""

from __future__ import annotations

import numpy as np
import pytest
from solders.keypair import Keypair

from coordinator.chain.genesis import MINT
from coordinator.chain.ledger import Ledger
from coordinator.chain.slots import SlotClock
from p2p.chain.escrow_codec import create_token_account


@pytest.mark.parametrize("lands", [False, True])
def test_numbers_are_right_after_a_program_has_run(lands: bool) -> None:
    authority = Keypair()
    clock = SlotClock(bytes(32), 0.0, 0.4, 0, 0.0, 0.0)
    ledger = Ledger(clock, authority, Ledger.genesis(authority), 0, lambda: 1e9, lambda: 0.0)
    owner = str(authority.pubkey())
    transaction = ledger.sign([create_token_account(owner, owner, MINT)])
    matrix = np.arange(12.0).reshape(3, 4)
    sizes = np.linalg.svd(matrix, compute_uv=False)  # OpenBLAS takes norms with the x87 unit

    result = ledger.land(transaction) if lands else ledger.simulate(transaction, check_signatures=True)

    assert result.error is None and result.units > 10_000
    assert np.array_equal(np.linalg.svd(matrix, compute_uv=False), sizes)
