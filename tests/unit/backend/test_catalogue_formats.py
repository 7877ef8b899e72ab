"""The column of formats in the catalogue against what really happens to each type.

All cases stand side by side in one graph: the exporter's start costs more than a hundred nodes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from backend.catalogue import CATALOGUE
from backend.catalogue.file_formats import ALL_FORMATS, LANGUAGE_MODEL_TYPES, PREPARATIONS
from backend.catalogue.record import MODEL_CATEGORIES, TRAINING_CATEGORIES, Category
from backend.compiler import CompiledModel, compile_graph
from backend.errors import ExportError
from backend.exporting.export import export_model
from backend.exporting.language_model import read_language_model
from backend.exporting.messages import Export, ExportOptions
from backend.exporting.onnx_export import export_onnx
from backend.exporting.runners import Inputs, Outputs, open_onnx_bytes
from backend.exporting.source import answers_of, drawn
from backend.formats.gguf_header import read_gguf_header
from backend.formats.tensor_header import read_tensor_header
from backend.formats.tensors import Array
from backend.graph import Graph, Link, Node
from backend.parity import compare
from backend.pytorch_code import training_source
from backend.serialize import dump_graph, load_graph
from tests.unit.backend.catalogue_cases import CASES, Case, graph_of, small_case
from tests.unit.backend.model_files import gpt2, llama, pipeline, save
from tests.unit.backend.test_catalogue_parameters import training_graph

TRIED = [
    *(small_case(name) for name in sorted({case.type for case in CASES})),
    *(case for case in CASES if case.type in ("AdaptiveAvgPool", "AvgPool2D")),
]
"""Each type once, and those in all their forms that the exporter has no translation for in some."""


@cache
def everything(to: str) -> CompiledModel:
    """A model of all that a format says to hold, each with inputs and outputs of its own."""
    nodes, links = [], []
    for number, case in enumerate(TRIED):
        if to not in CATALOGUE[case.type].formats:
            continue
        graph = graph_of(case)
        nodes += [replace(node, id=f"c{number}_{node.id}") for node in graph.nodes]
        links += [
            replace(
                link, source_node=f"c{number}_{link.source_node}", target_node=f"c{number}_{link.target_node}"
            )
            for link in graph.links
        ]
    compiled = compile_graph(Graph("everything", tuple(nodes), tuple(links)))
    compiled.module.eval()
    return compiled


def case_of(output: str) -> Case:
    return TRIED[int(output.split("_")[0][1:])]


def inputs_of(compiled: CompiledModel, samples: int) -> dict[str, Array]:
    return {end.name: drawn(end, samples, number) for number, end in enumerate(compiled.inputs)}


def differing(compiled: CompiledModel, inputs: Inputs, answers: Outputs) -> dict[str, float]:
    """By type, what is further off than numbers of single precision have to be."""
    ours = answers_of(compiled.module, inputs)
    found: dict[str, float] = {}
    for name, mine, theirs in zip(compiled.output_names, ours, answers, strict=True):
        parity = compare(name, mine, theirs)
        if parity.max_difference > 1e-5 * max(1.0, parity.largest_value):
            found[case_of(name).type] = parity.max_difference
    return found


@pytest.mark.slow
def test_onnxruntime_answers_the_same_for_every_type_that_says_onnx() -> None:
    compiled = everything("onnx")
    run, _ = open_onnx_bytes(export_onnx(compiled.module, compiled.inputs, compiled.outputs, {}))
    for samples in (1, 5):
        inputs = inputs_of(compiled, samples)
        assert differing(compiled, inputs, run(inputs)) == {}


def test_every_record_says_why_a_format_cannot_hold_it() -> None:
    for record in CATALOGUE.values():
        assert {"cyxmodel"} < record.formats <= ALL_FORMATS
        for missing in ALL_FORMATS - record.formats:
            assert record.format_notes.get(missing), f"{record.name}: {missing}"


def test_every_type_of_a_model_is_tried() -> None:
    tried = {case.type for case in TRIED} | {"Input"}
    assert tried == {name for name, record in CATALOGUE.items() if record.category in MODEL_CATEGORIES}


def test_what_files_with_a_graph_say_to_hold_of_a_training_comes_back(tmp_path: Path) -> None:
    save(tmp_path / "m.cyxmodel", pipeline())
    for to, read in (("safetensors", safetensors_graph), ("gguf", gguf_graph)):
        order = Export("m.cyxmodel", ExportOptions(to))  # type: ignore[arg-type]
        export_model(order, tmp_path, lambda stage: None)
        assert load_graph(read(tmp_path / f"export.{to}")) == load_graph(dump_graph(pipeline()))


def safetensors_graph(path: Path) -> bytes:
    with path.open("rb") as file:
        return read_tensor_header(file, path.stat().st_size).metadata["cyxwiz.graph"].encode()


def gguf_graph(path: Path) -> bytes:
    return str(read_gguf_header(path).metadata["cyxwiz.graph"]).encode()


def test_types_that_llama_cpp_runs_are_those_of_a_language_model() -> None:
    for graph in (llama(), gpt2()):
        read_language_model(graph)
        assert {node.type for node in graph.nodes} <= LANGUAGE_MODEL_TYPES


@pytest.mark.slow
@pytest.mark.parametrize("to", ["cyxmodel", "safetensors", "gguf", "pytorch"])
def test_every_type_is_the_same_after_a_way_through_a_file(to: str, tmp_path: Path) -> None:
    save(tmp_path / "m.cyxmodel", everything(to).graph)
    order = Export("m.cyxmodel", ExportOptions(to))  # type: ignore[arg-type]
    _, certificate = export_model(order, tmp_path, lambda stage: None)
    assert len(certificate.outputs) == len(everything(to).outputs)
    assert {
        output.name: output.max_difference for output in certificate.outputs if output.max_difference
    } == {}


REFUSED = [
    (name, to)
    for name, record in CATALOGUE.items()
    if record.category in MODEL_CATEGORIES
    for to in sorted(ALL_FORMATS - record.formats)
]


@pytest.mark.parametrize(("name", "to"), REFUSED)
def test_a_format_that_cannot_hold_a_node_refuses_it_by_its_id(name: str, to: str, tmp_path: Path) -> None:
    save(tmp_path / "m.cyxmodel", graph_of(small_case(name)))
    order = Export("m.cyxmodel", ExportOptions(to))  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=rf"node 'node' \({name}\): "):
        export_model(order, tmp_path, lambda stage: None)
    assert not (tmp_path / f"export.{to}").exists()


def test_some_format_refuses_some_node() -> None:
    assert ("OnnxOperator", "gguf") in REFUSED


def encoding(name: str) -> Graph:
    """A pipeline with this in it in the place of its Normalize, on samples that it takes."""
    graph = pipeline()
    ids = {"vocabulary": 256} if name == "OneHotEncode" else {}
    given = {"sample_shape": [6], "classes": 3, **ids}
    changed = {
        "normalize": (name, {}),
        "data": ("DatasetInput", given),
        "flat": ("Embedding", {"vocabulary": 256}),
    }
    nodes = [
        replace(node, type=changed[node.id][0], parameters=changed[node.id][1])
        if node.id in changed
        else node
        for node in graph.nodes
    ]
    nodes += [Node("flatten", "Flatten")]
    links = [link for link in graph.links if link.target_node != "dense"]
    links += [Link("flat", "output", "flatten", "input"), Link("flatten", "output", "dense", "input")]
    if name == "OneHotEncode":
        nodes = [replace(node, type="MSELoss") if node.id == "loss" else node for node in nodes]
    return replace(graph, nodes=tuple(nodes), links=tuple(links))


AROUND = [
    name
    for name, record in CATALOGUE.items()
    if record.category in TRAINING_CATEGORIES or record.category is Category.DATA
]
"""What is around a model: data, losses, optimizers, schedules, penalties."""


@pytest.mark.slow
@pytest.mark.parametrize("name", AROUND)
def test_what_is_around_a_model_is_held_as_the_column_says(name: str, tmp_path: Path) -> None:
    graph = encoding(name) if name in ("OneHotEncode", "Tokenize") else training_graph(name, {})
    assert name in {node.type for node in graph.nodes}
    save(tmp_path / "m.cyxmodel", graph)
    for to, read in (("safetensors", safetensors_graph), ("gguf", gguf_graph)):
        assert to in CATALOGUE[name].formats
        _, certificate = export_model(
            Export("m.cyxmodel", ExportOptions(to)),  # type: ignore[arg-type]
            tmp_path,
            lambda stage: None,
        )
        assert certificate.verdict == "equal"
        assert load_graph(read(tmp_path / f"export.{to}")) == load_graph(dump_graph(graph))
    compile(training_source(graph), "train.py", "exec")
    assert ("onnx" in CATALOGUE[name].formats) == (name in PREPARATIONS)
