"""One deployment at work: loads its model, serves it period by period, ends it.

A period is a segment whose checkpoint is the model itself. Only time in which the model could answer
counts; what is not vouchered in time is not served on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from backend.errors import ArchiveError, WorkerError, WorkerFailedError
from backend.formats.served import served_model
from backend.serving.messages import RuntimeOptions
from backend.workers.model_server import ServerListener
from p2p.errors import RemoteFailureError
from p2p.jobs import FileRef, JobMetrics, ServingSpec
from peer.errors import JobError
from peer.events import Event, ResultStored, SegmentStored
from peer.job import EndingKind, Job
from peer.served import LATE_CALLS, UNPAID, ServedModel
from peer.services import Services

DOWN_PATIENCE_S = 180.0
"""A worker that does not come back in this time ends the job, which may go on at another peer."""
LEAST_GRACE_S = 5.0
MOST_GRACE_S = 60.0
"""A voucher is late after a period, within these bounds."""
COUNTED = 0.9
"""Of that time, what counts for the next periods: the rest is room for an Engine that pays as time passes."""
RETRYABLE = frozenset({"memory", "internal"})

Feed = Callable[[Event], Awaitable[None]]


class ReadyClock:
    """Counts the time in which the model could answer. It is held at first."""

    def __init__(self) -> None:
        self._held = True
        self._changed = trio.Event()
        self._counted_s = 0.0
        self._counted_at = 0.0

    def read(self) -> float:
        """All of it until now, in seconds."""
        now = trio.current_time()
        if not self._held:
            self._counted_s += now - self._counted_at
        self._counted_at = now
        return self._counted_s

    def hold(self) -> None:
        self.read()
        self._held = True
        self._wake()

    def release(self) -> None:
        self.read()
        self._held = False
        self._wake()

    async def count(self, seconds: float) -> None:
        """Returns after that time. Raises JobError if the worker stays away for too long."""
        left_s = seconds
        while left_s > 0:
            if self._held:
                await self._wait()
                continue
            began_at = trio.current_time()
            with trio.move_on_after(left_s):
                await self._changed.wait()
            left_s -= trio.current_time() - began_at

    async def _wait(self) -> None:
        with trio.move_on_after(DOWN_PATIENCE_S) as scope:
            await self._changed.wait()
        if scope.cancelled_caught:
            text = f"the model did not answer again within {DOWN_PATIENCE_S:.0f} s"
            raise JobError("worker_died", text, retryable=True)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Serving:
    """The hosted model of one job."""

    def __init__(self, services: Services, feed: Feed) -> None:
        self._services = services
        self._feed = feed
        self._clock = ReadyClock()
        self._model: ServedModel | None = None
        self._waited_from: float | None = None
        """What the clock read when the last period ended."""
        self._ahead_s = 0.0
        """Answered while its voucher was awaited: counts for the next ones."""

    async def prepare(self, job: Job) -> str:
        """Returns the device once the model answers. Raises JobError."""
        served, device = self._services.served, self._services.workers[job.offer.device].device
        model = self._model = served.begin(job, device)
        told = ServerListener(
            on_ready=lambda lines: self._clock.release(),
            on_death=lambda reason, pause_s: self._clock.hold(),
        )
        is_loaded = served.take_over(model, told)  # maybe from another share of its device
        await served.clear(job.offer.device)
        if not is_loaded:
            await self._start(model, told)
        self._clock.release()
        model.refusal = RemoteFailureError(UNPAID, "unpaid: nothing is paid for the deployment yet")
        return device

    async def _start(self, model: ServedModel, told: ServerListener) -> None:
        spec, serving = model.job.offer.job, model.serving
        gpu_layers = 0 if model.device == "cpu" else serving.gpu_layers
        try:
            await self._services.served.hosting.start(
                model.job.job_id,
                self._path(spec.data.file),
                None if serving.tokenizer is None else self._path(serving.tokenizer),
                RuntimeOptions(gpu_layers=gpu_layers, context=serving.context),
                model.device,
                serving.memory_bytes,
                name=serving.name,
                told=told,
            )
        except WorkerFailedError as error:
            raise JobError(error.code, error.text, error.code in RETRYABLE) from error
        except (WorkerError, RemoteFailureError) as error:
            raise JobError("worker", f"the model is not served: {error}", retryable=True) from error

    def _path(self, file: FileRef) -> Path:
        path = self._services.artifacts.files.path(file.blake3)
        if path is None:
            raise JobError("storage", f"file {file.blake3} is not in the store any more", retryable=True)
        return path

    async def serve(self, job: Job, segment: int) -> None:
        """One period. Raises JobError."""
        model = self._model
        if model is None:
            raise JobError("internal", "the deployment has no model", retryable=True)
        period_s = float(model.serving.period_s)
        model.refusal, model.due_at = None, float("inf")
        grace_s = min(max(period_s, LEAST_GRACE_S), MOST_GRACE_S)
        if self._waited_from is not None:
            self._ahead_s += min(self._clock.read() - self._waited_from, COUNTED * grace_s)
            self._waited_from = None
        taken_s = min(self._ahead_s, period_s)
        await self._clock.count(period_s - taken_s)
        self._ahead_s -= taken_s
        is_last = segment == job.segments - 1
        if not job.is_direct:
            model.due_at, model.late_calls = trio.current_time() + grace_s, LATE_CALLS
            self._waited_from = self._clock.read()
        elif is_last:
            model.refusal = RemoteFailureError("not_found", "the deployment is over: its time is up")
        file = job.offer.job.data.file
        metrics = JobMetrics(step=segment + 1, total_steps=job.segments, epoch=0, loss=0.0)
        at = self._services.now()
        if is_last:
            await self._feed(ResultStored(file, metrics, at))
        else:
            await self._feed(SegmentStored(segment, file, metrics, at))

    def end(self, job: Job) -> None:
        model, self._model = self._model, None
        if model is not None:
            text = "its peer shuts down" if job.ending is None else job.ending.text
            is_whole = job.ending is not None and job.ending.kind is EndingKind.COMPLETED
            self._services.served.end(model, text, lingers=is_whole)


def check_model(path: Path, promised: ServingSpec) -> None:
    """Looks at the header only. Raises JobError for a file of another format, or a malformed one."""
    try:
        found = served_model(path).format.value
    except ArchiveError as error:
        raise JobError("model", str(error)[:4000], retryable=False) from error
    if found != promised.format:
        text = f"the model is {found}, allowed {promised.format} as submitted"
        raise JobError("model", text, retryable=False)
