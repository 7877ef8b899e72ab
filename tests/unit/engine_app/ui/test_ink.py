from __future__ import annotations

import numpy as np

from engine_app.ui.ink import rasterized


def test_nothing_drawn_is_an_empty_picture() -> None:
    assert not rasterized([], 8, 8).any()


def test_a_drawing_is_fitted_centred_and_keeps_its_shape() -> None:
    corner = [[(0.1, 0.1), (0.1, 0.3)]]  # a small upright line in a corner
    for side, margin in ((8, 0), (28, 4)):
        ink = rasterized(corner, side, side)
        assert ink.shape == (side, side)
        assert ink.max() == 1.0
        rows, columns = np.nonzero(ink > 0.3)
        assert abs(rows.mean() - (side - 1) / 2) < 1 and abs(columns.mean() - (side - 1) / 2) < 1
        assert np.ptp(rows) > 2 * np.ptp(columns)
        assert rows.min() >= margin


def test_up_is_up_and_pictures_may_be_oblong() -> None:
    hook = [[(0.5, 0.1), (0.5, 0.9), (0.9, 0.9)]]
    ink = rasterized(hook, 20, 30)
    assert ink[:10, 15:].sum() > 2 * ink[10:, 15:].sum()
    assert not rasterized(hook, 20, 30)[:, :4].any()


def test_very_long_drawings_are_thinned() -> None:
    spiral = [[(0.5 + t * np.cos(50 * t) / 2, 0.5 + t * np.sin(50 * t) / 2) for t in np.linspace(0, 1, 9000)]]
    assert rasterized(spiral, 28, 28).sum() > 30


def test_ink_is_what_lies_near_the_pen_and_nothing_else() -> None:
    """As if every pixel's distance from every line had been measured."""
    line = [[(0.0, 0.0), (1.0, 1.0)]]
    ink = rasterized(line, 28, 28)
    rows, columns = np.nonzero(ink)
    assert (np.abs(rows + columns - 27) <= 3).all()
    assert (ink[np.arange(5, 23), 27 - np.arange(5, 23)] == 1).all()
