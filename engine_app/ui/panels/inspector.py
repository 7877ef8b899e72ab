"""The selected node: its parameters as controls made from what the catalogue declares.

A value that will not do is told beside its control and never reaches the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

from kivy.uix.widget import Widget

from backend.catalogue import Parameter
from backend.catalogue.parameter import ParameterType
from backend.graph import JsonValue, Node
from backend.shapes import node_type
from engine_app.plain import sentence
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.panels.tuning import TuningControl, has_weights
from engine_app.ui.parameters import (
    Control,
    control_of,
    problem_in,
    text_of,
    title_of,
    value_of,
    whole_problem,
)
from engine_app.ui.widgets.box import Column, Gap, Line, Panel, Row, Text
from engine_app.ui.widgets.buttons import IconButton, Kind, PushButton, Segments, Toggle
from engine_app.ui.widgets.facts import FactList, Notice
from engine_app.ui.widgets.fields import Choice, RangeSlider, Stepper, TextField, doubled
from engine_app.ui.widgets.scroll import Scroll

MAX_NAME = 128
MAX_PROBLEMS = 30
"""That are shown at once."""
Change = Callable[[JsonValue], None]


@dataclass(frozen=True, slots=True)
class _Made:
    widget: Widget
    show: Callable[[Any], None]


class InspectorPanel(Panel):
    """Follows the desk's selection."""

    def __init__(self, context: Context) -> None:
        super().__init__(context.look)
        self._context = context
        self._desk = context.desk
        self._shown: tuple[str, str] | None = None
        """Id and type of the node whose controls are here."""
        self._controls: dict[str, tuple[_Made, IconButton]] = {}
        self._tuning: TuningControl | None = None
        self._facts: FactList | None = None
        self._problems: Column | None = None
        self._stop = self._desk.listen(self.refresh)
        self.refresh(rebuild=True)

    def close(self) -> None:
        self._stop()

    def refresh(self, rebuild: bool = False) -> None:
        node = self._desk.selected_node
        found = (node.id, node.type) if node is not None else None
        if rebuild or found != self._shown:
            self._shown = found
            self._controls, self._tuning = {}, None
            self.clear_widgets()
            if node is None:
                self._show_graph()
            else:
                self._show_node(node)
        if node is not None:
            self._update(node)
        elif self._facts is not None:
            self._facts.show(graph_facts(self._context))
            graph = self._desk.graph
            self._name.show(graph.name)
            self._epochs.show(graph.training.epochs)
            self._seed.show(graph.training.seed)

    # -- nothing selected ----------------------------------------------------------------------

    def _show_graph(self) -> None:
        look, desk = self._context.look, self._desk
        column = Column(look, gap=theme.MEDIUM, pad=theme.LARGE)
        column.add_widget(Text(look, "The graph", theme.HEADING))
        self._facts = FactList(look, graph_facts(self._context))
        column.add_widget(self._facts)
        column.add_widget(Line(look))
        column.add_widget(Text(look, "Name", theme.STRONG))
        self._name = TextField(look, desk.graph.name, desk.rename, name_problem)
        column.add_widget(self._name)
        column.add_widget(Text(look, "Epochs", theme.STRONG))
        self._epochs = Stepper(
            look,
            desk.graph.training.epochs,
            lambda value: desk.set_training(epochs=int(value)),
            check=lambda text: whole_problem(text, 1, 100_000),
        )
        column.add_widget(self._epochs)
        column.add_widget(
            Text(look, "How often training goes through the data.", theme.SMALL, look.palette.muted)
        )
        column.add_widget(Text(look, "Seed", theme.STRONG))
        self._seed = Stepper(
            look,
            desk.graph.training.seed,
            lambda value: desk.set_training(seed=int(value)),
            check=lambda text: whole_problem(text, 0, 2**31 - 1),
        )
        column.add_widget(self._seed)
        column.add_widget(
            Text(look, "The same seed trains the same way again.", theme.SMALL, look.palette.muted)
        )
        column.add_widget(Line(look))
        column.add_widget(
            Text(look, "Select a node to see and change its parameters.", theme.SMALL, look.palette.muted)
        )
        self.add_widget(Scroll(look, column))

    # -- a node --------------------------------------------------------------------------------

    def _show_node(self, node: Node) -> None:
        look = self._context.look
        record = node_type(node)
        column = Column(look, gap=theme.LARGE, pad=theme.LARGE)
        head = Row(look, gap=theme.HALF)
        titles = Column(look, gap=0)
        colour = look.palette.categories[record.category] if record else look.palette.muted
        category = record.category.value if record else "Unknown type"
        titles.add_widget(Text(look, category.upper(), theme.LABEL, colour))
        titles.add_widget(Text(look, node.type, theme.TITLE, lines=1))
        head.add_widget(titles)
        head.add_widget(IconButton(look, "delete", "Remove this node", self._remove))
        column.add_widget(head)
        told = record.help if record else "This program does not know the type. It is kept as it is."
        column.add_widget(Text(look, told, theme.SMALL, look.palette.muted))
        self._facts, self._problems = FactList(look), Column(look)
        self._about = Column(look, gap=theme.MEDIUM)
        self._about.add_widget(self._facts)
        column.add_widget(self._about)
        if record is not None:
            if has_weights(node):
                self._tuning = TuningControl(self._context, node)
                column.add_widget(Line(look))
                column.add_widget(self._tuning)
            for parameter in record.parameters:
                column.add_widget(Line(look))
                column.add_widget(self._parameter(node, parameter))
        self.add_widget(Scroll(look, column))

    def _parameter(self, node: Node, parameter: Parameter) -> Column:
        look, desk = self._context.look, self._desk
        column = Column(look, gap=theme.HALF)
        head = Row(look, gap=0)
        head.add_widget(
            Text(look, title_of(parameter.name), theme.STRONG, lines=1, pos_hint={"center_y": 0.5})
        )
        default = text_of(parameter.default) or "none"
        reset = IconButton(
            look,
            "reset",
            f"Back to the default: {default}",
            lambda: desk.reset_parameter(node.id, parameter.name),
        )
        head.add_widget(reset)
        column.add_widget(head)
        made = make_control(
            self._context,
            parameter,
            node.parameters.get(parameter.name, parameter.default),
            lambda value: desk.set_parameter(node.id, parameter.name, value),
        )
        self._controls[parameter.name] = (made, reset)
        if isinstance(made.widget, Toggle):
            made.widget.pos_hint = {"center_y": 0.5}
            head.add_widget(made.widget, index=1)
        else:
            column.add_widget(made.widget)
        column.add_widget(Text(look, parameter.help, theme.SMALL, look.palette.muted))
        return column

    def _update(self, node: Node) -> None:
        record = node_type(node)
        for name, (made, reset) in self._controls.items():
            declared = next(each for each in record.parameters if each.name == name) if record else None
            made.show(node.parameters.get(name, declared.default if declared else None))
            reset.disabled = name not in node.parameters
        if self._tuning is not None:
            self._tuning.show(node)
        if self._facts is not None:
            self._facts.show(node_facts(self._context, node))
        if self._problems is not None:
            fill_problems(self._context, self._problems, node.id)
            if bool(self._problems.children) is (self._problems.parent is None):
                move = self._about.remove_widget if self._problems.parent else self._about.add_widget
                move(self._problems)

    def _remove(self) -> None:
        if self._desk.selected is not None:
            self._desk.remove(self._desk.selected)


