"""Source becomes a graph again: what was generated from one, and modules that people write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from backend.checkpoint import restore_weights
from backend.code_import import run as importing
from backend.code_import.run import Imported, import_code
from backend.compiler import compile_graph
from backend.errors import CodeError
from backend.graph import Graph
from backend.pytorch_code import model_source
from backend.serialize import dump_graph, load_graph
from tests.unit.backend.catalogue_cases import CASES, Case, graph_of, small_case
from tests.unit.backend.test_pytorch_code import answers, inputs_of

NOT_TRACED = {"OnnxOperator", "Bidirectional", "TimeDistributed"}
"""Their code turns sequences around and folds steps into the batch: there are no nodes for that alone.

What onnxruntime computes has no code at all.
"""
Shapes = tuple[tuple[int, ...], ...]


@pytest.fixture
def brought_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Imports source, and gives what came out with the module that was followed."""
    kept: list[nn.Module] = []
    find = importing.find_module

    def keep(path: Path, name: str) -> nn.Module:
        kept.append(find(path, name))
        return kept[-1]

    monkeypatch.setattr(importing, "find_module", keep)

    def bring(source: str, *shapes: tuple[int, ...], name: str = "") -> tuple[Imported, nn.Module]:
        path = tmp_path / "code.py"
        path.write_text(source)
        return import_code(path, name, shapes), kept[-1]

    return bring


def check_same_numbers(found: Imported, module: nn.Module) -> Graph:
    """The graph with the weights that came along answers as the module does."""
    graph = load_graph(dump_graph(found.graph))
    compiled = compile_graph(graph)
    restore_weights(compiled.module, {key: value.numpy() for key, value in found.weights.items()})
    inputs = inputs_of(compiled)
    expected, mine = answers(module.eval(), inputs), answers(compiled.module.eval(), inputs)
    assert len(mine) == len(expected)
    for one, other in zip(mine, expected, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-6)
    return graph


@pytest.mark.parametrize("case", [case for case in CASES if case.type not in NOT_TRACED], ids=str)
def test_a_generated_file_becomes_an_equivalent_graph(case: Case, brought_in) -> None:
    graph = graph_of(case)
    compiled = compile_graph(graph)
    found, module = brought_in(model_source(graph), *(end.shape for end in compiled.inputs))
    again = compile_graph(check_same_numbers(found, module))
    assert [end.shape for end in again.outputs] == [end.shape for end in compiled.outputs]
    assert sum(w.numel() for w in again.module.parameters()) == sum(
        w.numel() for w in compiled.module.parameters()
    )


def test_a_generated_file_says_itself_what_it_takes(brought_in) -> None:
    for kind in ("MultiHeadAttention", "Embedding", "PReLU"):
        graph = graph_of(small_case(kind))
        found, module = brought_in(model_source(graph))
        shapes = [node.parameters["shape"] for node in found.graph.nodes if node.type == "Input"]
        assert shapes == [node.parameters["shape"] for node in graph.nodes if node.type == "Input"]
        check_same_numbers(found, module)
    with pytest.raises(CodeError, match="Net does not say what it takes"):
        brought_in(module_source("pass", "return x"))


HEAD = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"


def module_source(init: str, forward: str, arguments: str = "x") -> str:
    made = "".join(f"        {line.strip()}\n" for line in init.split(";"))
    done = "".join(f"        {line.strip()}\n" for line in forward.split(";"))
    return (
        f"{HEAD}class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n{made}"
        f"    def forward(self, {arguments}):\n{done}"
    )


