"""A limit on bytes per second: the token bucket. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.errors import LocalProtocolError

_BURST_S = 0.25
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(slots=True)
class TokenBucket:
    """``bytes_per_s`` on average; idle time saves up for a quarter of a second at most."""

    bytes_per_s: float
    _ready_at: float = float("-inf")
    """When all that was taken so far is paid for."""

    def take(self, size: int, now: float) -> float:
        """Takes ``size`` bytes; returns how many seconds to wait before they may move."""
        began = max(self._ready_at, now - _BURST_S)
        self._ready_at = began + size / self.bytes_per_s
        return max(0.0, began - now)

    def give_back(self, size: int) -> None:
        """What was taken and did not move after all."""
        self._ready_at -= size / self.bytes_per_s


def parse_bytes(text: str) -> int:
    """Bytes, or bytes per second, from ``20M``, ``500K`` or ``1000000``. Raises LocalProtocolError."""
    digits, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in ("K", "M", "G") else (text, "")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 12 or int(digits) == 0:
        raise LocalProtocolError(f"{text!r} bytes, allowed are whole numbers such as 500K, 20M or 1G")
    return int(digits) * _UNITS[unit]
