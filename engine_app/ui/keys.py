"""Which keys mean what, as in other node editors, and the list that says so. Pure."""

from __future__ import annotations

from dataclasses import dataclass

DELETE, BACKSPACE, ENTER, SPACE, UP, DOWN, F1, F10, ESCAPE = 127, 8, 13, 32, 273, 274, 282, 291, 27
TAB, HOME, PLUS, KEYPAD_PLUS, MINUS, KEYPAD_MINUS = 9, 278, ord("+"), 270, ord("-"), 269
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
    _with("ctrl", "o", "open"),
    Binding("add", "Space", SPACE),
    _with("shift", "a", "add"),
    Binding("search_here", "Tab", TAB),
    Binding("remove", "Delete", DELETE),
    Binding("remove", "Backspace", BACKSPACE),
    _with("", "x", "remove"),
    _with("ctrl", "a", "select_all"),
    _with("", "a", "select_all"),
    _with("alt", "a", "select_none"),
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
    _with("", "h", "collapse"),
    _with("alt", "c", "collapse"),
    _with("ctrl", "e", "subgraph"),
    _with("ctrl", "l", "arrange"),
    _with("", "b", "select_mode"),
    _with("", "k", "cut_mode"),
    _with("", "f", "fit"),
    Binding("fit", "Home", HOME),
    _with("", ".", "fit_selected"),
    Binding("zoom_in", "+", PLUS),
    Binding("zoom_in", "+", PLUS, frozenset({SHIFT})),
    Binding("zoom_in", "+", ord("=")),
    Binding("zoom_in", "+", KEYPAD_PLUS),
    Binding("zoom_out", "-", MINUS),
    Binding("zoom_out", "-", KEYPAD_MINUS),
    Binding("menu", "Menu", MENU),
    Binding("menu", "Menu", SDL_MENU),
    Binding("menu", "Shift F10", F10, frozenset({SHIFT})),
    Binding("previous", "Up", UP),
    Binding("next", "Down", DOWN),
    Binding("train", "Ctrl Enter", ENTER, frozenset({CONTROL})),
    Binding("cancel", "Escape", ESCAPE),
    Binding("help", "F1", F1),
)
WORDS = {
    "undo": "Undo",
    "redo": "Redo",
    "save": "Save",
    "open": "Open",
    "add": "Add a node",
    "search_here": "Add a node at the pointer",
    "remove": "Remove, and keep the link",
    "select_all": "Select all",
    "select_none": "Select nothing",
    "copy": "Copy",
    "cut": "Cut",
    "paste": "Paste",
    "duplicate": "Duplicate",
    "group": "Frame as a group",
    "bypass": "Bypass",
    "mute": "Mute",
    "collapse": "Collapse",
    "subgraph": "Put into a subgraph",
    "arrange": "Arrange",
    "select_mode": "Select by dragging",
    "cut_mode": "Cut links by dragging",
    "fit": "Show all",
    "fit_selected": "Show what is selected",
    "zoom_in": "Closer",
    "zoom_out": "Farther",
    "menu": "Menu of what is selected",
    "previous": "Select the node before",
    "next": "Select the node after",
    "train": "Train",
    "cancel": "Call off, or close what is on top",
    "help": "This list",
}
ELSEWHERE = (
    ("Enter in a search", "Add what is found first"),
    ("Double tap", "Add a node; open a subgraph"),
    ("Long press, right click", "Menu"),
    ("Shift drag", "Select with a box"),
    ("Alt drag", "Select with a lasso"),
    ("Ctrl drag, right drag", "Cut links"),
    ("Middle drag, two fingers", "Move the view"),
    ("Wheel, pinch", "Closer and farther"),
)
_BY_KEY = {(each.code, each.modifiers): each.name for each in BINDINGS}


def shortcut(code: int, text: str, modifiers: list[str]) -> str | None:
    """What the key asks for; None for nothing. Command stands for Control on a Mac."""
    pressed = set(modifiers) - {"numlock", "capslock"}
    if "meta" in pressed:
        pressed = (pressed - {"meta"}) | {CONTROL}
    return _BY_KEY.get((code, frozenset(pressed)))


def sheet() -> list[tuple[str, str]]:
    """All keys of each meaning, and the meaning in words; then what a search, fingers and mouse do."""
    keys: dict[str, list[str]] = {}
    for each in BINDINGS:
        shown = keys.setdefault(each.name, [])
        if each.keys not in shown:
            shown.append(each.keys)
    return [(", ".join(shown), WORDS[name]) for name, shown in keys.items()] + list(ELSEWHERE)
