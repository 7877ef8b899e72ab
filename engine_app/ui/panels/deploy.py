"""Models that answer: those that run here, what they do, how to reach them, and trying them by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

from kivy.clock import Clock
from kivy.uix.boxlayout import BoxLayout

from engine_app.plain import brief, plain
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.network import Network
from engine_app.ui.panels.remote import Remote, fill_remote, remote_buttons, remotes_of
from engine_app.ui.panels.try_it import TryIt
from engine_app.ui.readings import Reading
from engine_app.ui.servers import LocalServer, Servers
from engine_app.ui.theme import Colour, Look
from engine_app.ui.tryout import Tryout
from engine_app.ui.widgets.box import Card, Column, Gap, Line, Row, Text, empty_state, flow_of
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton
from engine_app.ui.widgets.facts import CopyRow, StateText, Tiles, labelled, show_order
from engine_app.ui.widgets.scroll import Scroll

STATES = {
    "starting": "Starting",
    "ready": "Answering",
    "restarting": "Starting again",
    "stopping": "Stopping",
    "waiting": "Waiting for a peer",
    "stopped": "Stopped",
    "failed": "Failed",
}

MAX_SHOWN = 50


class DeployPage(BoxLayout):
    def __init__(self, context: Context, servers: Servers, network: Network, is_wide: bool) -> None:
        super().__init__()
        look = context.look
        self._context, self._is_wide = context, is_wide
        self._servers, self._network = servers, network
        self._chosen = ""
        self._drawn: dict[str, Any] = {}
        self._tiles: Tiles | None = None
        self.try_it: TryIt | None = None
        self._list = Card(look, gap=theme.HALF)
        self._told = Column(look, gap=theme.STEP)
        self._tried = ""
        self._detail = Column(look, gap=theme.LARGE)
        self._try = Column(look, gap=0)
        left = Column(look, gap=theme.LARGE, pad=theme.LARGE)
        right = flow_of(look, self._detail, self._try) if is_wide else left
        head = Column(look, gap=0)
        for part in (self._list, self._told):
            head.add_widget(part)
        left.add_widget(head)
        if is_wide:
            side = Scroll(look, left, size_hint_x=None, width=look.px(theme.PANEL_WIDTH + 72))
            for part in (side, Line(look, upright=True), Scroll(look, right)):
                self.add_widget(part)
        else:
            for part in (self._detail, self._try):
                left.add_widget(part)
            self.add_widget(Scroll(look, left))
        self._soon = Clock.create_trigger(lambda _dt: self.refresh(), -1)
        self._stops = [servers.listen(self._soon), network.listen(self._soon)]
        self.refresh()

    def close(self) -> None:
        for stop in self._stops:
            stop()
        self._soon.cancel()
        if self.try_it is not None:
            self.try_it.close()

    @property
    def chosen(self) -> LocalServer | Remote | None:
        every = self._every
        found = [each for each in every if each.id == self._chosen]
        return found[0] if found else next(iter(every), None)

    @property
    def _every(self) -> list[LocalServer | Remote]:
        return [*self._servers.all, *remotes_of(self._network)]

    def choose(self, deployment: str) -> None:
        self._chosen = deployment
        self.refresh()

    def refresh(self) -> None:
        """Each part anew only when what it shows has changed."""
        one = self.chosen
        rows = [(each.id, each.state) for each in self._every]
        shown = {
            "list": (rows, one.id if one else ""),
            "told": (self._network.problem, self._network.busy),
            "detail": one.shown if one else None,
            "try": (one.id, one.place if one.state == "ready" else "") if one else None,
        }
        for name, found in shown.items():
            if name not in self._drawn or self._drawn[name] != found:
                self._drawn[name] = found
                getattr(self, f"_show_{name}")(one)
        if one is not None and self._tiles is not None:
            self._tiles.show(figures(one.reading, one.restarts))

    # -- all of them ---------------------------------------------------------------------------

    def _show_list(self, chosen: LocalServer | Remote | None) -> None:
        look, card = self._context.look, self._list
        card.clear_widgets()
        card.add_widget(Text(look, "Deployments", theme.HEADING))
        for each in self._every[:MAX_SHOWN]:
            where = "at a peer" if isinstance(each, Remote) else "on this machine"
            row = ListRow(
                look,
                plain(each.name),
                f"{STATES[each.state]}, {where}",
                partial(self.choose, each.id),
                mark=state_colour(look, each.state),
                icon="jobs" if isinstance(each, Remote) else "deploy",
            )
            row.choose(chosen is not None and each.id == chosen.id)
            card.add_widget(row)
        if not self._every:
            text = "A model that is deployed answers: to you here, and to your programs."
            card.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
        buttons = Row(look)
        deploy = partial(self._context.act.deploy, None)
        export = partial(self._context.act.export, None)
        buttons.add_widget(PushButton(look, "Deploy a model", deploy, Kind.PRIMARY, "deploy"))
        buttons.add_widget(PushButton(look, "Export", export, icon="export"))
        buttons.add_widget(Gap(look))
        card.add_widget(Gap(look, theme.HALF))
        card.add_widget(buttons)

    def _show_told(self, _chosen: LocalServer | Remote | None) -> None:
        """What the network does for the user just now, and what went wrong with it."""
        look, network = self._context.look, self._network
        self._told.clear_widgets()
        show_order(look, self._told, network.problem, network.busy, network.call_off)
        self._told.padding = [0, look.px(theme.MEDIUM if self._told.children else 0), 0, 0]

    # -- one of them ---------------------------------------------------------------------------

    def _show_detail(self, one: LocalServer | Remote | None) -> None:
        look, detail = self._context.look, self._detail
        detail.clear_widgets()
        self._tiles = None
        if one is None:
            text = "Train a model or pick a file, and deploy it. It runs in a closed worker of its own."
            if self._is_wide:
                detail.add_widget(empty_state(look, "Nothing is deployed", text, sign="deploy"))
            return
        card = Card(look, gap=theme.MEDIUM)
        head = Row(look)
        names = Column(look, gap=0)
        names.add_widget(Text(look, plain(one.name), theme.HEADING, lines=1))
        names.add_widget(StateText(look, STATES[one.state], state_colour(look, one.state)))
        head.add_widget(names)
        card.add_widget(head)
        if one.text:
            colour = look.palette.danger if one.state == "failed" else look.palette.muted
            card.add_widget(Text(look, brief(one.text), theme.SMALL, colour))
        if isinstance(one, Remote):
            for button in remote_buttons(self._context, self._network, one):
                head.add_widget(button)
            fill_remote(look, card, one)
        else:
            head.add_widget(self._ending(one))
            for line in one.about:
                card.add_widget(Text(look, plain(line), theme.SMALL, look.palette.muted))
        if one.place and not one.is_over:
            self._tiles = Tiles(look, figures(one.reading, one.restarts), across=6 if self._is_wide else 3)
            card.add_widget(self._tiles)
        if isinstance(one, LocalServer) and one.url and not one.is_over:
            self._add_address(card, one)
        detail.add_widget(card)

    def _add_address(self, card: Card, server: LocalServer) -> None:
        look = self._context.look
        ways = Row(look, gap=theme.MEDIUM) if self._is_wide else Column(look)
        ways.add_widget(labelled(look, "Address", CopyRow(look, server.url, "the address")))
        ways.add_widget(labelled(look, "From a terminal", CopyRow(look, curl_line(server), "the line")))
        card.add_widget(ways)
        if server.needs_key:
            text = "Each request needs a key: `cyxwiz keys list` shows who has one."
            card.add_widget(Text(look, text, theme.SMALL, look.palette.muted))

    def _ending(self, server: LocalServer) -> PushButton:
        look, servers = self._context.look, self._servers
        if server.is_over:
            return PushButton(look, "Remove", partial(servers.forget, server), Kind.QUIET, "delete")
        text = "Stop now" if server.state == "stopping" else "Stop"
        return PushButton(look, text, partial(servers.stop, server), Kind.PLAIN, "stop")

    def _show_try(self, one: LocalServer | Remote | None) -> None:
        """Stays through restarts, with what was drawn and said; another peer begins anew."""
        if one is not None and one.state in ("restarting", "stopping") and self._tried == one.id:
            return
        if self.try_it is not None:
            self.try_it.close()
            self.try_it = None
        self._try.clear_widgets()
        self._try.size_hint_x, self._try.width = (1, self._try.width) if one is not None else (None, 0)
        self._tried = one.id if one is not None else ""
        if one is None or one.state != "ready":
            return
        model = self._network.endpoint(one.id, one.place) if isinstance(one, Remote) else one.model
        if model is None:
            text = "Another program of this data folder holds the connection: ask the model there."
            look = self._context.look
            card = Card(look, gap=theme.MEDIUM)
            card.add_widget(Text(look, "Try it", theme.HEADING))
            card.add_widget(Text(look, text, colour=look.palette.muted))
            self._try.add_widget(card)
            return
        self.try_it = TryIt(self._context, Tryout(model, self._context.tasks), self._is_wide)
        self._try.add_widget(self.try_it)


def state_colour(look: Look, state: str) -> Colour:
    palette = look.palette
    colours = {"ready": palette.success, "failed": palette.danger, "stopped": palette.muted}
    return colours.get(state, palette.warning)


def figures(reading: Reading, restarts: int) -> list[tuple[str, str]]:
    return [
        ("requests", f"{reading.requests:,}"),
        ("waiting", f"{reading.queue_depth:,}"),
        ("median", latency(reading.p50_ms)),
        ("95 % within", latency(reading.p95_ms)),
        ("tokens/s", f"{reading.tokens_per_s:.1f}" if reading.tokens_per_s else "–"),
        ("restarts", str(restarts)),
    ]


def latency(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "–"
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"


def curl_line(server: LocalServer) -> str:
    key = ' -H "Authorization: Bearer $CYXWIZ_KEY"' if server.needs_key else ""
    return f"curl{key} {server.url}/v1/model"
