"""Work for other machines: the connection, peers, a new job, and the story of each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from kivy.clock import Clock
from kivy.uix.boxlayout import BoxLayout

from engine_app.plain import brief, plain, sentence
from engine_app.show import paid
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.network import OVER, Network, Story
from engine_app.ui.panels.curves import CurvesCard
from engine_app.ui.panels.data import DataCard
from engine_app.ui.panels.order import OrderCard, hardware, rate_card, show_reasons
from engine_app.ui.panels.pick_file import ask_path
from engine_app.ui.theme import Colour, Look
from engine_app.ui.trainer import Trainer
from engine_app.ui.widgets.box import Card, Column, Gap, Line, Row, Text, empty_state
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton
from engine_app.ui.widgets.facts import FactList, StateText
from engine_app.ui.widgets.fields import TextField
from engine_app.ui.widgets.scroll import Scroll
from p2p.pricing import format_tokens

LINES_SHOWN = 12
LEAST_PLOT = 240.0
FIRST_RATE = 1e-3
MAX_PEERS, MAX_JOBS = 50, 50
NEWEST = 5
"""Jobs that are listed before all are asked for: the chosen one's story is to be seen below them."""


class JobsPage(BoxLayout):
    def __init__(self, context: Context, network: Network, trainer: Trainer, is_wide: bool) -> None:
        super().__init__()
        look = context.look
        self._context, self._network, self._trainer = context, network, trainer
        self._chosen, self._shows_all = "", False
        self._drawn: dict[str, Any] = {}
        self._connection = Card(look, gap=theme.MEDIUM)
        self._peers = Card(look, gap=theme.HALF)
        self._order = OrderCard(context, network, trainer)
        self._jobs = Card(look, gap=theme.HALF)
        self._rate = Column(look, gap=0)
        self._detail = Column(look, gap=theme.LARGE)
        self._curves = CurvesCard(context, LEAST_PLOT)
        self._data = DataCard(context, trainer)
        self._address = TextField(look, network.address, hint="/ip4/.../tcp/4400/p2p/12D3...")
        left = Column(look, gap=theme.LARGE, pad=theme.LARGE)
        right = Column(look, gap=theme.LARGE, pad=theme.LARGE) if is_wide else left
        for part in (self._connection, self._order):
            left.add_widget(part)
        jobs = Column(look, gap=0)  # what is empty takes no room
        for part in (self._jobs, self._detail, self._rate):
            jobs.add_widget(part)
        right.add_widget(jobs)
        for part in (self._data, self._peers):
            left.add_widget(part)
        if is_wide:
            side = Scroll(look, left, size_hint_x=None, width=look.px(theme.PANEL_WIDTH + 72))
            reading = Scroll(look, right)
            for part in (side, Line(look, upright=True), reading):
                self.add_widget(part)
            reading.bind(height=lambda _reading, high: self._curves.fit(high / 2, LEAST_PLOT))
        else:
            self.add_widget(Scroll(look, left))
        self._soon = Clock.create_trigger(lambda _dt: self.refresh(), -1)  # once a frame, however much comes
        self._stops = [each.listen(self._soon) for each in (network, trainer, context.desk)]
        self.refresh()

    def close(self) -> None:
        for stop in self._stops:
            stop()
        self._soon.cancel()
        self._data.close()

    def refresh(self) -> None:
        """Each part anew only when what it shows has changed."""
        network = self._network
        self._order.refresh()
        parts = {
            "connection": (network.state, network.text),
            "peers": (network.state, network.peers),
            "jobs": ([_settled(job) for job in self._trainings], self._chosen, self._shows_all),
            "rate": (self._chosen, self._job["state"] if self._job else ""),
            "detail": (self._chosen, _settled(self._job), self._lines),
        }
        for name, shown in parts.items():
            if self._drawn.get(name) != shown:
                self._drawn[name] = shown
                getattr(self, f"_show_{name}")()
        story = self._story
        job = self._job
        self._curves.show(story.run if story is not None else None, metrics=job["metrics"] if job else None)

    @property
    def _job(self) -> dict[str, Any] | None:
        return next((job for job in self._network.jobs if job["job_id"] == self._chosen), None)

    @property
    def _trainings(self) -> list[dict[str, Any]]:
        """Deployments are jobs too, and have a page of their own."""
        return [job for job in self._network.jobs if not job.get("serving")]

    @property
    def _story(self) -> Story | None:
        return self._network.stories.get(self._chosen)

    @property
    def _lines(self) -> list[str]:
        return list(self._story.lines)[-LINES_SHOWN:] if self._story is not None else []

    # -- connection and peers ------------------------------------------------------------------

    def _show_connection(self) -> None:
        look, network, card = self._context.look, self._network, self._connection
        card.clear_widgets()
        card.add_widget(Text(look, "Coordinator", theme.HEADING))
        card.add_widget(self._address)
        palette = look.palette
        colour = {"online": palette.success, "away": palette.warning}.get(network.state, palette.muted)
        text = network.text or "Not connected. Leave the address empty for peers of your own network."
        card.add_widget(Text(look, plain(text), theme.SMALL, colour))
        row = Row(look)
        if network.state == "off":
            row.add_widget(PushButton(look, "Connect", self._connect, Kind.PRIMARY, "plug"))
        else:
            row.add_widget(PushButton(look, "Disconnect", network.disconnect))
            row.add_widget(PushButton(look, "Reconnect", self._connect, Kind.QUIET))
        row.add_widget(Gap(look))
        card.add_widget(row)

    def _connect(self) -> None:
        self._network.address = self._address.text.strip()
        self._network.connect()

    def _show_peers(self) -> None:
        look, card = self._context.look, self._peers
        card.clear_widgets()
        card.add_widget(Text(look, "Peers", theme.HEADING))
        peers = [peer for peer in self._network.peers if "refused" not in peer]
        if not peers:
            told = (
                "None answers yet." if self._network.state == "online" else "Connect to see who offers what."
            )
            card.add_widget(Text(look, told, colour=look.palette.muted))
        for peer in peers[:MAX_PEERS]:
            card.add_widget(
                ListRow(
                    look,
                    hardware(peer),
                    terms(peer),
                    icon="jobs",
                    figure=f"{peer['free']} free",
                    tip=peer["peer_id"],
                )
            )

    # -- jobs ----------------------------------------------------------------------------------

    def _show_jobs(self) -> None:
        look, card = self._context.look, self._jobs
        card.clear_widgets()
        card.add_widget(Text(look, "Jobs", theme.HEADING))
        if not self._trainings:
            text = "What you submit is trained by a peer and paid segment by segment. Its story appears here."
            card.add_widget(empty_state(look, "No jobs yet", text, sign="jobs"))
        every = self._trainings[:MAX_JOBS]
        shown = every if self._shows_all else every[:NEWEST]
        shown += [job for job in every if job["job_id"] == self._chosen and job not in shown]
        for job in shown:
            row = ListRow(
                look,
                plain(job["name"]),
                _worded(progress_of(job)),
                partial(self.choose, job["job_id"]),
                mark=state_colour(look, job),
                icon=icon_of(job),
                figure="unpaid" if job["unpaid"] else format_tokens(paid(job)),
            )
            row.choose(job["job_id"] == self._chosen)
            card.add_widget(row)
        if len(every) > NEWEST:
            row, text = Row(look), "Show the newest" if self._shows_all else f"Show all {len(every)}"
            row.add_widget(PushButton(look, text, self._show_more, Kind.QUIET))
            row.add_widget(Gap(look))
            card.add_widget(row)

    def _show_more(self) -> None:
        self._shows_all = not self._shows_all
        self.refresh()

    def choose(self, job: str) -> None:
        self._chosen = job
        self.refresh()

    def _show_detail(self) -> None:
        look, job, detail = self._context.look, self._job, self._detail
        if self._curves.parent is not None:
            self._curves.parent.remove_widget(self._curves)
        detail.clear_widgets()
        detail.padding = [0, look.px(theme.LARGE if job is not None else 0), 0, 0]
        if job is None:
            return
        card = Card(look, gap=theme.STEP)
        head, names = Row(look), Column(look, gap=0)
        names.add_widget(Text(look, plain(job["name"]), theme.HEADING, lines=1))
        names.add_widget(StateText(look, _worded(plain(progress_of(job))), state_colour(look, job)))
        head.add_widget(names)
        for button in self._buttons(job):
            head.add_widget(button)
        card.add_widget(head)
        if job["text"]:
            card.add_widget(Text(look, sentence(brief(job["text"])), theme.SMALL, look.palette.muted))
        card.add_widget(FactList(look, facts_of(job)))
        if self._lines:
            card.add_widget(Line(look))
            card.add_widget(FactList(look, map(story_line, self._lines)))
        detail.add_widget(card)
        detail.add_widget(self._curves)

    def _show_rate(self) -> None:
        """Of a job that runs; not drawn anew while it does, so that what is being written stays."""
        self._rate.clear_widgets()
        job = self._job
        if job is not None and job["state"] == "running":
            rate = job["learning_rate"] or (job["metrics"] or {}).get("learning_rate") or FIRST_RATE
            self._rate.add_widget(Gap(self._context.look, theme.LARGE))
            self._rate.add_widget(rate_card(self._context, self._network, job["job_id"], rate))

    def _buttons(self, job: dict[str, Any]) -> list[PushButton]:
        look, network = self._context.look, self._network
        found = []
        if job["state"] not in OVER:
            waits = job["paused"] or job["state"] == "waiting for user"
            name, text, icon = ("resume", "Resume", "play") if waits else ("pause", "Pause", "pause")
            order = partial(network.order, name, job["job_id"])
            found.append(PushButton(look, text, order, Kind.PLAIN, icon))
            cancel = partial(self._ask_cancel, job["job_id"])
            found.append(PushButton(look, "Cancel", cancel, Kind.PLAIN, "stop"))
        if job["result"]:
            fetch = partial(self._ask_fetch, job)
            found.append(PushButton(look, "Fetch the model", fetch, Kind.PRIMARY, "download"))
        if not job["unpaid"]:
            why = partial(network.explain, job["job_id"], partial(show_reasons, self._context))
            found.insert(0, PushButton(look, "Why this peer", why, Kind.QUIET, "help"))
        return found

    def _ask_cancel(self, job: str) -> None:
        text = "What is proven stays paid, the rest comes back."
        cancel = partial(self._network.order, "cancel", job)
        self._context.host.ask("Cancel this job?", text, "Cancel it", cancel, danger=True)

    def _ask_fetch(self, job: dict[str, Any]) -> None:
        start = Path.cwd() / f"{job['job_id'][:12]}.cyxmodel"
        ask_path(
            self._context, "Fetch the model", start, "Fetch", partial(self._network.fetch, job["job_id"])
        )


