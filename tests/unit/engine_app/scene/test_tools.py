"""Gestures on a small graph become the edits that a user means."""

from __future__ import annotations

from itertools import pairwise

from backend.diagnostics import ends_of
from backend.graph import Graph, Node
from engine_app.document.apply import apply
from engine_app.document.edits import Connect, Disconnect, InsertOnLink, MakeSubgraph, MoveNodes, SetFrame
from engine_app.document.view import Frame, FrameKind, Rect, place_of, placed
from engine_app.scene.gestures import (
    NONE,
    Button,
    DoubleTapped,
    DragBegun,
    DragCancelled,
    DragEnded,
    Dragged,
    Gesture,
    Held,
    Modifiers,
    Pinched,
    Tapped,
)
from engine_app.scene.hits import OnNode
from engine_app.scene.snapshot import SnapshotBuilder
from engine_app.scene.tool_state import (
    AskForNode,
    Enter,
    Intent,
    Look,
    Make,
    Mode,
    Select,
    ShowMenu,
    Stage,
    Tell,
    ToolState,
)
from engine_app.scene.tools import handle
from engine_app.scene.view import View
from tests.unit.engine_app.document.builders import line

MLP = line("Dense", "ReLU")  # at x 0, 300, 600, 900; the first port is 48 below the corner
OUT, INTO = (500.0, 48.0), (600.0, 48.0)  # of Dense and of ReLU
VIEW = View(-100, -300)
SHIFT, CONTROL = Modifiers(shift=True), Modifiers(control=True)


class Hand:
    def __init__(self, graph: Graph = MLP, view: View = VIEW, mode: Mode = Mode.NORMAL) -> None:
        self.graph, self.view, self.selected = graph, view, frozenset[str]()
        self.state = ToolState(mode=mode)
        self.seen: list[Intent] = []

    def do(self, *gestures: Gesture) -> list[Intent]:
        self.seen = []
        for gesture in gestures:
            scene = SnapshotBuilder().build(self.graph)
            stage = Stage(self.graph, scene, self.view, self.selected)
            self.state, found = handle(self.state, gesture, stage)
            self.seen += found
            for intent in found:
                if isinstance(intent, Select):
                    self.selected = intent.nodes
        return [intent for intent in self.seen if not isinstance(intent, Select)]

    def at(self, place: tuple[float, float]) -> tuple[float, float]:
        return self.view.to_screen(*place)

    def tap(self, place: tuple[float, float], modifiers: Modifiers = NONE) -> list[Intent]:
        return self.do(Tapped(*self.at(place), modifiers))

    def drag(
        self,
        start: tuple[float, float],
        *ways: tuple[float, float],
        modifiers: Modifiers = NONE,
        button: Button = Button.PRIMARY,
    ) -> list[Intent]:
        points = [self.at(start), *map(self.at, ways)]
        moves = [Dragged(*b, b[0] - a[0], b[1] - a[1]) for a, b in pairwise(points)]
        return self.do(DragBegun(*points[0], modifiers, button), *moves, DragEnded(*points[-1]))


def test_a_tap_selects_and_one_with_shift_adds() -> None:
    hand = Hand()
    hand.tap((400, 100))
    hand.tap((700, 60), SHIFT)
    assert hand.selected == {"dense", "relu"}
    hand.tap((400, 100), SHIFT)
    assert hand.selected == {"relu"}
    hand.tap((400, 500))
    assert hand.selected == frozenset()


def test_a_dragged_node_is_moved_once_with_all_that_is_selected() -> None:
    hand = Hand()
    hand.selected = frozenset({"dense", "relu"})
    (made,) = hand.drag((400, 20), (420, 200), (431, 420))
    assert made == Make(MoveNodes({"dense": (328.0, 400.0), "relu": (628.0, 400.0)}))


def test_a_cancelled_drag_makes_nothing() -> None:
    hand = Hand()
    assert hand.do(DragBegun(*hand.at((400, 20))), Dragged(600, 600, 90, 90), DragCancelled()) == []
    assert hand.state.action is None


def test_a_pinch_on_a_node_moves_only_the_view() -> None:
    hand = Hand()
    (found,) = hand.do(Pinched(*hand.at((400, 20)), 10, 0, 2.0))
    assert isinstance(found, Look) and found.view.zoom == 2.0


def test_a_drag_of_the_ground_or_of_a_link_pans() -> None:
    for start in ((400.0, 400.0), (255.0, 53.0 - 5)):
        hand = Hand(apply(MLP, MoveNodes({"dense": (600.0, 0.0), "relu": (1200.0, 0.0)})))
        found = hand.drag((start[0] + 145, start[1]), (start[0] + 195, start[1] + 20))
        assert [type(each) for each in found] == [Look]


