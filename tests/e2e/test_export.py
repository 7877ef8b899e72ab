"""``cyxwiz export`` as a user types it, and its files in the programs that others have."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_network import command

from backend.facts import DataNotes
from backend.formats.cyxmodel import Normalization, read_cyxmodel
from backend.formats.tensors import pack_tensors
from backend.runtime.base import load_model
from backend.serialize import dump_graph
from tests.unit.backend.language_folders import LLAMA, llama_weights, write_folder
from tests.unit.backend.model_files import TOKENS, gpt2, image_model, llama, pipeline, save

pytestmark = pytest.mark.e2e

MOST_S = 240
SCALING = Normalization((1.0, -2.0), (0.5, 4.0))


def start(tmp_path: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    line = [command("cyxwiz"), "--data-dir", str(tmp_path / "engine"), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, text=True, **pipes, **options)


def export(tmp_path: Path, model: Path, to: str, *more: str) -> tuple[Path, dict[str, Any]]:
    output = tmp_path / f"out.{to}"
    process = start(tmp_path, "export", str(model), "--to", to, "-o", str(output), *more, "--json")
    out, errors = process.communicate(timeout=MOST_S)
    assert process.returncode == 0, errors
    *stages, answer = map(json.loads, out.splitlines())
    assert [stage["number"] for stage in stages] == [1, 2, 3, 4]
    certificate = json.loads(Path(answer["certificate"]).read_text())
    assert certificate == answer["parity"]
    return output, answer


def refused(tmp_path: Path, model: Path, to: str, *more: str) -> str:
    output = tmp_path / "out"
    process = start(tmp_path, "export", str(model), "--to", to, "-o", str(output), *more)
    _, errors = process.communicate(timeout=MOST_S)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert not output.exists()
    return errors.strip().splitlines()[-1]


def test_an_onnx_with_preprocessing_answers_raw_samples_in_onnxruntime(tmp_path: Path) -> None:
    import onnxruntime

    model = save(tmp_path / "m.cyxmodel", pipeline(), SCALING)
    x = np.random.default_rng(0).standard_normal((30, 2, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(30) % 3)
    output, answer = export(
        tmp_path, model, "onnx", "--with-preprocessing", "--data", str(tmp_path / "data.npz")
    )
    assert answer["parity"]["verdict"] in ("equal", "within tolerance")
    assert answer["parity"]["inputs"] == {**answer["parity"]["inputs"], "samples": 30}
    assert b"/backend/" not in output.read_bytes()
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    (entry,), (end,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.shape, end.name) == ("input", ["batch", 2, 3], "out")
    runtime = load_model(model, "cpu")
    for count in (1, 30):
        (ours,) = runtime.run({runtime.inputs[0].name: x[:count]}).values()
        (theirs,) = session.run(None, {"input": x[:count]})
        assert np.abs(ours - theirs).max() < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_a_gpt2_runs_in_llama_cpp(tmp_path: Path) -> None:
    import llama_cpp

    model = save(tmp_path / "m.cyxmodel", gpt2())
    output, answer = export(tmp_path, model, "gguf", "--type", "q8_0")
    assert answer["parity"]["runtime"] == "llama.cpp"
    assert answer["about"].startswith("GGUF that llama.cpp runs as gpt2, q8_0, without a tokenizer")
    found = llama_cpp.Llama(str(output), n_ctx=16, n_threads=1, verbose=False)
    assert found.n_vocab() == TOKENS
    assert found.metadata["general.architecture"] == "gpt2"


TEXT = (
    "import numpy as np\ndef f(x):\n    return x + 1  # naïve café — 日本\nThe import statement's end.\n" * 9
)


def trained_tokenizer(vocabulary: int) -> Any:
    """As a text is read with, from an alphabet of all bytes."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<begin>", "<end>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    return made


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_llama_cpp_cuts_text_into_the_tokens_that_the_model_was_trained_on(tmp_path: Path) -> None:
    import llama_cpp

    tokenizer = trained_tokenizer(280)
    notes = DataNotes(tokenizer=tokenizer.to_str(), kind="text")
    model = save(tmp_path / "m.cyxmodel", llama(tokens=300), notes=notes)
    output, answer = export(tmp_path, model, "gguf", "--type", "f16")
    assert answer["about"] == "GGUF that llama.cpp runs as llama, f16"
    found = llama_cpp.Llama(str(output), n_ctx=16, n_threads=1, verbose=False)
    for text in (TEXT[:60], "日本 naïve\n\n  x=1", "It's  12345 o'clock"):
        ours = tokenizer.encode(text).ids
        assert found.tokenize(text.encode(), add_bos=False) == ours
        assert found.detokenize(ours).decode() == text
    assert (found.token_bos(), found.token_eos()) == (1, 2)
    assert found.create_completion("import", max_tokens=3)["usage"]["completion_tokens"] > 0


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_llama_cpp_refuses_a_tensor_container_as_it_was_said(tmp_path: Path) -> None:
    import llama_cpp

    output, answer = export(tmp_path, save(tmp_path / "m.cyxmodel", image_model()), "gguf")
    assert "which llama.cpp refuses: it begins with node 'conv'" in answer["about"]
    with pytest.raises(ValueError, match="Failed to load"):
        llama_cpp.Llama(str(output), verbose=False)


