"""Jobs from Python, for scripts and notebooks: submit, follow, fetch, infer.

    async with open_engine("~/.cyxwiz/engine", coordinator=address) as engine:
        job = await engine.submit(Path("graph.json"), Path("digits.csv"), tokens("2"))
        async for news in engine.follow(job):
            print(news.text)
        path = await engine.fetch(job, Path("digits.cyxmodel"))
        y = await engine.infer(peer, model, x)

``Engine`` is the same without async. Only one program at a time works on a data directory; its
commands (``cyxwiz pause`` and so on) reach an engine that is open here through its control socket.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import structlog
import trio

from p2p.chain.client import open_chain
from p2p.chain.payer import open_payer
from p2p.chain.trust import TrustedEscrow, check_chain
from p2p.chain.wallet import Wallet
from p2p.control import serve_control
from p2p.datadir import DataDir
from p2p.errors import LOST
from p2p.files import FileStore
from p2p.host import open_host
from p2p.identifiers import JobId, Units
from p2p.identity import load_or_create_identity
from p2p.jobs import DataPart, Delivery, Requirements
from p2p.logs import configure_logging
from p2p.pricing import parse_tokens
from p2p.protocols.coordinator import ChainInfo, Estimate
from p2p.protocols.inference import DeploymentStatus
from p2p.rates import Rates
from p2p.session.arrays import to_array, to_tensor
from p2p.session.asking import Answer, Asked, AskedLike
from p2p.session.blocking import TrioThread
from p2p.session.chat import ChatOptions
from p2p.session.checks import Checks, Prepared
from p2p.session.control import Control, neighbour_summary, summary
from p2p.session.coordinator_link import (
    NO_COORDINATOR,
    CoordinatorLink,
    NoCoordinator,
    open_coordinator,
)
from p2p.session.deployments import DEFAULT_MINUTES, DeploymentOrder, DeploymentView
from p2p.session.engine import DEFAULT_PRIVATE, DEFAULT_SEGMENTS, JobEngine, run_engine
from p2p.session.engine_parts import Engine as EngineParts
from p2p.session.engine_parts import Limits
from p2p.session.errors import SetupError
from p2p.session.model_at_peer import ModelAtPeer
from p2p.session.news import News
from p2p.session.own_data import OwnData
from p2p.session.owner import DataOwner
from p2p.session.places import Places, coordinator_peer
from p2p.session.store import open_store
from p2p.session.treasury import Balance, ChainTreasury, NoTreasury, Treasury

__all__ = ["Asked", "AsyncEngine", "Engine", "Limits", "News", "ask_chain", "open_engine", "tokens"]

DEFAULT_DATA_DIR = "~/.cyxwiz/engine"
DEFAULT_CHECKS = "engine_app.checks:BackendChecks"
DEFAULT_OWNER = "engine_app.owner:BackendOwner"
"""Loaded by name, and only when the caller brings no checks: p2p itself knows no graph."""
STORE_QUOTA_BYTES = 1 << 42
SOFTWARE = "cyxwiz"

log = structlog.get_logger(__name__)
tokens = parse_tokens
_T = TypeVar("_T")
Messages = Iterable[Mapping[str, str]]
"""Of a conversation, each with ``role`` (system, user, assistant) and ``content``."""


class AsyncEngine:
    """Use ``open_engine``."""

    def __init__(self, jobs: JobEngine, treasury: Treasury) -> None:
        self._jobs = jobs
        self._treasury = treasury
        self.control = Control(jobs)
        """What the control socket answers with, for callers in the same process."""

    async def submit(
        self,
        graph: bytes | Path,
        data: Path,
        budget: int = 0,
        *,
        segments: int = DEFAULT_SEGMENTS,
        requirements: Requirements | None = None,
        peer: str | None = None,
        stream: bool = False,
        private: Sequence[str] = DEFAULT_PRIVATE,
        start: Path | None = None,
        start_partly: bool = False,
    ) -> JobId:
        """Has a peer train a graph: returns the job's id, and ``follow`` goes on with it.

        ``graph`` is a document or its file, ``data`` what ``cyxwiz data`` reads, such as a .csv or
        ``Path("bundled:digits")``; ``budget`` in units (``tokens("2.5")``) is the most it may cost, paid in
        so many ``segments``. ``requirements``: which peers may do it, see ``p2p.jobs.Requirements``.
        With ``peer`` (an id, an address, or ``any``) a peer of the own network does it, unpaid.
        With ``stream`` the data stays here and the peer gets rows of it as it trains, but never one of
        the ``private`` parts, which are evaluated here. The training begins with the weights of the
        .cyxmodel ``start``, with ``start_partly`` with those that fit.
        Raises JobRefusedError, SetupError, RemoteFailureError.
        """
        return await self._jobs.submit(
            graph,
            data,
            budget,
            segments=segments,
            requirements=requirements,
            peer=peer,
            delivery=Delivery.STREAM if stream else Delivery.FILE,
            private=tuple(map(DataPart, private)),
            start=start,
            start_partly=start_partly,
        )

    async def neighbours(self) -> list[dict[str, Any]]:
        """Peers of the own network, those that work for this Engine first."""
        return [neighbour_summary(peer) for peer in await self._jobs.neighbours()]

    async def estimate(
        self, graph: bytes | Path, data: Path, *, segments: int = DEFAULT_SEGMENTS
    ) -> tuple[Prepared, Estimate]:
        """What is to be trained, and what the coordinator's peers would ask for it, the best one first.

        Raises SetupError, RemoteFailureError.
        """
        document = graph if isinstance(graph, bytes) else await trio.Path(graph).read_bytes()
        return await self._jobs.estimate(document, data, segments=segments)

    def follow(self, job: str, after: int = 0) -> AsyncIterator[News]:
        """The job's story from line ``after`` on, until it is over; goes on with the job if need be."""
        return self._jobs.follow(job, after)

    async def pause(self, job: str) -> None:
        """Stops the training for now; the peer keeps its place."""
        await self._jobs.pause(job)

    async def resume(self, job: str) -> None:
        """Lets the training go on."""
        await self._jobs.resume(job)

    async def set_rate(self, job: str, rate: float) -> None:
        """Another learning rate from the peer's next step on."""
        await self._jobs.set_rate(job, rate)

    async def cancel(self, job: str) -> None:
        """What is proven stays paid, the rest comes back."""
        await self._jobs.cancel(job)

    async def fetch(self, job: str, target: Path | None = None) -> Path:
        """The trained and checked .cyxmodel. Raises JobEndedError."""
        return await self._jobs.fetch(job, target)

    async def infer(self, peer: str, model: str, x: Any) -> Any:
        """Asks the peer that trained a model: ``job(...)["peer_id"]``, ``job(...)["result"]["blake3"]``.

        ``x`` and the answer are numpy arrays, the first dimension the batch.
        """
        return to_array(await self._jobs.predict(peer, model, to_tensor(x)))

    async def deploy(
        self,
        model: Path,
        budget: int = 0,
        *,
        name: str = "",
        tokenizer: Path | None = None,
        minutes: int = DEFAULT_MINUTES,
        requirements: Requirements | None = None,
        peer: str | None = None,
        **options: Any,
    ) -> JobId:
        """Has a peer serve a .cyxmodel, ONNX or GGUF file for some minutes, paid minute by minute.

        ``budget`` is in units; ``options``: the other fields of ``p2p.session.deployments.DeploymentOrder``.
        With ``peer`` one of the own network does it, unpaid. The peer sees everything that is asked of the
        model. It is served for as long as this Engine is open, and goes on at the next ``follow``.
        Raises JobRefusedError, SetupError, RemoteFailureError.
        """
        options.setdefault("periods", minutes)
        order = DeploymentOrder(model, name or model.stem, tokenizer, **options)
        return await self._jobs.deploy(order, budget, requirements=requirements, peer=peer)

    async def extend(self, deployment: str, minutes: int, budget: int = 0) -> JobId:
        """More minutes at the same peer, as another deployment that takes this one over when it ends."""
        return await self._jobs.extend(deployment, minutes, budget)

    def deployments(self) -> list[DeploymentView]:
        """Newest first, also those that are over."""
        return self._jobs.deployments()

    async def stop_deployment(self, deployment: str) -> None:
        """What was served stays paid, the rest comes back."""
        await self._jobs.cancel(deployment)

    def model(self, deployment: str, peer: str | None = None) -> ModelAtPeer:
        """A deployed model, by the deployment's id or the beginning of it.

        With ``peer`` only there; without, only at peers chosen for it, not where it moved by itself.
        Raises JobUnknownError.
        """
        return self._jobs.deployment(deployment, peer)

    async def predict(self, deployment: str, inputs: Any, peer: str | None = None) -> dict[str, Any]:
        """All outputs by name, numpy arrays. ``inputs``: arrays by name, or the one that the model takes."""
        named = inputs if isinstance(inputs, Mapping) else {"": inputs}
        tensors = {name: to_tensor(x) for name, x in named.items()}
        found = await self.model(deployment, peer).predict(tensors)
        return {name: to_array(tensor) for name, tensor in found.items()}

    def chat(
        self, deployment: str, messages: Messages, peer: str | None = None, **options: Any
    ) -> AsyncGenerator[str]:
        """The answer's text as it comes; ``options`` are those of ``p2p.session.chat.ChatOptions``.

        Close it (``contextlib.aclosing``) to stop the model early.
        """
        return self.model(deployment, peer).chat(messages, ChatOptions(**options))

    def ask(
        self, deployment: str, asked: AskedLike, peer: str | None = None
    ) -> AbstractAsyncContextManager[Answer]:
        """An HTTP request to the model, such as ``Asked("GET", "/v1/model")``, its answer as it comes."""
        return self.model(deployment, peer).ask(asked)

    async def model_status(self, deployment: str) -> DeploymentStatus:
        """What the model takes, gives and can, and how it is; also where it moved by itself."""
        _, status = await self._jobs.deployment_status(deployment)
        return status

    def job(self, job: str) -> dict[str, Any]:
        """What is known of a job, by its id or the beginning of it; see ``p2p.session.control.summary``."""
        return summary(self._jobs.job(job))

    def jobs(self) -> list[dict[str, Any]]:
        """Newest first."""
        return [summary(job) for job in self._jobs.jobs()]

    async def balance(self) -> Balance:
        """Of the wallet. Raises ChainError."""
        return await self._treasury.balance()

    @property
    def bytes_moved(self) -> tuple[int, int]:
        """Bytes of files (sent, received) in this session."""
        files = self._jobs.engine.files
        return files.bytes_sent, files.bytes_received


