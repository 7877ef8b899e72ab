"""What a job costs. Pure integers, so that Engine, peer and coordinator get the same amount."""

from __future__ import annotations

from p2p.identifiers import Units

MILLISECONDS_PER_HOUR = 3_600_000
STARTUP_MS = 2_000
"""Charged on every job: transfer, loading and building the model."""
PLATFORM_DIVISOR = 10
"""The platform gets floor(amount / 10)."""


def estimated_duration_ms(training_flops: int, device_flops_per_s: int) -> int:
    """Time on a device, rounded up.

    Raises ValueError for a device that claims no speed at all.
    """
    if device_flops_per_s <= 0:
        raise ValueError(f"device speed of {device_flops_per_s} FLOP/s, must be positive")
    return STARTUP_MS + -(-training_flops * 1000 // device_flops_per_s)


def price_of(duration_ms: int, price_per_hour: int) -> Units:
    """Units for a duration at a price in units per device-hour, rounded up, at least 1."""
    return Units(max(1, -(-duration_ms * price_per_hour // MILLISECONDS_PER_HOUR)))


def earned_after(amount: int, segments_done: int, segments: int) -> Units:
    """Cumulative units earned once ``segments_done`` of ``segments`` are proven; exact at the end."""
    if not 0 <= segments_done <= segments:
        raise ValueError(f"{segments_done} segments done, must be between 0 and {segments}")
    return Units(amount * segments_done // segments)


def split(amount: int) -> tuple[Units, Units]:
    """(to the node, to the platform), as the escrow program splits it."""
    platform = amount // PLATFORM_DIVISOR
    return Units(amount - platform), Units(platform)
