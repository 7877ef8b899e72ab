from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from backend.fitting import fit
from backend.formats.cyxmodel import write_cyxmodel
from backend.graph import Frozen
from backend.serialize import dump_graph
from engine_app.checks import BackendChecks
from engine_app.cli import main, private_parts
from engine_app.jobs import notes_on
from p2p.session.errors import JobRefusedError
from tests.unit.backend.make_samples import small_graph, write_samples


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    for name in ("graph.json", "data.npz"):
        (tmp_path / name).write_text("{}")
    paths = [str(tmp_path / "graph.json"), "--data", str(tmp_path / "data.npz")]
    return ["--data-dir", str(tmp_path / "home"), "submit", *paths, "--budget", "1"]


def test_private_parts_need_a_stream(words: list[str]) -> None:
    done = CliRunner().invoke(main, [*words, "--private", "test"])
    assert done.exit_code == 2
    assert "--private needs --stream" in done.output


def test_an_unknown_part_is_refused(words: list[str]) -> None:
    done = CliRunner().invoke(main, [*words, "--stream", "--private", "train,test"])
    assert done.exit_code == 2
    assert "found 'train', allowed are test, validation and none" in done.output


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("none", ()),
        ("test", ("test",)),
        ("test,validation", ("test", "validation")),
        ("test,test", ("test",)),
    ],
)
def test_private_parts_are_named_with_commas(text: str, parts: tuple[str, ...]) -> None:
    assert private_parts(text) == parts


def test_no_part_at_all_is_refused() -> None:
    with pytest.raises(click.UsageError, match="found ''"):
        private_parts("")


def test_a_part_of_no_model_is_refused(words: list[str]) -> None:
    done = CliRunner().invoke(main, [*words, "--partial"])
    assert done.exit_code == 2
    assert "--partial needs --from" in done.output


def test_a_job_with_frozen_nodes_begins_from_a_model(tmp_path: Path) -> None:
    graph = small_graph()
    nodes = tuple(replace(node, tuning=Frozen()) if node.id == "dense" else node for node in graph.nodes)
    document = dump_graph(replace(graph, nodes=nodes))
    checks = BackendChecks()
    with pytest.raises(JobRefusedError, match="need the weights of a model: --from MODEL"):
        checks.check_start(document, None)
    other = tmp_path / "base.cyxmodel"
    other.write_bytes(b"PK no model")
    with pytest.raises(JobRefusedError, match=r"base\.cyxmodel is no \.cyxmodel to begin from"):
        checks.check_start(document, other)
    fitted = fit(graph, write_samples(tmp_path / "data.safetensors"))
    write_cyxmodel(other, fitted.model)
    checks.check_start(document, other)
    checks.check_start(dump_graph(graph), None)


def test_what_a_peer_does_otherwise_than_the_graph_says_is_told(tmp_path: Path) -> None:
    graph = tmp_path / "graph.json"
    text = '{"format_version": 2, "nodes": [], "links": [], "training": %s}'
    graph.write_text(text % '{"patience": 3, "keep": "best"}')
    assert [note.partition(" ")[0] for note in notes_on(graph, ())] == ["patience"]
    assert [note.partition(" ")[0] for note in notes_on(graph, ("validation",))] == ["patience", "keep"]
    graph.write_text(text % "{}")
    assert notes_on(graph, ("validation",)) == []
