from __future__ import annotations

import math

from backend.reports import MAX_WATCHED, NodeActivity, Watched
from engine_app.ui.activity import FASTEST, KEPT, Activity, pulse_speed
from tests.unit.engine_app.document.builders import line

MLP = line("Dense", "ReLU")


def test_what_is_told_of_nodes_is_kept_within_bounds_and_without_what_is_no_number() -> None:
    found = Activity(MLP)
    for step in range(KEPT + 5):
        dense = NodeActivity("dense", 0.0, float(step), None if step == 0 else math.nan)
        found.add(Watched(step, (dense, NodeActivity("relu", 0.0, math.inf, 2.0))))
    assert list(found.traces["dense"].spread) == [float(step) for step in range(5, KEPT + 5)]
    assert not found.traces["dense"].gradients and not found.traces["relu"].spread
    found.add(Watched(9, tuple(NodeActivity(f"n{i}", 0.0, 1.0) for i in range(MAX_WATCHED))))
    assert len(found.traces) == MAX_WATCHED
    assert found.belongs_to(MLP) and not found.belongs_to(line("GELU"))


def test_pulses_are_faster_for_more_samples_and_stand_still_for_none() -> None:
    speeds = [pulse_speed(each) for each in (10.0, 1e3, 1e5, 1e9)]
    assert speeds == sorted(speeds) and speeds[-1] == FASTEST
    assert pulse_speed(None) == pulse_speed(0.0) == pulse_speed(math.nan) == 0.0
