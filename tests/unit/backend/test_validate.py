"""Every kind of mistake is told once, at the node where it can be put right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from backend.facts import DataFacts
from backend.graph import Graph, Link, Node, TrainingSettings
from backend.serialize import load_graph
from backend.validate import MAX_DIAGNOSTICS, Severity, diagnose

EXAMPLES = Path(__file__).parents[3] / "scripts" / "examples"
DIGITS = DataFacts(1797, (1, 8, 8), "float32", 10)


@pytest.fixture(scope="module")
def cnn() -> Graph:
    return load_graph((EXAMPLES / "digits_cnn.json").read_bytes())


def with_node(graph: Graph, node_id: str, **changes: Any) -> Graph:
    nodes = tuple(replace(node, **changes) if node.id == node_id else node for node in graph.nodes)
    return replace(graph, nodes=nodes)


def with_parameters(graph: Graph, node_id: str, **changes: Any) -> Graph:
    return with_node(graph, node_id, parameters={**graph.node(node_id).parameters, **changes})


def without_node(graph: Graph, node_id: str) -> Graph:
    links = tuple(link for link in graph.links if node_id not in (link.source_node, link.target_node))
    return replace(graph, nodes=tuple(n for n in graph.nodes if n.id != node_id), links=links)


def with_link(graph: Graph, *ends: str) -> Graph:
    return replace(graph, links=(*graph.links, Link(*ends)))


def without_link_into(graph: Graph, node_id: str) -> Graph:
    return replace(graph, links=tuple(link for link in graph.links if link.target_node != node_id))


def relinked(graph: Graph, target: str, port: str, source: str, source_port: str = "output") -> Graph:
    links = tuple(
        Link(source, source_port, target, port)
        if (link.target_node, link.target_port) == (target, port)
        else link
        for link in graph.links
    )
    return replace(graph, links=links)


@dataclass(frozen=True)
class Mistake:
    name: str
    make: Callable[[Graph], Graph]
    node_id: str | None
    text: str


MISTAKES = [
    Mistake("unknown type", lambda g: with_node(g, "conv2", type="Conv2d"), "conv2", "did you mean Conv2D?"),
    Mistake(
        "future version", lambda g: with_node(g, "conv2", version=2), "conv2", "this program knows 1 to 1"
    ),
    Mistake(
        "unknown parameter",
        lambda g: with_parameters(g, "conv2", filter=3),
        "conv2",
        "no parameter 'filter' (did you mean filters?)",
    ),
    Mistake(
        "value out of range",
        lambda g: with_parameters(g, "dropout", rate=1.5),
        "dropout",
        "rate is 1.5, must be a number from 0 to 0.99",
    ),
    Mistake(
        "value of another type",
        lambda g: with_parameters(g, "conv1", filters="many"),
        "conv1",
        "filters is 'many', must be an integer",
    ),
    Mistake(
        "two nodes with one id",
        lambda g: replace(g, nodes=(*g.nodes, Node("conv2", "ReLU"))),
        "conv2",
        "2 nodes have this id, must be 1",
    ),
    Mistake("missing link", lambda g: without_link_into(g, "conv3"), "conv3", "nothing is linked to input"),
    Mistake(
        "link to nowhere",
        lambda g: with_link(g, "conv3", "output", "ghost", "input"),
        "conv3",
        "goes to node 'ghost', which does not exist",
    ),
    Mistake(
        "link from nowhere",
        lambda g: relinked(g, "conv3", "input", "ghost"),
        "conv3",
        "comes from node 'ghost', which does not exist",
    ),
    Mistake(
        "wrong output port",
        lambda g: relinked(g, "conv3", "input", "pool1", "result"),
        "pool1",
        "MaxPool2D has no output 'result', there is output",
    ),
    Mistake(
        "wrong input port",
        lambda g: with_link(g, "pool1", "output", "conv3", "mask"),
        "conv3",
        "Conv2D has no input 'mask', there is input",
    ),
    Mistake(
        "wrong kind",
        lambda g: relinked(g, "conv1", "input", "optimizer", "optimizer"),
        "conv1",
        "input takes Tensor, optimizer of 'optimizer' gives Optimizer",
    ),
    Mistake(
        "target of the model",
        lambda g: relinked(g, "loss", "target", "output"),
        "loss",
        "target comes from the model, must come from the DataLoader",
    ),
    Mistake(
        "two links into one port",
        lambda g: with_link(g, "input", "output", "conv3", "input"),
        "conv3",
        "2 links into input, must be 1",
    ),
    Mistake(
        "cycle",
        lambda g: relinked(g, "conv2", "input", "relu2"),
        "norm2",
        "its output comes back to its input",
    ),
    Mistake(
        "shape mismatch",
        lambda g: with_parameters(g, "pool1", kernel_size=9),
        "pool1",
        "a window of 9 does not fit in 8",
    ),
    Mistake(
        "input shape",
        lambda g: with_parameters(g, "input", shape=[8, 8]),
        "input",
        "shape is (8, 8), the samples have shape (1, 8, 8)",
    ),
    Mistake(
        "classes and scores",
        lambda g: with_parameters(g, "dense1", units=9),
        "loss",
        "needs one score for each of the 10 classes, got (9)",
    ),
    Mistake(
        "class weights",
        lambda g: with_parameters(g, "loss", class_weights=[1.0, 2.0]),
        "loss",
        "2 class_weights, must be none or 10",
    ),
    Mistake(
        "wrong loss",
        lambda g: with_node(g, "loss", type="MSELoss", parameters={}),
        "loss",
        "compares real numbers, the labels are 10 classes",
    ),
    Mistake(
        "fractions", lambda g: with_parameters(g, "split", train=0.5), "split", "add up to 0.75, must be 1"
    ),
    Mistake("no optimizer", lambda g: without_node(g, "optimizer"), None, "has no optimizer node"),
    Mistake("no dataset", lambda g: without_node(g, "dataset"), None, "has no DatasetInput node"),
    Mistake("no output", lambda g: without_node(g, "output"), None, "has no Output node"),
    Mistake("no loss", lambda g: without_node(g, "loss"), None, "has no loss node"),
    Mistake(
        "a loss nobody follows",
        lambda g: without_link_into(g, "optimizer"),
        "loss",
        "its loss reaches no optimizer",
    ),
    Mistake(
        "two optimizers",
        lambda g: replace(g, nodes=(*g.nodes, Node("second", "SGD"))),
        "second",
        "has 2 optimizer nodes, must have 1",
    ),
    Mistake(
        "unlinked input",
        lambda g: without_link_into(g, "input"),
        "input",
        "no samples are linked to it",
    ),
    Mistake(
        "loss past the output",
        lambda g: relinked(g, "loss", "prediction", "dense1"),
        "loss",
        "prediction comes from 'Dense', must come from the Output",
    ),
    Mistake(
        "samples past the input",
        lambda g: relinked(g, "conv1", "input", "loader", "samples"),
        "conv1",
        "takes samples past the Input",
    ),
    Mistake(
        "data node on a dead end",
        lambda g: relinked(g, "loader", "dataset", "split", "dataset"),
        "normalize",
        "no DataLoader takes its dataset",
    ),
    Mistake(
        "epochs", lambda g: replace(g, training=TrainingSettings(0, 0)), None, "epochs is 0, must be from 1"
    ),
    Mistake(
        "seed", lambda g: replace(g, training=TrainingSettings(1, -1)), None, "seed is -1, must be from 0"
    ),
    Mistake(
        "too large",
        lambda g: with_parameters(g, "conv1", filters=65536, kernel_size=1024),
        "conv1",
        "parameters, limit 4294967296",
    ),
]


def test_the_examples_have_nothing_wrong(cnn: Graph) -> None:
    assert diagnose(cnn, DIGITS) == ()
    mlp = load_graph((EXAMPLES / "digits_mlp.json").read_bytes())
    assert diagnose(mlp, DIGITS) == ()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_told_at_its_node(cnn: Graph, mistake: Mistake) -> None:
    found = diagnose(mistake.make(cnn))
    here = [each for each in found if each.node_id == mistake.node_id and mistake.text in str(each)]
    assert len(here) == 1, [str(each) for each in found]
    assert here[0].severity is Severity.ERROR


def test_one_wrong_shape_is_told_once_and_not_all_the_way_down(cnn: Graph) -> None:
    found = diagnose(with_parameters(cnn, "pool1", kernel_size=9))
    assert [each.node_id for each in found] == ["pool1"]


def test_only_the_nodes_of_a_cycle_are_said_to_be_on_it(cnn: Graph) -> None:
    found = diagnose(relinked(cnn, "conv2", "input", "relu2"))
    on_cycle = {each.node_id for each in found if "comes back" in each.text}
    assert on_cycle == {"conv2", "norm2", "relu2"}


def test_what_the_output_does_not_need_is_a_warning(cnn: Graph) -> None:
    graph = replace(cnn, nodes=(*cnn.nodes, Node("spare", "ReLU")))
    found = diagnose(with_link(graph, "relu1", "output", "spare", "input"))
    assert [(each.severity, each.node_id) for each in found] == [(Severity.WARNING, "spare")]


def test_a_model_needs_no_training_nodes_to_be_a_model(cnn: Graph) -> None:
    graph = cnn
    for node_id in ("optimizer", "loss", "loader", "normalize", "split", "dataset"):
        graph = without_node(graph, node_id)
    assert diagnose(graph, for_training=False) == ()
    assert diagnose(graph)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (DataFacts(1797, (8, 8), "float32", 10), "sample_shape is (1, 8, 8), the data has (8, 8)"),
        (DataFacts(1797, (1, 8, 8), "float32", 11), "classes is 10, the data has 11"),
        (DataFacts(1797, (1, 8, 8), "float32", 0), "classes is 10, the data has real numbers"),
    ],
)
def test_data_that_does_not_fit_is_told_at_the_dataset(cnn: Graph, data: DataFacts, text: str) -> None:
    (found,) = diagnose(cnn, data)
    assert found.node_id == "dataset"
    assert text in found.text


def test_fewer_classes_than_declared_are_fine(cnn: Graph) -> None:
    assert diagnose(cnn, DataFacts(1797, (1, 8, 8), "uint8", 9)) == ()


def test_a_batch_of_one_under_a_batch_norm_of_vectors_is_refused(cnn: Graph) -> None:
    graph = replace(cnn, nodes=(*cnn.nodes, Node("late", "BatchNorm")))
    graph = with_link(relinked(graph, "dense1", "input", "late"), "dropout", "output", "late", "input")
    graph = with_parameters(graph, "split", train=1.0, validation=0.0, test=0.0)
    data = DataFacts(129, (1, 8, 8), "float32", 10)
    assert [each.node_id for each in diagnose(graph, data)] == ["late"]
    assert diagnose(with_parameters(graph, "loader", drop_last=True), data) == ()


def test_a_split_that_leaves_no_whole_batch_is_refused(cnn: Graph) -> None:
    graph = with_parameters(cnn, "loader", drop_last=True)
    (found,) = diagnose(graph, DataFacts(100, (1, 8, 8), "float32", 10))
    assert "do not fill a batch of 128" in found.text


def test_a_large_graph_of_nothing_but_mistakes_gives_a_bounded_answer() -> None:
    nodes = tuple(Node(f"n{index}", f"Conv{index}", 1, {"x": index}) for index in range(10_000))
    links = tuple(Link(f"n{index}", "x", f"n{index + 1}", "ghost") for index in range(10_000))
    found = diagnose(Graph("hostile", nodes, links))
    assert len(found) == MAX_DIAGNOSTICS + 1
    assert "more, shown are 200" in found[-1].text
    assert found[-1].severity is Severity.ERROR