WRITTEN: dict[str, tuple[str, Shapes, set[str]]] = {
    "lenet": (
        module_source(
            "self.a = nn.Conv2d(1, 6, 5, padding=2); self.b = nn.Conv2d(6, 8, 3); self.c = nn.Linear(72, 10)",
            "x = F.max_pool2d(F.relu(self.a(x)), 2); x = F.avg_pool2d(torch.tanh(self.b(x)), 2)"
            "; x = x.view(x.size(0), -1); return F.log_softmax(self.c(x), dim=1)",
        ),
        ((1, 16, 16),),
        {"Conv2D", "MaxPool2D", "AvgPool2D", "Flatten", "Dense", "LogSoftmax"},
    ),
    "residual": (
        module_source(
            "self.a = nn.Conv2d(4, 4, 3, padding='same', bias=False); self.n = nn.BatchNorm2d(4)"
            "; self.act = nn.ReLU(inplace=True); self.gap = nn.AdaptiveAvgPool2d(1)",
            "y = self.act(self.n(self.a(x))); y += x; y = self.gap(y).flatten(1)"
            "; return y, y.mean(1, keepdim=False) if False else y * 2",
        ),
        ((4, 6, 6),),
        {"Add", "BatchNorm", "AdaptiveAvgPool", "Lambda"},
    ),
    "sequential": (
        f"{HEAD}net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.GELU(), nn.Dropout(0.1))",
        ((3, 4),),
        {"Flatten", "Dense", "GELU", "Dropout"},
    ),
    "text": (
        module_source(
            "self.e = nn.Embedding(20, 6, padding_idx=0); self.r = nn.GRU(6, 5, batch_first=True)"
            "; self.o = nn.Linear(5, 2)",
            "states, last = self.r(self.e(x)); return self.o(states[:, -1])",
        ),
        ((7,),),
        {"Embedding", "GRU"},
    ),
    "last state": (
        module_source(
            "self.r = nn.GRU(4, 3, batch_first=True); self.o = nn.Linear(3, 2)",
            "_, last = self.r(x); return self.o(last.squeeze(0))",
        ),
        ((5, 4),),
        {"GRU", "Dense"},
    ),
    "states of two layers and their mean": (
        module_source(
            "self.r = nn.LSTM(4, 3, num_layers=2, batch_first=True)",
            "out, (h, c) = self.r(x)"
            "; return torch.cat([h[-1], out.mean(dim=1), out[:, -1]], dim=1), out.mean(1, keepdim=True)",
        ),
        ((5, 4),),
        {"LSTM", "Slice", "Permute", "GlobalAvgPool", "Concatenate"},
    ),
    "both ways": (
        module_source(
            "self.r = nn.LSTM(4, 3, batch_first=True, bidirectional=True)",
            "out, (h, c) = self.r(x); return out",
        ),
        ((5, 4),),
        {"Bidirectional"},
    ),
    "attention": (
        module_source(
            "self.a = nn.MultiheadAttention(8, 2, batch_first=True); self.n = nn.LayerNorm(8)"
            "; self.p = nn.Parameter(torch.randn(5, 8))",
            "x = x + self.p; y, weights = self.a(x, x, x, need_weights=False); return self.n(x + y)",
        ),
        ((5, 8),),
        {"MultiHeadAttention", "Parameter", "Add", "LayerNorm"},
    ),
    "transformer": (
        module_source(
            "layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, activation='gelu', batch_first=True)"
            "; self.t = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)",
            "return self.t(x)[:, 0]",
        ),
        ((5, 8),),
        {"TransformerEncoder", "Slice", "Squeeze"},
    ),
    "two inputs": (
        module_source(
            "self.a = nn.Linear(3, 4); self.b = nn.Linear(2, 4)",
            "p, q = self.a(x), self.b(y); both = torch.cat([p, q], dim=-1)"
            "; return (torch.sigmoid(p) * q - 0.5 * p ** 2) / (1 + torch.exp(-q)), both.chunk(2, dim=1)[1]",
            "x, y, scale=None",
        ),
        ((3,), (2,)),
        {"Concatenate", "Split", "Multiply", "Lambda"},
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_module_that_people_write_becomes_a_graph(name: str, brought_in) -> None:
    source, shapes, types = WRITTEN[name]
    found, followed = brought_in(source, *shapes)
    graph = check_same_numbers(found, followed)
    assert types <= {node.type for node in graph.nodes}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (module_source("pass", "return torch.cumsum(x, 1)"), "line 9: cumsum: no node stands for it"),
        (
            module_source("pass", "return x.sum(0)"),
            "line 9: sum: its result does not have the batch",
        ),
        (module_source("pass", "return x.permute(1, 0)"), "permute: its result does not have the batch"),
        (module_source("pass", "if x.sum() > 0:; return x"), "cannot be run"),
        (module_source("pass", "y = x if x.sum() > 0 else -x; return y"), r"depends on values.*\(line 9\)"),
        (module_source("self.c = nn.LSTM(3, 2)", "return self.c(x)[0]"), "LSTM c: "),
        (module_source("self.c = nn.Linear(9, 2)", "return self.c(x)"), "does not run on inputs"),
        (
            module_source("self.r = nn.GRU(1, 2, batch_first=True)", "return self.r(x[:, :, None])[1] * 2"),
            r"only the last layer's is supported, as h\[-1\]",
        ),
        (
            module_source(
                "self.r = nn.LSTM(1, 2, batch_first=True)", "return self.r(x[..., None])[1][1][-1] + 1"
            ),
            "of a recurrent layer also its state",
        ),
        (
            module_source("self.c = nn.Bilinear(3, 3, 2)", "return self.c(x, x)"),
            "line 9: Bilinear c: no",
        ),
        (module_source("pass", "return x + x[:, :1]"), r"add: shapes \(3,\) and \(1,\), supported are equal"),
        (
            module_source("self.c = nn.Linear(3, 3)", "return self.c(self.c(x))"),
            "line 9: Linear c: called twice: nodes",
        ),
        (
            module_source(
                "self.a = nn.Linear(3, 3); self.b = nn.Linear(3, 3); self.b.weight = self.a.weight",
                "return x",
            ),
            "a.weight and b.weight are one weight",
        ),
        (
            module_source("self.a = nn.ReLU(inplace=True)", "y = x * 2; self.a(y); return y - 0.5"),
            "answers otherwise than the module",
        ),
        ("x = 1", "defines no subclass"),
        ("raise RuntimeError('no')", "cannot be run: RuntimeError: no"),
        ("import sys; sys.exit(3)", "cannot be run: SystemExit"),
        (HEAD + "class Net(nn.Module):\n    def __init__(self, width): pass\n", "without arguments"),
    ],
)
def test_what_has_no_place_is_named_with_its_line(source: str, told: str, brought_in) -> None:
    with pytest.raises(CodeError) as caught:
        brought_in(source, (3,))
    assert re.search(told, str(caught.value), re.S), caught.value


def test_every_problem_is_told_at_once_with_what_is_supported(brought_in) -> None:
    source = module_source("pass", "a = torch.erf(x); b = torch.cumsum(x, 1); return torch.relu(a) + b")
    with pytest.raises(CodeError) as caught:
        brought_in(source, (3,))
    told = str(caught.value)
    assert told.count("no node stands for it") == 2
    assert "supported modules: AdaptiveAvgPool1d, " in told


def test_a_helper_class_that_was_changed_is_not_taken_for_ours(brought_in) -> None:
    source = model_source(graph_of(small_case("StochasticDepth")))
    found, _ = brought_in(source, (12,))
    assert "StochasticDepth" in {node.type for node in found.graph.nodes}
    with pytest.raises(CodeError):
        brought_in(source.replace("mask.div_(keep)", "mask"), (12,))


def test_inputs_must_be_as_many_as_forward_uses(brought_in) -> None:
    with pytest.raises(CodeError, match=r"forward takes 1 inputs \(x\), shapes of 2"):
        brought_in(module_source("pass", "return x * 2"), (3,), (4,))
