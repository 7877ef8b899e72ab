"""Windows of samples read from disk while the one before is trained on: one thread, one window ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.sample_plan import Window

if TYPE_CHECKING:
    from backend.samples import Rows


@dataclass(eq=False, slots=True)
class _Reading:
    window: Window
    thread: threading.Thread | None = None
    rows: Rows | None = None
    error: Exception | None = None


class ReadAhead:
    """``read`` is called by one thread at a time: that of whoever takes, or the reader's own."""

    def __init__(self, read: Callable[[Window], Rows], plan: Iterator[Window]) -> None:
        """Begins to read the first window of ``plan``, what will be taken in this order."""
        self._read = read
        self._plan = plan
        self._reading: _Reading | None = None
        self._begin_next()

    def take(self, window: Window) -> Rows:
        """Also a window that was not planned, which is then read now. Raises what ``read`` does."""
        reading = self._reading
        if reading is not None and reading.thread is not None:
            reading.thread.join()
        if reading is None or reading.window != window:
            return self._read(window)
        self._begin_next()
        if reading.error is not None:
            raise reading.error
        assert reading.rows is not None
        return reading.rows

    def _begin_next(self) -> None:
        window = next(self._plan, None)
        reading = self._reading = _Reading(window) if window is not None else None
        if reading is not None:
            # A daemon: nobody waits for a disk when the program ends.
            reading.thread = threading.Thread(target=self._fill, args=(reading,), daemon=True)
            reading.thread.start()

    def _fill(self, reading: _Reading) -> None:
        try:
            reading.rows = self._read(reading.window)
        except Exception as error:  # the thread's boundary: whoever takes the window gets it
            reading.error = error
