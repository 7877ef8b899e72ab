"""Which runtime opens a file, what it answers, and what never gets as far as a runtime."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from backend.errors import ArchiveError, DeadlineError, InputError
from backend.runtime.base import load_model


def onnx_file(
    path: Path, nodes: list[Any], *, weights: list[Any] | None = None, domains: tuple[str, ...] = ("",)
) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in nodes[-1].output]
    graph = helper.make_graph(nodes, "g", [x], ends, weights or [])
    opsets = [helper.make_opsetid(domain, 20 if not domain else 1) for domain in domains]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def test_an_onnx_model_answers_all_outputs_by_name(tmp_path: Path) -> None:
    split = helper.make_node("Split", ["x"], ["first", "second"], axis=1, num_outputs=2)
    model = load_model(onnx_file(tmp_path / "m", [split]), "cpu")
    assert [(spec.name, spec.dtype, spec.shape) for spec in model.inputs] == [("x", "float32", (-1, 2))]
    answer = model.run({"x": np.array([[1, 2], [3, 4]], np.float32)}, time.monotonic() + 60)
    assert {name: array.ravel().tolist() for name, array in answer.items()} == {
        "first": [1, 3],
        "second": [2, 4],
    }
    assert model.facts.devices == ("CPUExecutionProvider",), "what really loaded"
    with pytest.raises(InputError, match="the model takes x"):
        model.run({"y": np.zeros((1, 2), np.float32)})
    with pytest.raises(InputError):
        model.run({"x": np.zeros((1, 3), np.float32)})


def test_a_run_stops_at_its_deadline(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(n, t, s) for n, t, s in (("c2", 9, []), ("v2", 1, ["n", 2]))]
    starts = [
        helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("c", 9, []), ("v", 1, ["n", 2]))
    ]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])],
        "b",
        starts,
        ends,
    )
    always = numpy_helper.from_array(np.array(True), "always")
    loop = helper.make_node("Loop", ["", "always", "x"], ["y"], body=body)
    model = load_model(onnx_file(tmp_path / "m", [loop], weights=[always]), "cpu")
    with pytest.raises(DeadlineError):
        model.run({"x": np.zeros((1, 2), np.float32)}, time.monotonic())


def external() -> Any:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    return tensor


def test_what_could_reach_beyond_its_file_never_gets_to_onnxruntime(tmp_path: Path) -> None:
    add = helper.make_node("Add", ["x", "w"], ["y"])
    with pytest.raises(ArchiveError, match=r"its data is in another file.*onnx.save\(onnx.load"):
        load_model(onnx_file(tmp_path / "m", [add], weights=[external()]), "cpu")
    custom = helper.make_node("Evil", ["x"], ["y"], domain="com.evil")
    with pytest.raises(ArchiveError, match="evil"):
        load_model(onnx_file(tmp_path / "n", [custom], domains=("", "com.evil")), "cpu")


@pytest.mark.parametrize(
    "rest",
    [
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 61) + b"x",
        struct.pack("<IQQ", 3, 1 << 40, 0),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, 1 << 62),
    ],
)
def test_a_lying_gguf_never_gets_to_llama_cpp(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / "m").write_bytes(b"GGUF" + rest)
    with pytest.raises(ArchiveError):
        load_model(tmp_path / "m", "cpu")


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"PK\x03\x04 something")
    with pytest.raises(ArchiveError, match="is unknown, models that answer are cyxmodel, onnx, gguf"):
        load_model(tmp_path / "m", "cpu")
