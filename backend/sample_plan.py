"""Which samples a training uses when: the whole sequence, from settings alone. Pure.

A training walks through its parts in windows of consecutive samples; whoever feeds it can work out
the same windows and have them ready.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from backend.pipeline import Pipeline

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)
EVALUATION_BATCH = 512
RESIDENT_BYTES = 1 << 30
"""A tensor of a data file that takes more stays on disk and is read where it is used ..."""
RESIDENT_SHARE = 4
"""... and so does one that takes more than this part of the memory a worker may hold."""
_VALUE_BYTES = 4
"""A value counts as the float32 that it becomes."""


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive samples of the order of one pass over a part.

    ``epoch`` is 0 for parts that are only evaluated: their order never changes.
    """

    part: str
    epoch: int
    first: int
    count: int

    def cut(self, samples: int) -> Iterator[Window]:
        """The same in pieces of at most so many samples."""
        for begin in range(0, self.count, samples):
            yield replace(self, first=self.first + begin, count=min(samples, self.count - begin))


@dataclass(frozen=True, slots=True)
class Schedule:
    """One training. Counts are samples; 0 for a part that does not exist or is withheld."""

    train: int
    """Used in each epoch."""
    validation: int
    test: int
    batch_size: int
    steps_per_epoch: int
    epochs: int
    segments: int
    window_samples: int

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def segment_end(self, segment: int) -> int:
        """The step at which a segment ends; the last also takes the remainder."""
        if segment == self.segments - 1:
            return self.total_steps
        return (segment + 1) * (self.total_steps // self.segments)

    def segments_done(self, step: int) -> int:
        """Segments that have ended at ``step``."""
        if step >= self.total_steps:
            return self.segments
        return min(step // (self.total_steps // self.segments), self.segments - 1)

    def samples_between(self, first: int, end: int) -> int:
        """Training samples in the batches of an epoch from number ``first`` to before ``end``."""
        return min(self.train, end * self.batch_size) - first * self.batch_size

    def epoch_end(self, step: int, end: int) -> int:
        """The step, ``end`` at most, at which the epoch of ``step`` ends."""
        return min(end, step - step % self.steps_per_epoch + self.steps_per_epoch)

    def training_windows(self, step: int, end: int) -> Iterator[Window]:
        """From ``step`` up to ``end``, both in one epoch; windows hold whole batches."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        first = batch * self.batch_size
        stop = min(self.train, first + (end - step) * self.batch_size)
        yield from self._cut(TRAIN, epoch, first, stop, self.batch_size)

    def evaluation_windows(self, part: str) -> Iterator[Window]:
        size = self.validation if part == VALIDATION else self.test
        yield from self._cut(part, 0, 0, size, EVALUATION_BATCH)

    def windows(self, step: int) -> Iterator[Window]:
        """Everything that is left to use from ``step`` on, in the order of its use."""
        for segment in range(self.segments):
            end = self.segment_end(segment)
            while step < end:
                until = self.epoch_end(step, end)
                yield from self.training_windows(step, until)
                step = until
                if step % self.steps_per_epoch == 0:
                    yield from self.evaluation_windows(VALIDATION)
        yield from self.evaluation_windows(TEST)

    def _cut(self, part: str, epoch: int, first: int, stop: int, batch: int) -> Iterator[Window]:
        size = batch * max(1, self.window_samples // batch)
        for begin in range(first, stop, size):
            yield Window(part, epoch, begin, min(size, stop - begin))


def make_schedule(
    pipeline: Pipeline, samples: int, segments: int, withheld: Collection[str], window_bytes: int
) -> Schedule:
    """Of a dataset of ``samples``; ``window_bytes`` counts 4 bytes a value."""
    train, validation, test = pipeline.split_sizes(samples)
    steps = pipeline.steps_per_epoch(samples)
    sample_bytes = _VALUE_BYTES * max(1, math.prod(pipeline.sample_shape))
    return Schedule(
        train=min(train, steps * pipeline.batch_size),
        validation=0 if VALIDATION in withheld else validation,
        test=0 if TEST in withheld else test,
        batch_size=pipeline.batch_size,
        steps_per_epoch=steps,
        epochs=pipeline.epochs,
        segments=segments,
        window_samples=max(1, window_bytes // sample_bytes),
    )
