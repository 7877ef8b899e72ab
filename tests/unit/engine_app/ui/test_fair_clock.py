from __future__ import annotations

from engine_app.ui.fair_clock import MIN_SLICE_S, slice_after


def test_a_light_frame_leaves_its_idle_time_to_the_others() -> None:
    assert slice_after(busy_s=0.002, idle_s=0.0147) == 0


def test_a_late_frame_is_followed_by_a_share_of_its_time() -> None:
    assert slice_after(busy_s=0.1, idle_s=-0.083) == 0.025


def test_no_frame_costs_the_others_more_than_a_bounded_wait() -> None:
    assert slice_after(busy_s=30, idle_s=-29) == 0.05
    assert slice_after(busy_s=-1, idle_s=0) == MIN_SLICE_S  # the clock was set back
