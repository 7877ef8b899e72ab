"""How much of a list goes into one answer."""

from __future__ import annotations

from coordinator.answers import as_many_as_fit


def test_a_list_is_cut_where_its_parts_are_more_than_an_answer_holds() -> None:
    parts = ["x" * 997] * 10  # 1,000 bytes each
    assert as_many_as_fit(parts, 10_000) == tuple(parts)
    assert as_many_as_fit(parts, 9_999) == tuple(parts[:9])
    assert as_many_as_fit([], 1) == ()
