"""A new job: what, for how much, in how many parts, with the data sent or kept; and who would take it."""

from __future__ import annotations

from typing import Any

from engine_app.plain import plain
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.network import JobWish, Network
from engine_app.ui.panels.data import source_name
from engine_app.ui.panels.placement import placement
from engine_app.ui.panels.train import rate_problem, rounded_rate
from engine_app.ui.parameters import whole_problem
from engine_app.ui.trainer import Trainer
from engine_app.ui.widgets.box import Card, Column, Gap, Row, Text
from engine_app.ui.widgets.buttons import Kind, PushButton, Segments, Toggle
from engine_app.ui.widgets.facts import beside, labelled, show_order
from engine_app.ui.widgets.fields import Stepper, TextField, doubled
from p2p.pricing import parse_tokens

PRIVATE = (("test", "Test"), ("test,validation", "Both"), ("validation", "Validation"), ("none", "None"))
MAX_SEGMENTS = 1000


class OrderCard(Card):
    """``refresh`` when network, trainer or desk have changed."""

    def __init__(self, context: Context, network: Network, trainer: Trainer) -> None:
        look = context.look
        super().__init__(look, gap=0)
        self._context, self._network, self._trainer = context, network, trainer
        self._drawn: dict[str, Any] = {}
        self._stream, self._private = False, PRIVATE[0][0]
        self._budget = TextField(
            look, "5", lambda _text: self.refresh(), budget_problem, hint="Such as 2.5", live=True
        )
        self._segments = Stepper(
            look, 4, lambda _value: self.refresh(), check=lambda t: whole_problem(t, 1, MAX_SEGMENTS)
        )
        parts = ("head", "stream", "offers", "told", "buttons")
        self._parts = {name: Column(look, gap=theme.STEP) for name in parts}
        self._cost = Row(look, gap=theme.LARGE, pad=(0, theme.MEDIUM, 0, 0))
        self.add_widget(self._parts["head"])
        self.add_widget(self._cost)
        for name in parts[1:]:
            self.add_widget(self._parts[name])
        self.refresh()

    @property
    def segments(self) -> int:
        text = self._segments.field.text
        return int(text) if whole_problem(text, 1, MAX_SEGMENTS) is None else 4

    def refresh(self) -> None:
        """Each part anew only when what it shows has changed."""
        network, desk, source = self._network, self._context.desk, self._trainer.source
        is_estimated = network.estimate is not None and network.estimate_for == (
            desk.graph,
            source,
            self.segments,
        )
        ready = network.state in ("online", "away") and desk.graph.nodes and desk.can_train and source
        shown = {
            "head": (desk.graph.name, source, bool(network.address)),
            "stream": (self._stream, self._private),
            "offers": (network.estimate if is_estimated else None, network.peers, self._budget.text),
            "told": (network.problem, network.busy, bool(ready)),
            "buttons": (bool(ready), network.busy, bool(network.address)),
        }
        for name, found in shown.items():
            if name not in self._drawn or self._drawn[name] != found:
                self._drawn[name] = found
                self._parts[name].clear_widgets()
                getattr(self, f"_show_{name}")(self._parts[name], *found)
                above = theme.MEDIUM if name != "head" and self._parts[name].children else 0
                self._parts[name].padding = [0, self._context.look.px(above), 0, 0]

    # -- parts ---------------------------------------------------------------------------------

    def _show_head(self, part: Column, name: str, source: str, is_paid: bool) -> None:
        look = self._context.look
        part.add_widget(Text(look, "New job", theme.HEADING))
        text = f"{plain(name)}, on {plain(source_name(source)) or 'the data below'}"
        part.add_widget(Text(look, text, colour=look.palette.muted))
        if not is_paid:
            text = "Unpaid, by a peer of your network that lets you in."
            part.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
        self._cost.clear_widgets()
        for field in (self._budget, self._segments):
            if field.parent is not None:
                field.parent.remove_widget(field)
        if is_paid:
            self._cost.add_widget(labelled(look, "At most, in CYXWIZ", self._budget))
        self._cost.add_widget(labelled(look, "Segments", self._segments))

    def _show_stream(self, part: Column, stream: bool, private: str) -> None:
        look = self._context.look
        note = "The peer gets rows while it trains; the file stays with you."
        part.add_widget(beside(look, "Stream the data", Toggle(look, stream, self._set_stream), note))
        if stream:
            chosen = Segments(look, PRIVATE, private, self._set_private)
            note = "These parts never leave this machine: it evaluates them itself."
            part.add_widget(labelled(look, "Keep private", chosen, note=note))

    def _set_stream(self, is_on: bool) -> None:
        self._stream = is_on
        self.refresh()

    def _set_private(self, value: str) -> None:
        self._private = value

    def _show_offers(self, part: Column, estimate: dict[str, Any] | None, peers: Any, text: str) -> None:
        if estimate is None:
            return
        budget = parse_tokens(text) if budget_problem(text) is None else None
        names = {peer["peer_id"]: hardware(peer) for peer in peers if "refused" not in peer}
        part.add_widget(Text(self._context.look, "Who would take it", theme.STRONG))
        part.add_widget(placement(self._context.look, estimate, names, budget))

    def _show_told(self, part: Column, problem: str, busy: str, ready: bool) -> None:
        look = self._context.look
        show_order(look, part, problem, busy, self._network.call_off)
        if not ready and not busy:
            part.add_widget(Text(look, self._missing(), theme.SMALL, look.palette.muted))

    def _missing(self) -> str:
        if self._network.state not in ("online", "away"):
            return "Connect first: to a coordinator, or to your own network."
        if not self._context.desk.graph.nodes or not self._context.desk.can_train:
            return "The graph has problems: see the top of the window."
        return "Choose data first."

    def _show_buttons(self, part: Column, ready: bool, busy: str, is_paid: bool) -> None:
        look = self._context.look
        row = Row(look)
        submit = PushButton(look, "Submit", self._submit, Kind.PRIMARY, "play")
        estimate = PushButton(look, "Estimate", self._estimate, icon="search")
        submit.disabled = not ready or bool(busy)
        estimate.disabled = not ready or bool(busy) or not is_paid
        for button in (submit, estimate):
            row.add_widget(button)
        row.add_widget(Gap(look))
        part.add_widget(row)

    # -- orders --------------------------------------------------------------------------------

    def _estimate(self) -> None:
        self._network.ask_estimate(self._context.desk.graph, self._trainer.source, self.segments)

    def _submit(self) -> None:
        if self._segments.field.problem or (self._network.address and self._budget.problem):
            return  # which is told below the field
        budget = parse_tokens(self._budget.text) if self._network.address else 0
        private = () if self._private == "none" else tuple(self._private.split(","))
        wish = JobWish(budget, self.segments, stream=self._stream, private=private)
        self._network.submit(self._context.desk.graph, self._trainer.source, wish)


