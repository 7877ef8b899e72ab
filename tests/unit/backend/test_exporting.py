"""Exports that need no ONNX: written, run again and compared."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from backend.errors import ExportError
from backend.exporting.export import export_model
from backend.exporting.gguf_export import write_language_model
from backend.exporting.language_model import read_language_model
from backend.exporting.messages import Export, ExportOptions, Stage
from backend.exporting.runners import open_gguf_weights
from backend.exporting.source import answers_of, choose_inputs, load_source, served_module
from backend.formats.cyxmodel import Normalization, read_cyxmodel
from backend.formats.gguf_header import read_gguf_header
from backend.formats.sniff import ModelFormat, sniff
from backend.formats.tensors import pack_tensors
from backend.graph import Graph, Node
from backend.parity import Certificate
from backend.runtime.base import load_model
from tests.unit.backend.model_files import OUT, chain, door, gpt2, image_model, llama, pipeline, save


def exported(folder: Path, **options: object) -> tuple[Path, str, Certificate]:
    order = Export("m.cyxmodel", msgspec.convert(options, ExportOptions))
    answer, certificate = export_model(order, folder, lambda stage: None)
    return folder / answer.file, answer.about, certificate


def test_stages_are_told_in_order(tmp_path: Path) -> None:
    save(tmp_path / "m.cyxmodel", image_model())
    stages: list[Stage] = []
    export_model(Export("m.cyxmodel", ExportOptions("safetensors")), tmp_path, stages.append)
    assert [(stage.number, stage.total) for stage in stages] == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("to", "sniffed"),
    [
        ("cyxmodel", ModelFormat.CYXMODEL),
        ("safetensors", ModelFormat.SAFETENSORS),
        ("gguf", ModelFormat.GGUF),
        ("pytorch", ModelFormat.UNKNOWN),
    ],
)
def test_an_export_answers_bit_for_bit_the_same(tmp_path: Path, to: str, sniffed: ModelFormat) -> None:
    save(tmp_path / "m.cyxmodel", image_model())
    path, _, certificate = exported(tmp_path, format=to)
    assert sniff(path) is sniffed
    assert certificate.verdict == "equal"
    assert certificate.argmax_agreement == 1.0
    assert certificate.batches == (1, 7, 56)


def test_an_export_as_cyxmodel_leaves_the_optimizer_behind(tmp_path: Path) -> None:
    save(tmp_path / "m.cyxmodel", image_model())
    path, about, _ = exported(tmp_path, format="cyxmodel")
    assert read_cyxmodel(path).optimizer is None
    assert "not trained on" in about


@pytest.mark.parametrize(("kind", "below"), [("f16", 1e-3), ("q8_0", 0.05)])
def test_a_container_may_be_rounded(tmp_path: Path, kind: str, below: float) -> None:
    save(tmp_path / "m.cyxmodel", gpt2(causal=False))
    path, about, certificate = exported(tmp_path, format="gguf", tensor_type=kind)
    assert about.startswith("GGUF tensor container for CyxWiz, which llama.cpp refuses: ")
    assert read_gguf_header(path).architecture == "cyxwiz"
    assert 0 < certificate.max_difference < below
    assert certificate.verdict == "within tolerance"


@pytest.mark.parametrize("graph", [llama(), gpt2()], ids=["llama", "gpt2"])
def test_weights_of_a_language_model_come_back_from_its_file(tmp_path: Path, graph: Graph) -> None:
    """What is compared where llama.cpp is not installed."""
    source = load_source(save(tmp_path / "m.cyxmodel", graph))
    model = read_language_model(graph)
    write_language_model(tmp_path / "m.gguf", model, source.model.weights, "f32", source.model.graph, {})
    assert read_gguf_header(tmp_path / "m.gguf").architecture == model.architecture
    inputs, _ = choose_inputs(source, None, raw=False, limit=3)
    run, _ = open_gguf_weights(tmp_path / "m.gguf", model, source.model.graph)
    assert np.array_equal(run(inputs)[0], answers_of(source.compiled.module, inputs)[0])


def test_an_export_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    """Weights so small that half precision rounds them coarsely, and a norm that brings that to light."""
    graph = chain(
        door(64),
        Node("dense", "Dense", 1, {"units": 8, "bias": False}),
        Node("norm", "LayerNorm", 1, {"affine": False, "epsilon": 1e-12}),
        OUT,
    )
    save(tmp_path / "m.cyxmodel", graph, factor=3e-6)
    with pytest.raises(ExportError, match=r"gguf: output 'out' differs by .* allowed is 0.02 of"):
        exported(tmp_path, format="gguf", tensor_type="f16")


SCALING = Normalization((1.0, -2.0), (0.5, 4.0))


def test_preprocessing_in_front_of_a_model_is_what_the_runtime_does(tmp_path: Path) -> None:
    path = save(tmp_path / "m.cyxmodel", pipeline(), SCALING)
    source = load_source(path)
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    (ours,) = answers_of(served_module(source), {"input": x})
    runtime = load_model(path, "cpu")
    (theirs,) = runtime.run({runtime.inputs[0].name: x}).values()
    assert np.array_equal(ours, theirs)


def test_inputs_are_drawn_as_training_saw_them(tmp_path: Path) -> None:
    source = load_source(save(tmp_path / "m.cyxmodel", pipeline(), SCALING))
    raw, facts = choose_inputs(source, None, raw=True)
    prepared, _ = choose_inputs(source, None, raw=False)
    assert facts.source == "drawn from seed 0"
    assert np.abs(raw["input"].mean((0, 2)) - SCALING.offset).max() < 1
    assert np.abs(prepared["in"].std((0, 2)) - 1).max() < 0.3


def test_inputs_are_taken_from_data(tmp_path: Path) -> None:
    source = load_source(save(tmp_path / "m.cyxmodel", pipeline(), SCALING))
    x = np.random.default_rng(0).standard_normal((9, 2, 3)).astype(np.float32)
    (tmp_path / "d").write_bytes(pack_tensors({"x": x, "y": np.zeros(9, np.int64)}))
    found, facts = choose_inputs(source, tmp_path / "d", raw=True)
    assert np.array_equal(found["input"], x)
    assert (facts.samples, facts.source) == (9, "the data file's first samples")
