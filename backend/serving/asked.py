"""A request to a model and the head of its answer, apart from any connection: what a gateway and a worker's
channel pass on. Pure.

Of the header fields only those below mean something to a model; no other is passed on, least of all a key.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.serving.http import Headers

ASKED_FIELDS = frozenset({b"accept", b"inference-header-content-length", b"x-dtype", b"x-model", b"x-shape"})
"""Beside the content type; lower case. Without them neither raw tensors nor the binary extension of the
Open Inference Protocol can be read."""
ANSWERED_FIELDS = frozenset(
    {b"inference-header-content-length", b"retry-after", b"x-dtype", b"x-output", b"x-shape"}
)
MAX_FIELD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    content_type: str = ""
    body: bytes = b""
    headers: Headers = ()
    """Those of ``ASKED_FIELDS`` that were given."""


def passed_on(headers: Headers, fields: frozenset[bytes]) -> Headers:
    """Those named in ``fields`` whose values are not too long. Names are lower case."""
    return tuple((name, value) for name, value in headers if name in fields and len(value) <= MAX_FIELD_BYTES)