def make_control(context: Context, parameter: Parameter, value: JsonValue, change: Change) -> _Made:
    """The control of a declared parameter, and how to show another value in it."""
    look = context.look

    def read(text: str) -> None:
        change(value_of(parameter, text))

    def check(text: str) -> str | None:
        return problem_in(parameter, text)

    match control_of(parameter):
        case Control.TOGGLE:
            toggle = Toggle(look, bool(value), change)
            return _Made(toggle, lambda value: setattr(toggle, "is_on", bool(value)))
        case Control.SEGMENTS:
            segments = Segments(look, [(name, name) for name in parameter.choices], str(value), change)
            return _Made(segments, lambda value: segments.select(str(value)))
        case Control.CHOICE:
            choice = Choice(look, str(value), parameter.choices, change)
            return _Made(choice, lambda value: choice.show(str(value)))
        case Control.SLIDER:
            return _slider(context, parameter, value, change)
        case Control.STEPPER:
            whole = parameter.type is ParameterType.INTEGER
            number = value if is_number(value) else 0
            step = None if whole else doubled
            stepper = Stepper(look, number, lambda found: change(found), check=check, whole=whole, step=step)

            def show(value: Any) -> None:
                if is_number(value):
                    stepper.show(value)
                else:  # a file may hold anything
                    stepper.field.show(text_of(value))

            return _Made(stepper, show)
        case _:
            field = TextField(look, text_of(value), read, check, hint="none" if parameter.optional else "")
            return _Made(field, lambda value: field.show(text_of(value)))


