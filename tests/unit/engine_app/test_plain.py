from __future__ import annotations

from engine_app.plain import plain


def test_what_a_terminal_would_act_on_is_shown_instead() -> None:
    assert plain("über 漢字 €") == "über 漢字 €"
    assert plain("\x1b[2J\r\x9b\x7f\u202e") == "\\x1b[2J\\r\\x9b\\x7f\\u202e"
    assert plain("one\ntwo") == "one\\ntwo"
    assert plain("one\ntwo\t", lines=True) == "one\ntwo\\t"
