"""What stops and starts a training thread: permission by segment, pause, cancellation. No I/O.

One thread trains and calls ``before_step`` and ``wait_for_segment``; another gives the orders.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TrainingCancelled(Exception):
    """Unwinds the training thread after Cancel."""


class Gate:
    """Orders to one training, and how it stands. ``now`` is a monotonic clock in seconds."""

    def __init__(self, allowed_segments: int, now: Callable[[], float]) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._allowed = allowed_segments
        self._paused = False
        self._cancelled = False
        self._guests = 0
        self._held = False
        """Whether ``before_step`` has anything to look at; read without the lock, for speed."""
        self._working_since: float | None = None
        self._step_lock = threading.Lock()

    # -- orders --------------------------------------------------------------------------------

    def allow(self, upto: int) -> None:
        with self._changed:
            self._allowed = max(self._allowed, upto)
            self._changed.notify_all()

    def pause(self) -> None:
        self._change(paused=True)

    def resume(self) -> None:
        self._change(paused=False)

    def cancel(self) -> None:
        self._change(cancelled=True)

    def wake(self) -> None:
        """Something changed that the training may wait for."""
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Holds the training still between two steps, for work that shares torch's global state."""
        with self._changed:
            self._guests += 1
            self._held = True
        self._step_lock.acquire()
        try:
            yield
        finally:
            self._step_lock.release()
            with self._changed:
                self._guests -= 1
                self._update_held()

    def stalled_s(self) -> float:
        """How long the step that runs has been running; 0 while none is meant to."""
        since = self._working_since
        return 0.0 if since is None else max(0.0, self._now() - since)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what others are waited for in the middle of a step: that is nobody's stall."""
        self._working_since = None
        try:
            yield
        finally:
            self._working_since = self._now()

    # -- the training thread -------------------------------------------------------------------

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around everything that the training thread does."""
        self._step_lock.acquire()
        self._working_since = self._now()
        try:
            yield
        finally:
            self._working_since = None
            self._step_lock.release()

    def wait_for_segment(self, segment: int, on_wait: Callable[[], None]) -> None:
        """Returns when ``segment`` is allowed; calls ``on_wait`` first if it is not yet.

        Raises TrainingCancelled.
        """
        with self._changed:
            waits = segment >= self._allowed and not self._cancelled
        if waits:
            on_wait()
        self._rest(lambda: segment < self._allowed)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Returns when ``condition`` holds; looks again after each ``wake``. Raises TrainingCancelled."""
        self._rest(condition)

    def before_step(self, on_pause: Callable[[], None], on_resume: Callable[[], None]) -> None:
        """Returns when the next step may run. Raises TrainingCancelled."""
        self._working_since = self._now()
        if not self._held:
            return
        with self._changed:
            paused = self._paused and not self._cancelled
        if paused:
            on_pause()
        self._rest(lambda: not self._paused and not self._guests)
        if paused:
            on_resume()

    def _rest(self, until: Callable[[], bool]) -> None:
        self._working_since = None
        self._step_lock.release()
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._cancelled or until())
                cancelled = self._cancelled
        finally:
            self._step_lock.acquire()
            self._working_since = self._now()
        if cancelled:
            raise TrainingCancelled

    def _change(self, *, paused: bool | None = None, cancelled: bool = False) -> None:
        with self._changed:
            if paused is not None:
                self._paused = paused
            self._cancelled = self._cancelled or cancelled
            self._update_held()

    def _update_held(self) -> None:
        self._held = self._paused or self._cancelled or self._guests > 0
        self._changed.notify_all()
