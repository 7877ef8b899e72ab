"""API keys: what a server keeps of them, whom it lets in, and how often. Pure.

A key is ``cyx_ID_SECRET`` with 256 random bits, so a plain hash of it is as good as a slow one.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from backend.serving.messages import ApiKey

PREFIX = "cyx"
_MAX_KEY_CHARACTERS = 200


def make_key(
    name: str, scopes: tuple[str, ...], per_minute: int, random: tuple[str, str], created: str
) -> tuple[str, ApiKey]:
    """The key, to be shown once, and what is kept of it. ``random``: an id and a secret."""
    text = f"{PREFIX}_{random[0]}_{random[1]}"
    return text, ApiKey(random[0], name, _hash(text), scopes, per_minute, created)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class Gatekeeper:
    """The keys of a server that runs, and how much of its limit each has used."""

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._keys: dict[str, ApiKey] = {}
        self.replace(keys)

    def replace(self, keys: tuple[ApiKey, ...]) -> None:
        self._keys = {key.id: key for key in keys}
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in self._keys}

    def find(self, text: str) -> ApiKey | None:
        """The key that ``text`` is. Takes the same time for whatever wrong secret."""
        parts = text.split("_", 2) if len(text) <= _MAX_KEY_CHARACTERS else []
        key = self._keys.get(parts[1]) if len(parts) == 3 else None
        if key is None or not hmac.compare_digest(_hash(text), key.sha256):
            return None
        return key

    def holds(self, key: ApiKey) -> bool:
        """Whether it has not been taken back since it was found."""
        known = self._keys.get(key.id)
        return known is not None and known.sha256 == key.sha256

    def wait_s(self, key: ApiKey, now: float) -> float:
        """Counts a request and returns 0, or how long until its key may be used again."""
        if key.per_minute <= 0:
            return 0.0
        rate = key.per_minute / 60
        bucket = self._buckets.setdefault(key.id, _Bucket(float(key.per_minute), now))
        bucket.tokens = min(float(key.per_minute), bucket.tokens + (now - bucket.filled_at) * rate)
        bucket.filled_at = now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / rate
        bucket.tokens -= 1
        return 0.0


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
