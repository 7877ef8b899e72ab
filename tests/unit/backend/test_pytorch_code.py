"""Generated modules: the whole catalogue gives the numbers that our own modules give, with our weights."""

from __future__ import annotations

import ast
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from backend.catalogue import CATALOGUE
from backend.catalogue.record import MODEL_CATEGORIES
from backend.compiler import CompiledModel, compile_graph, module_name
from backend.errors import GraphInvalidError
from backend.graph import Body, Graph, Link, Node
from backend.pytorch_code import model_source, renamed_weights
from backend.pytorch_code.layers import WRITERS
from backend.pytorch_code.names import RESERVED, is_kept
from backend.pytorch_code.text import Code, literal
from tests.unit.backend.catalogue_cases import CASES, Case, graph_of, small_case

WRITTEN = [case for case in CASES if case.type != "OnnxOperator"]
RECURRENT = {"RNN", "LSTM", "GRU", "Bidirectional"}


def run(source: str) -> dict[str, object]:
    """The names that a generated file defines, as any Python without CyxWiz would."""
    assert "backend" not in source
    module = ModuleType("generated")
    sys.modules["generated"] = module
    exec(compile(source, "generated.py", "exec"), module.__dict__)
    return module.__dict__


def module_of(source: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = run(source)["Model"]
    assert isinstance(model, type) and issubclass(model, torch.nn.Module)
    return model()


def inputs_of(compiled: CompiledModel) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randint(end.ids, (4, *end.shape), generator=generator)
        if end.ids
        else torch.randn(4, *end.shape, generator=generator)
        for end in compiled.inputs
    ]