def test_a_link_jumps_to_a_port_that_takes_it_and_no_other() -> None:
    hand = Hand(apply(MLP, Disconnect((ends_of(MLP.links[1]),))))
    (made,) = hand.drag((505, 50), (560, 80), (575, 60))
    assert made == Make(Connect("dense", "output", "relu", "input"))
    assert hand.drag((505, 72), (590, 50)) == [AskForNode(590.0, 50.0, hand.seen[-1].end)]  # type: ignore[union-attr]


def test_two_taps_link_and_a_wrong_one_says_why() -> None:
    hand = Hand(apply(MLP, Disconnect((ends_of(MLP.links[1]),))))
    assert hand.tap((505, 48)) == []
    assert hand.state.pending is not None
    assert hand.tap((590, 48)) == [Make(Connect("dense", "output", "relu", "input"))]
    hand.tap((505, 48))
    assert hand.tap((800, 48)) == [Tell("a link goes from an output to an input")]


def test_after_a_port_a_tap_on_a_node_links_to_the_port_that_fits() -> None:
    hand = Hand(apply(MLP, Disconnect((ends_of(MLP.links[1]),))))
    hand.tap((505, 48))
    assert hand.tap((700, 60)) == [Make(Connect("dense", "output", "relu", "input"))]


def test_a_link_is_taken_off_its_input_and_cut_by_dropping_it() -> None:
    hand = Hand()
    assert hand.drag((595, 48), (560, 300)) == [Make(Disconnect((ends_of(MLP.links[1]),)))]


def test_a_link_dropped_in_the_void_asks_for_a_node_that_takes_it() -> None:
    hand = Hand()
    (asked,) = hand.drag((1100 - 600, 48), (560, 400))
    assert isinstance(asked, AskForNode) and asked.end is not None
    assert (asked.end.node, asked.end.port, asked.x, asked.y) == ("dense", "output", 560.0, 400.0)


def test_a_cut_goes_through_links() -> None:
    for extra in ({"modifiers": CONTROL}, {"button": Button.SECONDARY}):
        found = Hand().drag((550, -100), (550, 200), **extra)  # type: ignore[arg-type]
        assert found == [Make(Disconnect((ends_of(MLP.links[1]),)))]
    stroke = (250, -60), (250, 200), (550, 200), (550, -60)
    found = Hand(mode=Mode.CUTTING).drag(*stroke)
    assert found == [Make(Disconnect((ends_of(MLP.links[0]), ends_of(MLP.links[1]))))]


def test_a_lasso_takes_what_it_goes_around_and_a_box_what_it_touches() -> None:
    hand = Hand()
    hand.drag((280, -50), (820, -50), (820, 200), (280, 200), modifiers=Modifiers(alt=True))
    assert hand.selected == {"dense", "relu"}
    hand = Hand()
    hand.drag((450, 250), (650, 20), modifiers=SHIFT)
    assert hand.selected == {"dense", "relu"}
    hand = Hand(mode=Mode.SELECTING)
    hand.drag((280, -50), (520, -50), (520, 200), (280, 200))
    assert hand.selected == {"dense"}


def test_a_node_without_links_dropped_on_a_link_goes_into_it() -> None:
    loose = placed(Node("tanh", "Tanh"), 400.0, 300.0)
    hand = Hand(Graph("g", (*MLP.nodes, loose), MLP.links))
    (made,) = hand.drag((500, 320), (552, 50))
    assert isinstance(made, Make)
    moved, inserted = made.edit.edits  # type: ignore[union-attr]
    assert isinstance(moved, MoveNodes) and isinstance(inserted, InsertOnLink)
    links = [(link.source_node, link.target_node) for link in apply(hand.graph, made.edit).links]
    assert ("dense", "tanh") in links and ("tanh", "relu") in links


def test_a_group_takes_along_what_is_in_it() -> None:
    group = Frame("g1", "Layers", Rect(248, -80, 304, 304))
    hand = Hand(apply(MLP, SetFrame(FrameKind.GROUP, group)))
    (made,) = hand.drag((350, -60), (350, 740))
    assert isinstance(made, Make)
    after = apply(hand.graph, made.edit)
    assert place_of(after.node("dense")) == (300.0, 800.0)
    assert place_of(after.node("relu")) == (600.0, 0.0)


def test_long_press_and_double_tap_open_what_is_there() -> None:
    hand = Hand(apply(MLP, MakeSubgraph(("dense", "relu"))))
    middle = hand.at((550, 20))
    (menu,) = hand.do(Held(*middle))
    assert isinstance(menu, ShowMenu) and isinstance(menu.on, OnNode)
    assert hand.do(DoubleTapped(*middle)) == [Enter("subgraph")]
    assert hand.do(DoubleTapped(*hand.at((550, 400)))) == [AskForNode(550.0, 400.0)]


def test_ports_are_as_large_as_a_finger_when_the_view_is_far() -> None:
    view = View(-100, -300, 0.5)
    hand = Hand(apply(MLP, Disconnect((ends_of(MLP.links[1]),))), view)
    hand.tap((520, 60))
    assert hand.state.pending is not None and hand.state.pending.node == "dense"
