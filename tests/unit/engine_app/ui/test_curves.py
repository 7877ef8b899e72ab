from __future__ import annotations

import math

import numpy as np
import pytest

from engine_app.ui import curves
from engine_app.ui.curves import Curve, Span, as_csv, log_ticks, ribbon, smoothed, span_of, thinned, ticks


def test_thinning_keeps_every_peak_and_few_points() -> None:
    x = np.arange(100_000.0)
    y = np.sin(x / 5000)
    y[54_321], y[77] = 9.0, -7.0
    thin_x, thin_y = thinned(x, y, 0, 1e5, 800)
    assert len(thin_x) <= 2 * 800 + 6
    assert (thin_y.max(), thin_y.min()) == (9.0, -7.0)
    assert thin_x[np.argmax(thin_y)] == 54_321
    assert (np.diff(thin_x) > 0).all()
    assert (thin_x[0], thin_x[-1]) == (0, 99_999)


def test_a_window_into_a_curve_keeps_one_point_beyond_each_end() -> None:
    x = np.arange(100.0)
    found, _ = thinned(x, x, 10.5, 20.5, 50)
    assert (found[0], found[-1]) == (10, 21)


def test_gaps_stay_gaps() -> None:
    y = np.array([1.0, np.nan, 3.0, 5.0])
    assert np.array_equal(smoothed(y, 2), [1.0, np.nan, 3.0, 4.0], equal_nan=True)
    vertices, indices = ribbon(np.stack([np.arange(4.0), y], axis=1), 2)
    assert (len(vertices), len(indices)) == (4, 6)
    thin = thinned(np.arange(10_000.0), np.where(np.arange(10_000) == 5000, np.nan, 1.0), 0, 1e4, 100)[1]
    assert np.isfinite(thin).sum() > 100


def test_a_ribbon_is_as_wide_as_asked_for() -> None:
    vertices, indices = ribbon(np.array([[0.0, 0.0], [10.0, 0.0]]), 2)
    assert vertices[:, 1].max() - vertices[:, 1].min() == pytest.approx(2)
    assert sorted(set(indices.tolist())) == [0, 1, 2, 3]


def test_a_step_that_comes_again_replaces_what_came_after_it() -> None:
    curve = Curve()
    for x in range(600):
        curve.append(x, x)
    curve.append(300, -1)
    assert len(curve) == 301
    assert curve.value_at(10_000) == (300, -1)
    assert curve.value_at(299.2) == (299, 299)
    assert Curve().value_at(0) is None


def test_a_curve_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "MAX_POINTS", 512)
    curve = Curve()
    for x in range(5000):
        curve.append(x, x)
    assert len(curve) <= 512
    assert curve.x[-1] == 4999
    assert (np.diff(curve.x) > 0).all()


def test_ticks_are_round_and_inside() -> None:
    assert ticks(Span(0, 1), 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(Span(3, 3), 5) == []
    assert log_ticks(Span(0.02, 3)) == [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]
    assert log_ticks(Span(1e-6, 1e3))[0] == 1e-6


def test_what_a_peer_says_beyond_reckoning_leaves_a_plot_that_can_be_drawn() -> None:
    curve = Curve()
    for x, y in ((1.0, 0.5), (2.0, 1.7e308), (1e18, 0.1), (math.inf, 1.0), (math.nan, 1.0), (3.0, 0.25)):
        curve.append(x, y)
    assert curve.x.tolist() == [1, 2, 3]
    assert np.isnan(curve.y).tolist() == [False, True, False]
    assert log_ticks(span_of([curve.y], log=True))


def test_spans_are_never_empty_and_stay_within() -> None:
    assert span_of([]) == Span(0, 1)
    flat = span_of([np.array([2.0, np.nan])])
    assert flat.low < 2 < flat.high
    assert span_of([np.array([-1.0, 0.1, 10])], log=True).low == pytest.approx(0.1 / 1.2)
    assert Span(-5, 5).within(Span(0, 100)) == Span(0, 10)
    assert Span(0, 100).zoomed(25, 2) == Span(12.5, 62.5)


def test_csv_has_a_row_for_every_step() -> None:
    one, other = Curve(), Curve()
    one.append(1, 0.5)
    one.append(2, 0.25)
    other.append(2, 0.9)
    assert as_csv({"loss": one, "accuracy": other}).splitlines() == [
        "step,loss,accuracy",
        "1,0.5,",
        "2,0.25,0.9",
    ]
