"""Any fingers and keys in any order: nothing is raised, all that is seen can be drawn, all can be undone."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from backend.graph import Graph, Wiring
from engine_app.document import commands, editing, edits
from engine_app.document.analysis import Analysis, analyse
from engine_app.document.editing import Editing
from engine_app.document.errors import EditError
from engine_app.document.files import editable
from engine_app.document.templates import TEMPLATES
from engine_app.document.view import Mode
from engine_app.document.wiring import opened
from engine_app.scene import overlay
from engine_app.scene import tool_state as tools
from engine_app.scene.gestures import Button, Gesture, GestureRecognizer, Modifiers, Scrolled
from engine_app.scene.render import Picture, cover_of, moving, still
from engine_app.scene.snapshot import SnapshotBuilder
from engine_app.scene.tools import handle, still_possible
from engine_app.scene.view import View
from tests.unit.engine_app.scene.test_render import picture

WIDTH, HEIGHT = 900.0, 600.0
TYPES = ("Dense", "ReLU", "Conv2D", "Add", "Split", "MSELoss", "Dropout")
STARTS = [editable(each.example()).graph for each in TEMPLATES]
Do = Callable[[], None]


class Table:
    """A document under hands, as the canvas puts the two together."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.state = Editing(self.random.choice(STARTS))
        self.tools = tools.ToolState()
        self.view = View(width=WIDTH, height=HEIGHT)
        self._gestures = GestureRecognizer()
        self._builder = SnapshotBuilder()
        self._fingers: dict[int, tuple[float, float]] = {}
        self._now = self._count = 0.0
        self.analysis: Analysis | None = None
        self._refresh()
        self._fit()

    @property
    def wiring(self) -> Wiring:
        return opened(self.state.graph, self.state.inside)

    def _refresh(self) -> None:
        self.analysis = analyse(self.state.graph, before=self.analysis)
        self.scene = self._builder.build(self.wiring, self.analysis, self.state.inside)

    def _fit(self) -> None:
        around = self.scene.bounds()
        if around is not None:
            self.view = self.view.fitted(around, 48.0, 1.0)

    def _show(self, state: Editing) -> None:
        before, self.state = self.state, state
        if state.inside != before.inside:
            self.tools = tools.ToolState(mode=self.tools.mode)
        if state.inside != before.inside or state.graph is not before.graph:
            self._refresh()
            self.tools = still_possible(self.tools, self.scene)

    def change(self, edit: edits.Edit) -> None:
        try:
            self._show(editing.do(self.state, edit))
        except EditError as error:
            assert str(error)

    # -- what hands do -------------------------------------------------------------------------

    def act(self) -> None:
        self._now += self.random.choice([0.01, 0.05, 0.2, 0.6])
        choices: list[tuple[int, Do]] = [
            (5, self._down),
            (12, self._move),
            (15, self._up),
            (20, self._tap),
            (25, self._drag),
            (5, lambda: self._take(self._gestures.tick(self._now))),
            (3, self._scroll),
            (15, self._key),
            (1, lambda: self._take(self._gestures.cancel())),
        ]
        self.random.choices([do for _, do in choices], [weight for weight, _ in choices])[0]()
        self._draw()

    def _down(self) -> None:
        if len(self._fingers) < 3:
            self._count += 1
            name, place = int(self._count), self._place()
            self._fingers[name] = place
            button = self.random.choices(list(Button), (8, 1, 1))[0]
            self._take(self._gestures.down(name, *place, self._now, self._modifiers(), button))

    def _tap(self) -> None:
        place, modifiers = self._place(), self._modifiers()
        for _ in range(self.random.choice([1, 1, 2])):
            self._take(self._gestures.down("tap", *place, self._now, modifiers))
            self._take(self._gestures.up("tap", *place, self._now))

    def _drag(self) -> None:
        self._take(self._gestures.down("drag", *self._place(), self._now, self._modifiers()))
        for _ in range(3):
            self._take(self._gestures.move("drag", *self._place()))
            self._draw()
        self._take(self._gestures.up("drag", *self._place(), self._now))

    def _move(self) -> None:
        if self._fingers:
            name = self.random.choice(list(self._fingers))
            x, y = self._fingers[name]
            near = x + self.random.uniform(-15, 15), y + self.random.uniform(-15, 15)
            self._fingers[name] = self.random.choice([near, self._place()])
            self._take(self._gestures.move(name, *self._fingers[name]))

    def _up(self) -> None:
        if self._fingers:
            name = self.random.choice(list(self._fingers))
            self._take(self._gestures.up(name, *self._fingers.pop(name), self._now))

    def _scroll(self) -> None:
        self._take([Scrolled(*self._place(), self.random.choice([-1.0, 1.0, 3.0]), self._modifiers())])

    def _key(self) -> None:
        ids = sorted(self.state.selected or self.scene.index)
        chosen = tuple(self.random.sample(ids, min(len(ids), 3)))
        wiring = self.wiring
        edit: Callable[[], edits.Edit] = self.random.choice(
            [
                lambda: edits.RemoveNodes(chosen),
                lambda: edits.DissolveNodes(chosen),
                lambda: commands.toggle_mode(wiring, chosen, self.random.choice(list(Mode)[1:])),
                lambda: commands.toggle_collapsed(wiring, chosen),
                lambda: commands.group(wiring, chosen),
                lambda: commands.duplicate(wiring, chosen).edit,
                lambda: commands.arrange(wiring, chosen),
                lambda: edits.MakeSubgraph(chosen),
                lambda: edits.ExpandSubgraph(chosen[0] if chosen else "nobody"),
            ]
        )
        moves: list[Do] = [
            lambda: self._show(editing.undo(self.state)),
            lambda: self._show(editing.redo(self.state)),
            lambda: self._show(editing.leave(self.state, 0)),
            *[lambda: self._edit(edit)] * 4,
            lambda: self._show(editing.select(self.state, self.scene.index)),
            self._mode,
            self._fit,
        ]
        self.random.choice(moves)()

    def _edit(self, edit: Callable[[], edits.Edit]) -> None:
        try:
            made = edit()
        except EditError as error:
            assert str(error)
        else:
            self.change(made)

    def _mode(self) -> None:
        self.tools = tools.ToolState(mode=self.random.choices(list(tools.Mode), (5, 1, 1))[0])

    def _modifiers(self) -> Modifiers:
        return self.random.choice(
            [Modifiers()] * 5 + [Modifiers(True), Modifiers(False, True), Modifiers(alt=True)]
        )

    def _place(self) -> tuple[float, float]:
        """On a port or a node, if they are in sight, as often as anywhere."""
        spots = [*self.scene.port_places, *(self.scene.corners + self.scene.sizes / 2)]
        if spots and self.random.random() < 0.7:
            x, y = self.random.choice(spots)
            left, top = self.view.to_screen(float(x), float(y))
            if 0 <= left < WIDTH and 0 <= top < HEIGHT:
                return left, top
        return self.random.uniform(0, WIDTH), self.random.uniform(0, HEIGHT)

    # -- what comes of it ----------------------------------------------------------------------

    def _take(self, gestures: list[Gesture]) -> None:
        for gesture in gestures:
            stage = tools.Stage(self.wiring, self.scene, self.view, self.state.selected)
            self.tools, intents = handle(self.tools, gesture, stage)
            for intent in intents:
                self._carry_out(intent)

    def _carry_out(self, intent: tools.Intent) -> None:
        match intent:
            case tools.Look(view):
                self.view = view
            case tools.Select(nodes):
                self._show(editing.select(self.state, nodes))
            case tools.Make(edit):
                self.change(edit)
            case tools.Enter(node):
                self._show(editing.enter(self.state, node))
            case tools.AskForNode(x, y, end):
                wanted = (end.node, end.port, end.is_output) if end else None
                self.change(commands.new_node(self.wiring, self.random.choice(TYPES), x, y, wanted)[0])
            case _:
                pass

    def _draw(self) -> None:
        seen: Picture = picture(self.scene, self.view.zoom, self.state.selected)
        action = self.tools.action
        going = frozenset(
            self.scene.index[name]
            for name in (action.nodes if isinstance(action, tools.Moving) else ())
            if name in self.scene.index
        )
        still(seen, cover_of(self.view.visible), going)
        overlay.drawn(seen, self.tools, going, moving)


@pytest.mark.parametrize("seed", range(3))
def test_any_hands_on_any_pattern_raise_nothing_and_are_undone(seed: int) -> None:
    table = Table(seed)
    before: Graph = table.state.graph
    for _ in range(80):
        table.act()
    assert table.state.selected <= table.scene.index.keys()
    while table.state.done:
        table.state = editing.undo(table.state)
    assert table.state.graph == before
