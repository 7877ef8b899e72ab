"""A deployment at a peer, as the page shows it: where, until when, what was paid, longer, and stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from engine_app.plain import plain
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.network import OVER, Network
from engine_app.ui.panels.order import budget_problem
from engine_app.ui.panels.serve_peer import MINUTES, MOST_MINUTES, SEEN
from engine_app.ui.parameters import whole_problem
from engine_app.ui.readings import Reading
from engine_app.ui.theme import Look
from engine_app.ui.widgets.box import Card, Column, Text
from engine_app.ui.widgets.buttons import Kind, PushButton
from engine_app.ui.widgets.facts import FactList, labelled
from engine_app.ui.widgets.fields import Stepper, TextField
from p2p.pricing import format_tokens, parse_tokens, price_of

LINES_SHOWN = 6
_ANSWERING = {"ready": "ready", "loading": "starting", "restarting": "restarting", "ended": "restarting"}


@dataclass(frozen=True, slots=True)
class Remote:
    """What an Engine and a peer say of one deployment."""

    view: dict[str, Any]
    status: dict[str, Any]
    """Empty until the model has told."""
    lines: tuple[str, ...]
    peer_name: str
    price_per_hour: int

    @property
    def id(self) -> str:
        return str(self.view["id"])

    @property
    def name(self) -> str:
        return str(self.view["name"])

    @property
    def is_over(self) -> bool:
        return self.view["state"] in OVER

    @property
    def state(self) -> str:
        if self.is_over:
            return "failed" if self.view["state"] in ("failed", "expired") else "stopped"
        if not self.view["is_running"]:
            return "waiting" if self.view["peer_id"] is None else "starting"
        return _ANSWERING.get(str(self.status.get("state", "")), "starting")

    @property
    def place(self) -> str:
        return str(self.view["peer_id"] or "") if self.view["is_running"] else ""

    @property
    def text(self) -> str:
        return str(self.view["text"] or self.status.get("reason", ""))

    @property
    def reading(self) -> Reading:
        told = self.status
        return Reading(
            requests=int(told.get("requests", 0)),
            failed=int(told.get("failed", 0)),
            queue_depth=int(told.get("queue_depth", 0)),
            p50_ms=told.get("p50_ms") or None,
            p95_ms=told.get("p95_ms") or None,
            tokens_per_s=float(told.get("tokens_per_s", 0.0)),
        )

    @property
    def restarts(self) -> int:
        return int(self.status.get("restarts", 0))

    @property
    def shown(self) -> tuple[object, ...]:
        """What is drawn of it, but for its figures."""
        view = self.view
        minutes = view["left_s"] // 60
        facts = (view["peer_id"], view["paid"], view["budget"], minutes, tuple(view["given_to"]))
        return self.id, self.state, self.text, facts, self.lines, self.peer_name


def remotes_of(network: Network) -> list[Remote]:
    """The newest first."""
    peers = {peer["peer_id"]: peer for peer in network.peers if "refused" not in peer}
    found = []
    for view in network.deployments:
        peer = peers.get(view["peer_id"], {})
        devices = " + ".join(plain(device["name"]) for device in peer.get("devices", ()))
        story = network.stories.get(view["id"])
        lines = tuple(story.lines)[-LINES_SHOWN:] if story is not None else ()
        status = network.statuses.get(view["id"], {}) if view["is_running"] else {}
        found.append(Remote(view, status, lines, devices, int(peer.get("price_per_hour", 0))))
    return found


def facts_of(one: Remote) -> Iterator[tuple[str, str]]:
    view = one.view
    if view["peer_id"]:
        name = f"{one.peer_name}, " if one.peer_name else ""
        yield "Peer", f"{name}{plain(view['peer_id'])[:20]}..."
    if view["ends_at"] is not None:
        at = datetime.fromtimestamp(view["ends_at"]).astimezone()
        yield "Ends", f"{at:%H:%M}, in {duration(view['left_s'])}"
    yield "Served", duration(view["served_s"])
    if view["budget"]:
        yield "Paid", f"{format_tokens(view['paid'])} of {format_tokens(view['budget'])}"
    else:
        yield "Paid", "nothing: a peer of your own network"


def duration(seconds: int) -> str:
    minutes = int(seconds) // 60
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def fill_remote(look: Look, card: Card, one: Remote) -> None:
    card.add_widget(FactList(look, [(title, plain(text)) for title, text in facts_of(one)]))
    if one.place and one.place not in one.view["given_to"]:
        text = "It moved to this peer by itself, from one that you chose or saw."
        card.add_widget(Text(look, text, theme.SMALL, look.palette.warning))
    if not one.is_over:
        card.add_widget(Text(look, SEEN, theme.SMALL, look.palette.muted))
    for line in one.lines:
        card.add_widget(Text(look, plain(line), theme.SMALL, look.palette.muted))


def remote_buttons(context: Context, network: Network, one: Remote) -> list[PushButton]:
    if one.is_over:
        return []
    look = context.look
    found = []
    if one.view["is_running"]:
        more = partial(open_extend, context, network, one)
        found.append(PushButton(look, "Extend", more, Kind.PLAIN, "add"))
    stop = partial(network.order, "cancel", one.id)
    text = "What was served stays paid, the rest comes back."
    ask = partial(context.host.ask, "Stop this deployment?", text, "Stop it", stop, danger=True)
    found.append(PushButton(look, "Stop", ask, Kind.PLAIN, "stop"))
    return found


class ExtendSheet(Column):
    """More minutes at the same peer, from when it ends."""

    def __init__(self, context: Context, network: Network, one: Remote) -> None:
        look = context.look
        super().__init__(look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))
        self._context, self._network, self._one = context, network, one
        self._is_paid = bool(one.view["budget"])
        self.minutes = Stepper(
            look,
            MINUTES,
            lambda _value: self._propose(),
            check=lambda text: whole_problem(text, 1, MOST_MINUTES),
            step=lambda value, way: max(1, value + way * 15),
        )
        self._budget = TextField(look, "", check=budget_problem)
        self.add_widget(labelled(look, "Minutes more", self.minutes))
        if self._is_paid:
            self.add_widget(labelled(look, "At most, in CYXWIZ", self._budget))
            self._propose()
        extend = PushButton(look, "Extend", self._go, Kind.PRIMARY, "add", size_hint=(1, None))
        self.add_widget(extend)

    def _propose(self) -> None:
        if self._one.price_per_hour and not self.minutes.field.problem:
            cost = price_of(int(self.minutes.field.text) * 60_000, self._one.price_per_hour)
            self._budget.show(format_tokens(cost).split(" ")[0])

    def _go(self) -> None:
        if self.minutes.field.problem or (self._is_paid and budget_problem(self._budget.text) is not None):
            return
        budget = int(parse_tokens(self._budget.text)) if self._is_paid else 0
        self._context.host.close()
        self._network.extend(self._one.id, int(self.minutes.field.text), budget)


def open_extend(context: Context, network: Network, one: Remote) -> None:
    sheet = ExtendSheet(context, network, one)
    context.host.open(f"Extend {plain(one.name)}", sheet, side=not context.host.is_wide, wide=440)
