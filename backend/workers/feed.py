"""Samples that come through the worker's connection: asked for ahead of use, in bounded memory.

The training thread asks and takes; the thread that reads the connection delivers. What is going to
be used is known from the start (``backend.sample_plan``), so that answers can be on their way
before they are needed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.datasets import DataFacts, Scaling
from backend.errors import DatasetError
from backend.facts import DataNotes
from backend.formats.tensors import Array
from backend.reports import SampleStream, WantSamples
from backend.sample_plan import Window
from backend.samples import Rows

FED_WINDOW_BYTES = 4 << 20
_LABEL_TYPE, _TARGET_TYPE, _SCALING_TYPE = np.dtype("<i8"), np.dtype("<f4"), np.dtype("<f4")
_INPUT_TYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "uint8": np.dtype("|u1"),
    "int32": np.dtype("<i4"),
}


@dataclass(frozen=True, slots=True)
class Connection:
    """What samples need of the worker around them."""

    ask: Callable[[WantSamples], None]
    rest: Callable[[Callable[[], bool]], None]
    """Returns when the condition holds; looks again after each ``wake``."""
    wake: Callable[[], None]
    now: Callable[[], float]


def read_scaling(path: Path, channels: int) -> Scaling:
    """Of a file of offsets, then factors. Raises DatasetError."""
    try:
        values = np.fromfile(path, _SCALING_TYPE)
    except OSError as error:
        raise DatasetError(f"scaling cannot be read: {error.strerror}") from error
    if values.size != 2 * channels or not np.isfinite(values).all():
        raise DatasetError(f"scaling of {values.size} values, allowed are {2 * channels} finite ones")
    return Scaling(values[:channels], values[channels:])


@dataclass(eq=False, slots=True)
class _Coming:
    """A window that was asked for, in as many pieces as its size takes."""

    window: Window
    missing: int
    pieces: list[bytes]


class FedSamples:
    """A ``SampleSource`` whose rows are somewhere else. One training."""

    window_bytes = FED_WINDOW_BYTES
    notes = DataNotes()
    """They stay with the owner of the data."""

    def __init__(self, stream: SampleStream, scaling: Scaling | None, connection: Connection) -> None:
        """Raises DatasetError for a type that no dataset has."""
        if stream.dtype not in _INPUT_TYPES:
            raise DatasetError(f"samples are {stream.dtype}, allowed are {', '.join(_INPUT_TYPES)}")
        self.facts = DataFacts(
            stream.samples, stream.sample_shape, stream.dtype, stream.classes, stream.target_shape
        )
        self.withheld = stream.withheld
        self.waited_s = 0.0
        """How long the training has waited for samples."""
        self._scaling = scaling
        self._connection = connection
        self._stream = stream
        self._x_type: np.dtype[Any] = _INPUT_TYPES[stream.dtype]
        self._y_type: np.dtype[Any] = _LABEL_TYPE if stream.classes else _TARGET_TYPE
        self._x_bytes = self._x_type.itemsize * math.prod(stream.sample_shape)
        self._row_bytes = self._x_bytes + self._y_type.itemsize * math.prod(stream.target_shape)
        self._plan: Iterator[Window] = iter(())
        self._next: Window | None = None
        self._coming: deque[_Coming] = deque()
        self._ahead_bytes = 0
        self._asked: dict[int, tuple[_Coming, int, int]] = {}
        """Number to window, piece and bytes."""
        self._number = 0
        self._failure: str | None = None

    # -- the training thread -------------------------------------------------------------------

    def scaling(self, method: str) -> Scaling | None:
        """As the owner found it, so that nobody else needs to see all samples first."""
        if (method == "none") != (self._scaling is None):
            found = "none" if self._scaling is None else "one"
            raise DatasetError(f"scaling: found {found} for normalization {method!r}")
        return self._scaling

    def expect(self, windows: Iterator[Window]) -> None:
        self._plan = windows
        self._next = next(windows, None)
        self._look_ahead()

    def gather(self, window: Window) -> Rows:
        """Waits for the rows. Raises DatasetError for rows that no dataset has."""
        self._look_ahead()
        if not self._coming or self._coming[0].window != window:
            raise DatasetError(f"{window} is used out of turn")
        coming = self._coming[0]
        if coming.missing and self._failure is None:
            began = self._connection.now()
            self._connection.rest(lambda: not coming.missing or self._failure is not None)
            self.waited_s += self._connection.now() - began
        if self._failure is not None:
            raise DatasetError(self._failure)
        self._coming.popleft()
        self._ahead_bytes -= window.count * self._row_bytes
        self._look_ahead()
        return self._rows(coming)

    def _look_ahead(self) -> None:
        """Asks for as much of the plan as memory allows; for one window in any case."""
        while self._next is not None:
            size = self._next.count * self._row_bytes
            if self._coming and self._ahead_bytes + size > self._stream.ahead_bytes:
                return
            self._ahead_bytes += size
            self._ask_for(self._next)
            self._next = next(self._plan, None)

    def _ask_for(self, window: Window) -> None:
        cuts = list(window.cut(max(1, self._stream.answer_bytes // self._row_bytes)))
        coming = _Coming(window, len(cuts), [b""] * len(cuts))
        self._coming.append(coming)
        for piece, cut in enumerate(cuts):
            self._number += 1
            self._asked[self._number] = (coming, piece, cut.count * self._row_bytes)
            self._connection.ask(WantSamples(self._number, cut.part, cut.epoch, cut.first, cut.count))

    def _rows(self, coming: _Coming) -> Rows:
        xs, ys = zip(*map(self._parse, coming.pieces), strict=True)
        x, y = np.concatenate(xs), np.concatenate(ys)
        self._check(x, y)
        return x, y

    def _parse(self, body: bytes) -> Rows:
        count = len(body) // self._row_bytes
        x = np.frombuffer(body, self._x_type, count * math.prod(self.facts.sample_shape))
        y = np.frombuffer(body, self._y_type, offset=count * self._x_bytes)
        return x.reshape(count, *self.facts.sample_shape), y.reshape(count, *self.facts.target_shape)

    def _check(self, x: Array, y: Array) -> None:
        for name, array in (("x", x), ("y", y)):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DatasetError(f"{name} holds NaN or infinity")
        if self.facts.classes and not (y.min() >= 0 and y.max() < self.facts.classes):
            found = f"class numbers from {y.min()} to {y.max()}"
            raise DatasetError(f"{found}, allowed are 0 to {self.facts.classes - 1}")

    # -- the thread that reads the connection ----------------------------------------------------

    def deliver(self, number: int, body: bytes) -> None:
        """An answer, in any order; one that nobody asked for is ignored."""
        asked = self._asked.pop(number, None)
        if asked is None:
            return
        coming, piece, expected = asked
        if len(body) != expected:
            self._failure = f"samples of {len(body)} bytes, allowed are {expected}"
        coming.pieces[piece] = body
        coming.missing -= 1
        self._connection.wake()