def budget_problem(text: str) -> str | None:
    try:
        return None if parse_tokens(text) > 0 else "must be above 0"
    except ValueError as error:
        return str(error)


def hardware(peer: dict[str, Any]) -> str:
    names = [
        f"{plain(device['name'])}, {device['memory_bytes'] / (1 << 30):.0f} GiB" for device in peer["devices"]
    ]
    return " + ".join(names) or "no device"


def show_reasons(context: Context, found: dict[str, Any]) -> None:
    """Why a job is where it is."""
    look = context.look
    column = Column(look, gap=theme.STEP, pad=(theme.LARGE, 0, theme.LARGE, theme.LARGE))
    for line in found["lines"][:40]:
        column.add_widget(Text(look, plain(line), theme.SMALL))
    if found["rejected"]:
        column.add_widget(Text(look, "NOT CHOSEN", theme.LABEL, look.palette.muted))
    for each in found["rejected"][:40]:
        text = f"{plain(each['peer_id'])[:20]}...  {plain(each['reason'])}"
        column.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
    context.host.open("Why this peer", column, side=not context.host.is_wide, wide=600)


def rate_card(context: Context, network: Network, job: str, rate: float) -> Card:
    """Set by its own button: each step of the stepper would be a message to the peer."""
    look = context.look
    rate = rounded_rate(rate)
    stepper = Stepper(look, rate, lambda _rate: None, check=rate_problem, whole=False, step=doubled)

    def set_it() -> None:
        if not stepper.field.problem:
            network.set_rate(job, float(stepper.field.text))

    card = Card(look, gap=theme.STEP)
    row = Row(look)
    row.add_widget(Text(look, "Learning rate", lines=1, size_hint_x=0.7, pos_hint={"center_y": 0.5}))
    row.add_widget(stepper)
    row.add_widget(PushButton(look, "Set", set_it, Kind.PLAIN, "check"))
    card.add_widget(row)
    note = "From the next step on; a schedule goes on multiplying it."
    card.add_widget(Text(look, note, theme.SMALL, look.palette.muted))
    return card
