"""A taste of the fuzzing that ``scripts/fuzz/wire.py`` does for as long as one likes."""

from __future__ import annotations

import pytest
from fuzz.wire import play


@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_hostile_rounds_break_nothing(start: int) -> None:
    for seed in range(start, start + 25):
        play(seed)
