"""Graph files: canonical, lossless, migrated, and refused when they are no graph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.errors import GraphFormatError
from backend.graph import FORMAT_VERSION, Body, Graph, Link, Node, TrainingSettings
from backend.serialize import MAX_GRAPH_BYTES, MIGRATIONS, document_of, dump_graph, graph_hash, load_graph

EXAMPLES = Path(__file__).parents[3] / "scripts" / "examples"

FROM_THE_FUTURE = b"""{
  "format_version": 2, "name": "caf\xc3\xa9", "author": {"name": "someone"},
  "training": {"epochs": 3, "seed": 9, "schedule": "cosine"},
  "nodes": [{"id": "a", "type": "QuantumLayer", "version": 7, "parameters": {"q": [1, 2.0, null]},
             "note": "keep me", "body": {"nodes": [{"id": "i", "type": "Deep", "version": 1, "parameters": {},
             "body": {"nodes": [], "links": []}}], "links": [], "folded": true}}],
  "links": [{"from": ["a", "x"], "to": ["b", "y"], "color": "red"}],
  "view": {"zoom": 1.5}
}"""


def test_unknown_types_and_fields_survive_a_round_trip() -> None:
    graph = load_graph(FROM_THE_FUTURE)
    body = Body((Node("i", "Deep", body=Body()),), (), {"folded": True})
    assert graph.nodes[0] == Node("a", "QuantumLayer", 7, {"q": [1, 2.0, None]}, {"note": "keep me"}, body)
    assert graph.links[0] == Link("a", "x", "b", "y", {"color": "red"})
    assert graph.training == TrainingSettings(3, 9, {"schedule": "cosine"})
    assert json.loads(dump_graph(graph)) == json.loads(FROM_THE_FUTURE)
    assert load_graph(dump_graph(graph)) == graph


def test_the_canonical_form_is_these_bytes() -> None:
    graph = Graph("é", (Node("a", "Dense", 1, {"units": 2, "bias": True}),), (Link("a", "o", "b", "i"),))
    expected = (
        '{"format_version":2,"links":[{"from":["a","o"],"to":["b","i"]}],"name":"é","nodes":[{"id":"a",'
        '"parameters":{"bias":true,"units":2},"type":"Dense","version":1}],"training":{"epochs":1,"seed":0}}'
    )
    assert dump_graph(graph).decode() == expected
    assert graph_hash(graph) == "be2cbb77b1a2ecae78dcbad2e880ca431e29ccc80eedec1465cea56ec44d52ad"


def test_settings_at_their_default_are_not_part_of_the_canonical_form() -> None:
    plain = b'{"format_version": 2, "nodes": [], "links": [], "training": {"epochs": 2, "seed": 1}}'
    spelt = plain.replace(b'"seed": 1', b'"seed": 1, "patience": 0, "keep": "last", "accumulate": 1')
    assert dump_graph(load_graph(spelt)) == dump_graph(load_graph(plain))
    asked = plain.replace(b'"seed": 1', b'"seed": 1, "patience": 4, "keep": "best", "precision": "bfloat16"')
    graph = load_graph(asked)
    assert graph.training == TrainingSettings(2, 1, patience=4, keep="best", precision="bfloat16")
    assert load_graph(dump_graph(graph)) == graph
    with pytest.raises(GraphFormatError, match="patience of training is 'x', must be an integer"):
        load_graph(plain.replace(b'"seed": 1', b'"patience": "x"'))


@pytest.mark.parametrize("name", ["digits_cnn.json", "digits_mlp.json"])
def test_white_space_and_order_of_keys_do_not_change_the_hash(name: str) -> None:
    graph = load_graph((EXAMPLES / name).read_bytes())
    spread = json.dumps(document_of(graph), indent=4).encode()
    assert graph_hash(load_graph(spread)) == graph_hash(graph)


def test_version_0_is_migrated() -> None:
    old = {
        "format_version": 0,
        "name": "old",
        "epochs": 5,
        "seed": 3,
        "nodes": {"in.put": {"type": "Input", "parameters": {"shape": [4]}}, "out": {"type": "Output"}},
        "links": ["in.put.output -> out.input"],
        "comment": "kept",
    }
    assert load_graph(json.dumps(old).encode()) == Graph(
        "old",
        (Node("in.put", "Input", 1, {"shape": [4]}), Node("out", "Output")),
        (Link("in.put", "output", "out", "input"),),
        TrainingSettings(5, 3),
        extra={"comment": "kept"},
    )


def test_a_body_of_version_1_was_a_field_like_any_other() -> None:
    old = {"format_version": 1, "nodes": [{"id": "a", "type": "ReLU", "body": [1]}]}
    graph = load_graph(json.dumps(old).encode())
    assert graph.nodes == (Node("a", "ReLU", extra={"body of format 1": [1]}),)


def test_nodes_in_bodies_count_as_nodes_of_the_graph() -> None:
    body = {"nodes": [{"id": str(n), "type": "ReLU"} for n in range(2500)], "links": []}
    nodes = [{"id": str(n), "type": "Subgraph", "body": body} for n in range(4)]
    document = {"format_version": 2, "nodes": nodes}
    with pytest.raises(GraphFormatError, match="10004 nodes with all bodies, limit 10000"):
        load_graph(json.dumps(document).encode())


def test_there_is_a_migration_from_every_older_version() -> None:
    assert sorted(MIGRATIONS) == list(range(FORMAT_VERSION))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not JSON in UTF-8"),
        (b"\xff\xfe", "not JSON in UTF-8"),
        (b"[]", "the document is [], must be an object"),
        (b"{}", "format_version is None, must be 0 to 2"),
        (b'{"format_version": 3}', "format_version is 3, must be 0 to 2"),
        (
            b'{"format_version": 2, "nodes": [{"id": "a", "type": "B", "body": []}]}',
            "body of nodes[0] is [], must be an object",
        ),
        (
            b'{"format_version": 2, "nodes": [{"id": "a", "type": "B", "body": {"nodes": [{"id": "b"}]}}]}',
            "type of nodes[0].nodes[0] is None",
        ),
        (b'{"format_version": true}', "format_version is True"),
        (b'{"format_version": 1, "name": 5}', "name of the document is 5, must be a string"),
        (b'{"format_version": 1, "nodes": {}}', "nodes of the document is {}, must be a list"),
        (b'{"format_version": 1, "nodes": [3]}', "nodes[0] is 3, must be an object"),
        (b'{"format_version": 1, "nodes": [{"type": "A"}]}', "id of nodes[0] is None, must be a string"),
        (b'{"format_version": 1, "nodes": [{"id": "", "type": "A"}]}', "must be 1 to 128 characters"),
        (b'{"format_version": 1, "links": [{"from": ["a"]}]}', 'must be a pair ["node id", "port name"]'),
        (b'{"format_version": 1, "training": {"epochs": 1.5}}', "epochs of training is 1.5"),
        (b'{"format_version": 1, "x": NaN}', "number NaN, must be finite"),
        (b'{"format_version": 1, "x": 1e999}', "out of range"),
        (b'{"format_version": 1, "x": ' + b"9" * 5000 + b"}", "integer"),
        (b'{"format_version": 1, "a": 1, "a": 2}', "field 'a' appears twice"),
        (b'{"format_version": 1, "x": "\\ud800"}', "text that is not Unicode"),
        (b'{"format_version": 1, "x": ' + b"[" * 70 + b"]" * 70 + b"}", "nested more than 64 deep"),
        (b"[" * 100_000, "not JSON in UTF-8"),
        (b" " * (MAX_GRAPH_BYTES + 1), f"graph of {MAX_GRAPH_BYTES + 1} bytes, limit {MAX_GRAPH_BYTES}"),
        (b'{"format_version": 1, "nodes": [' + b"0," * 10_000 + b"0]}", "10001 nodes, limit 10000"),
        (b'{"format_version": 0, "links": ["a -> b"]}', 'must be "node.port -> node.port"'),
    ],
)
def test_what_is_no_graph_is_refused_in_words(data: bytes, text: str) -> None:
    with pytest.raises(GraphFormatError) as refusal:
        load_graph(data)
    assert text in str(refusal.value)
