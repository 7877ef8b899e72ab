"""Estimates are exact integers that follow from graph and data alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from backend.compiler import compile_graph
from backend.errors import GraphInvalidError
from backend.estimate import estimate
from backend.graph import Graph, Link, Node, TrainingSettings
from backend.pipeline import read_pipeline
from backend.sample_plan import RESIDENT_BYTES
from backend.serialize import dump_graph, load_graph

EXAMPLES = Path(__file__).parents[3] / "scripts" / "examples"


@pytest.fixture(scope="module")
def mlp() -> Graph:
    return load_graph((EXAMPLES / "digits_mlp.json").read_bytes())


def test_the_numbers_of_a_small_graph_follow_from_its_formulas(mlp: Graph) -> None:
    found = estimate(mlp, 1000, (1, 8, 8))
    weights = 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    forward = 2 * (64 * 128 + 128 * 64 + 64 * 10) + 202 + 128 * 3 + 64
    steps = 30 * math.ceil(750 / 128)
    assert found.parameters == weights
    assert found.flops_per_sample == forward
    assert found.steps == steps
    assert found.training_flops == (30 * (750 * 3 + 100) + 150) * forward + steps * weights * 12
    assert found.checkpoint_bytes == 3 * weights * 4 + 65536


def test_parameters_are_those_of_the_compiled_module() -> None:
    for name in ("digits_cnn.json", "digits_mlp.json"):
        graph = load_graph((EXAMPLES / name).read_bytes())
        module = compile_graph(graph).module
        assert estimate(graph, 1797, (1, 8, 8)).parameters == sum(w.numel() for w in module.parameters())


def test_equal_graphs_give_equal_integers(mlp: Graph) -> None:
    first, second = estimate(mlp, 1797, (1, 8, 8)), estimate(load_graph(dump_graph(mlp)), 1797, (1, 8, 8))
    assert first == second
    assert all(type(getattr(first, name)) is int for name in first.__slots__)


def test_nodes_that_are_left_out_cost_nothing(mlp: Graph) -> None:
    spare = Node("spare", "Dense", 1, {"units": 1000})
    link = Link("input", "output", "spare", "input")
    larger = replace(mlp, nodes=(*mlp.nodes, spare), links=(*mlp.links, link))
    assert estimate(larger, 1000, (1, 8, 8)) == estimate(mlp, 1000, (1, 8, 8))


def test_data_on_disk_takes_no_memory_in_proportion_to_its_size(mlp: Graph) -> None:
    small, large, larger = (estimate(mlp, samples, (1, 8, 8)) for samples in (1000, 10**7, 10**8))
    assert small.data_bytes == 1000 * 64 * 4
    assert larger.data_bytes == large.data_bytes == RESIDENT_BYTES
    assert larger.memory_bytes == large.memory_bytes == small.memory_bytes - small.data_bytes + RESIDENT_BYTES


def test_a_graph_with_errors_has_no_estimate(mlp: Graph) -> None:
    with pytest.raises(GraphInvalidError, match="error at loss"):
        estimate(replace(mlp, links=mlp.links[:-3]), 1000, (1, 8, 8))


def test_training_beyond_64_bits_is_refused(mlp: Graph) -> None:
    endless = replace(mlp, training=TrainingSettings(1_000_000, 1))
    with pytest.raises(GraphInvalidError, match="floating-point operations, limit 4611686018427387904"):
        estimate(endless, 2**40, (1, 8, 8))


def test_the_pipeline_reads_the_data_nodes(mlp: Graph) -> None:
    pipeline = read_pipeline(mlp)
    assert pipeline.split_sizes(1797) == (1349, 179, 269)
    assert pipeline.steps_per_epoch(1797) == 11
    assert replace(pipeline, drop_last=True).steps_per_epoch(1797) == 10
    assert (pipeline.normalization, pipeline.batch_size, pipeline.optimizer.type) == (
        "mean_std",
        128,
        "AdamW",
    )