@asynccontextmanager
async def open_engine(
    data_dir: str | Path = DEFAULT_DATA_DIR,
    *,
    coordinator: str | None = None,
    checks: Checks | None = None,
    owner: DataOwner | None = None,
    listen: Sequence[str] = (),
    passphrase: str | None = None,
    limits: Limits | None = None,
    now: Callable[[], float] = time.time,
    trusted: TrustedEscrow | None = None,
    lan: bool = False,
    upload_limit: int | None = None,
    download_limit: int | None = None,
    storage_bytes: int = STORE_QUOTA_BYTES,
) -> AsyncIterator[AsyncEngine]:
    """An Engine on its data directory, which it locks.

    ``coordinator`` is a multiaddress with /p2p/ at the end; without it the last one is used, and
    where there is none, only what needs none can be done: jobs of peers on the own network.
    With ``lan`` a coordinator that is known is not waited for.
    ``passphrase`` opens an encrypted wallet; ``trusted`` is needed on a real network only. The limits
    are of all file transfers together, in bytes per second. ``storage_bytes`` is what files may take
    in all: those that no job needs any more give way, the ones used least recently first.
    Raises DataDirLockedError, SetupError, KeystoreError, ChainNotTrustedError.
    """
    if not structlog.is_configured():
        configure_logging("warning")  # else structlog's lines would land in the script's stdout
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(DataDir.open(Path(data_dir), SOFTWARE))
        places = Places(directory.path)
        store = stack.enter_context(open_store(places.jobs))
        identity = load_or_create_identity(places.identity)
        network = await stack.enter_async_context(open_host(identity, listen))
        payment = NO_PAYMENT
        address = coordinator or places.remembered_coordinator()
        if address is not None:
            link = await stack.enter_async_context(
                open_coordinator(network, coordinator_peer(address), (address,), SOFTWARE, now)
            )
            known = places.remembered_chain(address) if lan else None
            chain = known or await find_chain(link, places, address, trusted)
            outbox = places.payments(chain, address)
            payment = _Payment(link, chain, await _open_treasury(stack, outbox, places, chain, passphrase))
        rates = Rates.of(upload_limit, download_limit)
        files = FileStore(places.files, storage_bytes, rates=rates)
        parts = EngineParts(
            network=network,
            coordinator=payment.coordinator,
            treasury=payment.treasury,
            files=files,
            checks=checks or load_checks(),
            store=store,
            data=OwnData(owner or load_owner(), files, store, places.workspace),
            now=now,
            chain=payment.chain,
            limits=limits or Limits(),
        )
        jobs = await stack.enter_async_context(run_engine(parts, places.workspace))
        engine = AsyncEngine(jobs, payment.treasury)
        await jobs.background(serve_control, places.control, engine.control)
        yield engine


