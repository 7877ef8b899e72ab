from __future__ import annotations

import pytest

from tests.unit.coordinator.builders import Make


@pytest.fixture
def make() -> Make:
    return Make()
