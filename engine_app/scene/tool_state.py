"""What is going on under fingers and mouse, what shall come of it, and what it happens on. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from backend.catalogue.record import PortKind
from backend.graph import Link, Wiring
from engine_app.document.alignment import Guide
from engine_app.document.edits import Edit
from engine_app.document.view import Frame, FrameKind
from engine_app.scene.hits import Hit
from engine_app.scene.snapshot import Snapshot
from engine_app.scene.view import View


class Mode(Enum):
    NORMAL = "normal"
    SELECTING = "selecting"
    """Drags of the ground select, and taps add: for fingers, which have no Shift."""
    CUTTING = "cutting"
    """Every drag of one finger cuts the links that it crosses."""


@dataclass(frozen=True, slots=True)
class PortEnd:
    node: str
    port: str
    is_output: bool
    kind: PortKind | None


# -- what is going on ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Panning:
    pass


@dataclass(frozen=True, slots=True)
class Moving:
    """Nodes and groups on their way, by (dx, dy) of the world from where they are in the document."""

    nodes: frozenset[str]
    frames: tuple[tuple[FrameKind, Frame], ...] = ()
    raw_x: float = 0.0
    raw_y: float = 0.0
    dx: float = 0.0
    dy: float = 0.0
    guides: tuple[Guide, ...] = ()
    link: int | None = None
    """Place of the link that the node would go into if it were dropped."""
    copies: bool = False
    """What moves are copies; the nodes stay."""


@dataclass(frozen=True, slots=True)
class Resizing:
    kind: FrameKind
    frame: Frame


@dataclass(frozen=True, slots=True)
class Linking:
    """A link from ``start`` to the finger, or to the port it jumped to. ``moved``: the link it was."""

    start: PortEnd
    x: float
    y: float
    target: PortEnd | None = None
    moved: Link | None = None


@dataclass(frozen=True, slots=True)
class Selecting:
    """World places; two corners of a box, or the line of a lasso."""

    points: tuple[tuple[float, float], ...]
    is_box: bool
    before: frozenset[str]


@dataclass(frozen=True, slots=True)
class Cutting:
    """World places along the stroke."""

    points: tuple[tuple[float, float], ...]


Action: TypeAlias = Panning | Moving | Resizing | Linking | Selecting | Cutting | None


@dataclass(frozen=True, slots=True)
class ToolState:
    """``pending``: a port that was tapped and waits for the other one."""

    action: Action = None
    mode: Mode = Mode.NORMAL
    pending: PortEnd | None = None


# -- what shall happen ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """The canvas shall look there."""

    view: View


@dataclass(frozen=True, slots=True)
class Select:
    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Make:
    edit: Edit


@dataclass(frozen=True, slots=True)
class AskForNode:
    """The palette at a place of the world; for the free end of a link, if there is one."""

    x: float
    y: float
    end: PortEnd | None = None


@dataclass(frozen=True, slots=True)
class ShowMenu:
    """The radial menu at a place of the screen."""

    x: float
    y: float
    on: Hit


@dataclass(frozen=True, slots=True)
class Enter:
    node: str


@dataclass(frozen=True, slots=True)
class EditFrame:
    kind: FrameKind
    id: str


@dataclass(frozen=True, slots=True)
class EditTitle:
    node: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Why something did not happen."""

    text: str


Intent: TypeAlias = Look | Select | Make | AskForNode | ShowMenu | Enter | EditFrame | EditTitle | Tell
Outcome: TypeAlias = tuple[ToolState, list[Intent]]


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What a gesture happens on. ``dp``: pixels to a dp."""

    wiring: Wiring
    scene: Snapshot
    view: View
    selected: frozenset[str] = frozenset()
    dp: float = 1.0

    def world(self, dp: float) -> float:
        """A length on the screen, in dp, as one of the world."""
        return dp * self.dp / self.view.zoom