@dataclass(frozen=True, slots=True)
class _Payment:
    """What paid jobs need."""

    coordinator: CoordinatorLink
    chain: ChainInfo | None
    treasury: Treasury


NO_PAYMENT = _Payment(NoCoordinator(), None, NoTreasury(NO_COORDINATOR))


async def find_chain(
    link: CoordinatorLink, places: Places, address: str, trusted: TrustedEscrow | None
) -> ChainInfo:
    """As the coordinator says; while it is away, as it said last.

    Raises what ``greet`` does, and ChainNotTrustedError.
    """
    known = places.remembered_chain(address)
    try:
        welcome = await link.greet()
    except LOST as error:
        if known is None:
            raise SetupError(f"the coordinator does not answer: {error}") from error
        log.warning("coordinator does not answer, going on without it", reason=str(error))
        return known
    check_chain(welcome.chain, coordinator_peer(address), known, trusted)
    places.remember_coordinator(address)
    places.remember_chain(address, welcome.chain)
    return welcome.chain


async def ask_chain(
    data_dir: str | Path,
    coordinator: str | None = None,
    now: Callable[[], float] = time.time,
    trusted: TrustedEscrow | None = None,
) -> ChainInfo:
    """Which chain the coordinator pays on, without opening an engine.

    Raises DataDirLockedError, SetupError, ChainNotTrustedError.
    """
    with DataDir.open(Path(data_dir), SOFTWARE) as directory:
        places = Places(directory.path)
        address = _coordinator_address(places, coordinator)
        identity = load_or_create_identity(places.identity)
        async with (
            open_host(identity, ()) as network,
            open_coordinator(network, coordinator_peer(address), (address,), SOFTWARE, now) as link,
        ):
            return await find_chain(link, places, address, trusted)


