"""The Engine's session, for the window: peers, jobs and their stories; opened again whenever it ends.

The same session, asked the same questions, as the commands have (``engine_app.sessions``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from backend.errors import BackendError
from backend.graph import Graph
from engine_app.config import Config
from engine_app.document.errors import FileError
from engine_app.document.files import save_graph
from engine_app.entry import CommandError, cause_of
from engine_app.gateway.remote import RemoteModel
from engine_app.sessions import Session, open_session
from engine_app.ui.loop import Tasks
from engine_app.ui.observed import Observed
from engine_app.ui.runs import Run
from p2p.errors import P2PError
from p2p.session.places import Places

if TYPE_CHECKING:
    from engine_app.gateway.endpoint import Endpoint

LOOK_EVERY_S = 3.0
STATUS_TIMEOUT_S = 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
KEPT_LINES = 200
KEPT_STORIES = 50
OVER = frozenset({"settled", "completed", "failed", "cancelled", "refunded", "expired"})
EXPECTED = (P2PError, BackendError, CommandError, FileError, OSError)


@dataclass(frozen=True, slots=True)
class JobWish:
    """How a job is to be done. ``private``: parts of streamed data that never leave."""

    budget: int
    segments: int = 4
    peer: str = "any"
    """On the own network."""
    stream: bool = False
    private: tuple[str, ...] = ("test",)


@dataclass(frozen=True, slots=True)
class PeerWish:
    """A model to be served by peers. ``peer``: an id, or empty for whichever the coordinator chooses."""

    model: Path
    name: str
    tokenizer: Path | None
    peer: str
    minutes: int
    replicas: int
    budget: int
    """Of each replica, in units; 0 on the own network."""
    gpu_layers: int = 0
    context: int = 0


class Story:
    """What a job told while the window followed it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.last = 0
        """Number of the newest line: what a new connection tells again is not told twice."""

    def tell(self, news: dict[str, Any]) -> None:
        if news.get("kind") == "progress":
            self.run.add(news["metrics"])
            return
        self.last = max(self.last, news.get("number") or 0)
        if news.get("text"):
            signature = f"  [{news['signature'][:16]}]" if news.get("signature") else ""
            self.lines.append(f"{news.get('state') or news['kind']}  {news['text']}{signature}")


