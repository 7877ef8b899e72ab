"""The graphs that come with the project are ready to be trained, and say what they are about."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.serialize import load_graph
from backend.validate import diagnose

EXAMPLES = Path(__file__).parents[2] / "scripts" / "examples"
GRAPHS = sorted(EXAMPLES.glob("*.json"))


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_an_example_graph_has_nothing_to_complain_about(path: Path) -> None:
    assert [str(each) for each in diagnose(load_graph(path.read_bytes()))] == []


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_an_example_graph_is_in_the_table_of_results(path: Path) -> None:
    assert f"`{path.name}`" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
