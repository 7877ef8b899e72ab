"""The files that this peer holds for jobs: who may fetch which, and when a result may go.

Files are content-addressed and live in the file store. A job's Engine alone may fetch what it sent,
its checkpoints and its result; nobody learns whether any other file is here, and no file of one
Engine is used for another's, whatever hashes that one knows.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from p2p.files import FileStore
from p2p.identifiers import PeerId
from p2p.jobs import FileRef
from p2p.store import Reuse
from peer.job import Job
from peer.store import KEEP_RETIRED, Store

log = structlog.get_logger(__name__)

FetchUsing = Callable[[Reuse], Awaitable[Path]]
KEEP_FETCHED_S = 3600.0
"""A result stays at least this long after its Engine has proved that it has it."""
KEEP_UNFETCHED_S = 7 * 24 * 3600.0
KEEP_PARTIAL_S = 7 * 24 * 3600.0


class Artifacts:
    """Use after ``load``: what a killed predecessor held is held again."""

    def __init__(self, files: FileStore, store: Store) -> None:
        self.files = files
        self._receiving: weakref.WeakValueDictionary[str, trio.Lock] = weakref.WeakValueDictionary()
        self._store = store
        self._allowed: dict[str, set[PeerId]] = {}
        """Manifest hash to those who may fetch it."""
        self._checkpoints: dict[str, list[FileRef]] = {}
        self._results: dict[str, set[tuple[str, PeerId]]] = {}
        """Model to the jobs that made it, each with its Engine."""

    async def load(self) -> None:
        for result in await self._store.results():
            if self.files.path(result.file.blake3) is None:
                log.warning("result is missing on disk", blake3=result.file.blake3)
                await self._store.forget_result(result.file.blake3)
                continue
            self._results.setdefault(result.file.blake3, set()).add((result.job_id, result.engine_id))
            self.hold(result.file, result.engine_id)
        for _, job in await self._store.recent_jobs(KEEP_RETIRED):
            self._hold_again(job)

    def _hold_again(self, job: Job) -> None:
        data = job.offer.job.data.file if job.data_held else None
        for file in (data, job.checkpoint if job.checkpoint_held else None):
            if file is not None and self.files.ref(file.blake3) is not None:
                self.hold(file, job.engine_id)

    async def receive(
        self, file: FileRef, engine_id: PeerId, fetch_using: FetchUsing, user: str = ""
    ) -> Path:
        """The file, from an Engine that has it: naming what another Engine brought gives nobody a look at it.

        ``fetch_using`` fetches it into the store, using what this Engine brought and nothing else
        that is there. ``user`` (a lease) needs it until ``end_work``. Raises what ``fetch_using`` does.
        """
        async with self._receiving.setdefault(file.blake3, trio.Lock()):
            brought = await self._store.brought_by(engine_id)
            path = await fetch_using(brought.__contains__)
            if user:
                self.files.use(file.blake3, user)
            await self._store.note_brought(file.blake3, engine_id)
            self.hold(file, engine_id)
            return path

    def may_fetch(self, caller: PeerId, manifest: str) -> bool:
        return caller in self._allowed.get(manifest, ())

    def is_result_of(self, model: str, job_id: str, engine_id: PeerId) -> bool:
        return (job_id, engine_id) in self._results.get(model, ())

    def has_result(self, model: str) -> bool:
        return model in self._results

    async def add_checkpoint(self, job: Job, path: Path) -> FileRef:
        """Keeps a copy of the worker's file, for the job's Engine."""
        file = await self.files.add(path)
        self.files.use(file.blake3, _maker(job))
        await self._store.note_brought(file.blake3, job.engine_id)  # it may go on from its own
        self._checkpoints.setdefault(job.lease.lease_id, []).append(file)
        self.hold(file, job.engine_id)
        return file

    async def add_result(self, job: Job, path: Path, now: float) -> FileRef:
        """Keeps a copy of the trained model, durably noted, for the job's Engine."""
        file = await self.files.add(path)
        self.files.pin(file.blake3, job.job_id)
        self.hold(file, job.engine_id)
        await self._store.save_result(job, file, now)
        self._results.setdefault(file.blake3, set()).add((job.job_id, job.engine_id))
        return file

    def drop_checkpoints(self, job: Job, keep: int = 0) -> None:
        """Lets go of all but the newest ``keep``: the Engine has proved that it holds the others."""
        held = self._checkpoints.pop(job.lease.lease_id, [])
        dropped, kept = held[: len(held) - keep], held[len(held) - keep :]
        if kept:
            self._checkpoints[job.lease.lease_id] = kept
        still_held = {file.blake3 for files in self._checkpoints.values() for file in files}
        for file in dropped:
            self.files.end_use(_maker(job), file.blake3)
            if file.blake3 not in self._results and file.blake3 not in still_held:
                self._let_go(file)

    def end_work(self, job: Job) -> None:
        """The job needs no more of what it was given."""
        self.files.end_use(job.lease.lease_id)

    def end_job(self, job: Job) -> None:
        """Nobody will ask for its checkpoints any more."""
        self.end_work(job)
        self.files.end_use(_maker(job))

    async def mark_fetched(self, job: Job, now: float) -> None:
        await self._store.mark_fetched(job.job_id, job.engine_id, now)

    async def drop_old_results(self, now: float) -> None:
        """Those fetched an hour ago, and those that nobody came for in a week. Half files of then go too."""
        self.files.drop_old_partials(now - KEEP_PARTIAL_S)
        for manifest in [manifest for manifest in self._allowed if not self.files.has_manifest(manifest)]:
            del self._allowed[manifest]
        results = await self._store.results()
        kept = {
            result.file.blake3 for result in results if not _is_over(result.made_at, result.fetched_at, now)
        }
        dropped = [result for result in results if result.file.blake3 not in kept]
        for result in dropped:
            self.files.unpin(result.file.blake3, result.job_id)
        for result in dropped:
            if self._results.pop(result.file.blake3, None) is not None:
                log.info("result dropped", job_id=result.job_id, blake3=result.file.blake3)
                self._let_go(result.file)
                await self._store.forget_result(result.file.blake3)

    def hold(self, file: FileRef, engine_id: PeerId) -> None:
        """This Engine sent the file, or had it made: it may have it back."""
        self._allowed.setdefault(file.manifest, set()).add(engine_id)

    def _let_go(self, file: FileRef) -> None:
        """Unless another job needs the same bytes."""
        self.files.discard(file.blake3)
        if not self.files.has_manifest(file.manifest):
            self._allowed.pop(file.manifest, None)


def _maker(job: Job) -> str:
    return f"maker {job.lease.lease_id}"


def _is_over(made_at: float, fetched_at: float | None, now: float) -> bool:
    return now > made_at + KEEP_UNFETCHED_S if fetched_at is None else now > fetched_at + KEEP_FETCHED_S