def test_what_cannot_be_done_is_said_in_a_line_and_nothing_is_written(tmp_path: Path) -> None:
    model = save(tmp_path / "m.cyxmodel", image_model())
    assert "--with-preprocessing is for onnx" in refused(tmp_path, model, "gguf", "--with-preprocessing")
    assert "--type q8_0 is for gguf" in refused(tmp_path, model, "safetensors", "--type", "q8_0")
    assert "name the same file" in refused(tmp_path, model, "gguf", "--certificate", str(tmp_path / "out"))
    model.write_bytes(model.read_bytes()[:-1])
    assert "model: " in refused(tmp_path, model, "safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"m.cyxmodel", "engine"}


def test_an_onnx_of_our_own_comes_back_as_a_graph_that_answers_the_same(tmp_path: Path) -> None:
    model = save(tmp_path / "m.cyxmodel", pipeline(), SCALING)
    onnx, _ = export(tmp_path, model, "onnx")
    back = tmp_path / "back.cyxmodel"
    process = start(tmp_path, "import", str(onnx), "-o", str(back), "--json")
    out, errors = process.communicate(timeout=MOST_S)
    assert process.returncode == 0, errors
    answer = json.loads(out.splitlines()[-1])
    assert answer["parity"]["verdict"] in ("equal", "within tolerance")
    before, after = read_cyxmodel(model).weights, read_cyxmodel(back).weights
    assert np.array_equal(before["dense.weight"], after["dense.weight"])


def test_a_model_folder_is_taken_over_by_the_names_of_its_weights(tmp_path: Path) -> None:
    graph = image_model()
    model = read_cyxmodel(save(tmp_path / "m.cyxmodel", graph))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(pack_tensors(model.weights))
    (tmp_path / "g.json").write_bytes(dump_graph(graph))
    back = tmp_path / "back.cyxmodel"
    words = ("import", str(folder), "--graph", str(tmp_path / "g.json"), "-o", str(back))
    process = start(tmp_path, *words)
    out, errors = process.communicate(timeout=MOST_S)
    assert process.returncode == 0, errors
    assert f"{len(model.weights)} tensors by name" in out
    found = read_cyxmodel(back).weights
    assert all(np.array_equal(found[name], values) for name, values in model.weights.items())
    (folder / "model.safetensors").rename(folder / "weights.safetensors")  # the only model in a folder
    process = start(tmp_path, *words)
    assert process.communicate(timeout=MOST_S)[0] == out
    (folder / "more.safetensors").write_bytes(pack_tensors(model.weights))
    process = start(tmp_path, *words)
    assert "found more.safetensors, weights.safetensors" in process.communicate(timeout=MOST_S)[1]


def test_a_llama_of_transformers_becomes_a_gguf(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "small", LLAMA, llama_weights(), files=2)
    (folder / "tokenizer.json").write_text("{}")  # the model keeps it, and the GGUF says that it is none
    back, gguf = str(tmp_path / "m.cyxmodel"), str(tmp_path / "m.gguf")
    for words in (("import", str(folder), "-o", back), ("export", back, "--to", "gguf", "-o", gguf)):
        process = start(tmp_path, *words)
        out, errors = process.communicate(timeout=MOST_S)
        assert process.returncode == 0, errors
    assert "GGUF that llama.cpp runs as llama, f32, without a tokenizer" in out
    assert "its tokenizer cannot be read" in out


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    model = save(tmp_path / "m.cyxmodel", llama())
    process = start(tmp_path, "export", str(model), "--to", "onnx", "-o", str(tmp_path / "out.onnx"))
    assert process.stderr is not None
    for line in process.stderr:
        if "writing onnx" in line:
            process.send_signal(signal.SIGINT)
    assert process.wait(MOST_S) == 130
    assert {path.name for path in tmp_path.iterdir()} == {"m.cyxmodel", "engine"}
    assert list((tmp_path / "engine" / "local").iterdir()) == []


def test_onnxruntime_tells_nobody_that_it_ran(tmp_path: Path) -> None:
    """It keeps an id of the device below the home folder as soon as it may."""
    script = (
        "from backend.exporting.runners import open_onnx_bytes; from fuzz.hostile_models import ONNX_GOOD;"
        "import numpy as np; run, _ = open_onnx_bytes(ONNX_GOOD['identity']);"
        "run({'x': np.zeros((2, 2), np.float32)})"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(["scripts", "."])}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=MOST_S)
    assert list(tmp_path.rglob("*")) == []
