"""Which graphs are a llama or a GPT-2 to the letter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.compiler import compile_graph
from backend.exporting.gguf_export import weight_name
from backend.exporting.language_model import NotLanguageModel, read_language_model
from backend.graph import Graph, Link, Node
from tests.unit.backend.model_files import OUT, TOKENS, chain, door, gpt2, image_model, llama


@pytest.mark.parametrize("graph", [llama(), gpt2()], ids=["llama", "gpt2"])
def test_every_weight_of_the_graph_has_its_place_in_the_file(graph: Graph) -> None:
    model = read_language_model(graph)
    found = [weight_name(part) for parts in model.tensors.values() for part in parts]
    assert sorted(found) == sorted(compile_graph(graph).module.state_dict())


def test_a_llama_says_its_sizes() -> None:
    model = read_language_model(llama())
    assert (model.architecture, model.vocabulary, model.steps) == ("llama", TOKENS, 16)
    assert not model.last_step_only
    assert model.settings["block_count"] == 3
    assert model.settings["attention.head_count_kv"] == 2
    assert model.settings["rope.dimension_count"] == 8
    assert model.settings["rope.freq_base"] == 5000.0


def test_a_gpt2_counts_the_layers_of_all_its_encoders() -> None:
    model = read_language_model(gpt2())
    assert (model.architecture, model.settings["block_count"]) == ("gpt2", 2)
    assert model.last_step_only


def changed(graph: Graph, node_id: str, **given: object) -> Graph:
    nodes = tuple(
        replace(node, parameters={**node.parameters, **given}) if node.id == node_id else node  # type: ignore[dict-item]
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


def with_a_bypass(graph: Graph) -> Graph:
    """The embedding is added once more before the head: nothing of a llama."""
    *links, _, end = graph.links
    more = (Link("last block", "output", "sum", "inputs"), Link("embedding", "output", "sum", "inputs"))
    rest = (Link("sum", "output", "head", "input"), end)
    return replace(graph, nodes=(*graph.nodes, Node("sum", "Add")), links=(*links, *more, *rest))


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (image_model(), "begins with node 'conv'"),
        (
            chain(door(8, vocabulary=4), Node("e", "Embedding", 1, {"vocabulary": 4}), OUT),
            "ends with node 'e'",
        ),
        (llama(block={"kv_heads": 4}), "node 'last block'"),
        (llama(block={"rope_base": 10.0}), "node 'last block'"),
        (llama(block={"epsilon": 1e-6}), "node 'last block'"),
        (llama(head={"bias": True}), "node 'head' .* without bias"),
        (llama(head={"norm": "layer"}), "node 'head' .* norm rms"),
        (llama(head={"norm": "none"}), "node 'head' .* norm rms"),
        (llama(head={"epsilon": 1e-3}), "node 'head' .* epsilon"),
        (llama(head={"vocabulary": 65}), "node 'head' .* as many tokens"),
        (with_a_bypass(llama()), "takes something else"),
        (gpt2(activation="gelu"), "activation 'gelu'"),
        (gpt2(causal=False), "causal False"),
        (gpt2(norm_first=False), "norm_first False"),
        (changed(gpt2(), "position", method="sinusoidal"), "node 'position' .* learned positions"),
        (changed(gpt2(), "norm", affine=False), "node 'norm' .* affine"),
    ],
)
def test_what_deviates_anywhere_is_no_language_model_and_the_reason_names_it(
    graph: Graph, reason: str
) -> None:
    with pytest.raises(NotLanguageModel, match=reason):
        read_language_model(graph)