def _coordinator_address(places: Places, coordinator: str | None) -> str:
    address = coordinator or places.remembered_coordinator()
    if address is None:
        raise SetupError(NO_COORDINATOR)
    return address


async def _open_treasury(
    stack: AsyncExitStack, outbox: Path, places: Places, info: ChainInfo, passphrase: str | None
) -> Treasury:
    if not places.wallet.exists():
        return NoTreasury(f"no wallet at {places.wallet}: make one with `cyxwiz wallet new`")
    wallet = Wallet.load(places.wallet, passphrase)
    chain = await stack.enter_async_context(open_chain(info))
    payer = await stack.enter_async_context(open_payer(outbox, chain, wallet))
    return ChainTreasury(chain, payer, wallet)


def load_checks() -> Checks:
    """Raises SetupError where the Engine is not installed."""
    checks: Checks = _load(DEFAULT_CHECKS)
    return checks


def load_owner() -> DataOwner:
    """Raises SetupError where the Engine is not installed."""
    owner: DataOwner = _load(DEFAULT_OWNER)
    return owner


def _load(where: str) -> Any:
    module, _, name = where.partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except ImportError as error:
        raise SetupError(f"the Engine's {name} is not installed: {error}") from error


def _documented_by(model: type) -> Callable[[type[_T]], type[_T]]:
    """Methods without a text of their own say what those of the same name in ``model`` say."""

    def document(documented: type[_T]) -> type[_T]:
        for name, method in vars(documented).items():
            if callable(method) and method.__doc__ is None:
                method.__doc__ = getattr(getattr(model, name, None), "__doc__", None)
        return documented

    return document


