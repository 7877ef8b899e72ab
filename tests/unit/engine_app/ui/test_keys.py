from __future__ import annotations

import pytest

from engine_app.ui.keys import shortcut


@pytest.mark.parametrize(
    ("code", "modifiers", "meaning"),
    [
        (ord("z"), ["ctrl"], "undo"),
        (ord("z"), ["ctrl", "shift"], "redo"),
        (ord("z"), ["meta", "numlock"], "undo"),
        (13, ["ctrl"], "train"),
        (ord("a"), ["shift"], "add"),
        (127, [], "remove"),
        (ord("q"), ["ctrl"], None),
        (127, ["alt"], None),
        (ord("z"), [], None),
    ],
)
def test_keys_mean_what_they_mean_elsewhere(code: int, modifiers: list[str], meaning: str | None) -> None:
    assert shortcut(code, "", modifiers) == meaning
