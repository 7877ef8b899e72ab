"""Indices of meshes stay within 16 bits."""

from __future__ import annotations

from engine_app.scene.meshes import QUAD, ribbon_indices
from engine_app.scene.render import FINE


def test_no_shape_reaches_beyond_its_own_vertices() -> None:
    assert QUAD.max() == 3
    assert ribbon_indices(FINE).max() == 2 * (FINE + 1) - 1
    assert ribbon_indices(FINE).min() == 0
