from __future__ import annotations

import pytest

from engine_app.ui.keys import BINDINGS, WORDS, sheet, shortcut


@pytest.mark.parametrize(
    ("code", "modifiers", "meaning"),
    [
        (ord("z"), ["ctrl"], "undo"),
        (ord("z"), ["ctrl", "shift"], "redo"),
        (ord("z"), ["meta", "numlock"], "undo"),
        (13, ["ctrl"], "train"),
        (ord("a"), ["shift"], "add"),
        (127, [], "dissolve"),
        (ord("d"), ["shift"], "duplicate"),
        (9, [], "search_here"),
        (283, [], "rename"),
        (276, [], "nudge_left"),
        (276, ["alt"], "previous"),
        (ord("q"), ["ctrl"], None),
        (127, ["alt"], None),
        (ord("z"), [], None),
    ],
)
def test_keys_mean_what_they_mean_elsewhere(code: int, modifiers: list[str], meaning: str | None) -> None:
    assert shortcut(code, "", modifiers) == meaning


def test_the_list_of_keys_says_what_they_do_and_no_key_means_two_things() -> None:
    assert {each.name for each in BINDINGS} == WORDS.keys()
    assert len({(each.code, each.modifiers) for each in BINDINGS}) == len(BINDINGS)
    assert ("Ctrl G, Ctrl J", "Frame as a group") in sheet()
    assert ("Arrows", "Move what is selected a little") in sheet()
    assert len({words for _, words in sheet()}) == len(sheet())
