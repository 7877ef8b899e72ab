"""What a job costs. Pure integers, so that Engine, peer and coordinator get the same amount."""

from __future__ import annotations

from p2p.identifiers import UNITS_PER_TOKEN, Units

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


def remaining_amount(quote: int, first_segment: int, segments: int) -> Units:
    """What the segments from ``first_segment`` on cost of a quote for all of them, rounded up.

    A unit each at least, whatever the price: each is proven by a voucher of more than the one before.
    """
    if not 0 <= first_segment < segments:
        raise ValueError(f"first segment {first_segment}, must be between 0 and {segments - 1}")
    left = segments - first_segment
    return Units(max(left, -(-quote * left // segments)))


def format_tokens(units: int) -> str:
    """``1.5 CYXWIZ``: exact, without trailing zeros."""
    whole, rest = divmod(abs(units), UNITS_PER_TOKEN)
    decimals = f"{rest:09d}".rstrip("0")
    sign = "-" if units < 0 else ""
    return f"{sign}{whole}{'.' if decimals else ''}{decimals} CYXWIZ"


def parse_tokens(text: str) -> Units:
    """Units of a decimal number of tokens. Raises ValueError for anything but a plain positive number."""
    whole, _, decimals = text.strip().partition(".")
    digits = whole + decimals
    if not digits.isascii() or not digits.isdigit() or len(decimals) > 9 or len(whole) > 9:
        raise ValueError(
            f"{text[:40]!r} is no amount, allowed a number below 10^9 with at most 9 decimals, such as 2.5"
        )
    return Units(int(whole or "0") * UNITS_PER_TOKEN + int(decimals.ljust(9, "0") or "0"))
