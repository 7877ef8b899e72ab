"""A job's story in the terminal, whatever its news look like."""

from __future__ import annotations

import pytest

from engine_app.show import open_story, print_job
from p2p.session.news import News, NewsKind


def test_stages_are_told_with_and_without_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    with open_story(as_json=False) as story:
        story.tell({"kind": "stage", "text": "segment 1 was checked"})
        story.tell({"kind": "stage", "text": "compared", "number": 2, "total": 4})
    told = "".join(capsys.readouterr())
    assert "segment 1 was checked" in told
    assert "2 of 4: compared" in told


def test_of_several_jobs_each_line_says_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for names_jobs in (True, False):
        with open_story(as_json=False, names_jobs=names_jobs) as story:
            story.tell(News(NewsKind.STAGE, "period 1 of 3", job_id="ab" * 32, number=1).to_json())
        assert ("abababab  stage" in "".join(capsys.readouterr())) == names_jobs


def test_a_transfer_is_told_before_its_first_byte_and_of_an_empty_file() -> None:
    with open_story(as_json=False) as story:
        for total in (0, 7):
            story.tell(News(NewsKind.TRANSFER, job_id="ab", done=0, total=total).to_json())


def test_a_peers_words_about_a_job_reach_no_terminal_as_commands(capsys: pytest.CaptureFixture[str]) -> None:
    told = {"job_id": "ab", "state": "failed", "paused": False, "text": "gone\x1b]0;title\x07"}
    empty = dict.fromkeys(("peer_id", "escrows", "result", "metrics"))
    print_job({**empty, **told, "evaluated_by_owner": {}})
    assert r"gone\x1b]0;title\x07" in capsys.readouterr().out
