"""Datasets that stay on this machine: opened once, read for peers, and held against what they trained.

Decides nothing about who may see what; that is ``plan`` and ``samples``.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import trio

from p2p.disk import RunBlocking, run_in_thread
from p2p.files import FileStore
from p2p.jobs import DataPart
from p2p.protocols.data import ITEM_BYTES, MAX_ROWS_BYTES, row_bytes
from p2p.session.checks import Prepared
from p2p.session.errors import EvaluationFailedError, JobRefusedError, SessionError
from p2p.session.job import Job
from p2p.session.owner import DataOwner, OwnedSamples, Score
from p2p.session.store import JobStore
from p2p.session.trial import Trial
from p2p.session.trying import Trying

MAX_OPEN_DATASETS = 8
"""Each holds the targets and the order of its samples in memory."""
PART_FILE = "part.safetensors"


class OwnData:
    """The datasets of one Engine's jobs. ``workspace`` is for files under way."""

    def __init__(
        self,
        owner: DataOwner,
        files: FileStore,
        store: JobStore,
        workspace: Path,
        run_blocking: RunBlocking = run_in_thread,
        draw_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        """``draw_bits``: so many that nobody can foretell."""
        self._owner = owner
        self._files = files
        self._store = store
        self._workspace = workspace
        self._run_blocking = run_blocking
        self._opened: OrderedDict[str, OwnedSamples] = OrderedDict()
        """By job."""
        self._opening = trio.Lock()
        self._trying = Trying(owner, workspace, run_blocking, draw_bits)

    async def settled(self, prepared: Prepared) -> Prepared:
        """With what the data says of the graph in numbers. Raises JobRefusedError."""
        graph, digest = await self._run_blocking(self._owner.settle, prepared.graph, prepared.data)
        return replace(prepared, graph=graph, graph_hash=digest)

    async def add_notes(self, job: Job, model: Path) -> None:
        """To the user's own copy, while the data is here. Raises OSError."""
        data = self._files.path(job.spec.data.file.blake3)
        if data is not None:
            await self._run_blocking(self._owner.add_notes, model, data)

    async def check(self, prepared: Prepared, private: tuple[DataPart, ...]) -> tuple[DataPart, ...]:
        """The private parts that have samples. Raises JobRefusedError for data that cannot be streamed."""
        samples = await self._run_blocking(self._owner.open_samples, prepared.graph, prepared.data)
        if prepared.dtype not in ITEM_BYTES:
            raise JobRefusedError(f"samples are {prepared.dtype}, allowed are {', '.join(ITEM_BYTES)}")
        size = row_bytes(prepared.dtype, prepared.sample_shape, prepared.classes, samples.target_shape)
        if size > MAX_ROWS_BYTES:
            raise JobRefusedError(f"a sample of {size} bytes, with --stream the limit is {MAX_ROWS_BYTES}")
        found = tuple(part for part in private if samples.size(part))
        if found and not self._owner.can_evaluate():
            names = ", ".join(part.value for part in found)
            raise JobRefusedError(
                f"private {names} samples are evaluated here, which needs torch: install cyxwiz[peer], or "
                "say --private none"
            )
        return found

    async def samples_of(self, job: Job) -> OwnedSamples:
        """Raises SessionError."""
        if job.job_id not in self._opened:
            async with self._opening:
                if job.job_id not in self._opened:
                    self._opened[job.job_id] = await self._open(job)
                if len(self._opened) > MAX_OPEN_DATASETS:
                    self._opened.popitem(last=False)
        # Without waiting for others, which may take minutes to be opened.
        self._opened.move_to_end(job.job_id)
        return self._opened[job.job_id]

    async def _open(self, job: Job) -> OwnedSamples:
        path = self._files.path(job.spec.data.file.blake3)
        if path is None:
            raise SessionError(f"the data of job {job.job_id[:8]} is not here any more")
        graph = await self._store.graph(job.job_id)
        return await self._run_blocking(self._owner.open_samples, graph, path)

    async def evaluate(self, job: Job, model: str, part: DataPart) -> Score:
        """How good a model of the job is on a part. Raises SessionError, OSError."""
        path = self._files.path(model)
        if path is None:
            raise EvaluationFailedError(f"model {model[:16]} is not here any more")
        user = f"evaluation {model}"
        self._files.use(model, user)
        try:
            return await self._evaluate(job, path, part)
        finally:
            self._files.end_use(user)

    async def tried(self, job: Job) -> Trial:
        """What the model of a deployment answers here in the periods that come, or why that is not known."""
        file, first = job.spec.data.file, job.segments_done
        path = self._files.path(file.blake3)
        if path is None:
            return Trial(first, untried="the model is not here")
        return msgspec.structs.replace(await self._trying.tried(path, file.size), first=first)

    async def _evaluate(self, job: Job, model: Path, part: DataPart) -> Score:
        samples = await self.samples_of(job)
        self._workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self._workspace) as name:
            target = Path(name) / PART_FILE
            await self._run_blocking(samples.write_part, part, target)
            return await self._owner.evaluate(model, target, Path(name))
