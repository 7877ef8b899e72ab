"""Bodies of nodes, cut into rims and insides that are, together, what they were."""

from __future__ import annotations

import numpy as np
import pytest

from engine_app.scene.bodies import MOST_COMPARED, apart, cut
from engine_app.scene.meshes import boxes
from engine_app.scene.snapshot import Floats

FILL, HEAD = (0.1, 0.2, 0.3, 1.0), (0.4, 0.5, 0.6, 36.0)


def bodies(*sizes: tuple[float, float]) -> Floats:
    corners = np.array([(300.0 * place, 7.0) for place in range(len(sizes))], np.float32)
    lines = (0.0, 0.0, 0.0, 1.2)
    return boxes(corners, np.array(sizes, np.float32), FILL, radius=10, lines=lines, heads=HEAD, shadows=0.35)


def area(quads: Floats) -> float:
    width, height = (quads[:, 3, axis] - quads[:, 0, axis] for axis in (0, 1))
    return float((width * height).sum())


@pytest.mark.parametrize("zoom", [0.5, 1.0, 3.0])
def test_rims_and_insides_cover_each_body_once(zoom: float) -> None:
    whole = bodies((200, 112), (150, 90))
    rims, insides, is_cut = cut(whole, zoom, 2.5)
    assert is_cut.all() and area(rims) + area(insides) == pytest.approx(area(whole))
    assert area(rims) < area(whole) * 0.75
    # The shader finds every place where it was: the rims are parts of the boxes, not other boxes.
    middle = rims[:, :, 0:2] - rims[:, :, 2:4]
    assert {tuple(each) for each in middle.reshape(-1, 2).round(3).tolist()} == {(100.0, 63.0), (375.0, 52.0)}


def test_insides_have_the_colours_of_head_and_body_away_from_every_edge() -> None:
    _, insides, _ = cut(bodies((200, 112)), 1.0, 2.5)
    head, body = insides
    assert np.allclose(head[:, 2:], (*HEAD[:3], 1)) and np.allclose(body[:, 2:], FILL)
    assert head[:, 0].min() > 2.5 and head[:, 1].min() == 7 + 10 and head[:, 1].max() < 7 + 36
    assert body[:, 0].max() < 200 - 2.5 and body[:, 1].min() > 7 + 36 and body[:, 1].max() == 7 + 112 - 10


def test_what_has_no_inside_is_left_whole() -> None:
    rims, insides, is_cut = cut(bodies((200, 36), (5, 112), (200, 112)), 1.0, 2.5)
    assert is_cut.tolist() == [False, False, True] and (len(rims), len(insides)) == (7, 2)


def test_bodies_that_touch_are_not_apart() -> None:
    corners = np.array([(0, 0), (50, 0), (300, 0)], np.float32)
    sizes = np.full((3, 2), 100, np.float32)
    assert apart(corners, sizes, 0).tolist() == [False, False, True]
    assert apart(corners, sizes, 80).tolist() == [False] * 3
    crowd = np.arange(2.0 * (MOST_COMPARED + 1), dtype=np.float32).reshape(-1, 2) * 1000
    assert not apart(crowd, np.ones_like(crowd), 0).any()
