from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from fuzz.hostile_models import GGUF_REFUSED, ONNX_GOOD

from engine_app.cli import main


def test_people_and_programs_are_told_the_same(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(ONNX_GOOD["matmul"])
    text = CliRunner().invoke(main, ["inspect", str(path)]).output
    assert "m.onnx: ONNX model" in text
    assert '{"x": "float32 (batch, 2)"}' in text
    answer = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"]).output)
    assert (answer["kind"], answer["parameters"]) == ("ONNX model", 4)
    assert answer["tensors"] == [{"name": "w", "dtype": "float32", "shape": [2, 2]}]


def test_a_folder_is_a_row_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(ONNX_GOOD["matmul"])
    (tmp_path / "m.gguf").write_bytes(GGUF_REFUSED["tensor_beyond_the_end"][0])
    text = CliRunner().invoke(main, ["inspect", str(tmp_path)]).output
    assert "ONNX model: onnxruntime" in text
    assert "tensor 'w' ends at" in text
    parts = json.loads(CliRunner().invoke(main, ["inspect", str(tmp_path), "--json"]).output)["parts"]
    assert (parts["m.onnx"]["parameters"], parts["m.gguf"].keys()) == (4, {"error"})


def test_a_hostile_file_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF_REFUSED["tensor_beyond_the_end"][0])
    done = CliRunner().invoke(main, ["inspect", str(tmp_path / "m.gguf")])
    assert done.exit_code == 1
    assert done.stderr.startswith("cyxwiz: m.gguf: GGUF file: tensor 'w' ends at")
    assert len(done.stderr.splitlines()) == 1
