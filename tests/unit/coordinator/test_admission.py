"""What an Engine may submit: a graph that is what the job says and makes sense. All else is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from backend.serialize import dump_graph, graph_hash, load_graph
from coordinator.admission import MAX_NODES, admit
from coordinator.job import Cost
from p2p.errors import RemoteFailureError
from tests.unit.backend.catalogue_cases import small_case, walk_graph

DIGITS = Path(__file__).parents[3] / "scripts" / "examples" / "digits_cnn.json"


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DIGITS.read_text())
    return loaded


def refusal(make: Any, body: bytes, name: str = "") -> str:
    """What the coordinator says about it."""
    with pytest.raises(RemoteFailureError) as refused:
        admit(replace(make.spec(), graph_hash=name or "c" * 64), body)
    assert refused.value.code == "invalid"
    return refused.value.message


def test_a_graph_that_makes_sense_is_priced(make: Any) -> None:
    body = DIGITS.read_bytes()
    cost = admit(replace(make.spec(), graph_hash=graph_hash(load_graph(body))), body)
    assert isinstance(cost, Cost) and cost.parameters == 26_090


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"\xff\xfe", "malformed graph: not JSON in UTF-8"),
        (b"[]", "malformed graph"),
        (b'{"format_version": 99, "nodes": []}', "malformed graph: format_version is 99, must be 0 to 2"),
        (b"[" * 100_000, "malformed graph"),
        (b'{"a":' * 100_000, "malformed graph"),
    ],
)
def test_what_is_no_graph_is_refused(make: Any, body: bytes, text: str) -> None:
    assert refusal(make, body).startswith(text)


def test_another_graph_than_the_job_names_is_refused_with_both_hashes(make: Any) -> None:
    found = graph_hash(load_graph(DIGITS.read_bytes()))
    text = refusal(make, DIGITS.read_bytes())
    assert f"found {found}" in text and f"the job names {'c' * 64}" in text


def test_a_graph_with_errors_is_refused_with_its_diagnostics(make: Any) -> None:
    broken = document()
    broken["nodes"] = [node for node in broken["nodes"] if node["type"] != "CrossEntropyLoss"]
    broken["links"] = [link for link in broken["links"] if "loss" not in (link["from"][0], link["to"][0])]
    body = json.dumps(broken).encode()
    text = refusal(make, body, graph_hash(load_graph(body)))
    assert text.startswith("malformed graph: ") and "loss" in text


def test_a_graph_for_other_data_is_refused(make: Any) -> None:
    other = document()
    for node in other["nodes"]:
        if "sample_shape" in node["parameters"]:
            node["parameters"]["sample_shape"] = [1, 9, 9]
    body = json.dumps(other).encode()
    text = refusal(make, body, graph_hash(load_graph(body)))
    assert "9" in text and "8" in text


def test_a_graph_of_too_many_nodes_is_refused(make: Any) -> None:
    large = document()
    extra = MAX_NODES + 1 - len(large["nodes"])
    large["nodes"] += [
        {"id": f"n{number}", "type": "ReLU", "version": 1, "parameters": {}} for number in range(extra)
    ]
    assert refusal(make, json.dumps(large).encode()) == f"graph of {MAX_NODES + 1} nodes, limit {MAX_NODES}"


def test_nodes_inside_of_others_count_too(make: Any) -> None:
    large = document()
    inner = [
        {"id": f"n{number}", "type": "ReLU", "version": 1, "parameters": {}} for number in range(MAX_NODES)
    ]
    outer = {"nodes": [{"id": "b", "type": "Subgraph", "body": {"nodes": inner, "links": []}}], "links": []}
    large["nodes"].append({"id": "a", "type": "Subgraph", "parameters": {}, "body": outer})
    large["format_version"] = 2
    count = len(large["nodes"]) + 1 + MAX_NODES
    assert refusal(make, json.dumps(large).encode()) == f"graph of {count} nodes, limit {MAX_NODES}"


def test_a_graph_with_an_operator_of_an_onnx_model_is_refused(make: Any) -> None:
    """It must not even be validated as one that a peer could train."""
    graph = walk_graph(small_case("OnnxOperator"))
    text = refusal(make, dump_graph(graph), graph_hash(graph))
    assert text.startswith("node 'node' is an operator of an ONNX model, which peers do not train")
