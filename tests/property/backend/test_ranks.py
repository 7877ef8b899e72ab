"""However a batch is cut, its parts cover it, and their means make its mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.distributed import SMALLEST_PART, part_of


@given(st.integers(1, 500), st.integers(2, 64))
def test_parts_cover_a_batch_and_their_means_make_its_mean(samples: int, ranks: int) -> None:
    values = [float(number % 7) for number in range(samples)]
    parts = [part_of(samples, rank, ranks) for rank in range(ranks)]
    if samples >= SMALLEST_PART * ranks:
        assert [parts[0].first, *(part.end for part in parts)] == [part.first for part in parts] + [samples]
        assert min(part.end - part.first for part in parts) >= SMALLEST_PART
    means = [sum(values[part.first : part.end]) / (part.end - part.first) for part in parts]
    mean = sum(part.share * each for part, each in zip(parts, means, strict=True))
    assert mean == pytest.approx(sum(values) / samples)
    counted = sum(part.weight(samples) * (part.end - part.first) for part in parts)
    assert counted == pytest.approx(samples)
