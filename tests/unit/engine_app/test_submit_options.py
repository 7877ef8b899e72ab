from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

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


def test_a_job_does_not_begin_from_a_model(words: list[str]) -> None:
    done = CliRunner().invoke(main, [*words, "--from", "base.cyxmodel"])
    assert done.exit_code == 2
    assert "cyxwiz train --from" in done.output


def test_a_job_with_frozen_nodes_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    graph = small_graph()
    nodes = tuple(replace(node, tuning=Frozen()) if node.id == "dense" else node for node in graph.nodes)
    document = dump_graph(replace(graph, nodes=nodes))
    data = write_samples(tmp_path / "data.safetensors")
    for name in ("job", "here"):
        (tmp_path / name).mkdir()
    with pytest.raises(JobRefusedError, match="need the weights of a model"):
        BackendChecks().prepare(document, data, tmp_path / "job")
    assert BackendChecks(here=True).prepare(document, data, tmp_path / "here").parameters > 0


def test_what_a_peer_does_otherwise_than_the_graph_says_is_told(tmp_path: Path) -> None:
    graph = tmp_path / "graph.json"
    text = '{"format_version": 2, "nodes": [], "links": [], "training": %s}'
    graph.write_text(text % '{"patience": 3, "keep": "best"}')
    assert [note.partition(" ")[0] for note in notes_on(graph, ())] == ["patience"]
    assert [note.partition(" ")[0] for note in notes_on(graph, ("validation",))] == ["patience", "keep"]
    graph.write_text(text % "{}")
    assert notes_on(graph, ("validation",)) == []
