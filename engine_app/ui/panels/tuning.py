"""Whether training changes a node's weights: all of them, none, or narrow adapters beside them (LoRA)."""

from __future__ import annotations

from typing import Any

from backend.catalogue import PortKind
from backend.graph import Frozen, Lora, Node, Tuning
from backend.shapes import node_type
from backend.tuning import ADAPTED, MAX_ALPHA, MAX_RANK
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.parameters import whole_problem
from engine_app.ui.widgets.box import Column, Row, Text
from engine_app.ui.widgets.buttons import Segments
from engine_app.ui.widgets.facts import labelled
from engine_app.ui.widgets.fields import Stepper, doubled

TRAINED, FROZEN, LORA = "trained", "frozen", "lora"
FIRST_RANK, FIRST_ALPHA = 8, 16.0
ABOUT = {
    TRAINED: "Training changes all its weights.",
    FROZEN: "Its weights stay as they are when training begins.",
    LORA: "Its weights stay; small matrices beside them are trained.",
}


class TuningControl(Column):
    def __init__(self, context: Context, node: Node) -> None:
        look = context.look
        super().__init__(look, gap=theme.HALF)
        self._context, self._node = context, node
        self.add_widget(Text(look, "Training", theme.STRONG))
        choices = [(TRAINED, "Trained"), (FROZEN, "Frozen")]
        if node.type in ADAPTED:
            choices.append((LORA, "LoRA"))
        self._chosen = Segments(look, choices, kind_of(node), self._choose)
        self._numbers = Row(look, gap=theme.MEDIUM)
        self._about = Text(look, ABOUT[kind_of(node)], theme.SMALL, look.palette.muted)
        for part in (self._chosen, self._numbers, self._about):
            self.add_widget(part)
        self._shown: Any = None
        self.show(node)

    def show(self, node: Node) -> None:
        """As the graph has it now."""
        self._node = node
        if node.tuning == self._shown:
            return
        had_numbers, self._shown = isinstance(self._shown, Lora), node.tuning
        self._chosen.select(kind_of(node))
        self._about.text = ABOUT[kind_of(node)]
        if isinstance(node.tuning, Lora):
            if not had_numbers:
                self._add_numbers(node.tuning)
            self._rank.show(node.tuning.rank)
            self._alpha.show(node.tuning.alpha)
        else:
            self._numbers.clear_widgets()

    def _add_numbers(self, lora: Lora) -> None:
        look = self._context.look
        self._rank = Stepper(look, lora.rank, self._set_rank, check=lambda t: whole_problem(t, 1, MAX_RANK))
        self._alpha = Stepper(
            look, lora.alpha, self._set_alpha, check=alpha_problem, whole=False, step=doubled
        )
        self._numbers.add_widget(labelled(look, "Rank", self._rank))
        self._numbers.add_widget(labelled(look, "Alpha", self._alpha))

    def _choose(self, kind: str) -> None:
        found: dict[str, Tuning] = {FROZEN: Frozen(), LORA: Lora(FIRST_RANK, FIRST_ALPHA)}
        self._context.desk.set_tuning(self._node.id, found.get(kind))

    def _set_rank(self, rank: float) -> None:
        if isinstance(self._node.tuning, Lora):
            self._context.desk.set_tuning(self._node.id, Lora(int(rank), self._node.tuning.alpha))

    def _set_alpha(self, alpha: float) -> None:
        if isinstance(self._node.tuning, Lora):
            self._context.desk.set_tuning(self._node.id, Lora(self._node.tuning.rank, alpha))


def kind_of(node: Node) -> str:
    match node.tuning:
        case Frozen():
            return FROZEN
        case Lora():
            return LORA
        case _:
            return TRAINED


def has_weights(node: Node) -> bool:
    """Or may have them inside."""
    record = node_type(node)
    ports = record.outputs if record is not None else ()
    return (
        node.tuning is not None
        or node.body is not None
        or any(port.kind is PortKind.PARAMETERS for port in ports)
    )


def alpha_problem(text: str) -> str | None:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if 0 < found <= MAX_ALPHA:
        return None
    return f"found {text[:20]!r}, must be a number above 0, at most {MAX_ALPHA:g}"
