from __future__ import annotations

import pytest

from backend.facts import DataFacts
from backend.graph import Graph, Node
from engine_app.document.apply import apply
from engine_app.document.commands import fitted_to
from engine_app.document.errors import EditError

DIGITS = DataFacts(1797, (1, 8, 8), "float32", 10)


def graph(*nodes: Node) -> Graph:
    return Graph("g", nodes=nodes)


def test_dataset_and_only_input_become_as_the_data_is() -> None:
    before = graph(Node("data", "DatasetInput"), Node("in", "Input"))
    after = apply(before, fitted_to(before, DIGITS))
    assert after.node("data").parameters == {"sample_shape": [1, 8, 8], "classes": 10}
    assert after.node("in").parameters == {"shape": [1, 8, 8]}


def test_several_inputs_keep_their_shapes() -> None:
    before = graph(Node("data", "DatasetInput"), Node("in", "Input"), Node("in2", "Input"))
    after = apply(before, fitted_to(before, DIGITS))
    assert not after.node("in").parameters
    assert not after.node("in2").parameters


def test_a_graph_that_fits_has_nothing_to_do() -> None:
    before = graph(Node("data", "DatasetInput"), Node("in", "Input"))
    after = apply(before, fitted_to(before, DIGITS))
    with pytest.raises(EditError, match="takes this data as it is"):
        fitted_to(after, DIGITS)


def test_a_graph_without_its_one_dataset_is_told() -> None:
    with pytest.raises(EditError, match="has 0 DatasetInput nodes, must have 1"):
        fitted_to(graph(), DIGITS)
