"""Hypothesis for machines that are busy: no deadlines, and the same examples every time."""

import pytest
from hypothesis import HealthCheck, settings

FAST_EXAMPLES = 40
settings.register_profile(
    "cyxwiz", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fast", parent=settings.get_profile("cyxwiz"), max_examples=FAST_EXAMPLES)


def pytest_configure(config: pytest.Config) -> None:
    """Fewer examples where slow tests are left out."""
    settings.load_profile("fast" if "not slow" in config.option.markexpr else "cyxwiz")
