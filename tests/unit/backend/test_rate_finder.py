from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from backend.graph import Graph, Link, Node
from backend.rate_finder import RateRamp, as_trial, has_diverged, smoothed, suggest
from backend.reports import Event, Failed, FindRate, RatesTried, RateTried
from backend.serialize import dump_graph
from backend.validate import diagnose
from backend.workers.rate_job import run_rate_search
from engine_app.rate_plot import HEIGHT, plot
from engine_app.rate_search import with_rate
from tests.unit.backend.make_samples import small_graph, write_samples


def test_rates_grow_by_the_same_factor() -> None:
    ramp = RateRamp(1e-4, 1.0, 5)
    assert [ramp.rate(step) for step in range(5)] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_the_suggestion_is_where_the_loss_falls_fastest_and_not_behind_its_minimum() -> None:
    ramp = RateRamp(1e-5, 10.0, 120)
    rates = [ramp.rate(step) for step in range(120)]
    # A fall around 1e-2, a rise that is as steep around 3.
    falls = [-math.tanh(math.log10(rate) + 2) for rate in rates]
    rises = [5 * (1 + math.tanh(4 * math.log10(rate / 3))) for rate in rates]
    losses = [2 + fall + rise for fall, rise in zip(falls, rises, strict=True)]
    found = suggest(rates, losses)
    assert found is not None and 3e-3 < found < 0.1


def test_a_loss_that_only_grows_suggests_nothing() -> None:
    rates = [RateRamp(1e-5, 1.0, 40).rate(step) for step in range(40)]
    assert suggest(rates, [1 + rate for rate in rates]) is None
    assert suggest(rates[:3], [3, 2, 1]) is None


def test_means_are_corrected_for_their_beginning() -> None:
    assert smoothed([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])


def test_losses_that_grow_many_times_over_are_the_end() -> None:
    assert not has_diverged([])
    assert not has_diverged([1.0, 50.0])
    assert has_diverged([1.0] * 10 + [100.0])
    assert has_diverged([1.0, math.nan])


def test_schedules_and_early_ends_are_left_out_of_a_trial() -> None:
    graph = small_graph()
    scheduled = replace(
        graph,
        nodes=(*graph.nodes, Node("decay", "StepLR")),
        links=(*graph.links, Link("optimizer", "optimizer", "decay", "optimizer")),
        training=replace(graph.training, precision="auto", accumulate=4),
    )
    assert diagnose(scheduled) == ()
    trial = as_trial(scheduled, 7)
    assert trial == replace(graph, training=replace(graph.training, epochs=7, precision="float32"))
    assert diagnose(trial) == ()


def search(graph: Graph, tmp_path: Path, **given: float) -> list[Event]:
    write_samples(tmp_path / "data.safetensors")
    events: list[Event] = []
    command = FindRate("data.safetensors", "cpu", 40, given.get("lowest", 1e-4), given.get("highest", 1.0))
    run_rate_search(command, dump_graph(graph), tmp_path, events.append)
    return events


def test_a_search_tries_each_rate_once_and_the_same_way_again(tmp_path: Path) -> None:
    graph = small_graph()
    *tried, end = search(graph, tmp_path)
    assert [each.step for each in tried if isinstance(each, RateTried)] == list(range(40))
    assert end == RatesTried(diverged=False)
    assert search(graph, tmp_path) == [*tried, end]


def test_a_search_stops_when_the_loss_explodes(tmp_path: Path) -> None:
    graph = small_graph()
    sgd = tuple(replace(node, type="SGD") if node.id == "optimizer" else node for node in graph.nodes)
    *tried, end = search(replace(graph, nodes=sgd), tmp_path, lowest=1e-2, highest=100.0)
    assert isinstance(end, RatesTried) and len(tried) < 40


def test_a_search_that_cannot_begin_says_why(tmp_path: Path) -> None:
    graph = small_graph()
    other = tuple(
        replace(node, parameters={**node.parameters, "classes": 2}) if node.id == "data" else node
        for node in graph.nodes
    )
    [end] = search(replace(graph, nodes=other), tmp_path)
    assert isinstance(end, Failed) and "classes" in end.text


def test_the_graph_gets_the_rate_in_three_digits() -> None:
    graph = with_rate(small_graph(), 0.00123456)
    assert graph.node("optimizer").parameters["learning_rate"] == 0.00123


def test_a_curve_has_its_ends_and_its_mark() -> None:
    lines = plot([1e-3, 1e-2, 1e-1], [3.0, 2.0, 1.0], 1e-2)
    assert len(lines) == HEIGHT + 2
    assert lines[0].strip().startswith("3 ┤•") and lines[HEIGHT - 1].endswith("•")
    assert "│" in lines[0] and "1.0e-03" in lines[-1]
    assert plot([1e-3], [1.0], None)
