from __future__ import annotations

import numpy as np

from engine_app.document.view import Rect
from engine_app.scene.pulse import Sparks, Training, curves, pulses
from engine_app.scene.render import FINE
from engine_app.scene.snapshot import SnapshotBuilder
from tests.unit.engine_app.document.builders import line
from tests.unit.engine_app.scene.test_render import ALL, picture

SCENE = SnapshotBuilder().build(line("Dense", "ReLU"))
SPARKS = {"dense": Sparks((0.1, 0.4, 0.2), (1.0, 0.5)), "relu": Sparks((0.3,)), "gone": Sparks((1.0,))}


def test_a_pulse_goes_along_each_link_from_its_start_to_its_end() -> None:
    assert len(pulses(picture(SCENE), Training(None, SPARKS), ALL)) == 0
    places = [
        pulses(picture(SCENE), Training(phase, SPARKS), ALL)[:, :, 0:2].mean(1)[0]
        for phase in (0.0, 0.5, 0.999)
    ]
    assert np.allclose(places[0], SCENE.corners[0] + SCENE.link_offsets[0, 0], atol=1)
    assert places[0][0] < places[1][0] < places[2][0]
    assert len(pulses(picture(SCENE), Training(0.2, SPARKS), Rect(9e4, 9e4, 10, 10))) == 0


def test_curves_lie_below_their_nodes_and_only_where_they_can_be_read() -> None:
    lines, texts = curves(picture(SCENE), Training(0.0, SPARKS), ALL)
    assert len(lines) == len(texts) == 3
    assert all(each.shape[:2] == (1, 2 * (FINE + 1)) and np.isfinite(each).all() for each in lines)
    (below,) = [SCENE.rect(number).bottom for number in (SCENE.index["dense"],)]
    assert lines[0][0, :, 1].min() > below
    assert curves(picture(SCENE, 0.3), Training(0.0, SPARKS), ALL) == ([], [])
