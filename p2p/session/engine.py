"""The jobs of one Engine: submit, follow, pause, cancel, fetch, and calls to the trained models.

Wires records, runners and stores together; everything that touches the world comes in from outside.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import trio

from p2p.errors import LocalProtocolError, RemoteProtocolError
from p2p.files import serve_transfers
from p2p.identifiers import NO_WALLET, JobId, PeerId, Units
from p2p.identity import public_key_of
from p2p.jobs import DataPart, DataSummary, Delivery, JobSpec, Requirements, StartWeights
from p2p.pricing import format_tokens
from p2p.protocols.coordinator import Estimate, EstimateJob
from p2p.protocols.inference import DeploymentStatus
from p2p.protocols.job import MAX_LEARNING_RATE
from p2p.session import events, plan
from p2p.session.checks import Prepared
from p2p.session.deployments import DeploymentOrder, DeploymentView, serving_of, spec_of, view
from p2p.session.engine_parts import Engine
from p2p.session.errors import JobEndedError, JobRefusedError, JobUnknownError
from p2p.session.inference import HastyCaller, JobCaller, ModelClient, Tensor
from p2p.session.job import WITH_PEER, Direct, Job
from p2p.session.live import LiveJob
from p2p.session.model_at_peer import Caller, ModelAtPeer
from p2p.session.neighbours import Neighbour, find_neighbours
from p2p.session.news import News
from p2p.session.runner import JobRunner
from p2p.session.samples import SampleService
from p2p.session.steps import release_all
from p2p.session.sweep import Sweeper
from p2p.tasks import background_tasks, deadline

DEFAULT_SEGMENTS = 4
DEFAULT_PRIVATE = (DataPart.TEST.value,)
"""Of a dataset that is streamed."""
ANY_BUDGET = Units(2**63 - 1)
ANY_PEER = "any"
TOLD_TIMEOUT_S = 30.0
KEEP_PARTIAL_S = 7 * 24 * 3600.0
"""Files that never arrived whole."""
CANCEL_TIMEOUT_S = 10.0
BOUND_PATIENCE_S = 1.0
"""Of calls that are bound to one peer: whoever binds them can ask another one."""


class JobEngine:
    """Open it with ``run_engine``, or through ``p2p.api.open_engine``."""

    def __init__(self, engine: Engine, workspace: Path, nursery: trio.Nursery) -> None:
        self.engine = engine
        self._workspace = workspace
        self._nursery = nursery
        self._lives: dict[str, LiveJob] = {}
        self._sweeper = Sweeper(engine)
        self._running: set[str] = set()
        self._callers: dict[tuple[str, str], JobCaller] = {}
        """By peer and job."""

    async def start(self) -> None:
        """Loads what earlier sessions left; serves files; asks back what nobody counts."""
        for job in await self.engine.store.jobs():
            length = await self.engine.store.story_length(job.job_id)
            self._lives[job.job_id] = LiveJob(job, length, self.engine.store, self.engine.now)
            if plan.is_finished(job):
                release_all(self.engine, job)  # an earlier session may have ended just before
        SampleService(self.engine, self._find).serve()
        self._nursery.start_soon(self._sweeper.run, self._lives)
        serve_transfers(self.engine.network, self.engine.files, self._may_fetch, self.engine.now)
        self.engine.files.drop_old_partials(self.engine.now() - KEEP_PARTIAL_S)

    async def background(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Starts a service that ends with this engine; returns once it runs."""
        await self._nursery.start(task, *arguments)

    def _find(self, job_id: str) -> Job | None:
        live = self._lives.get(job_id)
        return live.job if live is not None else None

    def _may_fetch(self, peer_id: PeerId, manifest: str) -> bool:
        return any(manifest in plan.files_for(live.job, peer_id) for live in self._lives.values())

    # -- looking -------------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """Newest first."""
        found = [live.job for live in self._lives.values()]
        return sorted(found, key=lambda job: job.created_at, reverse=True)

    def job(self, name: str) -> Job:
        """By id or the unique beginning of one. Raises JobUnknownError."""
        return self._live(name).job

    def _live(self, name: str) -> LiveJob:
        found = [live for job_id, live in self._lives.items() if name and job_id.startswith(name)]
        if len(found) != 1:
            what = "no job" if not found else f"{len(found)} jobs"
            raise JobUnknownError(f"{what} here with an id that begins with {name!r}")
        return found[0]

    async def neighbours(self) -> list[Neighbour]:
        """Peers of the own network that answer. Raises ConnectionFailedError without any network."""
        found = await find_neighbours(self.engine)
        return sorted(found, key=lambda peer: (not peer.allowed, peer.free == 0, peer.peer_id))

    # -- submitting ----------------------------------------------------------------------------

    async def estimate(
        self, graph: bytes, data: Path, *, segments: int = DEFAULT_SEGMENTS
    ) -> tuple[Prepared, Estimate]:
        """What it would cost where. Raises JobRefusedError, RemoteFailureError."""
        with self._workspace_directory() as workspace:
            prepared = await self._prepare(graph, data, workspace)
            spec = await self._spec(prepared, ANY_BUDGET, segments, Requirements(), NO_WALLET)
            answer = await self.engine.coordinator.ask(EstimateJob(spec), Estimate, prepared.graph)
        return prepared, answer

    async def submit(
        self,
        graph: bytes | Path,
        data: Path,
        budget: int = 0,
        *,
        segments: int = DEFAULT_SEGMENTS,
        requirements: Requirements | None = None,
        peer: str | None = None,
        delivery: Delivery = Delivery.FILE,
        private: Sequence[DataPart] = (DataPart.TEST,),
        start: Path | None = None,
        start_partly: bool = False,
    ) -> JobId:
        """Returns once the coordinator has the job; this Engine now works on it.

        ``budget`` is in units; there are at most as many segments as training steps.
        With ``peer`` it is done unpaid by that peer of the own network, without any coordinator: an
        id, an address with /p2p/ at the end, or ``any``; then it returns once the peer has it.
        With delivery STREAM the data stays here, rows of it go to the peer that trains, and
        ``private`` parts to nobody. The training begins with the weights of the .cyxmodel ``start``, or
        with those that fit (``start_partly``).
        Raises JobRefusedError when one of these does not do, SetupError without a wallet.
        """
        terms = _terms(peer, budget)
        document = graph if isinstance(graph, bytes) else await self.engine.run_blocking(_read, graph)
        with self._workspace_directory() as workspace:
            prepared = await self._prepare(document, data, workspace)
            await self.engine.run_blocking(self.engine.checks.check_start, prepared.graph, start)
            wallet = NO_WALLET if terms is not None else await self._check_wallet(budget)
            needs = requirements or Requirements()
            kept: tuple[DataPart, ...] = ()
            if delivery is Delivery.STREAM:
                prepared = await self.engine.data.settled(prepared)
                kept = await self.engine.data.check(prepared, tuple(dict.fromkeys(private)))
            spec = await self._spec(prepared, Units(budget), segments, needs, wallet)
            summary = msgspec.structs.replace(spec.data, delivery=delivery, private=kept)
            if start is not None:
                weights = StartWeights(await self.engine.files.add(start), start_partly)
                spec = msgspec.structs.replace(spec, weights=weights)
            spec = msgspec.structs.replace(spec, data=summary)
            for file in spec.brought:
                self.engine.files.pin(file.blake3, spec.job_id)
        job = Job(
            spec=spec,
            name=prepared.name,
            coordinator=self.engine.coordinator.peer_id if terms is None else "",
            direct=terms,
            training_flops=prepared.training_flops,
            steps=prepared.steps,
            created_at=self.engine.now(),
        )
        return await self._begin(job, prepared.graph)

    async def deploy(
        self,
        order: DeploymentOrder,
        budget: int = 0,
        *,
        requirements: Requirements | None = None,
        peer: str | None = None,
    ) -> JobId:
        """Has a peer serve a model; returns once the coordinator, or with ``peer`` that peer, has it.

        ``budget`` and ``peer`` are as for ``submit``. The peer that serves a model sees everything that
        is asked of it. Raises JobRefusedError when one of these does not do, SetupError without a wallet.
        """
        terms = _terms(peer, budget)
        found = await self.engine.run_blocking(self.engine.checks.check_served, order.model)
        wallet = NO_WALLET if terms is not None else await self._check_wallet(budget)
        files = self.engine.files
        tokenizer = await files.add(order.tokenizer) if order.tokenizer is not None else None
        serving = serving_of(order, found, tokenizer)
        model, needs = await files.add(order.model), requirements or Requirements()
        spec = spec_of(secrets.token_hex(32), order, model, serving, budget, needs, wallet)
        for file in spec.brought:
            files.pin(file.blake3, spec.job_id)
        job = Job(
            spec=spec,
            name=order.name,
            coordinator=self.engine.coordinator.peer_id if terms is None else "",
            direct=terms,
            training_flops=0,
            steps=order.periods,
            created_at=self.engine.now(),
        )
        return await self._begin(job, b"")

    async def extend(self, name: str, periods: int, budget: int = 0) -> JobId:
        """More time at the same peer, from when the deployment ends: another one that takes it over.

        Raises as ``deploy``, and JobEndedError for one that does not run.
        """
        job = self._live(name).job
        serving = job.spec.serving
        if serving is None:
            raise JobRefusedError(f"job {job.job_id[:8]} trains: only a deployment can be extended")
        if job.is_over or job.peer_id is None:
            raise JobEndedError(f"deployment {job.job_id[:8]} is {job.state.value}: deploy the model again")
        kept = [self.engine.files.path(file.blake3) for file in job.spec.brought]
        if any(path is None for path in kept):
            raise JobRefusedError(f"the model of deployment {job.job_id[:8]} is not here any more")
        model, tokenizer = (*kept, None)[:2]
        assert model is not None
        order = DeploymentOrder(
            model,
            serving.name,
            tokenizer,
            periods,
            serving.period_s,
            serving.memory_bytes,
            serving.gpu_layers,
            serving.context,
            continues=job.job_id,
        )
        needs = msgspec.structs.replace(job.spec.requirements, allow=(job.peer_id,))
        direct = job.peer_id if job.direct is not None else None
        return await self.deploy(order, budget, requirements=needs, peer=direct)

    def deployments(self) -> list[DeploymentView]:
        """Newest first."""
        return [view(job, self.engine.now()) for job in self.jobs() if job.spec.serving is not None]

    async def _begin(self, job: Job, graph: bytes) -> JobId:
        await self.engine.store.create(job, graph)
        live = self._lives[job.job_id] = LiveJob(job, 0, self.engine.store, self.engine.now)
        await self._accepted(live)
        return JobId(job.job_id)

    async def _accepted(self, live: LiveJob) -> None:
        self._run(live)
        await _until(live, lambda job: job.accepted)
        if live.failure is not None and not live.job.accepted:
            await self.engine.store.remove(live.job.job_id)
            del self._lives[live.job.job_id]
            for file in live.job.spec.brought:
                self.engine.files.unpin(file.blake3, live.job.job_id)
            raise live.failure

    async def _prepare(self, graph: bytes, data: Path, workspace: Path) -> Prepared:
        return await self.engine.run_blocking(self.engine.checks.prepare, graph, data, workspace)

    async def _check_wallet(self, budget: int) -> str:
        """The wallet that pays. Raises JobRefusedError, SetupError."""
        treasury = self.engine.treasury
        address, balance = treasury.address, await treasury.balance()
        if balance.tokens == 0:
            raise JobRefusedError(
                f"wallet {address} is empty: holds {format_tokens(0)}, the budget is {format_tokens(budget)}"
            )
        if balance.lamports == 0:
            raise JobRefusedError(f"wallet {address} holds 0 SOL, a little is needed for fees")
        return address

    async def _spec(
        self, prepared: Prepared, budget: Units, segments: int, needs: Requirements, wallet: str
    ) -> JobSpec:
        file = await self.engine.files.add(prepared.data, move=True)
        summary = DataSummary(
            file=file,
            samples=prepared.samples,
            sample_shape=prepared.sample_shape,
            dtype=prepared.dtype,
            classes=prepared.classes,
        )
        return JobSpec(
            job_id=secrets.token_hex(32),
            graph_hash=prepared.graph_hash,
            data=summary,
            budget=budget,
            user_wallet=wallet,
            segments=min(segments, prepared.steps),
            requirements=needs,
        )

    @contextmanager
    def _workspace_directory(self) -> Iterator[Path]:
        self._workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._workspace) as name:
            yield Path(name)

    # -- following -----------------------------------------------------------------------------

    def _run(self, live: LiveJob) -> None:
        if live.job.job_id in self._running or plan.is_finished(live.job):
            if plan.is_finished(live.job):
                live.end()
            return
        self._running.add(live.job.job_id)
        live.begin()
        self._nursery.start_soon(self._run_to_end, live)

    async def _run_to_end(self, live: LiveJob) -> None:
        try:
            await JobRunner(self.engine, live).run()
        finally:
            self._running.discard(live.job.job_id)
        if plan.is_finished(live.job):
            release_all(self.engine, live.job)
        for peer, job_id in [each for each in self._callers if each[1] == live.job.job_id]:
            await self._callers.pop((peer, job_id)).streams.aclose()
        await self._sweeper.look([live])

    async def follow(self, name: str, after: int = 0) -> AsyncIterator[News]:
        """Goes on with the job; yields its story from line ``after`` on until it is over.

        Raises JobUnknownError, and whatever this session gives the job up for.
        """
        live = self._live(name)
        self._run(live)
        async for news in live.follow(after):
            yield news

    async def pause(self, name: str) -> Job:
        """Returns when the peer was told, if there is one."""
        return await self._set_paused(self._live(name), True)

    async def resume(self, name: str) -> Job:
        return await self._set_paused(self._live(name), False)

    async def set_rate(self, name: str, rate: float) -> Job:
        """Another learning rate, also for whichever peer goes on with the job later.

        Returns when the peer was told, if there is one. Raises LocalProtocolError for no such rate.
        """
        if not 0 <= rate <= MAX_LEARNING_RATE:
            raise LocalProtocolError(f"learning rate {rate:g}, must be from 0 to {MAX_LEARNING_RATE:g}")
        live = self._live(name)
        if live.job.is_over:
            raise JobEndedError(f"job {live.job.job_id[:8]} is {live.job.state.value}")
        await live.apply(events.RateChanged(rate))
        self._run(live)
        if live.job.state in WITH_PEER:
            with deadline(TOLD_TIMEOUT_S, "telling the peer"):
                await _until(live, lambda job: live.told.learning_rate == rate or job.state not in WITH_PEER)
        return live.job

    async def _set_paused(self, live: LiveJob, paused: bool) -> Job:
        if live.job.spec.serving is not None:
            raise JobRefusedError(
                f"job {live.job.job_id[:8]} is a deployment, which holds its device: stop it, deploy it again"
            )
        if live.job.is_over:
            raise JobEndedError(f"job {live.job.job_id[:8]} is {live.job.state.value}")
        await live.apply(events.PauseChanged(paused))
        self._run(live)
        if live.job.state in WITH_PEER:
            with deadline(TOLD_TIMEOUT_S, "telling the peer"):
                await _until(live, lambda job: live.told.paused is paused or job.state not in WITH_PEER)
        return live.job

    async def cancel(self, name: str) -> Job:
        """Returns when coordinator, or peer of a direct job, was told; what is vouchered stays paid.

        What was to continue a deployment is cancelled with it.
        """
        live = self._live(name)
        if live.job.is_over:
            raise JobEndedError(f"job {live.job.job_id[:8]} is {live.job.state.value}")
        cancelled = (live, *self._continuing(live.job.job_id))
        for each in cancelled:
            await each.apply(events.CancelAsked())
            self._run(each)
        timeout_s, whom = CANCEL_TIMEOUT_S, "the coordinator"
        if live.job.direct is not None:
            timeout_s, whom = timeout_s + self.engine.limits.peer_patience_s, "the peer"
        with deadline(timeout_s, f"telling {whom}"):
            for each in cancelled:
                await _until(each, lambda job: job.cancel_sent or job.is_over)
        return live.job

    def _continuing(self, deployment: str) -> Iterator[LiveJob]:
        """Its extensions that are not over, and theirs."""
        for each in list(self._lives.values()):
            serving = each.job.spec.serving
            if serving is not None and serving.continues == deployment and not each.job.is_over:
                yield each
                yield from self._continuing(each.job.job_id)

    # -- results -------------------------------------------------------------------------------

    async def fetch(self, name: str, target: Path | None = None) -> Path:
        """The checked model; a copy of it at ``target`` if given. Waits for a job that still runs.

        Where the data stayed here, the copy also has what is noted on it, such as names of classes.

        Raises JobEndedError for a job that is over without one.
        """
        live = self._live(name)
        if live.job.result is None:
            self._run(live)
            await _until(live, lambda job: job.result is not None)
        result = live.job.result
        path = self.engine.files.path(result.blake3) if result is not None else None
        if path is None:
            raise live.failure or JobEndedError(
                f"job {live.job.job_id[:8]} is {live.job.state.value} and has no model: {live.job.text}"
            )
        if target is None:
            return path
        copy = await self.engine.run_blocking(_copy, path, target)
        if live.job.spec.data.delivery is Delivery.STREAM:
            await self.engine.data.add_notes(live.job, copy)
        return copy

    async def predict(self, peer: str, model: str, tensor: Tensor) -> Tensor:
        """The model's answer, from the peer. ``model`` is the hash of a model that a job here made.

        Raises JobUnknownError, RemoteFailureError, ConnectionFailedError, DeadlineError.
        """
        return await (await self._model_client(peer, model)).predict(model, tensor)

    async def _model_client(self, peer: str, model: str) -> ModelClient:
        job = next((job for job in self.jobs() if job.result and job.result.blake3 == model), None)
        if job is None:
            raise JobUnknownError(f"no job here made model {model[:16]}: only its owner may call it")
        return ModelClient(self._caller(peer, job.job_id))

    def _caller(self, peer: str, job_id: str) -> JobCaller:
        caller = self._callers.get((peer, job_id))
        if caller is None:
            live = self._lives[job_id]
            caller = JobCaller(self.engine, PeerId(peer), lambda: live.job)
            self._callers[peer, job_id] = caller
        return caller

    def deployment(self, name: str, peer: str | None = None) -> ModelAtPeer:
        """The model of a deployment, wherever it is; by its name, its id, or the unique beginning of one.

        Of replicas of one name it is the newest that has a peer.

        With ``peer`` only there, and with little patience; without, only at peers that the user gave it
        to: nothing is ever sent to another one that it moved to by itself.
        Raises JobUnknownError; each call raises JobEndedError once it is over, or not there any more.
        """
        job_id = self._replica(name, peer) or self._live(name).job.job_id
        return ModelAtPeer(job_id, lambda: self._deployment_caller(job_id, peer))

    async def deployment_status(self, name: str) -> tuple[Job, DeploymentStatus]:
        """Wherever it is: nothing that a user wrote goes there. Raises as ``deployment``."""
        job = self.job(self.deployment(name).deployment)
        return job, await self.deployment(job.job_id, job.peer_id).status()

    def _replica(self, name: str, peer: str | None) -> str | None:
        named = (
            job.job_id
            for job in self.jobs()
            if job.spec.serving is not None
            and job.spec.serving.name == name
            and not job.is_over
            and job.peer_id is not None
            and peer in (None, job.peer_id)
        )
        return next(named, None)

    def _deployment_caller(self, job_id: str, peer: str | None) -> Caller:
        live = self._lives.get(job_id)
        if live is None or live.job.is_over:
            raise JobEndedError(f"deployment {job_id[:8]} is over")
        if live.job.peer_id is None:
            raise JobEndedError(f"deployment {job_id[:8]} has no peer yet")
        if peer is not None and live.job.peer_id != peer:
            raise JobEndedError(f"deployment {job_id[:8]} is at another peer now")
        is_deployment = live.job.spec.serving is not None
        if peer is None and is_deployment and view(live.job, self.engine.now()).moved:
            raise JobEndedError(
                f"deployment {job_id[:8]} moved by itself to peer {live.job.peer_id}, which would see what "
                "is asked: name that peer to ask it there"
            )
        caller = self._caller(live.job.peer_id, job_id)
        return caller if peer is None else HastyCaller(caller, BOUND_PATIENCE_S)


