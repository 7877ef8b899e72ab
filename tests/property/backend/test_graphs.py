"""What must hold for any graph: valid ones compile, broken ones are told apart, none raises."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.catalogue import CATALOGUE
from backend.catalogue.record import Parameter, ParameterType, Shape, TensorType, completed, elements
from backend.compiler import compile_graph
from backend.errors import GraphFormatError, GraphInvalidError, ShapeMismatchError
from backend.estimate import estimate
from backend.graph import Graph, JsonValue, Link, Node, TrainingSettings
from backend.layers import BUILDERS
from backend.serialize import dump_graph, graph_hash, load_graph
from backend.shapes import infer_shapes
from backend.validate import Diagnostic, diagnose, has_errors

UNARY = sorted(
    name
    for name in BUILDERS
    if name != "Output" and [port.name for port in CATALOGUE[name].inputs] == ["input"]
)
MERGES = ["Add", "Multiply", "Average", "Concatenate"]
SMALL = 4096
"""Elements of a tensor in these tests: they are about rules, not about arithmetic."""
SLOW = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@st.composite
def values(draw: st.DrawFn, parameter: Parameter) -> Any:
    """A value in range, kept small."""
    low, high = parameter.minimum or 0, parameter.maximum or 0
    small = st.integers(int(low), int(min(high, low + 4)))
    match parameter.type:
        case ParameterType.INTEGER:
            return draw(st.none() | small if parameter.optional else small)
        case ParameterType.NUMBER:
            return draw(st.floats(low, min(high, 2.0), allow_subnormal=False))
        case ParameterType.BOOLEAN:
            return draw(st.booleans())
        case ParameterType.CHOICE:
            return draw(st.sampled_from(parameter.choices))
        case ParameterType.INTEGERS:
            return draw(st.lists(small, max_size=4))
        case ParameterType.SIZE:
            words = st.sampled_from(parameter.choices) if parameter.choices else st.nothing()
            lists = st.lists(small, min_size=parameter.axes, max_size=parameter.axes)
            return draw(words | small | lists)
        case ParameterType.NUMBERS:
            return []


def result_of(name: str, parameters: dict[str, Any], shape: Shape) -> Shape | None:
    """None for what the rule refuses, and for what is too large here."""
    record = CATALOGUE[name]
    try:
        (output,) = record.rule(completed(record.parameters, parameters), (TensorType(shape),))
    except ShapeMismatchError:
        return None
    assert isinstance(output, TensorType)
    return output.shape if elements(output.shape) <= SMALL else None


@st.composite
def layers(draw: st.DrawFn, shape: Shape) -> tuple[Node, Shape]:
    """A layer that takes the shape; its parameters drawn, or the defaults where those drawn do not fit."""
    name = draw(st.sampled_from([name for name in UNARY if result_of(name, {}, shape) is not None]))
    drawn = {parameter.name: draw(values(parameter)) for parameter in CATALOGUE[name].parameters}
    for parameters in (drawn, {}):
        result = result_of(name, parameters, shape)
        if result is not None:
            return Node("", name, 1, parameters), result
    raise AssertionError("the defaults were tried before")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A trainable graph: a chain with merges of what is alike, in any document order."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    data = [
        Node("dataset", "DatasetInput", 1, {"sample_shape": list(shape), "classes": 3}),
        Node("loader", "DataLoader", 1, {"batch_size": draw(st.integers(2, 64))}),
        Node("n0", "Input", 1, {"shape": list(shape)}),
    ]
    nodes, links, known = data, [], {"n0": shape}
    links.append(Link("dataset", "dataset", "loader", "dataset"))
    links.append(Link("loader", "samples", "n0", "input"))
    last = "n0"
    for index in range(1, draw(st.integers(2, 10))):
        here = f"n{index}"
        alike = [node_id for node_id, found in known.items() if found == known[last] and found]
        if alike and draw(st.integers(0, 3)) == 0:
            sources = [last, *draw(st.lists(st.sampled_from(alike), max_size=2))]
            node, result = Node(here, draw(st.sampled_from(MERGES))), known[last]
            if node.type == "Concatenate":
                result = (result[0] * len(sources), *result[1:])
            links += [Link(source, "output", here, "inputs") for source in sources]
        else:
            node, result = draw(layers(known[last]))
            links.append(Link(last, "output", here, "input"))
        nodes.append(replace(node, id=here))
        known[here], last = result, here
    tail = [Node("flat", "Flatten"), Node("head", "Dense", 1, {"units": 3}), Node("out", "Output")]
    nodes += [*tail, Node("loss", "CrossEntropyLoss"), Node("optimizer", "Adam")]
    for source, target in ((last, "flat"), ("flat", "head"), ("head", "out")):
        links.append(Link(source, "output", target, "input"))
    links.append(Link("out", "output", "loss", "prediction"))
    links.append(Link("loader", "labels", "loss", "target"))
    links.append(Link("loss", "loss", "optimizer", "loss"))
    training = TrainingSettings(draw(st.integers(1, 5)), draw(st.integers(0, 2**31)))
    return Graph("random", tuple(draw(st.permutations(nodes))), tuple(links), training)


@SLOW
@given(graphs())
def test_valid_graphs_compile_to_the_shapes_that_were_inferred(graph: Graph) -> None:
    assert diagnose(graph) == ()
    assert set(infer_shapes(graph).nodes) == {node.id for node in graph.nodes}
    compiled = compile_graph(graph)
    module = compiled.module.eval()
    with torch.no_grad():
        assert module(torch.zeros(2, *compiled.input_shape)).shape == (2, *compiled.output_shape)
    weights = sum(weight.numel() for weight in module.parameters())
    assert estimate(graph, 500, compiled.input_shape).parameters == weights


@SLOW
@given(graphs())
def test_valid_graphs_survive_a_round_trip(graph: Graph) -> None:
    data = dump_graph(graph)
    again = load_graph(data)
    assert again == graph
    assert dump_graph(again) == data
    assert estimate(again, 500, (3,)) == estimate(graph, 500, (3,))


# -- broken on purpose ---------------------------------------------------------------------------

Break = Callable[[st.DrawFn, Graph], tuple[Graph, str]]
"""Gives the broken graph and the node at which that must be told."""


def _rename_type(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    victim = draw(st.sampled_from(graph.nodes))
    return _with(graph, replace(victim, type=victim.type + "Nonsense")), victim.id


def _raise_version(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    victim = draw(st.sampled_from(graph.nodes))
    return _with(graph, replace(victim, version=draw(st.integers(2, 99)))), victim.id


def _add_parameter(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    victim = draw(st.sampled_from(graph.nodes))
    return _with(graph, replace(victim, parameters={**victim.parameters, "nonsense": 1})), victim.id


def _spoil_parameter(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    victim = draw(st.sampled_from([node for node in graph.nodes if CATALOGUE[node.type].parameters]))
    name = draw(st.sampled_from(CATALOGUE[victim.type].parameters)).name
    nonsense = draw(st.sampled_from(["nonsense", {}, [[]], -1e300, [1.5], {"a": [None]}]))
    return _with(graph, replace(victim, parameters={**victim.parameters, name: nonsense})), victim.id


def _cut_link(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    # A merge that keeps another input is still whole.
    single = [link for link in graph.links if link.target_port != "inputs"]
    victim = draw(st.sampled_from(single))
    links = tuple(link for link in graph.links if link is not victim)
    return replace(graph, links=links), victim.target_node


def _point_nowhere(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    victim = draw(st.sampled_from(graph.links))
    links = tuple(replace(link, source_node="ghost") if link is victim else link for link in graph.links)
    return replace(graph, links=links), victim.target_node


def _misname_port(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    victim = draw(st.sampled_from(graph.links))
    links = tuple(replace(link, source_port="nonsense") if link is victim else link for link in graph.links)
    return replace(graph, links=links), victim.source_node


def _double_link(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    victim = draw(st.sampled_from([link for link in graph.links if link.target_port != "inputs"]))
    return replace(graph, links=(*graph.links, victim)), victim.target_node


def _close_cycle(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    links = tuple(
        replace(link, source_node="head") if link.target_node == "flat" else link for link in graph.links
    )
    return replace(graph, links=links), draw(st.sampled_from(["flat", "head"]))


def _repeat_id(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    victim = draw(st.sampled_from(graph.nodes))
    return replace(graph, nodes=(*graph.nodes, Node(victim.id, "ReLU"))), victim.id


BREAKS: list[Break] = [
    _rename_type,
    _raise_version,
    _add_parameter,
    _spoil_parameter,
    _cut_link,
    _point_nowhere,
    _misname_port,
    _double_link,
    _close_cycle,
    _repeat_id,
]


def _with(graph: Graph, changed: Node) -> Graph:
    return replace(graph, nodes=tuple(changed if node.id == changed.id else node for node in graph.nodes))


@pytest.mark.parametrize("spoil", BREAKS, ids=lambda spoil: spoil.__name__.strip("_"))
@settings(SLOW, max_examples=25)
@given(data=st.data())
def test_a_broken_graph_is_told_at_the_broken_node(spoil: Break, data: st.DataObject) -> None:
    broken, node_id = spoil(data.draw, data.draw(graphs()))
    found = diagnose(broken)
    assert node_id in {each.node_id for each in found if has_errors([each])}, [str(each) for each in found]
    with pytest.raises(GraphInvalidError) as refusal:
        estimate(broken, 500, (3,))
    assert all(isinstance(each, Diagnostic) for each in refusal.value.diagnostics)


# -- anything at all -----------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
).filter(lambda value: "Infinity" not in json.dumps(value))
IDS = st.sampled_from(["a", "b", "c", "d"])
PORTS = st.sampled_from(["input", "inputs", "output", "dataset", "samples", "labels", "loss", "target", "x"])
TYPES = st.sampled_from([*CATALOGUE, "Unknown"])
NAMES = st.sampled_from(sorted({p.name for record in CATALOGUE.values() for p in record.parameters}))


@st.composite
def nonsense(draw: st.DrawFn) -> Graph:
    """Well-formed and meaningless, extra fields included."""
    parameters = st.dictionaries(NAMES, JSON | st.integers(-3, 9) | st.lists(st.integers(-1, 9), max_size=3))
    extra = st.dictionaries(st.sampled_from(["note", "color", "x"]), JSON, max_size=2)
    nodes = st.builds(Node, IDS, TYPES, st.integers(-1, 3), parameters, extra)
    return Graph(
        draw(TEXTS),
        tuple(draw(st.lists(nodes, max_size=6))),
        tuple(draw(st.lists(st.builds(Link, IDS, PORTS, IDS, PORTS, extra), max_size=8))),
        draw(st.builds(TrainingSettings, st.integers(-5, 5), st.integers(-5, 5), extra)),
        view=draw(st.dictionaries(TEXTS, JSON, max_size=2)),
        extra=draw(extra),
    )


@settings(SLOW, max_examples=120)
@given(nonsense())
def test_nonsense_never_raises_and_is_never_lost(graph: Graph) -> None:
    diagnose(graph)
    diagnose(graph, for_training=False)
    again = load_graph(dump_graph(graph))
    assert again == graph
    assert graph_hash(again) == graph_hash(graph)


@settings(SLOW, max_examples=300)
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_bytes_are_a_graph_or_refused(data: bytes) -> None:
    try:
        graph = load_graph(data)
    except GraphFormatError:
        return
    assert load_graph(dump_graph(graph)) == graph


# -- rules against torch -------------------------------------------------------------------------


@settings(SLOW, max_examples=300)
@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_an_accepted_shape_is_what_torch_computes(data: st.DataObject, extents: list[int]) -> None:
    shape = tuple(extents)
    node, expected = data.draw(layers(shape))
    nodes = (Node("in", "Input", 1, {"shape": extents}), replace(node, id="layer"), Node("out", "Output"))
    links = (Link("in", "output", "layer", "input"), Link("layer", "output", "out", "input"))
    compiled = compile_graph(Graph("one", nodes, links))
    with torch.no_grad():
        result = compiled.module.to("meta").eval()(torch.empty(2, *shape, device="meta"))
    assert tuple(result.shape) == (2, *expected)
