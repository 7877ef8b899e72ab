"""What must hold for any graph: valid ones compile, broken ones are told apart, none raises."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.catalogue import CATALOGUE
from backend.catalogue.parameter import Parameter, ParameterType, problem_of
from backend.catalogue.record import TensorType, elements
from backend.compiler import compile_graph
from backend.diagnostics import apply_fix
from backend.errors import GraphFormatError, GraphInvalidError
from backend.estimate import estimate
from backend.graph import Body, Graph, JsonValue, Link, Node, TrainingSettings
from backend.layers import BUILDERS
from backend.preparation import compile_preparation
from backend.serialize import dump_graph, graph_hash, load_graph
from backend.shapes import infer_shapes
from backend.validate import Diagnostic, diagnose, has_errors
from tests.property.effort import examples

MODEL = sorted(name for name in BUILDERS if name != "Output")
RECURRENT = ["RNN", "LSTM", "GRU"]
EXPRESSIONS = ["x", "x1 * x1 + 1", "max(x, 0) - sigmoid(x) / 2", "-x ^ 2"]
SMALL = 4096
"""Elements of a tensor, and weights of a node, in these tests: they are about rules, not arithmetic."""
SLOW = settings(deadline=None, max_examples=examples(60), suppress_health_check=list(HealthCheck))

Known = dict[tuple[str, str], TensorType]


@st.composite
def values(draw: st.DrawFn, parameter: Parameter) -> Any:
    """A value in range, kept small."""
    low, high = parameter.minimum or 0, parameter.maximum or 0
    small = st.integers(int(low), int(min(high, low + 4)))
    match parameter.type:
        case ParameterType.INTEGER:
            return draw(st.none() | small if parameter.optional else small)
        case ParameterType.NUMBER:
            return draw(st.floats(low, min(high, max(2.0, low)), allow_subnormal=False))
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
            return draw(st.lists(st.floats(-2, 2), max_size=2))
        case ParameterType.TEXT:
            return draw(st.sampled_from(EXPRESSIONS))


def outputs_of(node: Node, inputs: tuple[TensorType, ...]) -> Known | None:
    """None for what the rules refuse, and for what is too large here."""
    doors = [
        Node(f"in{n}", "Input", 1, {"shape": list(each.shape), "vocabulary": each.ids})
        for n, each in enumerate(inputs)
    ]
    links = [
        Link(door.id, "output", node.id, port) for door, port in zip(doors, ports(node, inputs), strict=True)
    ]
    found = infer_shapes(Graph("one", (*doors, node), tuple(links))).nodes.get(node.id)
    if found is None or found.counts.parameters > SMALL or found.counts.activations > 8 * SMALL:
        return None
    tensors = {(node.id, n): value for n, value in found.outputs.items() if isinstance(value, TensorType)}
    return tensors if all(elements(value.shape) <= SMALL for value in tensors.values()) else None


def ports(node: Node, inputs: tuple[TensorType, ...]) -> list[str]:
    names = [port.name for port in CATALOGUE[node.type].inputs]
    return names * len(inputs) if len(names) == 1 else names


@st.composite
def bodies(draw: st.DrawFn, inputs: tuple[TensorType, ...], depth: int) -> Body:
    doors = [Node(f"door{number}", "Input") for number in range(len(inputs))]
    known = {(door.id, "output"): value for door, value in zip(doors, inputs, strict=True)}
    nodes, links = draw(wirings(known, draw(st.integers(1, 2)), depth + 1))
    read = {(link.source_node, link.source_port) for link in links}
    ends = [source for source in known if source not in read] or list(known)[-1:]
    outputs = [Node(f"end{number}", "Output") for number in range(len(ends))]
    links += [Link(*source, end.id, "input") for source, end in zip(ends, outputs, strict=True)]
    return Body((*doors, *nodes, *outputs), tuple(links))


@st.composite
def nodes_for(draw: st.DrawFn, here: str, inputs: tuple[TensorType, ...], name: str, depth: int) -> Node:
    given = {parameter.name: draw(values(parameter)) for parameter in CATALOGUE[name].parameters}
    parameters = given if draw(st.booleans()) else {}
    body: Body | None = None
    if name == "Bidirectional":
        body = Body((Node("each", draw(st.sampled_from(RECURRENT))),))
    elif name == "TimeDistributed":
        body = Body(
            (Node("each", draw(st.sampled_from(["Dense", "Tanh", "Flatten", "LayerNorm", "Repeat"]))),)
        )
        if body.nodes[0].type == "Repeat":
            body = Body((replace(body.nodes[0], body=Body(*chain("Tanh"))),))
    elif CATALOGUE[name].wrapping is not None:
        body = draw(bodies(inputs, depth)) if draw(st.booleans()) else Body(*chain("Tanh"))
    return Node(here, name, 1, parameters, body=body)


def chain(*names: str) -> tuple[tuple[Node, ...], tuple[Link, ...]]:
    nodes = (Node("a", "Input"), *(Node(name, name) for name in names), Node("z", "Output"))
    return nodes, tuple(Link(a.id, "output", b.id, "input") for a, b in pairwise(nodes))


@st.composite
def wirings(draw: st.DrawFn, known: Known, steps: int, depth: int = 0) -> tuple[list[Node], list[Link]]:
    """So many nodes on what is known, which grows; whatever type is drawn, with what it can take."""
    nodes: list[Node] = []
    links: list[Link] = []
    names = MODEL if depth < 2 else [name for name in MODEL if CATALOGUE[name].wrapping is None]
    for index in range(steps):
        here = f"n{depth}{index}"
        for name in [*draw(st.lists(st.sampled_from(names), min_size=4, max_size=4)), "Identity"]:
            record = CATALOGUE[name]
            sources = [list(known)[-1]] if record.inputs else []
            if len(record.inputs) > 1 or (record.inputs and record.inputs[0].variadic):
                more = len(record.inputs) - 1 or draw(st.integers(0, 2))
                sources += [draw(st.sampled_from(list(known))) for _ in range(more)]
            inputs = tuple(known[source] for source in sources)
            node = draw(nodes_for(here, inputs, name, depth))
            result = outputs_of(node, inputs)
            if result is not None:
                break
        else:
            raise AssertionError("Identity takes everything")
        nodes.append(node)
        links += [
            Link(*source, here, port) for source, port in zip(sources, ports(node, inputs), strict=True)
        ]
        known.update(result)
    return nodes, links


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A trainable graph over the whole catalogue, bodies included, in any document order."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    ids = draw(st.sampled_from([0, 0, 7]))
    data = [
        Node("dataset", "DatasetInput", 1, {"sample_shape": shape, "classes": 3, "vocabulary": ids}),
        Node("loader", "DataLoader", 1, {"batch_size": draw(st.integers(2, 64))}),
        Node("n0", "Input", 1, draw(st.sampled_from([{}, {"shape": shape, "vocabulary": ids}]))),
    ]
    known: Known = {("n0", "output"): TensorType(tuple(shape), ids)}
    nodes, links = draw(wirings(known, draw(st.integers(1, 6))))
    links.append(Link("dataset", "dataset", "loader", "dataset"))
    links.append(Link("loader", "samples", "n0", "input"))
    read = {link.source_node for link in links}
    for number, (source, port) in enumerate(each for each in known if each[0] not in read):
        tail = f"flat{number}"
        if known[source, port].ids:
            nodes.append(Node(f"embed{number}", "Embedding", 1, {"vocabulary": 7, "dimension": 2}))
            links.append(Link(source, port, f"embed{number}", "input"))
            source, port = f"embed{number}", "output"
        nodes.append(Node(tail, "Flatten"))
        links += [Link(source, port, tail, "input"), Link(tail, "output", "all", "inputs")]
    nodes += [Node("all", "Concatenate"), Node("head", "Dense", 1, {"units": 3}), Node("out", "Output")]
    nodes += [Node("loss", "CrossEntropyLoss"), Node("optimizer", "Adam")]
    links += [Link("all", "output", "head", "input"), Link("head", "output", "out", "input")]
    links.append(Link("out", "output", "loss", "prediction"))
    links.append(Link("loader", "labels", "loss", "target"))
    links.append(Link("loss", "loss", "optimizer", "loss"))
    training = TrainingSettings(draw(st.integers(1, 5)), draw(st.integers(0, 2**31)))
    return Graph("random", tuple(draw(st.permutations([*data, *nodes]))), tuple(links), training)


@SLOW
@given(graphs())
def test_valid_graphs_compile_to_the_shapes_that_were_inferred(graph: Graph) -> None:
    assert diagnose(graph) == ()
    assert set(infer_shapes(graph).nodes) == {node.id for node in graph.nodes}
    compiled = compile_graph(graph)
    module = compiled.module.eval()
    dtype = torch.int64 if compiled.inputs[0].ids else torch.float32
    with torch.no_grad():
        answer = module(torch.zeros(2, *compiled.input_shape, dtype=dtype))
    assert answer.shape == (2, *compiled.output_shape)
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
    parameter = draw(st.sampled_from(CATALOGUE[victim.type].parameters))
    choices = ["nonsense" * 200, {}, [[]], -1e300, [1.5], {"a": [None]}]
    nonsense = draw(st.sampled_from([each for each in choices if problem_of(parameter, each)]))
    spoilt = replace(victim, parameters={**victim.parameters, parameter.name: nonsense})
    return _with(graph, spoilt), victim.id


def _spoil_inside(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    inside = Body((Node("a", "Input"), Node("b", "Nonsense"), Node("c", "Output")))
    outer = Node("outer", draw(st.sampled_from(["Subgraph", "Repeat", "TimeDistributed"])), body=inside)
    return replace(graph, nodes=(*graph.nodes, outer)), "outer"


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
    single = [link for link in graph.links if link.target_port not in ("inputs", "loss")]
    victim = draw(st.sampled_from(single))
    return replace(graph, links=(*graph.links, victim)), victim.target_node


def _close_cycle(draw: st.DrawFn, graph: Graph) -> tuple[Graph, str]:
    links = tuple(
        replace(link, source_node="head") if link.source_node == "all" else link for link in graph.links
    )
    return replace(graph, links=links), "head"


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
    _spoil_inside,
]


def _with(graph: Graph, changed: Node) -> Graph:
    return replace(graph, nodes=tuple(changed if node.id == changed.id else node for node in graph.nodes))


@pytest.mark.parametrize("spoil", BREAKS, ids=lambda spoil: spoil.__name__.strip("_"))
@settings(SLOW, max_examples=examples(15))
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
def nearly(draw: st.DrawFn) -> Graph:
    """A valid graph with a few links and parameters, also inside bodies, changed at random."""
    graph = draw(graphs())
    for _ in range(draw(st.integers(1, 3))):
        graph = _shaken(draw, graph)
    return graph


W = TypeVar("W", Graph, Body)


def _shaken(draw: st.DrawFn, wiring: W) -> W:
    nodes, links = list(wiring.nodes), list(wiring.links)
    index = draw(st.integers(0, len(nodes) - 1))
    node = nodes[index]
    if node.body is not None and node.body.nodes and draw(st.booleans()):
        nodes[index] = replace(node, body=_shaken(draw, node.body))
        return replace(wiring, nodes=tuple(nodes))
    match draw(st.sampled_from(["link", "unlink", "drop", "type", "value"])):
        case "link":
            ends = st.sampled_from([each.id for each in nodes])
            links.append(Link(draw(ends), draw(PORTS), draw(ends), draw(PORTS)))
        case "unlink" if links:
            links.pop(draw(st.integers(0, len(links) - 1)))
        case "drop" if len(nodes) > 1:
            nodes.pop(index)
        case "type":
            nodes[index] = replace(node, type=draw(TYPES))
        case _:
            names = [each.name for each in CATALOGUE[node.type].parameters] if node.type in CATALOGUE else []
            value = draw(st.integers(-3, 9) | st.booleans() | st.lists(st.integers(-1, 9), max_size=3))
            if names:
                parameters = {**node.parameters, draw(st.sampled_from(names)): value}
                nodes[index] = replace(node, parameters=parameters)
    return replace(wiring, nodes=tuple(nodes), links=tuple(links))


@settings(SLOW, max_examples=examples(150))
@given(nearly())
def test_a_nearly_valid_graph_compiles_or_is_told_about_and_its_fixes_apply(graph: Graph) -> None:
    found = diagnose(graph)
    if not has_errors(found):
        compile_graph(graph)
        compile_preparation(graph)
        return
    for each in found:
        if each.fix is not None and each.fix.edits:
            diagnose(apply_fix(graph, each.fix))


@st.composite
def nonsense(draw: st.DrawFn) -> Graph:
    """Well-formed and meaningless, extra fields included."""
    parameters = st.dictionaries(NAMES, JSON | st.integers(-3, 9) | st.lists(st.integers(-1, 9), max_size=3))
    extra = st.dictionaries(st.sampled_from(["note", "color", "x"]), JSON, max_size=2)
    links = st.lists(st.builds(Link, IDS, PORTS, IDS, PORTS, extra), max_size=8)
    nodes = st.builds(Node, IDS, TYPES, st.integers(-1, 3), parameters, extra)
    for _ in range(2):
        insides = st.builds(Body, st.lists(nodes, max_size=4).map(tuple), links.map(tuple), extra)
        likely = st.sampled_from(["Subgraph", "Repeat", "TimeDistributed", "Bidirectional"]) | TYPES
        wrapping = st.builds(Node, IDS, likely, st.integers(0, 2), parameters, extra, insides)
        nodes |= wrapping
    return Graph(
        draw(TEXTS),
        tuple(draw(st.lists(nodes, max_size=6))),
        tuple(draw(links)),
        draw(st.builds(TrainingSettings, st.integers(-5, 5), st.integers(-5, 5), extra)),
        view=draw(st.dictionaries(TEXTS, JSON, max_size=2)),
        extra=draw(extra),
    )


@settings(SLOW, max_examples=examples(120))
@given(nonsense())
def test_nonsense_never_raises_and_is_never_lost(graph: Graph) -> None:
    diagnose(graph)
    diagnose(graph, for_training=False)
    again = load_graph(dump_graph(graph))
    assert again == graph
    assert graph_hash(again) == graph_hash(graph)


@settings(SLOW, max_examples=examples(300))
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_bytes_are_a_graph_or_refused(data: bytes) -> None:
    try:
        graph = load_graph(data)
    except GraphFormatError:
        return
    assert load_graph(dump_graph(graph)) == graph


# -- rules against torch -------------------------------------------------------------------------


@settings(SLOW, max_examples=examples(100))
@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_an_accepted_shape_is_what_torch_computes(data: st.DataObject, extents: list[int]) -> None:
    known = {("in", "output"): TensorType(tuple(extents))}
    nodes, links = data.draw(wirings(known, 1))
    ends = [Node(f"out{n}", "Output") for n, (source, _) in enumerate(known) if source != "in"]
    links += [Link(*s, end.id, "input") for s, end in zip(list(known)[1:], ends, strict=True)]
    entry = Node("in", "Input", 1, {"shape": extents})
    # Around a node without inputs, which is a model only where another output has one.
    links.append(Link("in", "output", "also", "input"))
    graph = Graph("one", (entry, *nodes, *ends, Node("also", "Output")), tuple(links))
    compiled = compile_graph(graph)
    with torch.no_grad():
        results = compiled.module.to("meta").eval()(torch.empty(2, *extents, device="meta"))
    expected = [value.shape for value in list(known.values())[1:]]
    assert [tuple(result.shape[1:]) for result in results[:-1]] == expected