def _terms(peer: str | None, budget: int) -> Direct | None:
    """None for a paid job. Raises JobRefusedError."""
    terms = None if peer is None else direct_terms(peer)
    if terms is None and budget < 1:
        raise JobRefusedError(f"budget of {format_tokens(budget)}, must be positive")
    if terms is not None and budget != 0:
        raise JobRefusedError(f"budget of {format_tokens(budget)} for a job that nobody is paid for")
    return terms


def direct_terms(peer: str) -> Direct:
    """Raises JobRefusedError for what names no peer."""
    if peer == ANY_PEER:
        return Direct()
    address, _, name = peer.rpartition("/p2p/") if "/" in peer else ("", "", peer)
    try:
        public_key_of(PeerId(name))
    except RemoteProtocolError as error:
        raise JobRefusedError(
            f"{error}; allowed is any, a peer's id, or an address such as /ip4/192.168.1.2/tcp/4001/p2p/ID"
        ) from error
    return Direct(name, (peer,) if address else ())


async def _until(live: LiveJob, condition: Callable[[Job], bool]) -> None:
    """Also returns when the session ends the job."""
    await live.wait_for(lambda job: live.ended or condition(job))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise JobRefusedError(f"{path}: {error.strerror}") from error


def sync_file(path: Path) -> None:
    """Returns once the file's bytes are on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _copy(path: Path, target: Path) -> Path:
    """Atomic: ``target`` is whole or as it was."""
    target = target.absolute()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        shutil.copyfile(path, temporary)
        sync_file(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


@asynccontextmanager
async def run_engine(engine: Engine, workspace: Path) -> AsyncIterator[JobEngine]:
    """``workspace`` is a directory for files under way; what is in it is thrown away."""
    shutil.rmtree(workspace, ignore_errors=True)
    async with background_tasks() as nursery:
        jobs = JobEngine(engine, workspace, nursery)
        await jobs.start()
        yield jobs
