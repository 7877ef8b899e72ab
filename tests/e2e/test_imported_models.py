"""Real models of others as graphs: SmolLM2-135M as llama.cpp answers, MiniLM as onnxruntime does."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from shutil import copyfile

import pytest
import real_models

from backend.formats.cyxmodel import inspect_cyxmodel
from backend.importing.messages import ImportModel
from backend.importing.run import import_model
from backend.serialize import load_graph

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_smollm2_becomes_a_graph_of_the_same_answers(tmp_path: Path) -> None:
    folder = real_models.find_model("smollm2-135m")
    if folder is None or importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("SmolLM2 or llama-cpp-python is not here: scripts/test fetches both")
    copyfile(folder / "smollm2-135m.gguf", tmp_path / "m.gguf")
    answer, certificate = import_model(ImportModel(("m.gguf",)), tmp_path, lambda stage: None)
    assert certificate is not None
    assert certificate.verdict == "within tolerance"
    assert certificate.argmax_agreement == 1.0
    graph = load_graph(inspect_cyxmodel(tmp_path / answer.file).graph)
    assert graph.node("blocks").parameters["times"] == 30


def test_minilm_becomes_a_graph_of_the_same_answers(tmp_path: Path) -> None:
    folder = real_models.find_model("minilm")
    if folder is None:
        pytest.skip("MiniLM is not here: scripts/test fetches it")
    (found,) = folder.glob("*.onnx")
    copyfile(found, tmp_path / "m.onnx")
    order = ImportModel(("m.onnx",), sizes={"sequence": 16})
    answer, certificate = import_model(order, tmp_path, lambda stage: None)
    assert certificate is not None
    assert certificate.verdict == "within tolerance"
    summary = inspect_cyxmodel(tmp_path / answer.file)
    types = Counter(node.type for node in load_graph(summary.graph).nodes)
    assert types["Dense"] == 36
    assert types["LayerNorm"] == 13
    assert types["OnnxOperator"] < 40
