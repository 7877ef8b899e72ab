"""Which keys mean what, as in other node editors. Pure."""

from __future__ import annotations

DELETE, BACKSPACE, ENTER, SPACE, UP, DOWN, F1, ESCAPE = 127, 8, 13, 32, 273, 274, 282, 27

_WITH_CONTROL = {
    "z": "undo",
    "y": "redo",
    "s": "save",
    "o": "open",
    "a": "select_all",
    "c": "copy",
    "v": "paste",
    "d": "duplicate",
    "g": "group",
    "b": "bypass",
    "m": "mute",
    "e": "subgraph",
    "l": "arrange",
}
_PLAIN = {
    DELETE: "remove",
    BACKSPACE: "remove",
    ord("x"): "remove",
    SPACE: "add",
    UP: "previous",
    DOWN: "next",
    F1: "help",
    ESCAPE: "cancel",
    ord("."): "fit_selected",
    ord("f"): "fit",
    ord("c"): "collapse",
}


def shortcut(code: int, text: str, modifiers: list[str]) -> str | None:
    """What the key asks for; None for nothing. Command stands for Control on a Mac."""
    pressed = set(modifiers) - {"numlock", "capslock"}
    control = bool(pressed & {"ctrl", "meta"})
    pressed -= {"ctrl", "meta"}
    if control and not pressed:
        return "train" if code == ENTER else _WITH_CONTROL.get(chr(code) if code < 128 else text)
    if control and pressed == {"shift"}:
        return "redo" if code == ord("z") else None
    if pressed == {"shift"}:
        return "add" if code == ord("a") else None
    return _PLAIN.get(code) if not pressed else None
