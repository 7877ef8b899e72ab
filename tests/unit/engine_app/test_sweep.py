"""What a sweep may vary, and its trials on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.reports import HeadMetrics, Metrics
from backend.validate import diagnose
from engine_app.config import Config
from engine_app.sweep import SweepWish, TrialFailedError, final_value, sweep
from engine_app.sweep_space import Dimension, SweepSpaceError, read_dimensions, with_values
from engine_app.sweep_study import Study
from tests.unit.backend.make_samples import small_graph

GRAPH = small_graph()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "optimizer.learning_rate=1e-4..1e-1:log",
            Dimension("optimizer", "learning_rate", False, 1e-4, 0.1, True),
        ),
        ("dense.units=4..64", Dimension("dense", "units", True, 4, 64)),
        ("dense.units=4..64:log", Dimension("dense", "units", True, 4, 64, True)),
        ("loader.batch_size=8,16, 32", Dimension("loader", "batch_size", choices=("8", "16", "32"))),
        (
            "normalize.method=mean_std,none",
            Dimension("normalize", "method", choices=('"mean_std"', '"none"')),
        ),
        ("dense.bias=true,false", Dimension("dense", "bias", choices=("true", "false"))),
    ],
)
def test_ranges_and_choices_are_read(text: str, expected: Dimension) -> None:
    assert read_dimensions(GRAPH, [text]) == (expected,)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("dense.units", "must be node.parameter=LOW..HIGH"),
        ("units=1..2", "must be node.parameter=LOW..HIGH"),
        ("dens.units=1..2", "no node 'dens' (did you mean 'dense'?)"),
        ("dense.unit=1..2", "Dense without 'unit' (did you mean 'units'?); it has units, bias"),
        ("dense.units=8..4", "from 8 to 4: must grow"),
        ("dense.units=0..4", "units is 0, must be an integer from 1"),
        ("dense.units=1.5..4", "'1.5' is not an integer"),
        ("dense.units=1..inf", "'inf' is not an integer"),
        ("optimizer.learning_rate=0..1:log", "logarithmic scale: must be above 0"),
        ("optimizer.learning_rate=1e-4..nan", "is not finite"),
        ("optimizer.learning_rate=1e-4..1:exp", "scale 'exp', allowed is log"),
        ("normalize.method=1..2", "is no number: name its values"),
        ("normalize.method=mean_std,minmax", "method is 'minmax', must be one of"),
        ("loader.batch_size=8,8", "1 different values, allowed are 2 to 100"),
    ],
)
def test_what_cannot_be_varied_is_refused_with_what_could(text: str, why: str) -> None:
    with pytest.raises(SweepSpaceError) as refused:
        read_dimensions(GRAPH, [text])
    assert why in str(refused.value)


def test_nothing_is_varied_twice_and_something_must_be() -> None:
    with pytest.raises(SweepSpaceError, match=r"dense.units is varied twice"):
        read_dimensions(GRAPH, ["dense.units=1..2", "dense.units=3,4"])
    with pytest.raises(SweepSpaceError, match="0 parameters"):
        read_dimensions(GRAPH, [])


def test_a_trials_graph_has_the_values_that_were_drawn_and_no_others_changed() -> None:
    dimensions = read_dimensions(GRAPH, ["dense.units=4..64", "dense.bias=true,false"])
    graph = with_values(GRAPH, dimensions, {"dense.units": 12, "dense.bias": "false"})
    assert graph.node("dense").parameters == {"units": 12, "bias": False}
    assert [node for node in graph.nodes if node.id != "dense"] == [
        node for node in GRAPH.nodes if node.id != "dense"
    ]
    assert diagnose(graph) == ()


DIMENSIONS = read_dimensions(GRAPH, ["optimizer.learning_rate=1e-4..1:log", "dense.units=4..64"])


def loss_of(drawn: dict[str, Any]) -> float:
    return abs(float(drawn["optimizer.learning_rate"]) - 0.01) + int(drawn["dense.units"]) / 1000


def run_trials(study: Study, until: int) -> None:
    while study.done < until:
        trial, drawn = study.ask()
        study.finish(trial, loss_of(drawn))


def test_a_sweep_that_was_cut_short_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = Study(tmp_path / "whole", DIMENSIONS, 7, maximize=False)
    run_trials(whole, 9)
    run_trials(Study(tmp_path / "cut", DIMENSIONS, 7, maximize=False), 6)
    killed = Study(tmp_path / "cut", DIMENSIONS, 7, maximize=False)
    killed.ask()  # and never told
    again = Study(tmp_path / "cut", DIMENSIONS, 7, maximize=False)
    again.go_on()
    assert again.done == 6
    run_trials(again, 9)
    assert [row.parameters for row in again.rows()] == [row.parameters for row in whole.rows()]
    best = again.best()
    assert best is not None and best.value == min(row.value or 9 for row in again.rows())


@pytest.mark.parametrize("maximize", [False, True])
def test_what_is_worse_than_half_of_the_others_is_to_be_stopped(tmp_path: Path, maximize: bool) -> None:
    study = Study(tmp_path, DIMENSIONS, 7, maximize=maximize)
    sign = -1 if maximize else 1
    for _ in range(5):
        trial, _ = study.ask()
        assert [study.report(trial, epoch, sign * 1.0) for epoch in (1, 2)] == [False, False]
        study.finish(trial, sign * 1.0)
    trial, _ = study.ask()
    assert [study.report(trial, epoch, sign * 2.0) for epoch in (1, 2)] == [False, True]
    study.stop(trial)
    assert study.rows()[-1].state == "stopped early" and study.rows()[-1].epochs == 2
    assert study.done == 6


def test_a_trial_that_fails_says_why_and_counts(tmp_path: Path) -> None:
    study = Study(tmp_path, DIMENSIONS, 7, maximize=False)
    trial, _ = study.ask()
    study.fail(trial, "diverged: the loss is nan")
    [row] = study.rows()
    assert (row.state, row.why, study.done, study.best()) == ("failed", "diverged: the loss is nan", 1, None)


def point(loss: float | None, accuracy: float | None) -> Metrics:
    heads = (HeadMetrics("loss", "output", loss, accuracy),)
    return Metrics(1, 9, 0, 1.0, validation_loss=loss, validation_accuracy=accuracy, validation=heads)


def test_a_trial_is_judged_by_the_weights_that_it_keeps() -> None:
    last = replace(GRAPH, training=replace(GRAPH.training, keep="last"))
    best = replace(GRAPH, training=replace(GRAPH.training, keep="best"))
    points = [point(0.5, 0.7), point(0.2, 0.6), point(0.4, 0.9)]
    assert final_value(last, points, "validation_accuracy") == 0.9
    assert final_value(best, points, "validation_accuracy") == 0.6
    assert final_value(best, points, "validation_loss") == 0.2
    assert final_value(best, [*points, point(None, None)], "validation_loss") == 0.2
    for nothing in ([*points, point(None, None)], []):
        with pytest.raises(TrialFailedError, match="no validation_loss"):
            final_value(last, nothing, "validation_loss")


def test_what_a_sweep_has_spent_counts_also_after_a_restart(tmp_path: Path) -> None:
    first = Study(tmp_path, DIMENSIONS, 7, maximize=False)
    assert first.spent_s == 0.0
    run_trials(first, 2)
    again = Study(tmp_path, DIMENSIONS, 7, maximize=False)
    assert again.spent_s == first.spent_s > 0.0


def test_the_graph_is_not_written_where_its_model_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = SweepWish(
        Path("graph.json"), tmp_path / "data", tmp_path / "best.cyxmodel", (), "", 1, None, "cpu", False
    )
    with pytest.raises(SystemExit):
        sweep(Config(tmp_path, None, None, "error"), wish, as_json=False)
    assert "best.cyxmodel is for the graph" in capsys.readouterr().err
