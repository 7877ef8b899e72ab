"""A model that does not come through as ONNX names the node to blame."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.catalogue.record import TensorType
from backend.compiler import compile_graph
from backend.errors import ExportError
from backend.exporting.blame import lone_nodes, root_cause
from backend.exporting.export import export_model
from backend.exporting.messages import Export, ExportOptions
from backend.graph import Node
from backend.shapes import infer_shapes
from tests.unit.backend.model_files import OUT, chain, door, gpt2, llama, save


@pytest.mark.parametrize("graph", [llama(), gpt2()], ids=["llama", "gpt2"])
def test_each_node_alone_has_the_shapes_that_it_has_in_the_model(graph: object) -> None:
    whole = infer_shapes(graph)  # type: ignore[arg-type]
    seen = []
    for node, alone in lone_nodes(graph):  # type: ignore[arg-type]
        compile_graph(alone)
        found = infer_shapes(alone).nodes[node.id].outputs
        for port, value in found.items():
            if isinstance(value, TensorType):
                assert value == whole.nodes[node.id].outputs[port]
        seen.append(node.id)
    wanted = [node.id for node in graph.nodes if node.type not in ("Input", "Output")]  # type: ignore[attr-defined]
    assert seen == wanted


def test_a_node_that_is_there_twice_is_tried_once() -> None:
    graph = chain(door(4), Node("a", "ReLU"), Node("b", "ReLU"), Node("c", "Tanh"), OUT)
    assert [node.id for node, _ in lone_nodes(graph)] == ["a", "c"]


def test_the_cause_of_an_error_is_what_is_at_the_bottom() -> None:
    with pytest.raises(RuntimeError) as caught:
        try:
            raise ValueError("\n  no such operator\nmore")
        except ValueError as error:
            raise RuntimeError("export failed") from error
    assert root_cause(caught.value) == "ValueError:   no such operator"


@pytest.mark.slow
def test_a_graph_whose_numbers_run_off_names_the_node_where_they_do(tmp_path: Path) -> None:
    """Rounding of the last digit, and a node for which that digit is everything."""
    graph = chain(
        door(64),
        Node("sum", "Dense", 1, {"units": 32}),
        Node("large", "Lambda", 1, {"expression": "x1 * 3000000"}),
        Node("wave", "Lambda", 1, {"expression": "sin(x1)"}),
        Node("end", "ReLU"),
        OUT,
    )
    save(tmp_path / "m.cyxmodel", graph)
    with pytest.raises(ExportError, match=r"output 'out' differs by .*; node 'wave' \(Lambda\) is the first"):
        export_model(Export("m.cyxmodel", ExportOptions("onnx")), tmp_path, lambda stage: None)
