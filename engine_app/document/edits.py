"""What a user can do to a graph, as plain data. ``apply`` makes them; every one can be undone.

An edit says what is wanted. One that makes no sense is refused with an EditError by ``apply``, and then
nothing has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from backend.diagnostics import Fix
from backend.graph import JsonValue, Link, Node, Tuning
from engine_app.document.view import Frame, FrameKind, Mode

Ends: TypeAlias = tuple[str, str, str, str]
"""Source node and port, target node and port, of a link."""


@dataclass(frozen=True, slots=True)
class AddNodes:
    """With links among them and to nodes that are there, and with groups and notes: also a paste."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...] = ()
    groups: tuple[Frame, ...] = ()
    notes: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoveNodes:
    """With their links."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DissolveNodes:
    """Removes nodes, and links what came into their first input to what took their output."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Connect:
    """Into a port that takes one link, it replaces the one that is there."""

    source_node: str
    source_port: str
    target_node: str
    target_port: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The links with these ends: one, or all that a knife went through."""

    links: tuple[Ends, ...]


@dataclass(frozen=True, slots=True)
class SetParameter:
    node: str
    name: str
    value: JsonValue


@dataclass(frozen=True, slots=True)
class ResetParameter:
    """To the catalogue's default. Also takes away one that the type does not have."""

    node: str
    name: str


@dataclass(frozen=True, slots=True)
class ChangeType:
    """Parameters and links that the new type has as well stay."""

    node: str
    type: str


@dataclass(frozen=True, slots=True)
class MoveNodes:
    places: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class ResizeNode:
    """None: the width that the editor chooses."""

    node: str
    width: float | None


@dataclass(frozen=True, slots=True)
class Rename:
    """The title that is shown; an empty one brings back the type's name. The id stays."""

    node: str
    title: str


@dataclass(frozen=True, slots=True)
class RenameGraph:
    name: str


@dataclass(frozen=True, slots=True)
class SetTraining:
    """None leaves a setting as it is."""

    epochs: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class SetMode:
    """Bypass and mute, and back."""

    nodes: tuple[str, ...]
    mode: Mode


@dataclass(frozen=True, slots=True)
class SetTuning:
    """How training treats the weights of nodes: None trains them."""

    nodes: tuple[str, ...]
    tuning: Tuning | None


@dataclass(frozen=True, slots=True)
class Collapse:
    nodes: tuple[str, ...]
    collapsed: bool = True


@dataclass(frozen=True, slots=True)
class SetFrame:
    """Adds a group or a note, or changes the one with its id."""

    kind: FrameKind
    frame: Frame


@dataclass(frozen=True, slots=True)
class RemoveFrame:
    """What is in a group stays."""

    kind: FrameKind
    id: str


@dataclass(frozen=True, slots=True)
class InsertOnLink:
    """Puts a node that is new, or is there without links, into a link."""

    link: Ends
    node: Node


@dataclass(frozen=True, slots=True)
class Reroute:
    """A bend in a link, at this place."""

    link: Ends
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class MakeSubgraph:
    nodes: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True, slots=True)
class ExpandSubgraph:
    node: str


@dataclass(frozen=True, slots=True)
class ApplyFix:
    """What a diagnostic proposes. Its ``inside`` starts from the graph, whatever is open."""

    fix: Fix


@dataclass(frozen=True, slots=True)
class Batch:
    """All of them, or none: one step for undo."""

    edits: tuple[Edit, ...] = field(default=())


Edit: TypeAlias = (
    AddNodes
    | RemoveNodes
    | DissolveNodes
    | Connect
    | Disconnect
    | SetParameter
    | ResetParameter
    | ChangeType
    | MoveNodes
    | ResizeNode
    | Rename
    | RenameGraph
    | SetTraining
    | SetMode
    | SetTuning
    | Collapse
    | SetFrame
    | RemoveFrame
    | InsertOnLink
    | Reroute
    | MakeSubgraph
    | ExpandSubgraph
    | ApplyFix
    | Batch
)
