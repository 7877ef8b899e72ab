"""What a job costs, and what each part of it earns."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from p2p.pricing import earned_after, price_of, remaining_amount


@given(st.integers(0, 10**13), st.integers(0, 10**8), st.integers(1, 500), st.data())
def test_each_segment_earns_more_than_the_one_before(
    price_per_hour: int, duration_ms: int, segments: int, data: st.DataObject
) -> None:
    """A voucher of no more than the one before proves nothing: the peer would wait for another."""
    first = data.draw(st.integers(0, segments - 1))
    left = segments - first
    amount = remaining_amount(price_of(duration_ms, price_per_hour), first, segments)
    earned = [earned_after(amount, done, left) for done in range(left + 1)]
    assert earned[0] == 0 and earned[-1] == amount
    assert all(less < more for less, more in itertools.pairwise(earned))