@_documented_by(AsyncEngine)
class Engine:
    """An Engine for code without async, such as notebooks; it runs in a thread of its own.

    with Engine("~/.cyxwiz/engine", coordinator=address) as engine:
        job = engine.submit(Path("graph.json"), Path("digits.csv"), tokens("2"))
        for news in engine.follow(job):  # checks what comes, and pays for it
            print(news.text)
        path = engine.fetch(job, Path("digits.cyxmodel"))
        state = engine.job(job)
        answers = engine.infer(state["peer_id"], state["result"]["blake3"], inputs)
        served = engine.deploy(path, tokens("2"), minutes=30)
        outputs = engine.predict(served, inputs)

    A wallet is made, and filled on an embedded chain, by ``cyxwiz wallet new`` and ``wallet airdrop``.
    Jobs and deployments are named by their ids, or what these begin with. Whatever goes wrong is raised as
    a ``p2p.errors.P2PError``, with a text for users.
    """

    def __init__(self, data_dir: str | Path = DEFAULT_DATA_DIR, **options: Any) -> None:
        """``options`` are those of ``p2p.api.open_engine``: ``coordinator``, ``passphrase``, ``lan`` ..."""
        self._thread: TrioThread[AsyncEngine] = TrioThread(lambda: open_engine(data_dir, **options))
        self._engine = self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session; jobs wait for the next one."""
        self._thread.close()

    def submit(self, graph: bytes | Path, data: Path, budget: int = 0, **options: Any) -> JobId:
        return self._thread.call(lambda: self._engine.submit(graph, data, Units(budget), **options))

    def follow(self, job: str, after: int = 0) -> Iterator[News]:
        return self._thread.iterate(lambda: self._engine.follow(job, after))

    def estimate(
        self, graph: bytes | Path, data: Path, *, segments: int = DEFAULT_SEGMENTS
    ) -> tuple[Prepared, Estimate]:
        return self._thread.call(lambda: self._engine.estimate(graph, data, segments=segments))

    def balance(self) -> Balance:
        return self._thread.call(self._engine.balance)

    def pause(self, job: str) -> None:
        self._thread.call(lambda: self._engine.pause(job))

    def resume(self, job: str) -> None:
        self._thread.call(lambda: self._engine.resume(job))

    def set_rate(self, job: str, rate: float) -> None:
        self._thread.call(lambda: self._engine.set_rate(job, rate))

    def cancel(self, job: str) -> None:
        self._thread.call(lambda: self._engine.cancel(job))

    def fetch(self, job: str, target: Path | None = None) -> Path:
        return self._thread.call(lambda: self._engine.fetch(job, target))

    def infer(self, peer: str, model: str, x: Any) -> Any:
        return self._thread.call(lambda: self._engine.infer(peer, model, x))

    def deploy(self, model: Path, budget: int = 0, **options: Any) -> JobId:
        return self._thread.call(lambda: self._engine.deploy(model, budget, **options))

    def extend(self, deployment: str, minutes: int, budget: int = 0) -> JobId:
        return self._thread.call(lambda: self._engine.extend(deployment, minutes, budget))

    def deployments(self) -> list[DeploymentView]:
        return self._engine.deployments()

    def stop_deployment(self, deployment: str) -> None:
        self._thread.call(lambda: self._engine.stop_deployment(deployment))

    def predict(self, deployment: str, inputs: Any, peer: str | None = None) -> dict[str, Any]:
        return self._thread.call(lambda: self._engine.predict(deployment, inputs, peer))

    def chat(
        self, deployment: str, messages: Messages, peer: str | None = None, **options: Any
    ) -> Iterator[str]:
        """The answer's text as it comes; dropping the iterator stops the model."""
        return self._thread.iterate(lambda: self._engine.chat(deployment, messages, peer, **options))

    def ask(self, deployment: str, asked: AskedLike, peer: str | None = None) -> tuple[int, str, bytes]:
        """Status, content type and body of the whole answer."""

        async def whole() -> tuple[int, str, bytes]:
            async with self._engine.ask(deployment, asked, peer) as answer:
                return answer.status, answer.content_type, await answer.read()

        return self._thread.call(whole)

    def model_status(self, deployment: str) -> DeploymentStatus:
        return self._thread.call(lambda: self._engine.model_status(deployment))

    def neighbours(self) -> list[dict[str, Any]]:
        return self._thread.call(self._engine.neighbours)

    def job(self, job: str) -> dict[str, Any]:
        return self._engine.job(job)

    def jobs(self) -> list[dict[str, Any]]:
        return self._engine.jobs()
