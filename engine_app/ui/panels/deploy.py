"""Models that answer: those that run here, what they do, how to reach them, and trying them by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

from kivy.clock import Clock
from kivy.uix.boxlayout import BoxLayout

from engine_app.plain import plain
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.panels.try_it import TryIt
from engine_app.ui.readings import Reading
from engine_app.ui.servers import LocalServer, Servers
from engine_app.ui.theme import Colour, Look
from engine_app.ui.tryout import Tryout
from engine_app.ui.widgets.box import Card, Column, Gap, Line, Row, Text, empty_state
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton
from engine_app.ui.widgets.facts import CopyRow, StateText, Tiles, labelled
from engine_app.ui.widgets.scroll import Scroll

STATES = {
    "starting": "Starting",
    "ready": "Answering",
    "restarting": "Starting again",
    "stopping": "Stopping",
    "stopped": "Stopped",
    "failed": "Failed",
}


class DeployPage(BoxLayout):
    def __init__(self, context: Context, servers: Servers, is_wide: bool) -> None:
        super().__init__()
        look = context.look
        self._context, self._servers, self._is_wide = context, servers, is_wide
        self._chosen = ""
        self._drawn: dict[str, Any] = {}
        self._tiles: Tiles | None = None
        self.try_it: TryIt | None = None
        self._list = Card(look, gap=theme.HALF)
        self._detail = Column(look, gap=theme.LARGE)
        self._try = Column(look, gap=0)
        left = Column(look, gap=theme.LARGE, pad=theme.LARGE)
        right = Column(look, gap=theme.LARGE, pad=theme.LARGE) if is_wide else left
        left.add_widget(self._list)
        for part in (self._detail, self._try):
            right.add_widget(part)
        if is_wide:
            side = Scroll(look, left, size_hint_x=None, width=look.px(theme.PANEL_WIDTH + 72))
            reading = Scroll(look, right, size_hint_max_x=look.px(theme.READING_WIDTH))
            for part in (side, Line(look, upright=True), reading):
                self.add_widget(part)
        else:
            self.add_widget(Scroll(look, left))
        self._soon = Clock.create_trigger(lambda _dt: self.refresh(), -1)
        self._stop = servers.listen(self._soon)
        self.refresh()

    def close(self) -> None:
        self._stop()
        self._soon.cancel()
        if self.try_it is not None:
            self.try_it.close()

    @property
    def chosen(self) -> LocalServer | None:
        found = [each for each in self._servers.all if each.id == self._chosen]
        return found[0] if found else next(iter(self._servers.all), None)

    def choose(self, server_id: str) -> None:
        self._chosen = server_id
        self.refresh()

    def refresh(self) -> None:
        """Each part anew only when what it shows has changed."""
        server = self.chosen
        rows = [(each.id, each.state) for each in self._servers.all]
        shown = {
            "list": (rows, server.id if server else ""),
            "detail": (server.id, server.state, server.text, server.about) if server else None,
            "try": (server.id, server.model is not None and server.state == "ready") if server else None,
        }
        for name, found in shown.items():
            if name not in self._drawn or self._drawn[name] != found:
                self._drawn[name] = found
                getattr(self, f"_show_{name}")(server)
        if server is not None and self._tiles is not None:
            self._tiles.show(figures(server))

    # -- all of them ---------------------------------------------------------------------------

    def _show_list(self, chosen: LocalServer | None) -> None:
        look, card = self._context.look, self._list
        card.clear_widgets()
        card.add_widget(Text(look, "Deployments", theme.HEADING))
        for each in self._servers.all:
            row = ListRow(
                look,
                each.name,
                f"{STATES[each.state]}, on this machine",
                partial(self.choose, each.id),
                mark=state_colour(look, each.state),
                icon="deploy",
            )
            row.choose(each is chosen)
            card.add_widget(row)
        if not self._servers.all:
            text = "A model that is deployed answers over HTTP: to you here, and to your programs."
            card.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
        buttons = Row(look)
        deploy = partial(self._context.act.deploy, None)
        export = partial(self._context.act.export, None)
        buttons.add_widget(PushButton(look, "Deploy a model", deploy, Kind.PRIMARY, "deploy"))
        buttons.add_widget(PushButton(look, "Export", export, icon="export"))
        buttons.add_widget(Gap(look))
        card.add_widget(Gap(look, theme.HALF))
        card.add_widget(buttons)

    # -- one of them ---------------------------------------------------------------------------

    def _show_detail(self, server: LocalServer | None) -> None:
        look, detail = self._context.look, self._detail
        detail.clear_widgets()
        self._tiles = None
        if server is None:
            text = "Train a model or pick a file, and deploy it. It runs in a closed worker of its own."
            if self._is_wide:
                detail.add_widget(empty_state(look, "Nothing is deployed", text))
            return
        card = Card(look, gap=theme.MEDIUM)
        head = Row(look)
        names = Column(look, gap=0)
        names.add_widget(Text(look, server.name, theme.HEADING, lines=1))
        names.add_widget(StateText(look, STATES[server.state], state_colour(look, server.state)))
        head.add_widget(names)
        head.add_widget(self._ending(server))
        card.add_widget(head)
        if server.text:
            colour = look.palette.danger if server.state == "failed" else look.palette.muted
            card.add_widget(Text(look, plain(server.text, lines=True), theme.SMALL, colour))
        for line in server.about:
            card.add_widget(Text(look, plain(line), theme.SMALL, look.palette.muted))
        if server.url and not server.is_over:
            self._tiles = Tiles(look, figures(server), across=6 if self._is_wide else 3)
            card.add_widget(self._tiles)
            ways = Row(look, gap=theme.MEDIUM) if self._is_wide else Column(look)
            ways.add_widget(labelled(look, "Address", CopyRow(look, server.url, "the address")))
            ways.add_widget(labelled(look, "From a terminal", CopyRow(look, curl_line(server), "the line")))
            card.add_widget(ways)
            if server.needs_key:
                text = "Each request needs a key: `cyxwiz keys list` shows who has one."
                card.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
        detail.add_widget(card)

    def _ending(self, server: LocalServer) -> PushButton:
        look, servers = self._context.look, self._servers
        if server.is_over:
            return PushButton(look, "Remove", partial(servers.forget, server), Kind.QUIET, "delete")
        text = "Stop now" if server.state == "stopping" else "Stop"
        return PushButton(look, text, partial(servers.stop, server), Kind.PLAIN, "stop")

    def _show_try(self, server: LocalServer | None) -> None:
        """Stays through restarts, with what was drawn and said."""
        if server is not None and server.state in ("restarting", "stopping") and self.try_it is not None:
            return
        if self.try_it is not None:
            self.try_it.close()
            self.try_it = None
        self._try.clear_widgets()
        if server is not None and server.model is not None and server.state == "ready":
            tryout = Tryout(server.model, self._context.tasks)
            self.try_it = TryIt(self._context, tryout, self._is_wide)
            self._try.add_widget(self.try_it)


def state_colour(look: Look, state: str) -> Colour:
    palette = look.palette
    colours = {"ready": palette.success, "failed": palette.danger, "stopped": palette.muted}
    return colours.get(state, palette.warning)


def figures(server: LocalServer) -> list[tuple[str, str]]:
    reading: Reading = server.reading
    return [
        ("requests", f"{reading.requests:,}"),
        ("waiting", f"{reading.queue_depth:,}"),
        ("median", latency(reading.p50_ms)),
        ("95 %", latency(reading.p95_ms)),
        ("tokens/s", f"{reading.tokens_per_s:.1f}" if reading.generated_tokens else "–"),
        ("restarts", str(server.restarts)),
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
