from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.pipeline import read_pipeline
from backend.reports import WantSamples
from backend.sample_plan import make_schedule
from backend.samples import open_samples
from tests.property.effort import examples
from tests.unit.backend.make_samples import small_graph, write_samples
from tests.unit.backend.test_feed import Owner

PIPELINE = read_pipeline(small_graph())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("fed") / "data.safetensors", dtype="uint8")


@settings(
    max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(given_data=st.data())
def test_any_interleaving_of_answers_gives_the_same_rows(data: Path, given_data: st.DataObject) -> None:
    def choose(asked: Sequence[WantSamples]) -> WantSamples:
        return given_data.draw(st.sampled_from(list(asked)))

    owner = Owner(data, PIPELINE, choose)
    fed = owner.open(
        ahead_bytes=given_data.draw(st.integers(1, 5000)), answer_bytes=given_data.draw(st.integers(1, 500))
    )
    schedule = make_schedule(
        PIPELINE, 101, given_data.draw(st.integers(1, 5)), (), given_data.draw(st.integers(1, 3000))
    )
    step = schedule.segment_end(0) if given_data.draw(st.booleans()) else 0
    fed.expect(schedule.windows(step))
    local = open_samples(data, PIPELINE)
    for window in schedule.windows(step):
        for found, expected in zip(fed.gather(window), local.gather(window), strict=True):
            assert found.tobytes() == expected.tobytes()
            assert found.shape == expected.shape
    assert not owner.asked
