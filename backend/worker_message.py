"""What every message between a supervisor and its worker is made of. Pure data."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z", max_length=128)]


class WorkerMessage(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of both directions."""
