"""``cyxwiz check`` says what is wrong and what would put it right, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from backend.graph import Graph, Node
from backend.serialize import dump_graph
from engine_app.cli import main
from tests.unit.backend.catalogue_cases import Case, graph_of, inner
from tests.unit.backend.make_samples import small_graph, write_samples


def broken(tmp_path: Path) -> Path:
    body = inner(Node("look", "SelfAttention", 1, {"heads": 3}))
    graph: Graph = graph_of(Case("Subgraph", {}, ((5, 8),), body))
    path = tmp_path / "broken.json"
    path.write_bytes(dump_graph(graph))
    return path


def test_a_fix_is_shown_at_the_node_inside(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check", str(broken(tmp_path))])
    assert result.exit_code == 1
    assert "error at node/look: 8 features" in result.output
    assert "(set heads to 2)" in result.output


def test_a_program_gets_the_edits_and_where_they_apply(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check", "--json", str(broken(tmp_path))])
    found = json.loads(result.output)["diagnostics"]
    (wrong,) = [each for each in found if each["inside"]]
    assert (wrong["node"], wrong["inside"], wrong["edits_inside"]) == ("node", ["look"], ["node"])
    assert wrong["edits"] == [{"edit": "ChangeParameter", "node": "look", "name": "heads", "value": 2}]


def test_a_bypassed_node_is_not_part_of_what_is_checked(tmp_path: Path) -> None:
    graph: Graph = graph_of(Case("SelfAttention", {"heads": 3}, ((5, 8),)))
    bypassed = [replace(n, extra={"mode": "bypass"}) if n.type == "SelfAttention" else n for n in graph.nodes]
    path = tmp_path / "graph.json"
    path.write_bytes(dump_graph(replace(graph, nodes=tuple(bypassed))))
    found = json.loads(CliRunner().invoke(main, ["check", "--json", str(path)]).output)
    assert found["nodes"] == len(graph.nodes) - 1
    assert not [each for each in found["diagnostics"] if "heads" in each["text"]]


def test_data_that_stays_on_disk_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data = tmp_path / "graph.json", write_samples(tmp_path / "data.safetensors")
    graph.write_bytes(dump_graph(small_graph()))
    arguments = ["check", "--data", str(data), str(graph)]
    assert "streamed from disk" not in CliRunner().invoke(main, arguments).output
    monkeypatch.setattr("engine_app.graphs.RESIDENT_BYTES", 1000)
    assert "data 0.0 at most, streamed from disk" in CliRunner().invoke(main, arguments).output
    assert json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)["estimate"]["data_streamed"]
