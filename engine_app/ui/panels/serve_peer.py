"""The dialog that deploys a model at peers: whom, how long, how many, and what that will cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio
from kivy.clock import Clock

from backend.formats.sniff import ModelFormat, sniff
from engine_app.entry import CommandError
from engine_app.plain import plain
from engine_app.serving import find_model, model_name
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.network import Network, PeerWish
from engine_app.ui.panels.order import budget_problem, hardware
from engine_app.ui.panels.pick_model import ask_model
from engine_app.ui.parameters import whole_problem
from engine_app.ui.widgets.box import Column, Row, Text
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton, Segments
from engine_app.ui.widgets.facts import labelled, show_order
from engine_app.ui.widgets.fields import Stepper, TextField
from engine_app.ui.widgets.overlays import Foot
from p2p.pricing import format_tokens, parse_tokens, price_of

ENDINGS = (".cyxmodel", ".onnx", ".gguf")
WHERE = (("here", "This machine"), ("peer", "A peer"))
MINUTES, MOST_MINUTES, MOST_REPLICAS = 60, 1000, 16
MAX_PEERS = 12
SEEN = "The peer that serves a model sees everything that is asked of it."


class PeerSheet(Column):
    def __init__(
        self, context: Context, network: Network, model: Path | None, elsewhere: Callable[[str], Any]
    ) -> None:
        """``elsewhere``: called where the user would rather have it on this machine."""
        look = context.look
        super().__init__(look, gap=theme.LARGE, pad=(theme.LARGE, 0, theme.LARGE, theme.STEP))
        self._context, self._network = context, network
        self.model: Path | None = None
        self._file: Path | None = None
        self._tokenizer: Path | None = None
        self._format, self._problem = ModelFormat.UNKNOWN, ""
        self._peer, self._is_own_budget = "", False
        self._drawn: dict[str, Any] = {}
        self._minutes = self._number(MINUTES, 1, MOST_MINUTES, step=15)
        self._replicas = self._number(1, 1, MOST_REPLICAS)
        self._layers = self._number(0, -1, 1000)
        self._window = self._number(0, 0, 1 << 20, step=512)
        self._budget = TextField(look, "", check=budget_problem)
        self._budget.input.bind(focus=self._wrote_budget)
        where = Segments(look, WHERE, "peer", elsewhere)
        self.add_widget(labelled(look, "It runs on", where))
        parts = ("model", "peers", "cost")
        self._parts = {name: Column(look, gap=theme.STEP) for name in parts}
        self.foot = self._parts["go"] = Foot(look)
        row = Row(look, gap=theme.LARGE)
        row.add_widget(labelled(look, "Minutes", self._minutes))
        row.add_widget(labelled(look, "Replicas", self._replicas))
        for part in (self._parts["model"], self._parts["peers"], row):
            self.add_widget(part)
        self.add_widget(self._parts["cost"])
        self._soon = Clock.create_trigger(lambda _dt: self.refresh(), -1)
        self._stop = network.listen(self._soon)
        self.refresh()
        if model is not None:
            self.take(model)

    def close(self) -> None:
        self.model = None  # what is still looked into is no longer shown
        self._stop()
        self._soon.cancel()

    def _number(self, value: int, low: int, high: int, step: int = 1) -> Stepper:
        def check(text: str) -> str | None:
            return None if text == "-1" and low == -1 else whole_problem(text, max(0, low), high)

        def move(found: float, way: int) -> float:
            return max(low, found + way * step)

        return Stepper(self._context.look, value, lambda _value: self._soon(), check=check, step=move)

    def _value(self, stepper: Stepper, default: int) -> int:
        return default if stepper.field.problem else int(stepper.field.text or default)

    @property
    def _is_paid(self) -> bool:
        return bool(self._network.address)

    @property
    def _peers(self) -> list[dict[str, Any]]:
        """Those that may be asked."""
        known = [peer for peer in self._network.peers if "refused" not in peer]
        return [peer for peer in known if peer.get("online", peer.get("allowed", False))][:MAX_PEERS]

    @property
    def _can_ask(self) -> bool:
        """One that was chosen, and went away since, is not replaced by another."""
        return any(self._peer in ("", peer["peer_id"]) for peer in self._peers)

    @property
    def cost(self) -> int | None:
        """Of one replica at the chosen peer, or at the dearest of all; None where that is not known."""
        duration_ms = self._value(self._minutes, MINUTES) * 60_000
        chosen = [peer for peer in self._peers if self._peer in ("", peer["peer_id"])]
        prices = [
            price_of(duration_ms, peer["price_per_hour"]) for peer in chosen if "price_per_hour" in peer
        ]
        return max(prices, default=None)

    def refresh(self) -> None:
        """Each part anew only when what it shows has changed."""
        network = self._network
        is_online = network.state in ("online", "away")
        shown = {
            "model": (self.model, self._format, self._problem),
            "peers": (self._peers, self._peer, self._is_paid, is_online),
            "cost": (
                self.cost,
                self._value(self._replicas, 1),
                self._value(self._minutes, MINUTES),
                self._is_paid,
            ),
            "go": (self._format, is_online, network.busy, network.problem, self._can_ask),
        }
        for name, found in shown.items():
            if name not in self._drawn or self._drawn[name] != found:
                self._drawn[name] = found
                if self._budget.parent is not None and name == "cost":
                    self._budget.parent.remove_widget(self._budget)
                for stepper in (self._layers, self._window):
                    if stepper.parent is not None and name == "model":
                        stepper.parent.remove_widget(stepper)
                self._parts[name].clear_widgets()
                getattr(self, f"_show_{name}")(self._parts[name])

    # -- the model -----------------------------------------------------------------------------

    def _show_model(self, part: Column) -> None:
        look, model = self._context.look, self.model
        row = Row(look, gap=theme.MEDIUM)
        names = Column(look, gap=0, pos_hint={"center_y": 0.5})
        names.add_widget(Text(look, plain(model.name) if model else "No model yet", theme.STRONG, lines=1))
        names.add_widget(Text(look, SEEN, theme.SMALL, look.palette.muted))
        row.add_widget(names)
        kind = Kind.PLAIN if model else Kind.PRIMARY
        pick = partial(ask_model, self._context, "Deploy a model", ENDINGS, self.take, folders=True)
        row.add_widget(PushButton(look, "Change" if model else "Choose a model", pick, kind))
        part.add_widget(row)
        if self._problem:
            part.add_widget(Text(look, plain(self._problem), theme.SMALL, look.palette.danger))
        if self._format is ModelFormat.GGUF:
            row = Row(look, gap=theme.LARGE)
            row.add_widget(labelled(look, "Layers on the GPU", self._layers, note="-1: all of them"))
            row.add_widget(labelled(look, "Context in tokens", self._window, note="0: as it was trained"))
            part.add_widget(row)

    def take(self, path: Path) -> None:
        self.model = path
        self._file, self._tokenizer, self._format, self._problem = None, None, ModelFormat.UNKNOWN, ""
        self.refresh()

        async def look() -> None:
            file, tokenizer, found, problem = path, None, ModelFormat.UNKNOWN, ""
            try:
                file, tokenizer = await trio.to_thread.run_sync(find_model, path, None)
                found = await trio.to_thread.run_sync(sniff, file)
            except (CommandError, OSError) as error:
                problem = str(error)
            if self.model is path:  # and no other one was chosen meanwhile
                self._file, self._tokenizer, self._format, self._problem = file, tokenizer, found, problem
                self.refresh()

        self._context.start(look)

    # -- whom, and for how much ----------------------------------------------------------------

    def _show_peers(self, part: Column) -> None:
        look, peers = self._context.look, self._peers
        part.add_widget(Text(look, "Peer", theme.SMALL, look.palette.muted))
        if not peers:
            is_online = self._network.state in ("online", "away")
            text = "No peer answers yet." if is_online else "Connect on the page Jobs to see peers."
            part.add_widget(Text(look, text, colour=look.palette.warning))
            return
        rows = Column(look, gap=2)
        best = "The best by reputation, price and load" if self._is_paid else "The first that is free"
        any_peer = ListRow(
            look, "Any", best, partial(self.choose, ""), icon="check" if not self._peer else "jobs"
        )
        any_peer.choose(not self._peer)
        rows.add_widget(any_peer)
        for peer in peers:
            is_chosen = peer["peer_id"] == self._peer
            terms = (
                f"Reputation {peer['reputation']:.2f}, {peer['free']} free"
                if "reputation" in peer
                else "Unpaid"
            )
            row = ListRow(
                look,
                hardware(peer),
                terms,
                partial(self.choose, peer["peer_id"]),
                icon="check" if is_chosen else "jobs",
                figure=f"{format_tokens(peer['price_per_hour'])}/h" if "price_per_hour" in peer else "",
                tip=plain(peer["peer_id"]),
            )
            row.choose(is_chosen)
            rows.add_widget(row)
        part.add_widget(rows)

    def choose(self, peer: str) -> None:
        self._peer, self._is_own_budget = peer, False
        self.refresh()

    def _wrote_budget(self, _input: Any, has_focus: bool) -> None:
        self._is_own_budget = self._is_own_budget or has_focus

    def _show_cost(self, part: Column) -> None:
        look, cost = self._context.look, self.cost
        if not self._is_paid:
            text = "Unpaid, by a peer of your network that lets you in."
            part.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
            return
        if cost is None:
            return
        replicas, minutes = self._value(self._replicas, 1), self._value(self._minutes, MINUTES)
        if not self._is_own_budget:
            self._budget.show(_number(cost))
        at_most = "" if self._peer else "at most "
        told = f"Costs {at_most}{format_tokens(cost * replicas)}"
        parts = f"{format_tokens(price_per_minute(cost, minutes))} a minute" + (
            f", {replicas} times" if replicas > 1 else ""
        )
        part.add_widget(Text(look, told, theme.STRONG))
        text = f"{parts}. Paid minute by minute for what was served; the rest comes back."
        part.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
        part.add_widget(labelled(look, "At most for each, in CYXWIZ", self._budget))

    # -- going ---------------------------------------------------------------------------------

    def _show_go(self, part: Column) -> None:
        look, network = self._context.look, self._network
        button = PushButton(look, "Deploy", self.go, Kind.PRIMARY, "deploy", size_hint=(1, None))
        button.disabled = self._format is ModelFormat.UNKNOWN or not self._can_ask or bool(network.busy)
        part.add_widget(button)
        if self._peers and not self._can_ask:
            text = "The peer that you chose is away: choose another."
            part.add_widget(Text(look, text, theme.SMALL, look.palette.warning))
        show_order(look, part, network.problem, network.busy, network.call_off)

    def go(self) -> None:
        steppers = (self._minutes, self._replicas, self._layers, self._window)
        if self._file is None or self.model is None or any(each.field.problem for each in steppers):
            return
        if self._is_paid and budget_problem(self._budget.text) is not None:
            return
        wish = PeerWish(
            self._file,
            model_name(self.model.stem),
            self._tokenizer,
            self._peer,
            self._value(self._minutes, MINUTES),
            self._value(self._replicas, 1),
            int(parse_tokens(self._budget.text)) if self._is_paid else 0,
            self._value(self._layers, 0),
            self._value(self._window, 0),
        )
        self._network.deploy(wish)
        self._context.host.close()
        self._context.act.show_page("deploy")


def price_per_minute(cost: int, minutes: int) -> int:
    """Rounded up."""
    return -(-cost // max(1, minutes))


def _number(units: int) -> str:
    """As a field takes it."""
    return format_tokens(units).split(" ")[0]