class Network(Observed):
    """Listeners are told of every change, and ask for what they need."""

    def __init__(self, config: Config, tasks: Tasks) -> None:
        super().__init__()
        self.config = config
        self._tasks = tasks
        self._session: Session | None = None
        self._scope: trio.CancelScope | None = None
        self._alone = trio.Lock()
        """Held while a session is open: the folder is locked until the one before has ended."""
        self._look_now = trio.Event()
        self._followed: set[str] = set()
        self._given_up: set[str] = set()
        """Jobs whose story ended with an error: they go on when their user says so."""
        self.address = config.coordinator or Places(config.data_dir).remembered_coordinator() or ""
        self.state = "off"
        """off, connecting, online; away: the session is there, the coordinator is not."""
        self.text = ""
        self.peers: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.stories: dict[str, Story] = {}
        self.deployments: list[dict[str, Any]] = []
        """At peers, the newest first."""
        self.statuses: dict[str, dict[str, Any]] = {}
        """What the models of those that run told last, by deployment."""
        self.estimate: dict[str, Any] | None = None
        self.estimate_for: tuple[Graph, str, int] | None = None
        """What the estimate is of."""
        self.problem = ""
        """With the newest order."""
        self.busy = ""
        """What is being done for the user just now."""
        self._order_scope: trio.CancelScope | None = None

    # -- the session ---------------------------------------------------------------------------

    def connect(self, address: str = "") -> None:
        """Also again, for another address, wallet or passphrase. Goes on trying until ``disconnect``."""
        self.disconnect()
        self.address = address or self.address
        self.config = replace(self.config, coordinator=self.address or None)
        self._set("connecting", "Connecting")
        self._scope = self._tasks.start(self._live)

    def disconnect(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
            self._scope = None
        self._session = None
        self.call_off()
        self.peers, self.estimate, self.estimate_for = [], None, None
        self._set("off", "")

    def unlock(self, passphrase: str) -> None:
        """Of an encrypted wallet; kept in memory only."""
        self.config = replace(self.config, passphrase=passphrase or None)

    async def _live(self) -> None:
        async with self._alone:
            await self._keep_connected()

    async def _keep_connected(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self._set("connecting", "Connecting")
            try:
                async with open_session(self.config, lan=not self.address) as session:
                    pause_s = FIRST_PAUSE_S
                    self._session = session
                    await self._follow_all(session)
            except (*EXPECTED, ExceptionGroup) as error:
                cause = cause_of(error)
                if not isinstance(cause, EXPECTED):
                    raise
                self._set("connecting", f"{cause}. Trying again in {pause_s:.0f} s")
            finally:
                self._session = None
            await trio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    async def _follow_all(self, session: Session) -> None:
        """Looks at peers and jobs again and again; follows each job that is not over."""
        async with trio.open_nursery() as nursery:
            self._followed = followed = set[str]()
            self._given_up.clear()
            while True:
                await self._look(session)
                for job in self.jobs:
                    if job["job_id"] not in followed and job["state"] not in OVER:
                        followed.add(job["job_id"])
                        nursery.start_soon(self._follow, session, job["job_id"], job["name"])
                self._tell()
                self._look_now = trio.Event()
                with trio.move_on_after(LOOK_EVERY_S):
                    await self._look_now.wait()

    async def _look(self, session: Session) -> None:
        self.jobs = await session.ask("jobs")
        self.deployments = await session.ask("deployments")
        async with trio.open_nursery() as nursery:
            for each in self.deployments:
                if each["is_running"]:
                    nursery.start_soon(self._look_at, session, each["id"])
        try:
            self.peers = await session.ask("peers", lan=not self.address)
        except P2PError as error:
            self.state, self.text = "away", f"{error}. What runs goes on; trying again"
        else:
            where = "the coordinator's peers" if self.address else "your own network"
            self.state, self.text = "online", f"Connected to {where}"

    async def _look_at(self, session: Session, deployment: str) -> None:
        """A model that does not answer keeps what it told last."""
        with trio.move_on_after(STATUS_TIMEOUT_S):
            try:
                self.statuses[deployment] = await session.ask("deployment_status", deployment=deployment)
            except P2PError:
                return

    async def _follow(self, session: Session, job: str, name: str) -> None:
        story = self._story(job, name)
        try:
            last = await session.ask("follow", partial(self._told, story), job=job, after=story.last)
            if last["metrics"]:
                story.run.add(last["metrics"])
        except P2PError as error:
            story.lines.append(str(error))
            self._given_up.add(job)
        self.jobs = await session.ask("jobs")
        self._tell()

    def _told(self, story: Story, news: dict[str, Any]) -> None:
        story.tell(news)
        self._tell()

    def _story(self, job: str, name: str) -> Story:
        if job not in self.stories:
            while len(self.stories) >= KEPT_STORIES:
                del self.stories[next(iter(self.stories))]
            self.stories[job] = Story(Run(name, ""))
        return self.stories[job]

    # -- orders --------------------------------------------------------------------------------

    def ask_estimate(self, graph: Graph, data: str, segments: int) -> None:
        async def work(session: Session) -> None:
            saved = await self._saved(graph)
            self.estimate = await session.ask("estimate", graph=saved, data=data, segments=segments)
            self.estimate_for = (graph, data, segments)

        self.estimate = None
        self._order("Estimating", work)

    def submit(self, graph: Graph, data: str, wish: JobWish) -> None:
        """For money, or, with no coordinator, to a peer of the own network that lets this Engine in."""

        async def work(session: Session) -> None:
            where: dict[str, Any] = {"budget": wish.budget} if self.address else {"peer": wish.peer}
            saved = await self._saved(graph)
            how = {"segments": wish.segments, "stream": wish.stream, "private": list(wish.private)}
            await session.ask("submit", graph=saved, data=data, **where, **how)
            self._look_now.set()  # and follow it from its beginning

        self._order("Submitting", work)

    def order(self, name: str, job: str) -> None:
        """pause, resume, cancel."""

        async def work(session: Session) -> None:
            await session.ask(name, job=job)
            self.jobs = await session.ask("jobs")
            if name == "resume" and job in self._given_up:
                self._given_up.discard(job)
                self._followed.discard(job)
                self._look_now.set()

        self._order(f"{name.capitalize()}: asking the peer", work)

    def deploy(self, wish: PeerWish) -> None:
        """Each replica is a deployment of its own, of the same name."""

        async def work(session: Session) -> None:
            where: dict[str, Any] = {"peer": wish.peer or "any"}
            if self.address:
                where = {"budget": wish.budget, "allow": [wish.peer] if wish.peer else []}
            how = {"periods": wish.minutes, "gpu_layers": wish.gpu_layers, "context": wish.context}
            tokenizer = str(wish.tokenizer) if wish.tokenizer else None
            for _ in range(wish.replicas):
                await session.ask(
                    "deploy", model=str(wish.model), name=wish.name, tokenizer=tokenizer, **where, **how
                )
            self.deployments = await session.ask("deployments")
            self._look_now.set()

        self._order("Deploying", work)

    def extend(self, deployment: str, minutes: int, budget: int) -> None:
        async def work(session: Session) -> None:
            await session.ask("extend", deployment=deployment, periods=minutes, budget=budget)
            self.deployments = await session.ask("deployments")
            self._look_now.set()

        self._order("Extending", work)

    def endpoint(self, deployment: str, peer: str) -> Endpoint | None:
        """The model there, and nowhere else; None while another program holds the Engine's session."""
        engine = self._session.engine if self._session is not None else None
        if engine is None:
            return None
        try:
            return RemoteModel(deployment, engine.model(deployment, peer))
        except P2PError:
            return None

    def set_rate(self, job: str, rate: float) -> None:
        """From the next step on; schedules go on multiplying it."""

        async def work(session: Session) -> None:
            await session.ask("set_rate", job=job, rate=rate)
            self.jobs = await session.ask("jobs")

        self._order("Changing the learning rate", work)

    def explain(self, job: str, told: Callable[[dict[str, Any]], None]) -> None:
        """``told`` gets the coordinator's lines, and why each other peer was not chosen."""

        async def work(session: Session) -> None:
            told(await session.ask("explain", job=job))

        self._order("Asking why", work)

    def fetch(self, job: str, target: Path) -> None:
        async def work(session: Session) -> None:
            await session.ask("fetch", job=job, target=str(target))

        self._order(f"Fetching {target.name}", work)

    def _order(self, what: str, work: Callable[[Session], Any]) -> None:
        session = self._session

        async def run() -> None:
            try:
                if session is None:
                    raise CommandError("not connected")
                await work(session)
            except EXPECTED as error:
                self.problem = str(error)
            finally:
                self.busy = ""
                self._tell()

        if not self.busy:
            self.busy, self.problem = what, ""
            self._tell()
            self._order_scope = self._tasks.start(run)

    def call_off(self) -> None:
        """What is being done for the user just now; what has arrived elsewhere stays there."""
        if self.busy and self._order_scope is not None:
            self._order_scope.cancel()
            self.problem = f"{self.busy}: called off. What had arrived by then is in the list"
            self._look_now.set()

    async def _saved(self, graph: Graph) -> str:
        path = self.config.data_dir / "submitted.json"
        await trio.to_thread.run_sync(partial(path.parent.mkdir, mode=0o700, parents=True, exist_ok=True))
        await trio.to_thread.run_sync(save_graph, path, graph)
        return str(path)

    def _set(self, state: str, text: str) -> None:
        self.state, self.text = state, text
        self._tell()
