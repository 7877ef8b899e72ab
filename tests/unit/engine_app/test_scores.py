"""What a training ends with on a terminal."""

from __future__ import annotations

import pytest

from engine_app.scores import print_scores, scores_of

HEAD = {"node": "loss", "output": "y", "loss": 0.5, "accuracy": 0.75, "macro_f1": None}


def test_a_small_confusion_is_shown_whole() -> None:
    lines = list(scores_of("test", {**HEAD, "confusion": [[3, 1], [0, 4]]}, alone=True))
    assert lines[0] == "test: loss 0.5000, accuracy 0.7500"
    assert [line.split() for line in lines[2:]] == [["0", "3", "1"], ["1", "0", "4"]]


def test_of_many_classes_the_worst_confusions_are_told() -> None:
    matrix = [[0] * 13 for _ in range(13)]
    matrix[3][5], matrix[12][0], matrix[1][1] = 9, 2, 100
    lines = list(scores_of("test", {**HEAD, "confusion": matrix}, alone=True))
    assert lines[1:] == ["  3 taken for 5: 9", "  12 taken for 0: 2"]


def test_each_of_several_heads_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores("validation", [HEAD, {"node": "other", "output": "copy", "loss": 0.1, "mae": 0.2}])
    assert capsys.readouterr().out.splitlines() == [
        "validation y (loss): loss 0.5000, accuracy 0.7500",
        "validation copy (other): loss 0.1000, MAE 0.2000",
    ]
