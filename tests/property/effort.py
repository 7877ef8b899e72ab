"""How many examples a property is given: all of them, or fewer where slow tests are left out."""

from hypothesis import settings

ALL = 100
"""What the whole suite gives a property that names no number: hypothesis' own."""


def examples(number: int) -> int:
    """So many of them as the profile that is loaded gives of ``ALL``."""
    return max(1, number * settings.default.max_examples // ALL)
