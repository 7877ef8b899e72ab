"""What a peer says about a job, numbered, while its follower may be slow or away. Pure.

A message gets its number when it is handed out to be sent. Until then a newer progress or stage
replaces an older one, so a slow follower sees fewer points and the log stays small. Segments,
results, failures and ends (landmarks) are never dropped, not even once acknowledged: a follower that lost
its notes can ask for all of them again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

import msgspec

from p2p.errors import LocalProtocolError, RemoteProtocolError
from p2p.protocols.job import (
    CREDIT,
    JobClosed,
    JobFailed,
    JobProgress,
    JobStage,
    ResultReady,
    SegmentFinished,
)

Numbered = JobStage | JobProgress | SegmentFinished | ResultReady | JobFailed | JobClosed
MAX_LANDMARKS = 4096
"""Far above the segments that a job may have."""


class ProgressLog:
    """Add messages at one end, take numbered ones at the other as the follower's credit allows.

    At most ``credit`` messages are on their way unacknowledged, at most one progress and one
    stage wait to be numbered, and at most ``max_landmarks`` landmarks are kept. A log that begins
    again after a restart goes on counting from ``latest``, the last number its follower has.
    """

    def __init__(self, credit: int = CREDIT, max_landmarks: int = MAX_LANDMARKS, *, latest: int = 0) -> None:
        self._credit = credit
        self._max_landmarks = max_landmarks
        self._landmarks = 0
        self._waiting: deque[Numbered] = deque()
        self._kept: list[Numbered] = []
        """Numbered, ascending: all that is unacknowledged, and every landmark."""
        self._latest = latest
        self._taken = latest
        self._acknowledged = latest

    @property
    def oldest(self) -> int:
        """The lowest number that can still be asked for; ``latest + 1`` when nothing is kept."""
        return self._kept[0].sequence if self._kept else self._latest + 1

    @property
    def latest(self) -> int:
        """The newest number given out, 0 before the first."""
        return self._latest

    @property
    def is_drained(self) -> bool:
        """True when the follower has acknowledged everything that was added."""
        return not self._waiting and self._acknowledged == self._latest

    def add(self, message: Numbered) -> None:
        """Whatever number ``message`` carries is replaced by its own.

        Raises LocalProtocolError when there are too many landmarks to keep.
        """
        if isinstance(message, JobProgress | JobStage):
            self._drop_waiting(type(message))
        elif self._landmarks == self._max_landmarks:
            raise LocalProtocolError(f"more than {self._max_landmarks} segments, results and ends in one job")
        else:
            self._landmarks += 1
        self._waiting.append(message)

    def take(self) -> Numbered | None:
        """The next message to send, or None if there is none or the credit is used up."""
        taken_at, acknowledged_at = self._position(self._taken), self._position(self._acknowledged)
        if taken_at - acknowledged_at >= self._credit:
            return None
        if taken_at == len(self._kept) and not self._number_next():
            return None
        message = self._kept[taken_at]
        self._taken = message.sequence
        return message

    def acknowledge(self, sequence: int) -> None:
        """The follower has everything up to ``sequence``; an older number changes nothing.

        Raises RemoteProtocolError for a number that was never given out.
        """
        self._check_known(sequence)
        if sequence <= self._acknowledged:
            return
        self._acknowledged = sequence
        self._taken = max(self._taken, sequence)
        self._kept = [kept for kept in self._kept if kept.sequence > sequence or _is_landmark(kept)]

    def replay(self, after: int) -> None:
        """A follower (re)connected that has everything up to ``after``; ``take`` goes on from there.

        Raises RemoteProtocolError for a number that was never given out.
        """
        self.acknowledge(after)
        self._acknowledged = after
        self._taken = after

    def _check_known(self, sequence: int) -> None:
        if not 0 <= sequence <= self._latest:
            raise RemoteProtocolError(f"number {sequence} was never sent, the newest is {self._latest}")

    def _drop_waiting(self, kind: type[JobProgress] | type[JobStage]) -> None:
        for message in self._waiting:
            if isinstance(message, kind):
                self._waiting.remove(message)
                return

    def _number_next(self) -> bool:
        if not self._waiting:
            return False
        self._latest += 1
        self._kept.append(msgspec.structs.replace(self._waiting.popleft(), sequence=self._latest))
        return True

    def _position(self, sequence: int) -> int:
        """How many kept messages have numbers up to ``sequence``."""
        return bisect_right(self._kept, sequence, key=lambda kept: kept.sequence)


def _is_landmark(message: Numbered) -> bool:
    return not isinstance(message, JobProgress | JobStage)
