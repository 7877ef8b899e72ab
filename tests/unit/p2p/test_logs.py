"""What a log line may show."""

from __future__ import annotations

import json

import pytest
import structlog

from p2p.logs import configure_logging


def test_a_secret_is_hidden_and_the_rest_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    structlog.get_logger("test").info("job matched", job_id="a1", token="abc", refresh_token="abc", tokens=7)
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["job_id"], line["tokens"]) == ("job matched", "a1", 7)
    assert line["token"] == line["refresh_token"] == "(hidden)"


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("WARNING")
    log = structlog.get_logger("test")
    log.info("quiet")
    log.warning("loud", code=5)
    text = capsys.readouterr().err
    assert "quiet" not in text
    assert "loud" in text
    assert "code=5" in text


def test_what_a_stranger_wrote_moves_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    structlog.get_logger("test").info("job", text="\x1b]0;title\x07", where="a\nb")
    text = capsys.readouterr().err
    assert "\x07" not in text and "\x1b]" not in text and "\\x1b]0;title\\x07" in text
    assert text.count("\n") == 1


def test_an_unknown_level_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'chatty', allowed debug"):
        configure_logging("chatty")


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_traceback_shows_no_local_variable(capsys: pytest.CaptureFixture[str], json_lines: bool) -> None:
    configure_logging("info", json=json_lines)
    hidden = "".join(("pass", "word"))
    try:
        raise ValueError(len(hidden))
    except ValueError:
        structlog.get_logger("test").exception("failed")
    text = capsys.readouterr().err
    assert "ValueError: 8" in text
    assert "password" not in text
