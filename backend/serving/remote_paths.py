"""What may be asked of a model from another machine. Pure.

A peer checks it before it passes a request on, and the model's worker again: what manages models and keys
is left to those who run the server.
"""

from __future__ import annotations

import re

_ALLOWED = re.compile(r"/health|/metrics|/v1/[A-Za-z0-9._/-]+|/v2(/[A-Za-z0-9._/-]+)?")
_MANAGING = re.compile(r"/v2/repository/models/.*")
_METHODS = ("GET", "POST")
MAX_PATH_CHARACTERS = 512


def why_refused(method: str, path: str) -> str | None:
    """None where it may be asked."""
    if method not in _METHODS:
        return f"method {method[:20]!r}, allowed are {', '.join(_METHODS)}"
    if len(path) > MAX_PATH_CHARACTERS:
        return f"path of {len(path)} characters, limit {MAX_PATH_CHARACTERS}"
    if not _ALLOWED.fullmatch(path) or _MANAGING.fullmatch(path) or ".." in path or "//" in path:
        return (
            f"path {path[:80]!r}, allowed are /v1/..., /v2/..., /health and /metrics, to ask, not to manage"
        )
    return None
