from __future__ import annotations

import math
from itertools import combinations

import pytest

from engine_app.scene.radial import EDGE, MOST, TARGET, beside, ring


@pytest.mark.parametrize("count", range(1, MOST + 1))
@pytest.mark.parametrize("at", [(0.0, 0.0), (640.0, 400.0), (1280.0, 2.0)])
def test_targets_lie_in_the_window_apart_and_are_met(count: int, at: tuple[float, float]) -> None:
    found = ring(count, at, (1280.0, 800.0))
    margin = TARGET / 2 + EDGE - 1
    for number, (x, y) in enumerate(found.places):
        assert margin <= x <= 1280 - margin and margin <= y <= 800 - margin
        assert found.meant(x + 20, y - 20) == number
    assert all(math.dist(a, b) >= TARGET for a, b in combinations(found.places, 2))
    assert found.meant(*found.middle) is None
    if at == (640.0, 400.0):
        assert found.middle == at


def test_a_window_that_is_too_small_has_it_in_the_middle_and_keys_go_around() -> None:
    found = ring(8, (10, 10), (200, 900), dp=2.0)
    assert found.middle[0] == 100
    assert beside(found.places, None, 1) == 0 and beside(found.places, None, -1) == 7
    assert beside(found.places, 7, 1) == 0