def _settled(job: dict[str, Any] | None) -> dict[str, Any]:
    """What is drawn of it: its newest figures are the curves' business, and change all the time."""
    return {name: value for name, value in (job or {}).items() if name != "metrics"}


def terms(peer: dict[str, Any]) -> str:
    if "price_per_hour" not in peer:
        return "Lets you in" if peer["allowed"] else "Does not let you in"
    online = "online" if peer["online"] else "away"
    return f"{format_tokens(peer['price_per_hour'])} an hour, reputation {peer['reputation']:.2f}, {online}"


def progress_of(job: dict[str, Any]) -> str:
    paused = ", paused" if job["paused"] else ""
    return f"{job['state']}{paused}, {job['segments_done']} of {job['segments']} segments"


def story_line(line: str) -> tuple[str, str]:
    """The state, and what happened in it."""
    state, _, text = plain(line).partition("  ")
    return (_worded(state), text.strip()) if text else ("", state)


def icon_of(job: dict[str, Any]) -> str:
    if job["result"]:
        return "check"
    if job["state"] in ("failed", "expired"):
        return "error"
    if job["state"] in OVER:
        return "stop"
    if job["state"] == "running":
        return "pause" if job["paused"] else "play"
    return "warning" if job["state"] == "waiting for user" else "jobs"


def _worded(text: str) -> str:
    return sentence(text.replace("_", " "))


def state_colour(look: Look, job: dict[str, Any]) -> Colour:
    palette = look.palette
    if job["state"] in ("failed", "expired"):
        return palette.danger
    if job["result"] or job["state"] == "running":
        return palette.warning if job["paused"] else palette.success
    return palette.muted if job["state"] in OVER else palette.warning


def facts_of(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of what another machine says only the beginning, in one line."""
    yield "Job", job["job_id"][:24]
    if job["peer_id"]:
        yield "Peer", f"{plain(job['peer_id'])[:24]}..."
    if not job["unpaid"]:
        yield "Paid", f"{format_tokens(paid(job))} of {format_tokens(job['budget'])}"
    if job["settle_signature"]:
        yield "Settled", f"{plain(job['settle_signature'])[:24]}..."
    if job["result"]:
        yield "Model", f"{job['result']['blake3'][:24]}..."
