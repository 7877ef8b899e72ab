"""Hypothesis for machines that are busy: no deadlines, and the same examples every time."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "cyxwiz", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("cyxwiz")
