"""``cyxwiz nodes`` and ``cyxwiz node`` tell what a graph can be made of, at once and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from backend.catalogue import CATALOGUE
from backend.graph import Graph
from backend.serialize import graph_from_document
from backend.validate import diagnose
from engine_app.cli import main
from engine_app.nodes import example_of

ROOT = Path(__file__).parents[3]


def answer(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_all_types_are_listed_with_what_a_program_needs() -> None:
    found = json.loads(answer("nodes", "--json"))
    assert [each["name"] for each in found] == list(CATALOGUE)
    assert len(found) == 111
    for each in found:
        assert {"name", "category", "parameters", "formats"} <= each.keys()


def test_a_search_finds_by_word_and_category() -> None:
    names = [each["name"] for each in json.loads(answer("nodes", "--search", "rope", "--json"))]
    assert names == ["RotaryEmbedding"]
    losses = json.loads(answer("nodes", "--category", "losses", "--json"))
    assert len(losses) == 10
    assert "Conv2D" in answer("nodes", "--search", "CNN filter")


def test_a_node_is_explained_and_a_misspelt_one_guessed() -> None:
    text = answer("node", "llamablock")
    for word in ("kv_heads", "integer from 1 to 1024", "(steps, features)", "gguf", "example"):
        assert word in text
    result = CliRunner().invoke(main, ["node", "Conv2d2"])
    assert result.exit_code == 1
    assert "did you mean Conv2D" in result.output


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_every_example_is_a_piece_of_a_graph(name: str) -> None:
    answer("node", name)
    piece = example_of(CATALOGUE[name])
    graph: Graph = graph_from_document({"format_version": 2, **piece})
    texts = [each.text for each in diagnose(graph, for_training=False) if each.node_id == name.lower()]
    # All that is missing is what comes before and after.
    assert not [text for text in texts if "which does not exist" not in text and "depend" not in text]


def test_the_catalogue_is_listed_without_a_runtime() -> None:
    code = (
        "import sys; from engine_app.nodes import list_nodes; list_nodes(None, None, True)\n"
        "heavy = [name for name in ('torch', 'numpy', 'trio', 'libp2p') if name in sys.modules]\n"
        "print(heavy, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stderr.strip() == "[]"
