"""Runs batches of one model: collects them on the event loop, computes here or in the model's thread.

A batch that takes less than a thread's handover runs on the loop itself. Whoever waits is answered by
its deadline, whatever the runtime does; a runtime that does not come back is the supervisor's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from backend.errors import DeadlineError
from backend.formats.tensors import Array
from backend.runtime.base import Runtime
from backend.serving.batching import BatchLimits, BatchQueue, Pace, Ticket
from backend.serving.failures import without_frames
from backend.serving.stats import ModelStats

Arrays = dict[str, Array]
Outcome = Arrays | Exception


@dataclass(slots=True)
class _Question:
    inputs: Arrays
    told: Callable[[Outcome], None] | None
    """None once it is answered."""

    def answer(self, outcome: Outcome) -> None:
        told, self.told = self.told, None
        if told is not None:
            told(outcome)


class Batcher:
    """One model's queue. Belongs to one event loop."""

    def __init__(
        self, runtime: Runtime, limits: BatchLimits, stats: ModelStats, thread: ThreadPoolExecutor
    ) -> None:
        self._runtime = runtime
        self._shares = can_share(runtime)
        self._stats = stats
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._queue = BatchQueue(limits)
        self._limits = limits
        self.pace = Pace()
        self.running_since: float | None = None
        """Read by other threads too."""
        self._running: list[Ticket] = []
        self._wake: asyncio.Handle | None = None
        self._wakes_soon = False
        """In the next turn of the loop."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def retry_after_s(self) -> int:
        return self.pace.retry_after_s(len(self._queue), self._limits.items)

    async def ask(self, inputs: Arrays, deadline: float, kin: Hashable = None) -> Arrays:
        """All outputs for these inputs. Raises QueueFullError, InputError, DeadlineError, MemoryError.

        Rows of the same ``kin`` share a batch even if they differ in length: the shorter end in zeros there,
        and so may their outputs.
        """
        answered: asyncio.Future[Arrays] = self._loop.create_future()
        ticket = self.submit(inputs, deadline, _settling(answered), kin)
        try:
            return await answered
        except asyncio.CancelledError:
            self._queue.discard(ticket)
            raise
        finally:
            # What was raised holds this frame: both would keep the inputs until cycles are collected.
            del answered

    def submit(
        self, inputs: Arrays, deadline: float, told: Callable[[Outcome], None], kin: Hashable = None
    ) -> Ticket:
        """``told`` is called once, on the loop, and may not raise. Raises QueueFullError."""
        ticket = self._ticket(_Question(inputs, told), deadline, kin)
        self._queue.add(ticket)
        self._schedule()
        return ticket

    def hurry(self) -> None:
        """Begins now what waits for the end of this turn, for whoever knows that it brings no more."""
        if self._wake is not None and self._wakes_soon:
            self._wake.cancel()
            self._pump()

    def sweep(self, now: float) -> None:
        """Answers those whose deadline has passed; called every now and then."""
        for ticket in (*self._queue.expire(now), *self._running):
            if ticket.deadline <= now:
                _question(ticket).answer(DeadlineError("not answered within its time"))

    def _ticket(self, question: _Question, deadline: float, kin: Hashable) -> Ticket:
        inputs = question.inputs
        if self._shares and len(inputs) == 1 and kin is None:  # nearly all
            ((name, array),) = inputs.items()
            key: Hashable = (name, array.dtype.char, array.shape[1:])
            return Ticket(key, len(array), time.monotonic(), deadline, question)
        rows = {len(array) for array in inputs.values()} if self._shares else set()
        if len(rows) != 1:
            return Ticket(object(), 1, time.monotonic(), deadline, question)
        shapes = tuple((name, array.dtype.char, array.shape[1:]) for name, array in inputs.items())
        key = shapes if kin is None else (tuple(inputs), kin)
        return Ticket(key, rows.pop(), time.monotonic(), deadline, question)

    def _schedule(self) -> None:
        # One turn of the loop later: all requests that this turn brings are in the queue by then.
        if self._wake is None and self.running_since is None:
            self._wake = self._loop.call_soon(self._pump)
            self._wakes_soon = True

    def _pump(self) -> None:
        self._wake = None
        self._wakes_soon = False
        now = time.monotonic()
        self.sweep(now)
        due_s = self._queue.due_in_s(now)
        if self.running_since is not None or due_s is None:
            return
        if due_s > 0:
            self._wake = self._loop.call_later(due_s, self._pump)
            return
        batch = self._queue.take()
        self._running, self.running_since = batch, now
        if self.pace.runs_inline():
            self._finish(batch, *self._compute(batch))
        else:
            self._thread.submit(self._compute_there, batch)

    def _compute_there(self, batch: list[Ticket]) -> None:
        """In the model's thread. No future holds the outcomes: see ``hop``."""
        outcomes, duration_s = self._compute(batch)
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._finish, batch, outcomes, duration_s)

    def _compute(self, batch: list[Ticket]) -> tuple[list[Outcome], float]:
        started_at = time.perf_counter()
        questions, deadline = [_question(ticket).inputs for ticket in batch], max(t.deadline for t in batch)
        outcomes: list[Outcome]
        try:
            outcomes = run_batch(self._runtime.run, questions, deadline)
        except Exception as error:  # such as no memory to join them in
            outcomes = [without_frames(error)] * len(batch)
        return outcomes, time.perf_counter() - started_at

    def _finish(self, batch: list[Ticket], outcomes: list[Outcome], duration_s: float) -> None:
        self._running, self.running_since = [], None
        self.pace.note(duration_s)
        self._stats.note_batch(sum(ticket.items for ticket in batch))
        for ticket, outcome in zip(batch, outcomes, strict=True):
            _question(ticket).answer(outcome)
        if len(self._queue):
            self._schedule()


