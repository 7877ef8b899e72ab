from __future__ import annotations

from engine_app.plain import brief, plain


def test_what_a_terminal_would_act_on_is_shown_instead() -> None:
    assert plain("über 漢字 €") == "über 漢字 €"
    assert plain("\x1b[2J\r\x9b\x7f\u202e") == "\\x1b[2J\\r\\x9b\\x7f\\u202e"
    assert plain("one\ntwo") == "one\\ntwo"
    assert plain("one\ntwo\t", lines=True) == "one\ntwo\\t"


def test_long_text_is_cut_to_its_end_in_lines_and_characters() -> None:
    text = "\n".join(map(str, range(5000)))
    assert brief(text).split("\n") == [str(number) for number in range(4960, 5000)]
    assert brief("x" * 5000) == "x" * 2000
    assert brief("a\x1b\nb") == "a\\x1b\nb"
