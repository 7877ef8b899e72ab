"""One training in one worker: prepares it, passes its events on, ends it or hands it over.

The worker gets copies of the files in its own directory and is believed in nothing: what it names
must be a plain file there, what it counts must be a number that the protocol allows.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog
import trio

from backend.errors import WorkerError, WorkerFailedError
from backend.reports import (
    AllowSegments,
    Command,
    Event,
    Failed,
    Finished,
    Metrics,
    Progress,
    SampleStream,
    SegmentSaved,
    Train,
    TrainingPrepared,
    WantSamples,
)
from p2p.errors import P2PError
from p2p.jobs import Delivery, JobMetrics
from peer.errors import JobError, PeerError
from peer.events import Event as JobEvent
from peer.events import (
    Progressed,
    ResultStored,
    SamplesBack,
    SamplesMissed,
    SegmentStored,
    WorkFailed,
)
from peer.job import Job
from peer.samples import Listener, SampleLink, Source
from peer.services import Services
from peer.sessions import WorkerSession

log = structlog.get_logger(__name__)

DATA_FILE = "data.safetensors"
CHECKPOINT_FILE = "start.cyxmodel"
ACQUIRE_TIMEOUT_S = 90.0
PREPARE_TIMEOUT_S = 300.0
RETRYABLE = frozenset({"memory", "internal"})
"""Failures of a worker that another machine might not have."""

Feed = Callable[[JobEvent], Awaitable[None]]


class Training:
    """The worker of one job, from preparation to the result."""

    def __init__(self, services: Services, feed: Feed, token: Callable[[], str]) -> None:
        self._services = services
        self._feed = feed
        self._token = token
        self._session: WorkerSession | None = None
        self._samples: SampleLink | None = None
        self._scope: trio.CancelScope | None = None
        """Of the task that fetches samples."""
        self._waited_s: float | None = None

    async def open_samples(self, job: Job) -> None:
        """Returns once the Engine gives samples of its data, however often it has to come back.

        Raises JobError.
        """
        source = Source(job.engine_id, job.job_id, job.lease, job.offer.job.data, self._token)
        ahead_bytes = self._services.terms.stream_ahead_bytes
        samples = self._samples = SampleLink(self._services.network, source, self._listener(), ahead_bytes)
        scope = self._scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                try:
                    await samples.run()
                except Exception as error:  # the boundary of the task: it outlives the job's own
                    log.error("samples failed", job_id=job.job_id, exc_info=error)
                    await self._feed(WorkFailed("internal", f"samples: {type(error).__name__}", True))

        self._services.nursery.start_soon(run)
        await samples.opened.wait()
        if samples.failure is not None:
            raise JobError("dataset", samples.failure, retryable=False)

    def _listener(self) -> Listener:
        async def missed(reason: str) -> None:
            await self._feed(SamplesMissed(reason, self._services.now()))

        async def back() -> None:
            await self._feed(SamplesBack())

        async def failed(text: str) -> None:
            await self._feed(WorkFailed("dataset", text[:4000], retryable=False))

        return Listener(missed, back, failed)

    async def prepare(self, job: Job) -> TrainingPrepared:
        """Takes a worker and has it load data, graph and checkpoint. Raises JobError."""
        workers = self._services.workers[job.offer.device]
        try:
            worker = await workers.pool.acquire(ACQUIRE_TIMEOUT_S)
        except (WorkerError, trio.TooSlowError) as error:
            raise JobError("worker", f"no worker could be started: {error}", retryable=True) from error
        session = self._session = WorkerSession(worker)
        session.on_death = self._on_death
        self._services.nursery.start_soon(session.run)
        if job.offer.job.data.delivery is Delivery.FILE:
            await self._copy(job.offer.job.data.file.blake3, worker.directory / DATA_FILE)
        if job.checkpoint is not None:
            await self._copy(job.checkpoint.blake3, worker.directory / CHECKPOINT_FILE)
        session.on_training = lambda event: self._on_event(job, event)
        try:
            order = _train(job, workers.device, self._samples.stream(worker) if self._samples else None)
            return await session.prepare(order, job.graph or b"", PREPARE_TIMEOUT_S)
        except WorkerFailedError as error:
            raise JobError(error.code, error.text, error.code in RETRYABLE) from error
        except trio.TooSlowError as error:
            text = f"worker not prepared after {PREPARE_TIMEOUT_S:.0f} s"
            raise JobError("worker", text, retryable=True) from error

    async def allow(self, segment: int) -> None:
        await self.send(AllowSegments(segment + 1))

    async def send(self, command: Command) -> None:
        """Raises WorkerError."""
        if self._session is None:
            raise WorkerError("the job has no worker")
        await self._session.worker.send(command)

    def end(self) -> None:
        """Kills the worker, unless it has been handed over to serve its model."""
        self._end_samples()
        session, self._session = self._session, None
        if session is not None:
            session.on_death = session.on_training = None
            self._services.nursery.start_soon(session.aclose)

    def _end_samples(self) -> None:
        self._samples = None
        if self._scope is not None:
            self._scope.cancel()

    async def _copy(self, blake3: str, target: Path) -> None:
        # A copy, not a link: the worker may write in its directory, and the store's file is shared.
        source = self._services.artifacts.files.path(blake3)
        if source is None:
            raise JobError("storage", f"file {blake3} is not in the store any more", retryable=True)
        await trio.to_thread.run_sync(shutil.copyfile, source, target)

    async def _on_event(self, job: Job, event: Event) -> None:
        """The boundary of what a worker says: nothing that it does raises beyond this."""
        try:
            await self._pass_on(job, event)
        except (WorkerError, P2PError, PeerError, msgspec.ValidationError, OSError) as error:
            log.warning("worker's event refused", job_id=job.job_id, reason=str(error))
            await self._feed(WorkFailed("worker", f"{type(event).__name__}: {error}", retryable=True))

    async def _pass_on(self, job: Job, event: Event) -> None:
        match event:
            case WantSamples() if self._samples is not None:
                self._samples.want(event)
            case Progress(metrics, waited_s):
                self._waited_s = waited_s
                await self._feed(Progressed(self._metrics(metrics)))
            case SegmentSaved(segment, file, metrics) if segment < job.segments - 1:
                path = self._path(file)
                checkpoint = await self._services.artifacts.add_checkpoint(job, path)
                path.unlink(missing_ok=True)
                at = self._services.now()
                await self._feed(SegmentStored(segment, checkpoint, self._metrics(metrics), at))
            case Finished(file, metrics):
                await self._finish(job, file, self._metrics(metrics))
            case Failed(code, text, None):
                await self._feed(WorkFailed(code, text, code in RETRYABLE))
            case _:
                pass

    async def _finish(self, job: Job, file: str, metrics: JobMetrics) -> None:
        path = self._path(file)
        result = await self._services.artifacts.add_result(job, path, self._services.now())
        self._end_samples()
        session, self._session = self._session, None
        if session is not None:
            session.on_death = session.on_training = None
            (session.worker.directory / DATA_FILE).unlink(missing_ok=True)
            device = self._services.workers[job.offer.device].device
            await self._services.deployments.adopt(result.blake3, session, file, device)
        await self._feed(ResultStored(result, metrics, self._services.now()))

    def _metrics(self, metrics: Metrics) -> JobMetrics:
        """Raises msgspec.ValidationError for numbers that the protocol does not allow."""
        fields = {name: value for name, value in msgspec.structs.asdict(metrics).items() if name in _TOLD}
        return msgspec.convert({**fields, "sample_wait_s": self._waited_s}, JobMetrics)

    def _path(self, file: str) -> Path:
        if self._session is None:
            raise WorkerError("the worker has been ended")
        return self._session.worker.path(file)

    async def _on_death(self, reason: str) -> None:
        await self._feed(WorkFailed("worker_died", f"the worker ended: {reason}", retryable=True))


_TOLD = frozenset(JobMetrics.__struct_fields__)
"""Of a worker's metrics; what goes beyond the curve, such as confusions, is in the model."""


def _train(job: Job, device: str, stream: SampleStream | None) -> Train:
    first = job.offer.first_segment
    weights = None if job.checkpoint is None else CHECKPOINT_FILE
    return Train(
        dataset=DATA_FILE if stream is None else None,
        checkpoint=weights if first else None,
        start=None if first else weights,
        start_partly=job.offer.job.start_partly,
        segments=job.segments,
        first_segment=first,
        allowed_segments=first,
        device=device,
        prepare_only=True,
        stream=stream,
    )
