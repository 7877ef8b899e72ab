"""SmolLM2-135M, as others made it, becomes a graph that answers as llama.cpp does."""

from __future__ import annotations

import importlib.util
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