def answers(module: torch.nn.Module, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(5)  # Of dropout: both draw the same in the same order.
    answer = module(*inputs)
    return answer if isinstance(answer, tuple) else (answer,)


def test_there_is_a_writer_for_every_type_of_a_model() -> None:
    expected = {
        name
        for name, record in CATALOGUE.items()
        if record.category in MODEL_CATEGORIES and "pytorch" in record.formats
    }
    assert set(WRITERS) == expected - {"Input"}
    assert {case.type for case in WRITTEN} == set(WRITERS)


def test_what_torch_has_not_is_refused_by_its_node() -> None:
    with pytest.raises(GraphInvalidError, match=r"node.*only onnxruntime computes, and torch does not"):
        model_source(graph_of(small_case("OnnxOperator")))


@pytest.mark.parametrize("case", WRITTEN, ids=str)
def test_the_generated_module_is_the_compiled_one(case: Case) -> None:
    """The same initial weights from the seed, the same names, the same numbers in training and after."""
    graph = graph_of(case)
    compiled = compile_graph(graph)
    module = module_of(model_source(graph))
    renamed = renamed_weights(graph)
    own = {
        ".".join(renamed.get(part, part) for part in name.split(".")): value
        for name, value in compiled.module.state_dict().items()
    }
    assert own.keys() == module.state_dict().keys()
    assert all(torch.equal(value, own[name]) for name, value in module.state_dict().items())
    inputs = inputs_of(compiled)
    for training in (True, False):
        expected = answers(compiled.module.train(training), inputs)
        found = answers(module.train(training), inputs)
        assert len(expected) == len(found)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


def test_weights_of_nodes_with_odd_ids_load_by_the_mapping(tmp_path: Path) -> None:
    nodes = (
        Node("in put", "Input", 1, {"shape": [3]}),
        Node("train", "Dense", 1, {"units": 2}),
        Node("2 ünits", "Dense", 1, {"units": 2}),
        Node("out", "Output"),
    )
    chain = [node.id for node in nodes]
    links = tuple(Link(a, "output", b, "input") for a, b in pairwise(chain))
    graph = Graph("odd", nodes, links)
    compiled = compile_graph(graph)
    save_file(compiled.module.state_dict(), tmp_path / "weights.safetensors")
    found = run(model_source(graph))
    model = found["Model"]()  # type: ignore[operator]
    found["load_weights"](model, str(tmp_path / "weights.safetensors"))  # type: ignore[operator]
    x = torch.randn(5, 3)
    assert torch.equal(model(x), compiled.module(x))
    assert {"train_layer", "layer_2_nits"} <= dict(model.named_modules()).keys()


def test_no_layer_hides_an_attribute_of_a_module() -> None:
    public = {name for name in dir(torch.nn.Module()) if not name.startswith("_")}
    assert public <= RESERVED
    assert all(module_name(name) == name for name in ("conv1", "input", "sum") if is_kept(name))


def test_code_is_readable() -> None:
    graph = graph_of(small_case("Conv2D"))
    source = model_source(graph)
    assert "        self.node = nn.Conv2d(2, 2, 3)\n" in source
    assert "        node = self.node(x0)  # (N, 2, 2, 2)\n" in source


def test_helpers_are_written_only_where_they_are_used() -> None:
    assert "class " not in model_source(graph_of(small_case("Dense"))).replace("class Model(", "")
    assert "class LlamaBlock" in model_source(graph_of(small_case("LlamaBlock")))


def test_a_graph_with_errors_is_refused() -> None:
    with pytest.raises(GraphInvalidError):
        model_source(Graph("empty"))


# -- hostile text --------------------------------------------------------------------------------

HOSTILE = st.one_of(
    st.text(min_size=1, max_size=40),
    st.sampled_from(
        [
            '"""\nimport os\nos.abort()\n"""',
            "x\nimport os",
            "a; import os",
            "__import__('os')",
            "self",
            "torch",
            "forward",
            "__init__",
            "None",
            "\\",
            "'",
            "{x}",
            "#\r\nimport os",
            "ﬁx",
            "node_x61",
            "load_weights",
            "Model",
            "\u2028import os",
        ]
    ),
)


def shape_of(source: str) -> str:
    """The tree of a file with its names, strings and comments left out."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, str):
                setattr(node, field, "_")
    return ast.dump(tree)


def hostile_graph(ids: list[str], name: str) -> Graph:
    """A Dense, and another in a body whose ends have the ids of the graph's own."""
    entry, first, group, end, inside = ids
    links = (Link(entry, "output", inside, "input"), Link(inside, "output", end, "input"))
    body = Body((Node(entry, "Input"), Node(inside, "Dense", 1, {"units": 3}), Node(end, "Output")), links)
    nodes = (
        Node(entry, "Input", 1, {"shape": [4]}),
        Node(first, "Dense", 1, {"units": 4}),
        Node(group, "Subgraph", 1, {}, body=body),
        Node(end, "Output"),
    )
    chain = tuple(Link(ids[n], "output", ids[n + 1], "input") for n in range(3))
    return Graph(name, nodes, chain)


@settings(max_examples=60, deadline=None)
@given(st.lists(HOSTILE, min_size=5, max_size=5, unique=True), HOSTILE)
def test_no_text_of_a_graph_becomes_code(ids: list[str], name: str) -> None:
    """Whatever its ids and its name: the same statements, with other identifiers and strings."""
    plain = model_source(hostile_graph(["in_a", "b", "c", "d", "e"], "plain"))
    source = model_source(hostile_graph(ids, name))
    head, _, _ = source.partition("RENAMED = {")
    assert shape_of(head).count("ImportFrom") - shape_of(plain).count("ImportFrom") in (0, 1)
    classes = [node for node in ast.parse(head).body if isinstance(node, ast.ClassDef)]
    expected = [node for node in ast.parse(plain).body if isinstance(node, ast.ClassDef)]
    assert [shape_of(ast.unparse(node)) for node in classes] == [
        shape_of(ast.unparse(node)) for node in expected
    ]
    kinds = {type(node) for node in ast.parse(head).body}
    assert kinds <= {ast.Expr, ast.Import, ast.ImportFrom, ast.ClassDef}
    module_of(source)(torch.zeros(2, 4))


@given(st.text(max_size=60))
def test_a_string_literal_is_that_string(text: str) -> None:
    assert ast.literal_eval(literal(text)) == text
    assert literal(Code("x + 1")) == "x + 1"
