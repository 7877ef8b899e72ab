"""Folders of Hugging Face's transformers as graphs: only what is a llama or a GPT-2 to the letter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.errors import ModelImportError
from backend.formats.cyxmodel import read_cyxmodel
from backend.formats.model_folder import read_model_folder
from backend.importing.language_folder import in_words_of_gguf, read_config
from backend.importing.messages import ImportModel
from backend.importing.run import import_model
from backend.inspection import inspect
from backend.runtime.base import load_model
from tests.unit.backend.language_folders import (
    GPT2,
    LLAMA,
    STEPS,
    VOCABULARY,
    Weights,
    gpt2_answers,
    gpt2_weights,
    llama_answers,
    llama_weights,
    write_folder,
)

IDS = torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (3, STEPS)))


def taken_over(folder: Path, *, tokenizer: bool = False) -> Path:
    files = []
    for number, path in enumerate(read_model_folder(folder).headers):
        files.append(f"weights-{number}.safetensors")
        if path.name != files[-1]:
            shutil.copy(path, folder / files[-1])
    kept = "tokenizer.json" if tokenizer else None
    order = ImportModel(tuple(files), config="config.json", tokenizer=kept)
    answer, certificate = import_model(order, folder, lambda stage: None)
    assert (
        certificate is None or certificate.verdict == "within tolerance"
    )  # there is no llama.cpp everywhere
    return folder / answer.file


def answers(path: Path) -> np.ndarray[Any, Any]:
    runtime = load_model(path, "cpu")
    (found,) = runtime.run({runtime.inputs[0].name: IDS.numpy()}).values()
    return found


def tied(weights: Weights) -> Weights:
    return {name: values for name, values in weights.items() if name != "lm_head.weight"}


def halved(weights: Weights) -> Weights:
    return {name: values.bfloat16() for name, values in weights.items()}


@pytest.mark.parametrize(
    ("change", "files"),
    [
        (halved, 3),
        pytest.param(dict, 1, marks=pytest.mark.slow),
        pytest.param(tied, 2, marks=pytest.mark.slow),
    ],
)
def test_a_llama_answers_as_transformers_does(tmp_path: Path, files: int, change: Any) -> None:
    weights = change(llama_weights())
    path = taken_over(write_folder(tmp_path / "m", LLAMA, weights, files))
    assert np.allclose(answers(path), llama_answers(weights, IDS), atol=1e-4)


@pytest.mark.parametrize("prefix", ["transformer.", pytest.param("", marks=pytest.mark.slow)])
def test_a_gpt2_answers_as_transformers_does(tmp_path: Path, prefix: str) -> None:
    weights = {name.replace("transformer.", prefix): values for name, values in gpt2_weights().items()}
    path = taken_over(write_folder(tmp_path / "m", GPT2, weights))
    assert np.allclose(answers(path), gpt2_answers(weights, IDS), atol=1e-4)


def test_the_tokenizer_beside_it_is_kept(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", LLAMA, llama_weights())
    (folder / "tokenizer.json").write_text('{"model": {}}')
    assert read_cyxmodel(taken_over(folder, tokenizer=True)).notes.tokenizer == '{"model": {}}'
    assert inspect(folder).runs_in == "cyxwiz import, as a graph"


@pytest.mark.slow
def test_older_files_say_the_base_of_rotation_elsewhere(tmp_path: Path) -> None:
    config = {**LLAMA, "rope_theta": 500.0, "rope_scaling": None}
    del config["rope_parameters"]
    weights = llama_weights()
    path = taken_over(write_folder(tmp_path / "m", config, weights))
    assert np.allclose(answers(path), llama_answers(weights, IDS), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
            "rope_type is 'llama3', taken over is 'default'",
        ),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', taken over is 'silu'"),
        ({"head_dim": 8}, "head_dim is 8, taken over is 4"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 3}, "without tensor|speaks of"),
        ({"num_hidden_layers": 1 << 20}, "block_count"),
        ({"num_attention_heads": 3}, "must be rows for 3 heads|head_dim"),
        ({"intermediate_size": 25}, "speaks of"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta"),
        ({"model_type": "qwen2"}, "needs none"),
    ],
)
def test_what_is_something_else_is_refused(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    settings: dict[str, Any] = {**LLAMA, **config}
    if "rope_scaling" in config:
        del settings["rope_parameters"]
    with pytest.raises(ModelImportError, match=reason):
        taken_over(write_folder(tmp_path / "m", settings, llama_weights()))


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({"model_type": "llama", "sliding_window": 4}, 32_768),
        ({"model_type": "mistral", "sliding_window": 4}, 4),
        ({"model_type": "mistral", "sliding_window": None}, 32_768),
        ({"model_type": "mistral"}, 4096),
    ],
)
def test_a_model_with_windows_is_taken_over_as_far_as_one_goes(config: dict[str, Any], steps: int) -> None:
    """What is left out is as transformers' MistralConfig has it."""
    settings = {**LLAMA, "max_position_embeddings": 32_768, **config}
    metadata, _ = in_words_of_gguf(settings, {})
    assert metadata["llama.context_length"] == steps


def test_a_mistral_that_does_not_say_so_has_eight_heads_of_keys() -> None:
    settings = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
    metadata, _ = in_words_of_gguf({**settings, "model_type": "mistral"}, {})
    assert metadata["llama.attention.head_count_kv"] == 8


def test_a_huge_config_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ModelImportError, match=r"config\.json of 1073741824 bytes, limit 16777216"):
        read_config(tmp_path / "config.json")


def test_a_head_that_the_config_ties_counts_for_nothing(tmp_path: Path) -> None:
    weights = llama_weights()
    path = taken_over(write_folder(tmp_path / "m", {**LLAMA, "tie_word_embeddings": True}, weights))
    assert np.allclose(answers(path), llama_answers(tied(weights), IDS), atol=1e-4)


def test_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    config = {**LLAMA, "architectures": ["LlamaModel"], "tie_word_embeddings": False}
    with pytest.raises(ModelImportError, match=r"no lm_head\.weight"):
        taken_over(write_folder(tmp_path / "m", config, tied(llama_weights())))


def test_a_tensor_too_many_is_named(tmp_path: Path) -> None:
    weights = llama_weights() | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(16)}
    with pytest.raises(ModelImportError, match=r"tensor 'blk.0.attn_q.bias', which a llama has not"):
        taken_over(write_folder(tmp_path / "m", LLAMA, weights))


def test_a_config_that_is_no_json_leaves_weights_without_a_graph(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", LLAMA, llama_weights())
    shutil.copy(folder / "model.safetensors", folder / "w.safetensors")
    for text in ("[" * 100_000, json.dumps(["llama"]), "{"):
        (folder / "config.json").write_text(text)
        with pytest.raises(ModelImportError, match="--graph names the one"):
            import_model(ImportModel(("w.safetensors",), config="config.json"), folder, lambda stage: None)
