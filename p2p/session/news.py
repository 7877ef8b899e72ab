"""What whoever follows a job is told, one line at a time. Pure data."""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from p2p.jobs import FileRef, JobMetrics, JobState


class NewsKind(Enum):
    STATE = "state"
    """The coordinator's view of the job changed."""
    STAGE = "stage"
    """What the peer does or waits for."""
    MONEY = "money"
    CHECKPOINT = "checkpoint"
    RESULT = "result"
    NOTE = "note"
    PROGRESS = "progress"
    """A point of the training curve, in ``metrics``. Not numbered, not kept."""
    TRANSFER = "transfer"
    """Bytes of a file that moves. Not numbered, not kept."""

    @property
    def is_kept(self) -> bool:
        return self not in (NewsKind.PROGRESS, NewsKind.TRANSFER)


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a job's story. Kept lines are numbered from 1; the others have number 0."""

    kind: NewsKind
    text: str = ""
    job_id: str = ""
    number: int = 0
    at: float = 0.0
    state: JobState | None = None
    metrics: JobMetrics | None = None
    result: FileRef | None = None
    signature: str | None = None
    """Of the transaction that the line is about."""
    done: int = 0
    total: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON-like data, without what says nothing: but how far a transfer is, also at its first byte."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        counts = {"done": self.done, "total": self.total} if self.kind is NewsKind.TRANSFER else {}
        return fields | counts

    @staticmethod
    def from_json(data: dict[str, Any]) -> News:
        return msgspec.convert(data, News)