def _settling(answered: asyncio.Future[Arrays]) -> Callable[[Outcome], None]:
    def told(outcome: Outcome) -> None:
        if answered.done():
            return
        if isinstance(outcome, Exception):
            answered.set_exception(outcome)
        else:
            answered.set_result(outcome)

    return told


def can_share(runtime: Runtime) -> bool:
    """Whether rows of several requests may run together: every end has a batch of free size."""
    ends = (*runtime.inputs, *runtime.outputs)
    return bool(runtime.inputs) and all(end.shape[:1] == (-1,) for end in ends)


def run_batch(
    run: Callable[[Arrays, float], Arrays], questions: list[Arrays], deadline: float
) -> list[Outcome]:
    """Each question's answer or error; one that fails does not fail the others."""
    if len(questions) == 1:
        return [_alone(run, questions[0], deadline)]
    rows = [len(next(iter(inputs.values()))) for inputs in questions]
    joined = {name: _joined([each[name] for each in questions]) for name in questions[0]}
    together = _alone(run, joined, deadline)
    if isinstance(together, DeadlineError):
        return [together] * len(questions)
    if isinstance(together, Exception) or any(
        not answer.ndim or len(answer) != sum(rows) for answer in together.values()
    ):
        return [_alone(run, inputs, deadline) for inputs in questions]
    ends = np.cumsum(rows)
    return [
        {name: answer[end - count : end] for name, answer in together.items()}
        for end, count in zip(ends, rows, strict=True)
    ]


def _joined(arrays: list[Array]) -> Array:
    """All rows; where they differ in length, the shorter end in zeros."""
    lengths = {array.shape[1:] for array in arrays}
    if len(lengths) == 1:
        return np.concatenate(arrays)
    joined = np.zeros((sum(map(len, arrays)), *max(lengths)), arrays[0].dtype)
    at = 0
    for array in arrays:
        joined[at : at + len(array), : array.shape[1]] = array
        at += len(array)
    return joined


def _alone(run: Callable[[Arrays, float], Arrays], inputs: Arrays, deadline: float) -> Outcome:
    try:
        return run(inputs, deadline)
    except Exception as error:
        return without_frames(error)


def _question(ticket: Ticket) -> _Question:
    assert isinstance(ticket.payload, _Question)
    return ticket.payload
