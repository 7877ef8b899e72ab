"""What a diagnostic proposes puts it right; and hostile graphs are refused at no cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.diagnostics import apply_fix, edit_document
from backend.facts import DataFacts
from backend.graph import Body, Graph, Link, Node, TrainingSettings
from backend.serialize import dump_graph, load_graph
from backend.shapes import MAX_EXPANDED, MAX_NESTING
from backend.validate import Diagnostic, diagnose, has_errors
from tests.unit.backend.catalogue_cases import BLOCK, Case, graph_of, inner, wrapped

EXAMPLES = Path(__file__).parents[3] / "scripts" / "examples"
DIGITS = DataFacts(1797, (1, 8, 8), "float32", 10)


def cnn() -> Graph:
    return load_graph((EXAMPLES / "digits_cnn.json").read_bytes())


def changed(node_id: str, **given: Any) -> Callable[[], Graph]:
    def make() -> Graph:
        graph = cnn()
        node = graph.node(node_id)
        new = replace(node, parameters={**node.parameters, **given})
        return replace(graph, nodes=tuple(new if each.id == node_id else each for each in graph.nodes))

    return make


def without(node_id: str, *bridge: str) -> Callable[[], Graph]:
    """The digits graph without a node, its neighbours linked where a bridge says so."""

    def make() -> Graph:
        graph = cnn()
        links = tuple(link for link in graph.links if node_id not in (link.source_node, link.target_node))
        more = (Link(*bridge),) if bridge else ()
        return replace(graph, nodes=tuple(n for n in graph.nodes if n.id != node_id), links=links + more)

    return make


def linked(*ends: str) -> Callable[[], Graph]:
    return lambda: replace(cnn(), links=(*cnn().links, Link(*ends)))


def case(type_name: str, shapes: tuple[tuple[int, ...], ...], body: Body | None = None, **given: Any) -> Any:
    return lambda: graph_of(Case(type_name, given, shapes, body))


DEEP = inner(Node("r", "Repeat", body=inner(Node("c", "SelfAttention", 1, {"heads": 3}))))


def trained(**settings: Any) -> Callable[[], Graph]:
    return lambda: replace(cnn(), training=replace(cnn().training, **settings))


def unsplit(**settings: Any) -> Callable[[], Graph]:
    return lambda: replace(
        without("split", "data", "normalize", "dataset", "dataset")(),
        training=replace(cnn().training, **settings),
    )


MISTAKES: dict[str, tuple[Callable[[], Graph], str]] = {
    "wrong units": (changed("dense1", units=9), "set units of 'dense1' to 10"),
    "no Flatten": (without("flatten", "pool2", "output", "dropout", "input"), "insert Flatten"),
    "parameter out of range": (changed("dropout", rate=7), "set rate to 0.99"),
    "parameter of another type": (changed("conv1", filters="x"), "set filters to 16"),
    "misspelt parameter": (changed("conv1", filter=4), "did you mean filters?"),
    "input shape": (changed("input", shape=[8, 8]), "set shape to [1, 8, 8]"),
    "window too large": (case("Conv2D", ((1, 8, 8),), kernel_size=9), "set kernel_size to [8, 8]"),
    "same with a stride": (changed("conv1", stride=2), "set stride to 1"),
    "split shares": (changed("split", train=0.5), "set train to 0.75"),
    "class weights": (changed("loss", class_weights=[1.0]), "set class_weights to []"),
    "balance and weights": (
        changed("loss", balance=True, class_weights=[1.0] * 10),
        "set class_weights to []",
    ),
    "no optimizer": (without("optimizer"), "add Adam"),
    "no output": (without("output"), "add one after 'dense1'"),
    "two links": (linked("input", "output", "conv3", "input"), "keep the first"),
    "ghost": (linked("ghost", "output", "conv3", "input"), "remove the link"),
    "wrong port": (linked("conv1", "result", "norm1", "input"), "remove the link"),
    "epochs": (lambda: replace(cnn(), training=TrainingSettings(0, 0)), "set it to 1"),
    "patience": (trained(patience=-3), "set it to 0"),
    "patience without validation": (unsplit(patience=3), "set it to 0"),
    "keep": (trained(keep="Best "), "set it to best"),
    "keep without validation": (unsplit(keep="best"), "set it to last"),
    "accumulate": (trained(accumulate=0), "set it to 1"),
    "precision": (trained(precision="float16"), "set it to auto"),
    "spare node": (lambda: replace(cnn(), nodes=(*cnn().nodes, Node("x", "ReLU"))), "link a Tensor to it"),
    "heads": (case("SelfAttention", ((5, 6),)), "set heads to 3"),
    "kv heads": (case("LlamaBlock", ((5, 8),), kv_heads=3), "set kv_heads to 2"),
    "one axis too few": (case("Conv2D", ((8, 8),)), "insert Unsqueeze"),
    "reshape": (case("Reshape", ((12,),), shape=[5]), "set shape to [-1]"),
    "order": (case("Permute", ((2, 3),), order=[0]), "set order to [0, 1]"),
    "sizes": (case("Split", ((7,),), sizes=[3, 3]), "set sizes to [3, 4]"),
    "groups": (case("Conv2D", ((6, 8, 8),), groups=4), "set groups to 2"),
    "vocabulary": (
        lambda: graph_of(Case("Embedding", {}, ((5,),), ids=300)),
        "set vocabulary to 300",
    ),
    "axis": (case("Softmax", ((6,),), axis=3), "set axis to -1"),
    "inside": (case("Repeat", ((5, 8),), inner(Node("d", "Dropout", 1, {"rate": 1}))), "set rate to 0.99"),
    "deep inside": (case("Subgraph", ((5, 8),), DEEP), "set heads to 2"),
    "grows when repeated": (case("Repeat", ((5,),), inner(Node("d", "Dense"))), "set times to 1"),
}


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_a_fix_puts_right_what_it_is_proposed_for(name: str) -> None:
    make, text = MISTAKES[name]
    graph = make()
    training = any(node.type == "DataLoader" for node in graph.nodes)
    found = diagnose(graph, for_training=training)
    wanted = [each for each in found if each.fix and text in each.fix.text]
    assert wanted, [str(each) for each in found]
    if not wanted[0].fix or not wanted[0].fix.edits:
        assert name == "spare node"
        return
    fixed = apply_fix(graph, wanted[0].fix)
    after = diagnose(fixed, for_training=training)
    assert wanted[0].text not in [each.text for each in after]
    assert len([e for e in after if has_errors([e])]) < len([e for e in found if has_errors([e])])
    assert load_graph(dump_graph(fixed)) == fixed


def test_ids_where_numbers_are_wanted_get_an_embedding() -> None:
    graph = graph_of(Case("Dense", {}, ((5,),), None, 7))
    (found,) = diagnose(graph, for_training=False)
    assert "takes real numbers, got ids below 7" in found.text
    assert found.fix is not None
    assert diagnose(apply_fix(graph, found.fix), for_training=False) == ()


def test_data_that_does_not_fit_is_fixed_at_the_dataset() -> None:
    found = diagnose(cnn(), DataFacts(1797, (1, 9, 9), "float32", 10))
    assert found[0].fix is not None
    assert apply_fix(cnn(), found[0].fix).node("dataset").parameters["sample_shape"] == [1, 9, 9]


def test_edits_can_be_written_as_json() -> None:
    for make, _ in MISTAKES.values():
        for each in diagnose(make()):
            for edit in each.fix.edits if each.fix else ():
                document = json.loads(json.dumps(edit_document(edit)))
                assert document.pop("edit") == type(edit).__name__
                assert document


# -- hostile graphs ------------------------------------------------------------------------------


def nested(depth: int, times: int) -> Node:
    body = inner(Node("leaf", "Dense", 1, {"units": 8}))
    for level in range(depth):
        body = inner(Node(f"r{level}", "Repeat", 1, {"times": times}, body=body))
    return Node("node", "Repeat", 1, {"times": times}, body=body)


def around(node: Node) -> Graph:
    body = inner(node)
    return Graph("hostile", body.nodes, body.links)


def texts(graph: Graph) -> list[str]:
    found: tuple[Diagnostic, ...] = diagnose(graph, for_training=False)
    return [str(each) for each in found]


def entered(node: Node) -> Graph:
    graph = around(node)
    entry = Node("in", "Input", 1, {"shape": [5, 8]})
    return replace(graph, nodes=(entry, *graph.nodes[1:]))


def test_repeats_in_repeats_are_counted_without_being_built() -> None:
    (found,) = texts(entered(nested(14, 1024)))
    assert f"limit {MAX_EXPANDED}" in found
    assert "layers, limit" in found
    (found,) = texts(entered(Node("node", "Repeat", 1, {"times": 10**9}, body=BLOCK)))
    assert "times is 1000000000, must be an integer from 1 to 1024" in found


@pytest.mark.parametrize("depth", [MAX_NESTING, 200])
def test_bodies_too_deep_are_told_and_not_entered(depth: int) -> None:
    found = texts(entered(nested(depth, 1)))
    assert any(f"nested more than {MAX_NESTING} deep" in each for each in found)


def test_a_cycle_inside_a_body_is_told_there() -> None:
    body = Body(
        (Node("in", "Input"), Node("a", "Add"), Node("b", "ReLU"), Node("out", "Output")),
        (
            Link("in", "output", "a", "inputs"),
            Link("b", "output", "a", "inputs"),
            Link("a", "output", "b", "input"),
            Link("b", "output", "out", "input"),
        ),
    )
    found = diagnose(entered(Node("node", "Subgraph", body=body)), for_training=False)
    assert {each.inside for each in found} == {("a",), ("b",)}
    assert {each.node_id for each in found} == {"node"}


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Node("node", "Subgraph"), "has nothing inside it"),
        (Node("node", "Subgraph", body=Body()), "has no Output node"),
        (Node("node", "Dense", body=BLOCK), "has a body, Dense wraps nothing"),
        (Node("node", "Subgraph", body=inner(Node("x", "Adam"))), "Adam cannot be inside a node"),
        (Node("node", "Bidirectional", body=wrapped("Dense")), "wraps one of GRU, LSTM, RNN"),
        (Node("node", "TimeDistributed", body=BLOCK), "wraps 4 nodes with 3 links, must be 1"),
        (Node("node", "TimeDistributed", body=wrapped("MatMul")), "wraps a layer with 1 input"),
        (Node("node", "TimeDistributed", body=wrapped("Input")), "wraps a layer with 1 input"),
        (Node("node", "Lambda", 1, {"expression": "(" * 900}), "nested more than 32 deep"),
        (Node("node", "Lambda", 1, {"expression": "x9"}), "must use 1 to the 1 linked"),
        (Node("node", "Constant", 1, {"shape": [2**16, 2**16, 2]}), "8589934592 elements, limit 4294967296"),
        (Node("node", "Embedding"), "takes ids"),
    ],
)
def test_a_hostile_node_is_refused_in_words(node: Node, text: str) -> None:
    shapes = ((3,),) if node.type == "Lambda" else ()
    alone = node.type in ("Lambda", "Constant")
    graph = graph_of(Case(node.type, node.parameters, shapes)) if alone else entered(node)
    found = texts(graph)
    assert any(text in each for each in found), found
    assert has_errors(diagnose(graph))


def test_ten_thousand_mistakes_in_bodies_cost_no_more_than_outside() -> None:
    many = Body(
        tuple(Node(f"n{index}", "Conv2D", 1, {"groups": 7}) for index in range(9000)),
        tuple(Link(f"n{index}", "x", f"n{index + 1}", "ghost") for index in range(9000)),
    )
    found = diagnose(entered(Node("node", "Subgraph", body=many)))
    assert len(found) == 201
