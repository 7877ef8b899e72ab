"""A job's story in the terminal, whatever its news look like."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from engine_app.show import BARS, _Bars, open_story, print_job, print_neighbours, print_peers
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


def test_a_bar_keeps_its_line_on_a_narrow_terminal_and_what_is_told_goes_below() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    with _Bars(*BARS, console=console, disable=True) as bars:
        told = "loss 0.1234  accuracy 0.991  validation loss 0.0456  validation accuracy 0.987  rate 0.001"
        bars.add_task("training", total=264, completed=10, text=told)
        console.print(bars.get_renderable())
    first, *below = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "training" in first and "10/264" in first and "left" in first
    assert " ".join(" ".join(below).split()) == " ".join(told.split())


def test_ids_and_addresses_of_peers_are_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    name, address = "12D3KooW" + "x" * 44, "/ip4/192.168.1.20/tcp/4401"
    device = {"name": "RTX 4090", "kind": "cuda", "memory_bytes": 24 << 30, "flops_per_s": 8e13}
    peer = {"peer_id": name, "devices": [device], "free": 1, "waiting": 2, "allowed": False}
    print_neighbours([peer | {"addresses": [address]}])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == name and lines[-1] == f"  {address}"
    assert "RTX 4090 (cuda, 24 GiB, 80000 GFLOP/s); 1 of 1 free" in lines[1]
    assert "does not let you in" in lines[2]
    print_peers([{"peer_id": name, "refused": "bad\x1b[2J record"}])
    assert capsys.readouterr().out == f"not {name}: bad\\x1b[2J record\n"
