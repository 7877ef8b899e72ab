from __future__ import annotations

import pytest

from engine_app.ui.keys import BINDINGS, SECTIONS, sheet, shortcut


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
    told = [name for words in SECTIONS.values() for name in words]
    assert sorted(told) == sorted({each.name for each in BINDINGS})
    assert len({(each.code, each.modifiers) for each in BINDINGS}) == len(BINDINGS)
    assert ("Ctrl G, Ctrl J", "Frame as a group") in sheet()["Nodes"]
    assert ("Arrows", "Move what is selected a little") in sheet()["Selection"]
    meanings = [words for rows in sheet().values() for _, words in rows]
    assert len(set(meanings)) == len(meanings)
