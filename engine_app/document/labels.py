"""What undo says it will undo."""

from __future__ import annotations

from backend.graph import Frozen, Lora
from engine_app.document import edits
from engine_app.document.edits import Edit
from engine_app.document.view import FrameKind, Mode

_PLAIN: dict[type[Edit], str] = {
    edits.Connect: "link",
    edits.ResetParameter: "reset parameter",
    edits.ChangeType: "change type",
    edits.ResizeNode: "resize",
    edits.Rename: "rename",
    edits.RenameGraph: "rename graph",
    edits.SetTraining: "training settings",
    edits.InsertOnLink: "insert on link",
    edits.Reroute: "reroute",
    edits.MakeSubgraph: "make subgraph",
    edits.ExpandSubgraph: "expand subgraph",
}
_MODES = {Mode.NORMAL: "switch on", Mode.BYPASSED: "bypass", Mode.MUTED: "mute"}
_TUNINGS = {type(None): "train", Frozen: "freeze", Lora: "adapt"}
_FRAMES = {FrameKind.GROUP: "group", FrameKind.NOTE: "note"}


def label_of(edit: Edit) -> str:
    """A few words: ``move 3 nodes``."""
    match edit:
        case edits.AddNodes(nodes, notes=notes) if not nodes and notes:
            return f"add {_count(len(notes), 'note')}"
        case edits.AddNodes(nodes):
            return f"add {nodes[0].type}" if len(nodes) == 1 else f"add {_count(len(nodes), 'node')}"
        case edits.RemoveNodes(nodes) | edits.DissolveNodes(nodes):
            return f"remove {_count(len(nodes), 'node')}"
        case edits.Disconnect(links):
            return f"cut {_count(len(links), 'link')}"
        case edits.SetParameter(_, name):
            return f"set {name[:40]}"
        case edits.MoveNodes(places):
            return f"move {_count(len(places), 'node')}"
        case edits.SetTuning(nodes, tuning):
            return f"{_TUNINGS[type(tuning)]} {_count(len(nodes), 'node')}"
        case edits.SetMode(nodes, mode):
            return f"{_MODES[mode]} {_count(len(nodes), 'node')}"
        case edits.Collapse(nodes, collapsed):
            return f"{'collapse' if collapsed else 'open'} {_count(len(nodes), 'node')}"
        case edits.SetFrame(kind) | edits.RemoveFrame(kind):
            return f"{'remove' if isinstance(edit, edits.RemoveFrame) else 'change'} {_FRAMES[kind]}"
        case edits.ApplyFix(fix):
            return fix.text[:60]
        case edits.Batch(inner):
            return label_of(inner[0]) if inner else "nothing"
        case _:
            return _PLAIN[type(edit)]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