def _slider(context: Context, parameter: Parameter, value: JsonValue, change: Change) -> _Made:
    """For quick and for exact values."""
    look = context.look
    low, high = parameter.minimum or 0.0, parameter.maximum or 1.0
    number = value if is_number(value) else low
    row = Row(look, gap=theme.STEP)
    slider = RangeSlider(
        look,
        number,
        low,
        high,
        lambda found: change(round(found, 6)),
        step=(high - low) / 100,
        moved=lambda found: change(round(found, 6)),
    )
    slider.pos_hint = {"top": 1}
    field = TextField(
        look,
        text_of(number),
        lambda text: change(value_of(parameter, text)),
        lambda text: problem_in(parameter, text),
        size_hint_x=None,
        width=look.px(88),
    )
    row.add_widget(slider)
    row.add_widget(field)

    def show(value: Any) -> None:
        slider.value = value if is_number(value) else low
        field.show(text_of(value))

    return _Made(row, show)


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float)


def fill_problems(context: Context, column: Column, node_id: str | None = None) -> None:
    """What is wrong, and a button for each that can be put right; of one node, or of the whole graph."""
    look, desk = context.look, context.desk
    column.clear_widgets()
    found = desk.analysis.diagnostics if node_id is None else desk.problems_of(node_id)
    for problem in found[:MAX_PROBLEMS]:
        is_error = problem.severity.value == "error"
        column.add_widget(Notice(look, sentence(problem.text), is_error))
        if problem.fix is not None:
            fix = problem.fix
            row = Row(look, pad=(20 + theme.STEP, 0, 0, 0))
            text = sentence(fix.text)
            button = PushButton(
                look,
                text if len(text) < 36 else "Fix it",
                partial(desk.apply, fix),
                Kind.PLAIN,
                "check",
            )
            row.add_widget(button)
            row.add_widget(Gap(look))
            if len(text) >= 36:
                column.add_widget(Text(look, text, theme.SMALL, look.palette.muted))
            column.add_widget(row)
    if len(found) > MAX_PROBLEMS:
        told = f"and {len(found) - MAX_PROBLEMS:,} more, which come up as these are put right"
        column.add_widget(Text(look, told, theme.SMALL, look.palette.muted))


def name_problem(text: str) -> str | None:
    return None if 0 < len(text.strip()) <= MAX_NAME else f"must have 1 to {MAX_NAME} characters"


def graph_facts(context: Context) -> list[tuple[str, str]]:
    graph, counts = context.desk.graph, context.desk.analysis.counts
    return [
        ("Nodes", f"{len(graph.nodes)}, with {len(graph.links)} links"),
        ("Weights", amount(counts.parameters)),
        ("FLOPs", f"{amount(counts.flops)} for a sample"),
    ]


def node_facts(context: Context, node: Node) -> list[tuple[str, str]]:
    found = context.desk.analysis.of(node.id, context.desk.state.inside)
    shape = context.desk.shape_text(node.id)
    facts = [("Id", node.id)]
    if shape:
        facts.append(("Output", shape))
    if found is not None and found.counts.parameters:
        facts.append(("Weights", f"{found.counts.parameters:,}"))
    if found is not None and found.counts.flops:
        facts.append(("FLOPs", amount(found.counts.flops)))
    return facts


def amount(number: float) -> str:
    """``1.2 M``."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"
