"""Frozen nodes and LoRA adapters: in the document, in counts, in the compiled model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from backend.checkpoint import capture_weights, restore_weights
from backend.compiler import compile_graph
from backend.distributed import running_averages
from backend.errors import CheckpointError, GraphFormatError, GraphInvalidError
from backend.estimate import estimate
from backend.fine_tuning import Start, take_weights
from backend.formats.cyxmodel import CyxModel, TrainingState
from backend.graph import Body, Frozen, Graph, Lora, Node, Tuning
from backend.lora import merge_adapters
from backend.pytorch_code.script import training_source
from backend.serialize import dump_graph, load_graph
from backend.shapes import infer_shapes
from backend.tuning import ADAPTED, count_weights
from backend.validate import diagnose
from tests.unit.backend.catalogue_cases import CASES, Case, graph_of
from tests.unit.backend.make_samples import small_graph

LORA = Lora(2, 8)
ADAPTED_CASES = [case for case in CASES if case.type in ADAPTED]


def tuned(graph: Graph, **tunings: Tuning | None) -> Graph:
    nodes = (replace(node, tuning=tunings.get(node.id, node.tuning)) for node in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def model_of(graph: Graph, weights: dict[str, Any]) -> CyxModel:
    state = TrainingState(
        step=1,
        total_steps=1,
        segments=1,
        segments_done=1,
        seed=0,
        samples=1,
        sample_shape=(1,),
        classes=0,
    )
    return CyxModel(dump_graph(graph), weights, state)


def errors(graph: Graph) -> list[str]:
    return [f"{each.node_id} {each.inside}: {each.text}" for each in diagnose(graph)]


# -- the document --------------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", [Frozen(), Lora(4, 16), Lora(4, 0.5)])
def test_a_tuning_goes_through_the_document_and_back(tuning: Tuning) -> None:
    graph = tuned(small_graph(), dense=tuning)
    assert load_graph(dump_graph(graph)) == graph
    assert dump_graph(load_graph(dump_graph(graph))) == dump_graph(graph)


def test_a_graph_without_tunings_has_the_bytes_that_it_had() -> None:
    assert all("training" not in node for node in json.loads(dump_graph(small_graph()))["nodes"])


@pytest.mark.parametrize(
    "found",
    [
        "thawed",
        True,
        {"lora": {"rank": 4}},
        {"lora": {"rank": 4, "alpha": 1, "extra": 1}},
        {"lora": {"rank": 1.5, "alpha": 1}},
        {"lora": {"rank": True, "alpha": 1}},
        {"lora": {"rank": 4, "alpha": 1}, "frozen": True},
    ],
)
def test_a_tuning_that_nobody_knows_is_refused(found: object) -> None:
    document = json.loads(dump_graph(small_graph()))
    document["nodes"][5]["training"] = found
    with pytest.raises(GraphFormatError, match=r'training of nodes\[5\] is .* must be "frozen" or'):
        load_graph(json.dumps(document).encode())


# -- checks --------------------------------------------------------------------------------------


def test_a_graph_with_nothing_left_to_train_is_refused() -> None:
    assert errors(tuned(small_graph(), dense=Frozen())) == []
    [found] = errors(tuned(small_graph(), dense=Frozen(), head=Frozen()))
    assert "weights are frozen" in found


@pytest.mark.parametrize(
    ("node", "tuning", "text"),
    [
        ("relu", LORA, "ReLU takes no LoRA adapters"),
        ("dense", Lora(0, 1), "rank is 0, must be from 1 to 1024"),
        ("dense", Lora(4, 0), "alpha is 0, must be above 0"),
        ("dense", Lora(4, 1e9), "at most 4096"),
    ],
)
def test_adapters_that_cannot_be_are_told_at_their_node(node: str, tuning: Tuning, text: str) -> None:
    [found] = errors(tuned(small_graph(), **{node: tuning}))
    assert found.startswith(node) and text in found


# -- the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ADAPTED_CASES, ids=str)
def test_adapters_are_counted_begin_as_no_change_and_merge(case: Case) -> None:
    graph = tuned(graph_of(case), node=LORA)
    plain = compile_graph(graph)
    module = compile_graph(graph, for_training=True).module
    counted = count_weights(graph, infer_shapes(graph))
    assert counted.total == sum(each.numel() for each in module.parameters())
    trained = [each for each in module.parameters() if each.requires_grad]
    assert counted.trainable == sum(each.numel() for each in trained) > 0
    inputs = [torch.randn(2, *shape) for shape in case.shapes]
    module.eval(), plain.module.eval()
    with torch.no_grad():
        torch.testing.assert_close(module(*inputs), plain.module(*inputs))
        for each in trained:
            each.normal_(0, 0.1)
        changed = module(*inputs)
        assert not torch.allclose(changed, plain.module(*inputs))
        restore_weights(plain.module, merge_adapters(module, capture_weights(module)))
        torch.testing.assert_close(plain.module(*inputs), changed, rtol=1e-4, atol=1e-5)


def test_the_factors_follow_from_the_seed_and_leave_the_other_weights_as_they_are() -> None:
    graph = tuned(small_graph(), dense=LORA)
    first, second = (compile_graph(graph, for_training=True).module.state_dict() for _ in range(2))
    plain = compile_graph(graph).module.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(first[name], plain[name]) for name in plain)
    assert set(first) - set(plain) == {"dense.lora_a", "dense.lora_b"}


BODY = Body(
    (
        Node("in", "Input"),
        Node("norm", "BatchNorm"),
        Node("inner", "Dense", parameters={"units": 6}),
        Node("out", "Output"),
    ),
    tuple(
        replace(link, source_node=a, target_node=b)
        for link, a, b in zip(
            small_graph().links[4:7], ("in", "norm", "inner"), ("norm", "inner", "out"), strict=True
        )
    ),
)


def nested(outer: Tuning | None, inner: Tuning | None) -> Graph:
    nodes = tuple(replace(node, tuning=inner if node.id == "inner" else None) for node in BODY.nodes)
    body = replace(BODY, nodes=nodes)
    return tuned(graph_of(Case("Repeat", {"times": 3}, ((6,),), body)), node=outer)


@pytest.mark.parametrize(
    ("outer", "inner", "total", "trained"),
    [
        (None, None, 3 * 54, 3 * 54),
        (None, Frozen(), 3 * 54, 3 * 12),
        (None, LORA, 3 * (54 + 24), 3 * (12 + 24)),
        (Frozen(), None, 3 * 54, 0),
    ],
)
def test_what_is_inside_a_node_is_tuned_each_time_that_it_is_there(
    outer: Tuning | None, inner: Tuning | None, total: int, trained: int
) -> None:
    graph = nested(outer, inner)
    module = compile_graph(graph, for_training=True).module
    parameters = list(module.parameters())
    assert sum(each.numel() for each in parameters) == total
    assert sum(each.numel() for each in parameters if each.requires_grad) == trained
    counted = count_weights(graph, infer_shapes(graph))
    assert (counted.total, counted.trainable) == (total, trained)
    assert load_graph(dump_graph(graph)) == graph


def test_a_frozen_batch_norm_keeps_its_statistics_whatever_mode_the_model_is_in() -> None:
    for outer in (Frozen(), None):
        module = compile_graph(nested(outer, None), for_training=True).module
        before = {name: value.clone() for name, value in module.named_buffers()}
        module.eval()
        module.train()
        module(torch.randn(8, 6) + 3)
        assert (outer is not None) == all(
            torch.equal(value, before[name]) for name, value in module.named_buffers()
        )


def test_ranks_sum_no_running_averages_of_frozen_layers() -> None:
    free, frozen = (
        compile_graph(nested(outer, None), for_training=True).module for outer in (None, Frozen())
    )
    assert len(running_averages(free)) == 3 * 2
    assert running_averages(frozen) == []
    frozen.train()
    assert running_averages(frozen) == []


def test_estimates_count_what_is_trained() -> None:
    whole = estimate(small_graph(), 100, (1, 4, 4))
    partly = estimate(tuned(small_graph(), dense=Frozen()), 100, (1, 4, 4))
    assert whole.trainable_parameters == whole.parameters == partly.parameters
    assert partly.trainable_parameters == 8 * 3 + 3
    assert partly.optimizer_bytes < whole.optimizer_bytes
    assert partly.training_flops < whole.training_flops


# -- starting weights ----------------------------------------------------------------------------


def test_weights_are_taken_by_node_and_shape() -> None:
    old = compile_graph(replace(small_graph(), training=replace(small_graph().training, seed=1)))
    start = model_of(old.graph, capture_weights(old.module))
    module = compile_graph(tuned(small_graph(), dense=LORA), for_training=True).module
    taken = take_weights(module, Start(start))
    assert taken.taken == ("dense.weight", "dense.bias", "head.weight", "head.bias")
    assert taken.fresh == taken.unused == ()
    found = module.state_dict()
    assert all(np.array_equal(found[name].numpy(), start.weights[name]) for name in taken.taken)


def test_what_does_not_fit_is_an_error_unless_a_part_will_do() -> None:
    old = compile_graph(small_graph()).module
    weights = capture_weights(old)
    weights["head.weight"] = np.zeros((7, 8), np.float32)
    weights["gone.weight"] = weights.pop("head.bias")
    start = model_of(small_graph(), weights)
    module = compile_graph(small_graph(epochs=1)).module
    with pytest.raises(CheckpointError, match=r"head.weight is \(3, 8\) here, \(7, 8\) there; head.bias is"):
        take_weights(module, Start(start))
    taken = take_weights(module, Start(start, partial=True))
    assert taken.taken == ("dense.weight", "dense.bias")
    assert taken.fresh == ("head.weight", "head.bias")
    assert taken.unused == ("gone.weight",)
    assert taken.notes()[1] == "begin fresh: head"


def test_a_model_of_which_nothing_fits_is_refused() -> None:
    start = model_of(small_graph(), {"other.weight": np.zeros(3, np.float32)})
    module = compile_graph(small_graph()).module
    with pytest.raises(CheckpointError, match="no weights that fit"):
        take_weights(module, Start(start, partial=True))


def test_a_training_script_is_refused_for_what_it_would_not_freeze() -> None:
    assert training_source(small_graph())
    with pytest.raises(GraphInvalidError, match="not written as a training script"):
        training_source(tuned(small_graph(), dense=Frozen()))
