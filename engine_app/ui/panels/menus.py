"""What the canvas's menus offer, on nodes, links, frames and the ground."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from backend.diagnostics import ends_of
from engine_app.document import commands
from engine_app.document.alignment import Axis, Edge
from engine_app.document.edits import Disconnect, RemoveFrame, Reroute
from engine_app.document.errors import EditError
from engine_app.scene.hits import Hit, OnFrame, OnLink, OnNode, OnPort
from engine_app.scene.snapshot import KINDS
from engine_app.scene.tool_state import AskForNode, EditFrame, PortEnd
from engine_app.ui.widgets.radial import Choice

if TYPE_CHECKING:
    from engine_app.ui.panels.workbench import Workbench

Place = tuple[float, float]
MORE_ON_NODES = {
    "Change the title": "rename",
    "Put into a subgraph": "subgraph",
    "Take out of the subgraph": "expand",
    "Remove with its links": "remove",
    "Cut": "cut",
    "Arrange": "arrange",
    "Line up": "line_up",
    "Show it whole": "fit_selected",
}

WAYS_TO_LINE_UP: dict[str, Edge | Axis] = {
    "Left edges": Edge.LEFT,
    "Centres": Edge.CENTRE,
    "Right edges": Edge.RIGHT,
    "Top edges": Edge.TOP,
    "Middles": Edge.MIDDLE,
    "Bottom edges": Edge.BOTTOM,
    "Equal gaps across": Axis.HORIZONTAL,
    "Equal gaps down": Axis.VERTICAL,
}


def menu_of(bench: Workbench, on: Hit, place: Place) -> tuple[str, list[Choice]]:
    """Its title, and what there is to choose. ``place``: of the world."""
    match on:
        case OnNode(node) | OnPort(node):
            count = len(bench.canvas_widget.state.selected)
            return (f"{count} nodes" if count > 1 else node), _on_nodes(bench)
        case OnLink(number):
            return "Link", _on_link(bench, number, place)
        case OnFrame(kind, name):
            change = bench.canvas_widget.change
            return kind.name.capitalize(), [
                Choice("Text", "pen", lambda: bench.edit_text(EditFrame(kind, name))),
                Choice("Remove", "delete", lambda: change(RemoveFrame(kind, name)), True),
            ]
        case _:
            return "Canvas", _on_ground(bench, place)


def _on_nodes(bench: Workbench) -> list[Choice]:
    does = partial(_command, bench)
    return [
        Choice("Duplicate", "add", does("duplicate")),
        Choice("Copy", "copy", does("copy")),
        Choice("Bypass", "bypass", does("bypass")),
        Choice("Mute", "mute", does("mute")),
        Choice("Remove", "delete", does("dissolve"), True),
        Choice("More", "more", lambda: _more(bench)),
        Choice("Group", "group", does("group")),
        Choice("Collapse", "collapse", does("collapse")),
    ]


def _more(bench: Workbench) -> None:
    bench.choose("Nodes", {words: _command(bench, name) for words, name in MORE_ON_NODES.items()})


def offer_to_line_up(bench: Workbench, chosen: tuple[str, ...]) -> None:
    """Raises EditError for fewer nodes than can be in line; equal gaps are offered from three on."""
    if len(chosen) < 2:
        raise EditError(f"{len(chosen)} nodes are selected, must be 2 or more")
    wiring = bench.canvas_widget.wiring

    def along(how: Edge | Axis) -> None:
        bench.edit("Lining up", lambda: commands.line_up(wiring, chosen, how))

    ways = WAYS_TO_LINE_UP.items()
    bench.choose(
        "Line up",
        {words: partial(along, how) for words, how in ways if len(chosen) > 2 or isinstance(how, Edge)},
    )


def _on_link(bench: Workbench, number: int, place: Place) -> list[Choice]:
    canvas = bench.canvas_widget
    link = canvas.wiring.links[number]
    ends, scene = ends_of(link), canvas.scene
    kind = next(
        (int(kind) for kind, at in zip(scene.link_kinds, scene.link_places, strict=True) if at == number), -1
    )
    start = PortEnd(link.source_node, link.source_port, True, KINDS[kind])
    return [
        Choice("Insert", "add", lambda: bench.ask_for_node(AskForNode(*place, start), ends)),
        Choice("Bend", "bend", lambda: canvas.change(Reroute(ends, *place))),
        Choice("Cut", "cut", lambda: canvas.change(Disconnect((ends,))), True),
    ]


def _on_ground(bench: Workbench, place: Place) -> list[Choice]:
    canvas, does = bench.canvas_widget, partial(_command, bench)
    return [
        Choice("Node", "add", lambda: bench.ask_for_node(AskForNode(*place))),
        Choice("Pattern", "pattern", lambda: bench.offer_patterns(place)),
        Choice("Note", "note", lambda: canvas.change(commands.note(canvas.wiring, *place))),
        Choice("Paste", "paste", lambda: bench.paste_at(place)),
        Choice("Select all", "all", does("select_all")),
        Choice("Show all", "fit", does("fit")),
        Choice("Arrange", "arrange", does("arrange")),
        Choice("Lasso", "lasso", does("select_mode")),
    ]


def _command(bench: Workbench, name: str) -> Callable[[], Any]:
    return partial(bench.command, name)
