"""Which keys mean what, as in other node editors, and the list that says so. Pure."""

from __future__ import annotations

from dataclasses import dataclass

DELETE, BACKSPACE, ENTER, SPACE, F1, F2, F10, ESCAPE = 127, 8, 13, 32, 282, 283, 291, 27
F3 = 284
UP, DOWN, RIGHT, LEFT = 273, 274, 275, 276
TAB, HOME, PLUS, KEYPAD_PLUS, MINUS, KEYPAD_MINUS, KEYPAD_DOT = 9, 278, ord("+"), 270, ord("-"), 269, 266
MENU, SDL_MENU = 319, 1073741925
"""The key beside the right Control, as Kivy and as SDL number it."""
CONTROL, SHIFT, ALT = "ctrl", "shift", "alt"
NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Binding:
    """``keys``: how a list shows it."""

    name: str
    keys: str
    code: int
    modifiers: frozenset[str] = NONE


def _with(modifiers: str, letter: str, name: str) -> Binding:
    pressed = frozenset(modifiers.split())
    shown = " ".join([each.capitalize() for each in (CONTROL, SHIFT, ALT) if each in pressed])
    return Binding(name, f"{shown} {letter.upper()}".strip(), ord(letter), pressed)


BINDINGS = (
    _with("ctrl", "z", "undo"),
    _with("ctrl shift", "z", "redo"),
    _with("ctrl", "y", "redo"),
    _with("ctrl", "s", "save"),
    _with("ctrl shift", "s", "save_as"),
    _with("ctrl", "o", "open"),
    _with("ctrl", "n", "new"),
    Binding("add", "Space", SPACE),
    _with("shift", "a", "add"),
    Binding("search_here", "Tab", TAB),
    _with("ctrl", "f", "find"),
    Binding("find_next", "F3", F3),
    Binding("find_before", "Shift F3", F3, frozenset({SHIFT})),
    Binding("dissolve", "Delete", DELETE),
    Binding("dissolve", "Backspace", BACKSPACE),
    _with("", "x", "dissolve"),
    _with("ctrl", "a", "select_all"),
    _with("", "a", "select_all"),
    _with("alt", "a", "select_none"),
    _with("ctrl", "i", "select_others"),
    _with("", "g", "grab"),
    _with("ctrl", "c", "copy"),
    _with("ctrl", "x", "cut"),
    _with("ctrl", "v", "paste"),
    _with("ctrl", "d", "duplicate"),
    _with("shift", "d", "duplicate"),
    _with("ctrl", "g", "group"),
    _with("ctrl", "j", "group"),
    _with("ctrl", "b", "bypass"),
    _with("ctrl", "m", "mute"),
    _with("", "m", "mute"),
    Binding("rename", "F2", F2),
    Binding("nudge_left", "Arrows", LEFT),
    Binding("nudge_right", "Arrows", RIGHT),
    Binding("nudge_up", "Arrows", UP),
    Binding("nudge_down", "Arrows", DOWN),
    _with("", "h", "collapse"),
    _with("alt", "c", "collapse"),
    _with("ctrl", "e", "subgraph"),
    _with("ctrl alt", "g", "expand"),
    _with("ctrl", "l", "arrange"),
    _with("", "b", "select_mode"),
    _with("", "k", "cut_mode"),
    _with("", "f", "fit"),
    Binding("fit", "Home", HOME),
    _with("", ".", "fit_selected"),
    Binding("fit_selected", ".", KEYPAD_DOT),
    Binding("zoom_in", "+", PLUS),
    Binding("zoom_in", "+", PLUS, frozenset({SHIFT})),
    Binding("zoom_in", "+", ord("=")),
    Binding("zoom_in", "+", KEYPAD_PLUS),
    Binding("zoom_out", "-", MINUS),
    Binding("zoom_out", "-", KEYPAD_MINUS),
    Binding("menu", "Menu", MENU),
    Binding("menu", "Menu", SDL_MENU),
    Binding("menu", "Shift F10", F10, frozenset({SHIFT})),
    Binding("previous", "Alt Left", LEFT, frozenset({ALT})),
    Binding("next", "Alt Right", RIGHT, frozenset({ALT})),
    Binding("train", "Ctrl Enter", ENTER, frozenset({CONTROL})),
    Binding("cancel", "Escape", ESCAPE),
    Binding("help", "F1", F1),
)
NUDGED = "Move what is selected a little"
SECTIONS: dict[str, dict[str, str]] = {
    "Graph": {
        "add": "Add a node",
        "search_here": "Add a node at the pointer",
        "dissolve": "Remove, and keep the link",
        "undo": "Undo",
        "redo": "Redo",
        "new": "Begin another graph",
        "open": "Open",
        "save": "Save",
        "save_as": "Save under another name",
        "train": "Train",
    },
    "View and tools": {
        "find": "Find in the graph",
        "find_next": "Next that is found",
        "find_before": "The one before",
        "fit": "Show all",
        "fit_selected": "Show what is selected",
        "zoom_in": "Closer",
        "zoom_out": "Farther",
        "select_mode": "Select by dragging",
        "cut_mode": "Cut links by dragging",
        "cancel": "Call off, or close what is on top",
        "help": "This list",
    },
    "Selection": {
        "select_all": "Select all",
        "select_none": "Select nothing",
        "select_others": "Select all others",
        "grab": "Move what is selected, until a click",
        "previous": "Select the node before",
        "next": "Select the node after",
        "nudge_left": NUDGED,
        "nudge_right": NUDGED,
        "nudge_up": NUDGED,
        "nudge_down": NUDGED,
        "menu": "Menu of what is selected",
    },
    "Nodes": {
        "copy": "Copy",
        "cut": "Cut",
        "paste": "Paste",
        "duplicate": "Duplicate",
        "rename": "Change the title",
        "bypass": "Bypass",
        "mute": "Mute",
        "collapse": "Collapse",
        "group": "Frame as a group",
        "subgraph": "Put into a subgraph",
        "expand": "Take out of the subgraph",
        "arrange": "Arrange",
    },
}
ELSEWHERE = (
    ("Enter in a search", "Add what is found first"),
    ("Double tap", "Add a node; open a subgraph; change a title"),
    ("Long press, Right click", "Menu"),
    ("Shift drag", "Select with a box"),
    ("Alt drag", "Select with a lasso; of a node: copy it"),
    ("Ctrl drag, Right drag", "Cut links"),
    ("Middle drag, Two fingers", "Move the view"),
    ("Wheel, Pinch", "Closer and farther"),
)
_BY_KEY = {(each.code, each.modifiers): each.name for each in BINDINGS}


def shortcut(code: int, text: str, modifiers: list[str]) -> str | None:
    """What the key asks for; None for nothing. Command stands for Control on a Mac."""
    pressed = set(modifiers) - {"numlock", "capslock"}
    if "meta" in pressed:
        pressed = (pressed - {"meta"}) | {CONTROL}
    return _BY_KEY.get((code, frozenset(pressed)))


def sheet() -> dict[str, list[tuple[str, str]]]:
    """By section: all keys of each meaning, and the meaning in words; then what fingers and mouse do."""
    found: dict[str, list[tuple[str, str]]] = {}
    for title, named in SECTIONS.items():
        keys: dict[str, list[str]] = {words: [] for words in named.values()}
        for each in BINDINGS:
            shown = keys.get(named.get(each.name, ""), [])
            if each.keys not in shown:
                shown.append(each.keys)
        found[title] = [(", ".join(shown), words) for words, shown in keys.items()]
    return found | {"Fingers and mouse": list(ELSEWHERE)}
