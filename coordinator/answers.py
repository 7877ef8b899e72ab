"""As much of a list as one answer may hold: strangers decide how long its parts are. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from p2p.protocols.coordinator import LIMITS

P = TypeVar("P")

MAX_BYTES = LIMITS.message_bytes // 2
"""Of the other half nearly all stays free: the largest single part there is takes less than a megabyte."""

_ENCODER = msgspec.msgpack.Encoder()


def as_many_as_fit(parts: Iterable[P], limit_bytes: int = MAX_BYTES) -> tuple[P, ...]:
    """From the first one on; of parts that are all within ``limit_bytes`` at least one."""
    fitting: list[P] = []
    for part in parts:
        limit_bytes -= len(_ENCODER.encode(part))
        if limit_bytes < 0:
            break
        fitting.append(part)
    return tuple(fitting)
